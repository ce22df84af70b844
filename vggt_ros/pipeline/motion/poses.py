"""Means of poses, and similarities that bring poses onto others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import nearest_rotation
from vggt_ros.types import Float64

_ROUNDS = 10
_CAUCHY_SIGMAS = 2.0


def mean_pose(poses: Sequence[Rigid3]) -> Rigid3:
    """The mean of poses that are near each other."""
    rotation = nearest_rotation(np.sum([p.rotation for p in poses], axis=0))
    return Rigid3(rotation, np.mean([p.translation for p in poses], axis=0))


@dataclass(frozen=True, eq=False)
class PathFit:
    """`world_from_scene` that brings found poses onto given ones."""

    world_from_scene: Sim3
    sigma: float
    """Of the scale, relative."""
    residual_m: float
    """Robust standard deviation of the centres per axis."""
    middle_in_scene: Float64
    """Mean of the found centres."""

    def with_scale(self, scale: float) -> Sim3:
        """`world_from_scene` with a scale that something else knows better."""
        fit = self.world_from_scene
        turned = fit.rotation @ self.middle_in_scene
        return Sim3(scale, fit.rotation, fit.translation + (fit.scale - scale) * turned)


def fit_path(
    scene_from_camera: Sequence[Rigid3], world_from_camera: Sequence[Rigid3], drift: float
) -> PathFit:
    """The robust similarity between found poses and those that somebody measured.

    Rotations fix the orientation, so that a straight path does; the distances of the centres
    from their mean fix the scale.

    Args:
        scene_from_camera: at least two, not all in one place.
        world_from_camera: [m], of the same cameras.
        drift: standard deviation of the given path over its length, which no fit can see.

    Raises:
        AlignmentError: the cameras did not move, in the scene or in the world.
    """
    rotation = nearest_rotation(
        np.sum(
            [
                w.rotation @ s.rotation.T
                for w, s in zip(world_from_camera, scene_from_camera, strict=True)
            ],
            axis=0,
        )
    )
    a = np.array([p.translation for p in scene_from_camera]) @ rotation.T
    b = np.array([p.translation for p in world_from_camera])
    weights = np.ones(len(a))
    scale, shift, sigma = 1.0, np.zeros(3), math.inf
    for _ in range(_ROUNDS):
        w = weights / weights.sum()
        a0, b0 = a - w @ a, b - w @ b
        spread = float(w @ (a0**2).sum(axis=1))
        across = float(w @ (a0 * b0).sum(axis=1))
        if spread <= 0 or across <= 0:
            raise AlignmentError(
                "scale from odometry: expected a path that the images and the odometry agree on, "
                "got one without common motion; drive farther, or check the odometry's frame"
            )
        scale = across / spread
        shift = w @ b - scale * (w @ a)
        errors = np.linalg.norm(b - scale * a - shift, axis=1)
        sigma = max(1.4826 * float(np.median(errors)) / math.sqrt(3.0), 1e-9)
        weights = 1 / (1 + (errors / (_CAUCHY_SIGMAS * sigma)) ** 2)
    size = scale * math.sqrt(float(weights @ (a0**2).sum(axis=1)))
    relative = math.hypot(sigma / size, drift)
    middle = rotation.T @ (w @ a)
    return PathFit(Sim3(scale, rotation, shift), relative, sigma, middle)


def path_length(path: Sequence[tuple[int, Rigid3]]) -> float:
    """Length [map units] of a path."""
    if len(path) < 2:
        return 0.0
    centres: Float64 = np.array([pose.translation for _, pose in path])
    return float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
