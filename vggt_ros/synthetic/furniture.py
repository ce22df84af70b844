"""Furniture of the demo room, each piece an object whose origin is on the floor."""

from __future__ import annotations

from vggt_ros.geometry import Rigid3
from vggt_ros.synthetic.primitives import (
    Material,
    Motion,
    Primitive,
    SceneObject,
    at,
    box,
    cylinder,
    rectangle,
    sphere,
)
from vggt_ros.synthetic.prints import (
    books,
    cabinet_front,
    cardboard,
    curtain,
    door,
    painting,
    poster,
    window,
)
from vggt_ros.synthetic.textures import fabric, metal, plaster, rug, wood


def room(
    size: tuple[float, float, float],
    floor: Material,
    ceiling: Material,
    walls: tuple[Material, Material, Material, Material],
) -> SceneObject:
    """Floor, ceiling and the walls at -x, +x, -y, +y of a room centred on the origin."""
    sx, sy, sz = size
    x, y, z = sx / 2, sy / 2, sz / 2
    up = (0, 0, 1)
    primitives = (
        rectangle(sx, sy, (0, 0, 0), (1, 0, 0), (0, 1, 0), floor),
        rectangle(sx, sy, (0, 0, sz), (1, 0, 0), (0, -1, 0), ceiling),
        rectangle(sy, sz, (-x, 0, z), (0, 1, 0), up, walls[0]),
        rectangle(sy, sz, (x, 0, z), (0, -1, 0), up, walls[1]),
        rectangle(sx, sz, (0, -y, z), (-1, 0, 0), up, walls[2]),
        rectangle(sx, sz, (0, y, z), (1, 0, 0), up, walls[3]),
    )
    return SceneObject("room", primitives, Rigid3.identity())


def table(name: str, place: Rigid3, size: tuple[float, float, float]) -> SceneObject:
    """A top on four legs; its height is `size[2]`."""
    sx, sy, sz = size
    top, leg = wood((158, 112, 70)), wood((132, 92, 58))
    parts = [box((sx, sy, 0.04), at(0, 0, sz - 0.04), top)]
    for x in (-1, 1):
        for y in (-1, 1):
            foot = at(x * (sx / 2 - 0.06), y * (sy / 2 - 0.06), 0)
            parts.append(box((0.06, 0.06, sz - 0.04), foot, leg))
        parts.append(box((0.03, sy - 0.18, 0.08), at(x * (sx / 2 - 0.06), 0, sz - 0.12), leg))
    return SceneObject(name, tuple(parts), place)


def chair(name: str, place: Rigid3, material: Material | None = None) -> SceneObject:
    """Faces +x; the back is at -x."""
    seat = material or fabric((120, 60, 48), check=0.07)
    leg = wood((120, 80, 48))
    parts = [box((0.44, 0.44, 0.06), at(0, 0, 0.42), seat)]
    for x in (-0.19, 0.19):
        for y in (-0.19, 0.19):
            parts.append(box((0.045, 0.045, 0.42), at(x, y, 0), leg))
    for y in (-0.19, 0.19):
        parts.append(box((0.045, 0.045, 0.46), at(-0.19, y, 0.48), leg))
    parts.append(box((0.03, 0.36, 0.26), at(-0.19, 0, 0.64), seat))
    return SceneObject(name, tuple(parts), place)


def shelf(name: str, place: Rigid3, width: float, height: float, seed: int) -> SceneObject:
    """Full of books in blocks of different depth; open to +x, back at -x, 30 cm deep."""
    board = wood((136, 98, 62))
    depth = 0.30
    parts = [
        box((depth, 0.025, height), at(0, -width / 2, 0), board),
        box((depth, 0.025, height), at(0, width / 2, 0), board),
        box((0.015, width, height), at(-depth / 2, 0, 0), board),
    ]
    levels = max(round(height / 0.38), 2)
    pitch = (height - 0.05) / levels
    for level in range(levels + 1):
        z = 0.03 + level * pitch - (0.03 if level == 0 else 0.0)
        parts.append(box((depth, width - 0.025, 0.025), at(0, 0, z), board))
        if level == levels:
            break
        edge = -width / 2 + 0.02
        block = 0
        while edge < width / 2 - 0.14:
            variant = (seed * 31 + level * 7 + block * 3) % 10
            long = min(0.20 + 0.022 * variant, width / 2 - 0.02 - edge)
            tall = min(0.22 + 0.012 * ((variant * 3) % 7), pitch - 0.05)
            deep = 0.19 + 0.008 * ((variant * 7) % 9)
            x = -depth / 2 + 0.01 + deep / 2
            front = books(seed * 100 + level * 10 + block)
            parts.append(box((deep, long, tall), at(x, edge + long / 2, z + 0.025), front))
            edge += long + (0.09 if variant in (2, 7) else 0.004)
            block += 1
    return SceneObject(name, tuple(parts), place)


def cabinet(
    name: str, place: Rigid3, size: tuple[float, float, float], doors: int = 2
) -> SceneObject:
    """Doors at +x."""
    side = wood((122, 86, 56))
    front = cabinet_front((128, 90, 58), doors)
    sx, sy, sz = size
    parts = (
        box((sx, sy, sz - 0.03), at(0, 0, 0), side, front, side, side, side, side),
        box((sx + 0.04, sy + 0.04, 0.03), at(0.0, 0, sz - 0.03), wood((150, 108, 70))),
    )
    return SceneObject(name, parts, place)


def sofa(name: str, place: Rigid3, width: float) -> SceneObject:
    """Faces +x."""
    cloth, cushion = fabric((84, 100, 120), check=0.0), fabric((176, 132, 72), check=0.11)
    seat = fabric((92, 110, 130), check=0.16)
    parts = [
        box((0.80, width, 0.24), at(0, 0, 0.08), cloth),
        box((0.20, width, 0.46), at(-0.30, 0, 0.32), cloth),
        box((0.80, 0.16, 0.50), at(0, -width / 2 - 0.08, 0.08), cloth),
        box((0.80, 0.16, 0.50), at(0, width / 2 + 0.08, 0.08), cloth),
    ]
    each = width / 2
    for k in (-0.5, 0.5):
        parts.append(box((0.58, each - 0.02, 0.13), at(0.11, k * each, 0.32), seat))
    tilt = Rigid3.from_rotation_vector((0, -0.3, 0), (-0.12, 0.3 * width, 0.45))
    parts.append(box((0.12, 0.42, 0.40), tilt, cushion))
    tilt = Rigid3.from_rotation_vector((0, -0.35, 0.2), (-0.10, -0.32 * width, 0.45))
    parts.append(box((0.12, 0.40, 0.38), tilt, fabric((96, 120, 84), check=0.09)))
    return SceneObject(name, tuple(parts), place)


def boxes(name: str, place: Rigid3) -> SceneObject:
    """A stack of three moving boxes."""
    parts = (
        box((0.50, 0.40, 0.38), at(0, 0, 0, 8), cardboard()),
        box((0.40, 0.34, 0.30), at(0.02, 0.01, 0.38, -14), cardboard(base=(186, 146, 100))),
        box((0.34, 0.30, 0.26), at(0.40, 0.25, 0.0, 30), cardboard(base=(164, 122, 78))),
    )
    return SceneObject(name, parts, place)


def hanging(
    name: str, place: Rigid3, width: float, height: float, material: Material, thick: float = 0.025
) -> SceneObject:
    """Something flat on a wall, its front towards +x, `place` at its centre on the wall."""
    side = wood((74, 52, 34))
    part = box(
        (thick, width, height),
        at(thick / 2, 0, -height / 2),
        side,
        material,
        side,
        side,
        side,
        side,
    )
    return SceneObject(name, (part,), place)


def cart(name: str, motion: Motion) -> SceneObject:
    """A trolley with two boxes that drives along +x."""
    frame, wheel = metal((96, 104, 118)), metal((52, 52, 54))
    parts: list[Primitive] = [
        box((0.66, 0.46, 0.04), at(0, 0, 0.14), frame),
        box((0.40, 0.36, 0.34), at(-0.08, 0, 0.18), cardboard(base=(190, 150, 104))),
        box((0.30, 0.30, 0.26), at(-0.06, 0.0, 0.52, 12), cardboard(base=(170, 124, 80))),
    ]
    for x in (-0.25, 0.25):
        for y in (-0.18, 0.18):
            parts.append(box((0.10, 0.04, 0.14), at(x, y, 0), wheel))
    for y in (-0.2, 0.2):
        parts.append(box((0.03, 0.03, 0.72), at(-0.31, y, 0.18), frame))
    parts.append(box((0.03, 0.43, 0.03), at(-0.31, 0, 0.88), frame))
    return SceneObject(name, tuple(parts), motion.map_from_object(0.0), motion)


def vase(name: str, place: Rigid3) -> SceneObject:
    """Two cylinders and a round bush, 42 cm high."""
    parts = (
        cylinder(0.13, 0.20, at(0, 0, 0), rug()),
        cylinder(0.07, 0.07, at(0, 0, 0.20), rug()),
        sphere(0.16, at(0, 0, 0.34), fabric((64, 112, 56), check=0.03)),
    )
    return SceneObject(name, parts, place)


__all__ = [
    "boxes",
    "cabinet",
    "cart",
    "chair",
    "curtain",
    "door",
    "hanging",
    "painting",
    "plaster",
    "poster",
    "room",
    "shelf",
    "sofa",
    "table",
    "vase",
    "window",
]
