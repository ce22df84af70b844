"""What a synthetic world is made of: textured primitives, objects and how they move.

Every primitive is centred on its own origin. Coordinates (u, v) on a face are metres from its
lower left corner seen from outside; the first row of a texture is the face's upper edge.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.geometry import Rigid3
from vggt_ros.types import Image

Painter = Callable[[float, float, float, np.random.Generator], Image]
"""(width_m, height_m, texel_m, random) to an RGB image of about width/texel x height/texel."""


class Shape(enum.IntEnum):
    """Kind of a primitive; the numbers are those of the kernels."""

    RECTANGLE = 0
    BOX = 1
    CYLINDER = 2
    SPHERE = 3


@dataclass(frozen=True, eq=False)
class Material:
    """How a face looks: a painter that makes the texture for its size."""

    paint: Painter
    texel_m: float = 0.003


@dataclass(frozen=True, eq=False)
class Primitive:
    """One textured solid or rectangle in the frame of its object.

    `size` [m]: rectangle (width x, height y, 0), normal +z, seen from both sides; box (x, y, z);
    cylinder (diameter, diameter, height) about z; sphere (diameter, diameter, diameter).
    `materials` has one entry for all faces or one per face: box -x +x -y +y -z +z, cylinder
    side, bottom, top.
    """

    shape: Shape
    size: tuple[float, float, float]
    object_from_primitive: Rigid3
    materials: tuple[Material, ...]

    def __post_init__(self) -> None:
        count = FACE_COUNTS[self.shape]
        if len(self.materials) not in (1, count):
            raise ValueError(
                f"{self.shape.name.lower()}: expected 1 or {count} materials, "
                f"got {len(self.materials)}"
            )
        positive = self.size[:2] if self.shape is Shape.RECTANGLE else self.size
        if not all(math.isfinite(s) and s > 0 for s in positive):
            raise ValueError(f"{self.shape.name.lower()}: expected a size > 0, got {self.size}")

    def material(self, face: int) -> Material:
        """Of one face."""
        return self.materials[0] if len(self.materials) == 1 else self.materials[face]


FACE_COUNTS = {Shape.RECTANGLE: 1, Shape.BOX: 6, Shape.CYLINDER: 3, Shape.SPHERE: 1}

_BOX_AXES: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((0, -1, 0), (0, 0, 1)),
    ((0, 1, 0), (0, 0, 1)),
    ((1, 0, 0), (0, 0, 1)),
    ((-1, 0, 0), (0, 0, 1)),
    ((1, 0, 0), (0, -1, 0)),
    ((1, 0, 0), (0, 1, 0)),
)
"""u and v axes of the faces of a box; their cross product points outwards."""


def face_frame(
    shape: Shape, size: tuple[float, float, float], face: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float, float]:
    """Corner (3,), u axis (3,), v axis (3,) in the primitive and width, height [m] of a face.

    For the side of a cylinder and for a sphere (curved) only width and height mean anything:
    u runs along the circumference, v along the height or from pole to pole.
    """
    sx, sy, sz = size
    if shape is Shape.RECTANGLE:
        u, v = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
        return np.array([-sx / 2, -sy / 2, 0.0]), u, v, sx, sy
    if shape is Shape.BOX:
        u, v = (np.array(axis, np.float64) for axis in _BOX_AXES[face])
        half = np.array(size) / 2
        width, height = 2 * float(np.abs(u) @ half), 2 * float(np.abs(v) @ half)
        return np.cross(u, v) * half - (u * width + v * height) / 2, u, v, width, height
    u, v = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    if shape is Shape.SPHERE:
        return np.zeros(3), u, v, math.pi * sx, math.pi * sx / 2
    if face == 0:
        return np.zeros(3), u, v, math.pi * sx, sz
    v = v if face == 2 else -v
    corner = np.array([0, 0, sz / 2 if face == 2 else -sz / 2]) - (u + v) * sx / 2
    return corner, u, v, sx, sx


@dataclass(frozen=True, eq=False)
class Motion:
    """Key frames of an object that moves on the floor: straight between them, constant outside.

    Args:
        times_s: (K,), increasing.
        positions: (K, 3) in map [m].
        yaws_rad: (K,) about z; not wrapped, so that the way round is explicit.
    """

    times_s: NDArray[np.float64]
    positions: NDArray[np.float64]
    yaws_rad: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("times_s", "positions", "yaws_rad"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        count = len(self.times_s)
        if self.positions.shape != (count, 3) or self.yaws_rad.shape != (count,):
            raise ValueError(
                f"motion: expected {count} positions (K, 3) and yaws (K,), got "
                f"{self.positions.shape} and {self.yaws_rad.shape}"
            )
        if count < 1 or (np.diff(self.times_s) <= 0).any():
            raise ValueError(f"motion: expected increasing times, got {self.times_s.tolist()}")

    def map_from_object(self, time_s: float) -> Rigid3:
        """The pose at a time."""
        place = [np.interp(time_s, self.times_s, column) for column in self.positions.T]
        yaw = float(np.interp(time_s, self.times_s, self.yaws_rad))
        return Rigid3.from_rotation_vector((0, 0, yaw), place)


@dataclass(frozen=True, eq=False)
class SceneObject:
    """A named group of primitives that is placed, and perhaps moves, as one."""

    name: str
    primitives: tuple[Primitive, ...]
    map_from_object: Rigid3
    motion: Motion | None = None

    def pose(self, time_s: float) -> Rigid3:
        """`map_from_object` at a time."""
        return self.map_from_object if self.motion is None else self.motion.map_from_object(time_s)


def at(x: float, y: float, z: float, yaw_deg: float = 0.0) -> Rigid3:
    """A place [m] and a turn about z."""
    return Rigid3.from_rotation_vector((0, 0, math.radians(yaw_deg)), (x, y, z))


def box(size: tuple[float, float, float], place: Rigid3, *materials: Material) -> Primitive:
    """A box of `size` whose BOTTOM centre is at `place`, as furniture is thought of."""
    lift = Rigid3(np.eye(3), np.array([0, 0, size[2] / 2]))
    return Primitive(Shape.BOX, size, place @ lift, materials)


def cylinder(diameter: float, height: float, place: Rigid3, *materials: Material) -> Primitive:
    """An upright cylinder whose bottom centre is at `place`."""
    lift = Rigid3(np.eye(3), np.array([0, 0, height / 2]))
    return Primitive(Shape.CYLINDER, (diameter, diameter, height), place @ lift, materials)


def sphere(diameter: float, place: Rigid3, material: Material) -> Primitive:
    """A sphere centred at `place`."""
    return Primitive(Shape.SPHERE, (diameter,) * 3, place, (material,))


def rectangle(
    width: float, height: float, centre: ArrayLike, u: ArrayLike, v: ArrayLike, material: Material
) -> Primitive:
    """A rectangle around `centre` with axes `u` (to the right) and `v` (up), of length 1."""
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    rotation = np.stack([u, v, np.cross(u, v)], axis=1)
    pose = Rigid3(rotation, np.asarray(centre, np.float64))
    return Primitive(Shape.RECTANGLE, (width, height, 0.0), pose, (material,))
