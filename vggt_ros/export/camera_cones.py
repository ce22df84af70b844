"""Cameras as coloured cones, the shape and colours that VGGT's demos draw.

Source: `visual_util.py` of facebookresearch/vggt (shape, sizes and colour map; see
docs/exports.md). A four-sided cone with its tip in the camera centre opens along the view
direction; two more, one a little smaller and one a little turned, make its edges visible from
all sides.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vggt_ros.export.glb import Primitive
from vggt_ros.geometry import Rigid3
from vggt_ros.types import Float64

WIDTH, HEIGHT = 0.05, 0.1
"""Of a cone, as fractions of the size of the scene."""

_STOPS = np.array(
    [
        (0.0, 1.0, 0.0, 0.16),
        (0.03, 1.0, 0.0, 0.0),
        (0.215, 1.0, 1.0, 0.0),
        (0.4, 0.0, 1.0, 0.0),
        (0.586, 0.0, 1.0, 1.0),
        (0.77, 0.0, 0.0, 1.0),
        (0.954, 1.0, 0.0, 1.0),
        (1.0, 1.0, 0.0, 0.75),
    ]
)
"""Position, red, green, blue of the colour map `gist_rainbow` (Yorick; also in matplotlib)."""

# Base centre, rim, tip, rim, rim, rim: the order decides the triangles below.
_CONE = np.array([(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (-1, 0, 0), (0, -1, 0)], float)
_SIDES = ((1, 3, 2), (3, 4, 2), (4, 5, 2), (5, 1, 2))


def gist_rainbow(fraction: float) -> tuple[int, int, int]:
    """Colour at 0 to 1, in the 256 steps of matplotlib."""
    step = min(int(fraction * 256), 255)
    places = 255 * _STOPS[:, 0]
    i = max(int(np.searchsorted(places, step)), 1)
    share = (step - places[i - 1]) / (places[i] - places[i - 1])
    red, green, blue = (
        int(255 * float(share * (_STOPS[i, c] - _STOPS[i - 1, c]) + _STOPS[i - 1, c]))
        for c in (1, 2, 3)
    )
    return red, green, blue


def scene_size(points: NDArray[np.float32], most: int = 1 << 22) -> float:
    """Diagonal of the box between the 5th and 95th percentile of each coordinate.

    Of more than `most` points every n-th is looked at.
    """
    some = points[:: max(1, -(-len(points) // most))]
    low, high = np.percentile(some, (5, 95), axis=0)
    return float(np.linalg.norm(high - low))


def camera_cone(
    name: str, map_from_camera: Rigid3, size: float, colour: tuple[int, int, int]
) -> Primitive:
    """The three nested cones of one camera, in the map frame.

    Args:
        size: of the scene (`scene_size`); the cone is a tenth as high.
    """
    cone = _CONE * [WIDTH * size, WIDTH * size, HEIGHT * size]
    vertices = np.concatenate([cone, 0.95 * cone, cone @ _about_z(2).T])
    # Tip to the origin, base in front of a camera of OpenGL, which looks along -z.
    vertices = vertices @ _about_z(45).T - [0, 0, HEIGHT * size]
    in_map = map_from_camera.apply(vertices * [1, -1, -1])
    triangles = []
    for a, b, c in _SIDES:
        for n in (len(cone), 2 * len(cone)):
            triangles += [(a, b, b + n), (a, a + n, c), (c + n, b, c)]
    triangles += [(c, b, a) for a, b, c in triangles]
    return Primitive(
        name,
        in_map.astype(np.float32),
        np.tile(np.array(colour, np.uint8), (len(vertices), 1)),
        np.array(triangles, np.uint32),
    )


def camera_cones(map_from_camera: dict[str, Rigid3], size: float) -> list[Primitive]:
    """One cone for each camera, coloured in order."""
    return [
        camera_cone(name, pose, size, gist_rainbow(i / len(map_from_camera)))
        for i, (name, pose) in enumerate(map_from_camera.items())
    ]


def _about_z(degrees: float) -> Float64:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
