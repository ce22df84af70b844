"""Which way is up in a scene whose rig is unknown, and where its map frame goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3
from vggt_ros.types import Float64, View

_MAX_TILT_RAD = math.radians(30.0)
"""Cameras are mounted more or less upright; a plane tilted by more is no ground."""

_PLANE_THICKNESS = 0.01
"""Half the thickness of the ground over the median distance of the points."""

_MIN_PLANE_POINTS = 30
_MIN_PLANE_FRACTION = 0.1
_MAX_BELOW_FRACTION = 0.05
"""Of all points: what may lie under the ground plane (reflections, wrong matches)."""

_TRIALS = 500


@dataclass(frozen=True, eq=False)
class Ground:
    """z-up axes for a scene: `map_from_scene` without scale, and what they were taken from."""

    map_from_scene: Rigid3
    source: str


def find_ground(
    views: Sequence[View],
    points: Float64,
    gravity_in_camera: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> Ground:
    """A map frame with z up, x along the mean viewing direction.

    With gravity measured in a camera, up is against it ("gravity"). Else up is first the mean
    direction of the images' upper edges ("cameras") and, where the points below the cameras have
    a plane within 30 degrees of it, the normal of that plane ("ground plane").

    The origin is the mean camera centre, with a ground plane its foot on the plane. Where the
    views look in all directions, or straight up or down, x follows the first view.

    Raises:
        AlignmentError: gravity of zero length or not finite.
    """
    centres = np.array([view.scene_from_camera.translation for view in views])
    origin = centres.mean(axis=0)
    up, source = _gravity_up(views, gravity_in_camera), "gravity"
    if up is None:
        ups = -np.array([view.scene_from_camera.rotation[:, 1] for view in views])
        up, source = _unit(ups.sum(axis=0)), "cameras"
        if up is None:  # as many upside down as upright: trust the first
            up = ups[0]
        plane = _ground_plane(points, origin, up, seed)
        if plane is not None:
            up, offset = plane
            source = "ground plane"
            origin = origin - (up @ origin - offset) * up
    rotation = _axes(views, up)
    return Ground(Rigid3(rotation, -rotation @ origin), source)


def _gravity_up(views: Sequence[View], gravity: Mapping[str, ArrayLike] | None) -> Float64 | None:
    total = np.zeros(3)
    for view in views:
        if gravity is None or view.camera not in gravity:
            continue
        down = np.asarray(gravity[view.camera], np.float64).reshape(-1)
        length = float(np.linalg.norm(down)) if down.shape == (3,) else math.nan
        if not (math.isfinite(length) and length > 0):
            raise AlignmentError(
                f"gravity of camera '{view.camera}': expected a direction of 3 finite numbers "
                f"in its optical frame, got {down.tolist()}"
            )
        total -= view.scene_from_camera.rotation @ (down / length)
    return _unit(total)


def _axes(views: Sequence[View], up: Float64) -> Float64:
    """Rotation whose rows are forward, left and up."""
    looks = np.array([view.scene_from_camera.rotation[:, 2] for view in views])
    first = views[0].scene_from_camera.rotation
    for direction in (looks.mean(axis=0), first[:, 2], -first[:, 1], first[:, 0]):
        flat = direction - (up @ direction) * up
        if np.linalg.norm(flat) > 0.1:
            forward = flat / np.linalg.norm(flat)
            return np.array([forward, np.cross(up, forward), up])
    raise AssertionError("three orthogonal directions cannot all be along up")


def _ground_plane(
    points: Float64, origin: Float64, up: Float64, seed: int
) -> tuple[Float64, float] | None:
    """Normal (towards the cameras) and offset of the ground: normal @ x = offset; or None."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < _MIN_PLANE_POINTS:
        return None
    distance = float(np.median(np.linalg.norm(points - origin, axis=1)))
    thickness = _PLANE_THICKNESS * distance
    below = points[(points - origin) @ up < -5 * thickness]
    needed = max(_MIN_PLANE_POINTS, _MIN_PLANE_FRACTION * len(points))
    if len(below) < needed:
        return None
    random = np.random.default_rng(seed)
    best, best_count = None, 0
    for _ in range(_TRIALS):
        a, b, c = below[random.choice(len(below), 3, replace=False)]
        normal = _unit(np.cross(b - a, c - a))
        if normal is None:
            continue
        normal = normal if normal @ up > 0 else -normal
        if normal @ up < math.cos(_MAX_TILT_RAD):
            continue
        heights = points @ normal - normal @ a
        count = int((np.abs(heights) < thickness).sum())
        under = int((heights < -2 * thickness).sum())
        # What has much under it is a table.
        if count > best_count and under <= _MAX_BELOW_FRACTION * len(points):
            best, best_count = (normal, float(normal @ a)), count
    if best is None or best_count < needed:
        return None
    normal, offset = best
    for _ in range(3):
        near = points[np.abs(points @ normal - offset) < thickness]
        middle = near.mean(axis=0)
        fitted = np.linalg.svd(near - middle, full_matrices=False)[2][2]
        fitted = fitted if fitted @ up > 0 else -fitted
        if fitted @ up < math.cos(_MAX_TILT_RAD):
            break
        normal, offset = fitted, float(fitted @ middle)
    return normal, offset


def _unit(vector: Float64) -> Float64 | None:
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length) if length > 1e-9 else None
