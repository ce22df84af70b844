"""The worlds and rigs of the demo and of the tests."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.synthetic import furniture as f
from vggt_ros.synthetic.lighting import Ambient, Lamp
from vggt_ros.synthetic.primitives import Material, Motion, SceneObject, at, box, rectangle
from vggt_ros.synthetic.sensor import SensorModel, apply_sensor
from vggt_ros.synthetic.textures import blank, brick, clouds, plaster, rug, wallpaper, wood
from vggt_ros.synthetic.world import FixedCamera, SyntheticImage, World
from vggt_ros.types import Image

CAMERA_NAMES = ("front_left", "center_left", "center_right", "front_right")

RIG_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""Rotation of an optical frame (x right, y down, z forward) that looks along x of a frame with
x forward, y left, z up (REP-103)."""


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """One image of every camera: as taken, when, and what is true."""

    stamp_ns: int
    images: dict[str, Image]
    stamps_ns: dict[str, int]
    truth: dict[str, SyntheticImage]


@functools.lru_cache(maxsize=1)
def demo_room() -> World:
    """A furnished room of 4.4 x 4.4 x 2.6 m, map origin on the floor in its middle.

    One object moves: "cart" drives from the left across the view and has left it after 3.6 s.
    The world is cached; painting it takes seconds, at the first picture.
    """
    sx, sy, sz = 4.4, 4.4, 2.6
    front, left, right = sx / 2, sy / 2, -sy / 2
    walls = (
        plaster((206, 198, 184)),
        brick(),
        wallpaper(),
        plaster((196, 182, 156)),
    )
    floor = wood((148, 104, 66), plank_m=0.14)
    objects: list[SceneObject] = [
        f.room((sx, sy, sz), floor, plaster((222, 220, 214), 0.7), walls),
        SceneObject("rug", (box((2.0, 1.7, 0.012), at(0, 0, 0), rug()),), at(0.55, 0.15, 0, 6)),
        f.table("table", at(0.9, 0.1, 0, 8), (0.8, 1.3, 0.72)),
        f.vase("vase", at(0.95, 0.42, 0.72)),
        SceneObject(
            "books on the table",
            (
                box((0.24, 0.17, 0.04), at(0, 0, 0, 20), f.poster(3)),
                box((0.20, 0.15, 0.03), at(0.01, 0, 0.04, -10), f.poster(4)),
            ),
            at(0.8, -0.2, 0.72),
        ),
        f.chair("chair 1", at(0.6, 0.85, 0, -60)),
        f.chair("chair 2", at(1.0, -0.85, 0, 100)),
        f.cabinet("cabinet", at(front - 0.22, -0.95, 0, 180), (0.42, 1.4, 0.85), 3),
        f.boxes("boxes", at(front - 0.4, left - 0.45, 0, 200)),
        f.shelf("shelf", at(-0.15, left - 0.16, 0, -90), 1.7, 2.0, 1),
        f.sofa("sofa", at(0.35, right + 0.42, 0, 90), 1.5),
        f.hanging("painting 1", at(front, -0.95, 1.5, 180), 0.95, 0.70, f.painting(1)),
        f.hanging("painting 2", at(front, 0.2, 1.6, 180), 0.6, 0.8, f.painting(5)),
        f.hanging("poster 1", at(front, 1.2, 1.5, 180), 0.6, 0.85, f.poster(1), 0.01),
        f.hanging("painting 3", at(0.45, right, 1.5, 90), 1.1, 0.75, f.painting(9)),
        f.hanging("poster 2", at(1.6, right, 1.45, 90), 0.5, 0.7, f.poster(2), 0.01),
        f.hanging("window", at(-0.95, right, 1.5, 90), 1.0, 1.2, f.window(), 0.04),
        f.hanging("curtain", at(-0.3, right, 1.3, 90), 0.35, 2.3, f.curtain(), 0.08),
        f.hanging("door", at(1.5, left, 1.01, -90), 0.86, 2.02, f.door(), 0.04),
        f.hanging("poster 3", at(-1.4, left, 1.5, -90), 0.6, 0.85, f.poster(8), 0.01),
        f.cart("cart", _cart_motion()),
    ]
    lamps = (
        Ambient((0.50, 0.50, 0.51)),
        Lamp((0.2, 0.3, 2.45), 0.25, (2.5, 2.35, 2.1)),
        Lamp((-0.95, -1.8, 1.6), 0.4, (0.6, 0.68, 0.8)),
    )
    return World(tuple(objects), seed=7, lamps=lamps)


def _cart_motion() -> Motion:
    return Motion(
        np.array([0.0, 0.6, 1.4, 2.6, 3.6]),
        np.array(
            [[0.0, 1.25, 0], [0.0, 1.25, 0], [0.0, 0.5, 0], [-0.1, -0.8, 0], [-1.9, -1.6, 0]]
        ),
        np.array([-1.5, -1.5, -1.62, -2.0, -2.7]),
    )


def demo_rig() -> tuple[Rig, Rigid3]:
    """Four cameras on an arc, 25 cm and 20 degrees between neighbours, 640x480, 88 degrees.

    Of the surface that any camera sees, 83 % is seen by at least two.

    Returns:
        The rig (frame "rig", x forward, z up) and `map_from_rig` in `demo_room`.
    """
    return arc_rig(4, 0.25, math.radians(20.0), fov_rad=math.radians(88.0)), at(-1.65, 0.0, 1.15)


def arc_rig(
    count: int,
    spacing_m: float,
    step_rad: float,
    width: int = 640,
    height: int = 480,
    fov_rad: float = math.radians(85.0),
    pitch_rad: float = math.radians(8.0),
) -> Rig:
    """Cameras on a horizontal arc that look outwards, from left to right, `pitch_rad` down."""
    names = CAMERA_NAMES if count == 4 else tuple(f"cam{k}" for k in range(count))
    radius = spacing_m / (2 * math.sin(step_rad / 2)) if step_rad else 0.0
    focal = width / 2 / math.tan(fov_rad / 2)
    model = CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    cameras = []
    for k, name in enumerate(names):
        yaw = ((count - 1) / 2 - k) * step_rad
        centre = [radius * (math.cos(yaw) - 1), radius * math.sin(yaw), 0.0]
        if not step_rad:
            centre = [0.0, ((count - 1) / 2 - k) * spacing_m, 0.0]
        turn = Rigid3.from_rotation_vector((0, 0, yaw), centre)
        nod = Rigid3.from_rotation_vector((0, pitch_rad, 0))
        pose = turn @ nod @ Rigid3(RIG_FROM_OPTICAL, np.zeros(3))
        cameras.append(
            RigCamera(
                name,
                image=f"/{name}/image_raw",
                camera_info=f"/{name}/camera_info",
                frame_id=f"{name}_optical_frame",
                model=model,
                rig_from_camera=pose,
            )
        )
    return Rig(tuple(cameras), "rig")


def no_overlap_rig() -> tuple[Rig, Rigid3]:
    """Four cameras at 90 degrees with a field of view of 60: no two see the same surface."""
    return arc_rig(4, 0.3, math.radians(90.0), fov_rad=math.radians(60.0)), at(-0.2, 0.0, 1.1)


@functools.lru_cache(maxsize=1)
def blank_room() -> World:
    """An empty room of 5.0 x 5.0 x 2.6 m without any texture."""
    grey = blank((188, 186, 180))
    return World((f.room((5.0, 5.0, 2.6), blank((150, 146, 140)), grey, (grey,) * 4),))


def plane_world(
    distance_m: float,
    tilt_rad: float = 0.0,
    material: Material | None = None,
    size_m: float = 12.0,
) -> World:
    """A textured square across the z axis of a camera at the map origin with identity rotation.

    Depth on the axis is `distance_m`. With a tilt about y, z = distance + tan(tilt) * x.
    """
    turn = Rigid3.from_rotation_vector((0, -tilt_rad, 0))
    u, v = turn.rotation @ [1.0, 0, 0], turn.rotation @ [0.0, -1, 0]
    part = rectangle(size_m, size_m, (0, 0, distance_m), u, v, material or clouds(0.005))
    return World((SceneObject("plane", (part,), Rigid3.identity()),))


def box_world(distance_m: float = 2.0, wall_m: float = 3.0) -> World:
    """A cube of 0.6 m whose front is at z = `distance_m`, before a wall at z = `wall_m`.

    For a camera at the map origin with identity rotation.
    """
    wall = rectangle(10.0, 10.0, (0, 0, wall_m), (1, 0, 0), (0, -1, 0), clouds(0.005))
    cube = box((0.6, 0.6, 0.6), at(0, 0, distance_m), clouds(0.002))
    return World(
        (
            SceneObject("wall", (wall,), Rigid3.identity()),
            SceneObject("box", (cube,), Rigid3.identity()),
        )
    )


def simulate(
    world: World,
    rig: Rig,
    map_from_rig: Rigid3,
    sets: int,
    rate_hz: float,
    start_ns: int = 0,
    noise: bool = True,
    sensor: SensorModel | None = None,
    max_skew_ns: int = 4_000_000,
) -> Iterator[SyntheticSet]:
    """Take `sets` pictures with every camera of a calibrated rig that stands still.

    Stamps differ by up to `max_skew_ns` between cameras, fixed per camera plus a little jitter;
    every picture shows the world at its own stamp.

    Raises:
        ValueError: a camera without model or pose, or a rate that is not positive.
    """
    if rate_hz <= 0:
        raise ValueError(f"rate_hz: expected > 0, got {rate_hz}")
    cameras = {
        camera.name: FixedCamera(world, camera.model, map_from_rig @ camera.rig_from_camera)
        for camera in rig.cameras
        if camera.model is not None and camera.rig_from_camera is not None
    }
    if len(cameras) < len(rig.cameras):
        missing = ", ".join(name for name in rig.names if name not in cameras)
        raise ValueError(f"simulate: cameras {missing}: expected a model and a pose")
    random = np.random.default_rng(sensor.seed if sensor else 0)
    base = random.uniform(0.0, 0.8, len(rig.cameras))
    for index in range(sets):
        nominal_ns = round(index * 1e9 / rate_hz)
        skews = (base + random.uniform(0.0, 0.2, len(rig.cameras))) * max_skew_ns
        images, stamps, truth = {}, {}, {}
        for (name, camera), skew in zip(cameras.items(), skews, strict=True):
            offset_ns = nominal_ns + int(skew)
            truth[name] = camera.render(offset_ns * 1e-9)
            rgb = truth[name].rgb
            images[name] = apply_sensor(rgb, name, index, sensor) if noise else rgb
            stamps[name] = start_ns + offset_ns
        yield SyntheticSet(start_ns + nominal_ns, images, stamps, truth)
