"""A room of boxes, ray cast exactly: depth images with a closed-form answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap

ROOM = ((-3.0, -2.5, 0.0), (3.0, 2.5, 2.6))
FURNITURE = (
    ((1.2, -0.8, 0.0), (2.0, 0.8, 0.8)),
    ((-2.9, 1.2, 0.0), (-1.9, 2.4, 1.8)),
    ((-0.4, 1.9, 0.9), (0.6, 2.1, 1.2)),
)


@dataclass(frozen=True)
class BoxScene:
    """The inside of `room` and the outside of `boxes`, corners (minimum, maximum) in map [m]."""

    room: tuple = ROOM
    boxes: tuple = FURNITURE
    seed: int = field(default=0)

    def depth(self, model: CameraModel, map_from_camera: Rigid3) -> np.ndarray:
        """(H, W) float64 along z, exact."""
        rays = model.rays().astype(np.float64) @ map_from_camera.rotation.T
        origin = map_from_camera.translation
        with np.errstate(divide="ignore"):
            inverse = 1 / rays
        low, high = (np.array(corner) for corner in self.room)
        depth = np.maximum((low - origin) * inverse, (high - origin) * inverse).min(axis=2)
        for low, high in self.boxes:
            a, b = (np.array(low) - origin) * inverse, (np.array(high) - origin) * inverse
            enter, leave = np.minimum(a, b).max(axis=2), np.maximum(a, b).min(axis=2)
            depth = np.where((enter < leave) & (enter > 0) & (enter < depth), enter, depth)
        return depth

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance (N,) of points in map to the nearest surface [m]."""
        p = np.asarray(points, np.float64)
        low, high = (np.array(corner) for corner in self.room)
        best = np.minimum(np.abs(p - low), np.abs(p - high)).min(axis=1)
        for low, high in self.boxes:
            outside = np.linalg.norm(np.maximum(np.maximum(low - p, p - high), 0), axis=1)
            inside = np.minimum(p - low, np.array(high) - p).min(axis=1)
            best = np.minimum(best, np.where(inside > 0, inside, outside))
        return best


def look_at(eye, target) -> Rigid3:
    """map_from_camera of a camera at `eye` that looks at `target`, z of the map up."""
    forward = np.subtract(target, eye).astype(np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return Rigid3(np.column_stack([right, np.cross(forward, right), forward]), np.array(eye))


def depth_map(
    scene: BoxScene,
    model: CameraModel,
    map_from_camera: Rigid3,
    noise: float = 0.0,
    seed: int = 0,
    camera: str = "front",
) -> DepthMap:
    """An exact depth map, or one with a relative noise; grey of height."""
    depth = scene.depth(model, map_from_camera)
    height = map_from_camera.apply(model.unproject(depth))[..., 2]
    depth = depth * (1 + noise * np.random.default_rng(seed).normal(size=depth.shape))
    grey = np.clip(40 + 80 * height, 0, 255).astype(np.uint8)
    return DepthMap(
        camera,
        seed,
        depth.astype(np.float32),
        np.full(depth.shape, 0.9, np.float32),
        np.repeat(grey[..., None], 3, axis=2),
        model,
        map_from_camera,
        DepthAlignment(camera, DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True),
    )


class World:
    """What the tests of this folder use, in one fixture."""

    BoxScene = BoxScene
    look_at = staticmethod(look_at)
    depth_map = staticmethod(depth_map)
    model = CameraModel(160, 120, 110.0, 110.0, 79.5, 59.5)
    rig = tuple(
        look_at((0.3 * i - 0.5, -1.8, 1.3 + 0.05 * i), (0.6 * i - 0.9, 2.0, 1.1)) for i in range(4)
    )


@pytest.fixture(scope="session")
def world() -> type[World]:
    return World
