"""Robust similarity between a reconstruction and the calibrated rig.

Rotations fix the orientation, centres fix the scale, so two cameras suffice and cameras may stand
in one line. Several frame sets share one scale; each has its own place of the rig.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import nearest_rotation
from vggt_ros.pipeline.rig_likelihood import (
    RigLikelihood,
    Sighting,
    camera_residuals,
    place_set,
    similarity_from_rotation,
)
from vggt_ros.types import CameraResidual, Float64, UnscaledScene

_SMALLEST_RIG_M = 1e-4
"""Centres closer than this are one centre."""

_LARGEST_RELATIVE_SIGMA = 0.5
"""A scale less certain than this is none."""

_OUTLIER_CENTRE = 0.01
"""Fraction of the rig's size: nearer cameras are never outliers by comparison with the others."""
_OUTLIER_ROTATION_RAD = math.radians(0.5)


@dataclass(frozen=True)
class Bounds:
    """Largest residuals of an inlier."""

    rotation_rad: float
    centre_fraction: float
    """Of the rig's size."""


@dataclass(frozen=True, eq=False)
class RigFit:
    """`rig_from_scene` of each frame set, all of the same scale.

    `scale` and `sigma` are metres per scene unit; where `no_scale` says why there is none,
    `scale` is what the caller gave, and only the orientation is worth anything.
    """

    rig_from_scene: dict[int, Sim3]
    scale: float
    sigma: float
    no_scale: str
    residuals: dict[str, CameraResidual]

    @property
    def inliers(self) -> int:
        """How many cameras are where the rig says."""
        return sum(residual.inlier for residual in self.residuals.values())


def frame_sets_of(scene: UnscaledScene) -> list[int]:
    """The number of the frame set of each view, in the order of time.

    Without a camera that appears twice there is one set; else stamps that are closer than half
    the shortest time between two views of one camera belong together.
    """
    stamps: dict[str, list[int]] = {}
    for view in scene.views:
        stamps.setdefault(view.camera, []).append(view.stamp_ns)
    steps = [b - a for s in stamps.values() for a, b in itertools.pairwise(sorted(s))]
    if not steps:
        return [0] * len(scene.views)
    ordered = sorted({view.stamp_ns for view in scene.views})
    number = {ordered[0]: 0}
    for before, stamp in itertools.pairwise(ordered):
        number[stamp] = number[before] + (stamp - before > min(steps) / 2)
    return [number[view.stamp_ns] for view in scene.views]


def sightings_of(scene: UnscaledScene, rig_poses: Mapping[str, Rigid3]) -> list[Sighting]:
    """The views whose camera has a place on the rig."""
    found = []
    for k, (view, number) in enumerate(zip(scene.views, frame_sets_of(scene), strict=True)):
        if view.camera not in rig_poses:
            continue
        found.append(
            Sighting(number, view.camera, view.scene_from_camera, rig_poses[view.camera], k)
        )
    return found


def fit_rig(
    sightings: Sequence[Sighting],
    bounds: Bounds,
    pose_covariance: Float64 | None,
    fallback_scale: float,
) -> RigFit:
    """The similarity that most cameras agree with.

    Pairs of cameras are tried in turn (MSAC); the winner's inliers are fitted together by maximum
    likelihood, and cameras that the others contradict are taken out one by one.

    Args:
        sightings: at least one.
        bounds: farther cameras are outliers.
        pose_covariance: of the scene's views, as in `UnscaledScene`.
        fallback_scale: metres per scene unit where the sightings give no scale.
    """
    size = _rig_size(sightings)
    why = _why_no_scale(sightings, size)
    if why:
        return _orientation_only(sightings, bounds, fallback_scale, why)
    limit = bounds.centre_fraction * size

    def cost(transforms: Mapping[int, Sim3]) -> dict[str, float]:
        return {
            name: max(r.rotation_rad / bounds.rotation_rad, r.centre / limit)
            for name, r in camera_residuals(sightings, transforms).items()
        }

    transforms = _best_hypothesis(sightings, cost)
    inliers = {name for name, value in cost(transforms).items() if value < 1}
    fit = None
    for _ in range(5):
        chosen = [s for s in sightings if s.camera in inliers]
        if len(inliers) < 2 or _rig_size(chosen) < _SMALLEST_RIG_M:
            break
        fit = RigLikelihood(chosen, size, pose_covariance, transforms)
        transforms = fit.with_all_sets(sightings)
        now = {name for name, value in cost(transforms).items() if value < 1}
        if now == inliers:
            break
        inliers = now
    if fit is None:
        return RigFit(
            transforms,
            math.nan,
            math.inf,
            "",
            _marked(camera_residuals(sightings, transforms), set()),
        )
    while len(inliers) > 3:
        worst = _contradicted(sightings, inliers, size, pose_covariance, transforms)
        if worst is None:
            break
        inliers.discard(worst)
        fit = RigLikelihood(
            [s for s in sightings if s.camera in inliers], size, pose_covariance, transforms
        )
        transforms = fit.with_all_sets(sightings)
    residuals = _marked(camera_residuals(sightings, transforms), inliers)
    scale, sigma = fit.scale, fit.sigma()
    if not sigma < _LARGEST_RELATIVE_SIGMA * scale:
        why = (
            f"the distance between the cameras is lost in the noise of the reconstruction "
            f"(relative sigma {sigma / scale:.2g}); cameras farther apart give a scale"
        )
        return RigFit(transforms, scale, math.inf, why, residuals)
    return RigFit(transforms, scale, sigma, "", residuals)


def _rig_size(sightings: Sequence[Sighting]) -> float:
    centres = np.array([s.rig_from_camera.translation for s in sightings]).reshape(-1, 3)
    if not len(centres):
        return 0.0
    return float(np.linalg.norm(centres[:, None] - centres[None], axis=2).max())


def _pairs(sightings: Sequence[Sighting]) -> list[tuple[Sighting, Sighting]]:
    """Pairs of one frame set that both the rig and the scene hold apart."""
    found = []
    for a, b in itertools.combinations(sightings, 2):
        if a.frame_set != b.frame_set or a.camera == b.camera:
            continue
        apart_m = np.linalg.norm(a.rig_from_camera.translation - b.rig_from_camera.translation)
        apart = np.linalg.norm(a.scene_from_camera.translation - b.scene_from_camera.translation)
        if apart_m > _SMALLEST_RIG_M and apart > 0:
            found.append((a, b))
    return found


def _why_no_scale(sightings: Sequence[Sighting], size: float) -> str:
    cameras = {s.camera for s in sightings}
    if len(cameras) < 2:
        return (
            f"only one camera with a place on the rig ({', '.join(sorted(cameras))}) is "
            "registered; two are needed"
        )
    if size < _SMALLEST_RIG_M:
        return (
            f"the cameras with a place on the rig share one centre (largest distance "
            f"{1000 * size:.3g} mm); turning alone shows no scale"
        )
    if not _pairs(sightings):
        return "no frame set has two registered cameras with different places on the rig"
    return ""


def _best_hypothesis(
    sightings: Sequence[Sighting], cost: Callable[[Mapping[int, Sim3]], dict[str, float]]
) -> dict[int, Sim3]:
    """The pair of cameras that the others agree with most (MSAC; all pairs, no chance)."""
    best: dict[int, Sim3] = {}
    best_cost = math.inf
    for a, b in _pairs(sightings):
        apart_m = a.rig_from_camera.translation - b.rig_from_camera.translation
        apart = a.scene_from_camera.translation - b.scene_from_camera.translation
        scale = float(np.linalg.norm(apart_m) / np.linalg.norm(apart))
        rotation = nearest_rotation(a.rig_from_scene_rotation + b.rig_from_scene_rotation)
        transforms = {a.frame_set: similarity_from_rotation(rotation, scale, [a, b])}
        for number in sorted({s.frame_set for s in sightings} - {a.frame_set}):
            transforms[number] = place_set(sightings, number, scale)
        total = sum(min(value, 1.0) ** 2 for value in cost(transforms).values())
        if total < best_cost:
            best, best_cost = transforms, total
    return best


def _marked(
    residuals: Mapping[str, CameraResidual], inliers: set[str]
) -> dict[str, CameraResidual]:
    return {
        name: CameraResidual(r.centre, r.rotation_rad, name in inliers)
        for name, r in residuals.items()
    }


def _contradicted(
    sightings: Sequence[Sighting],
    inliers: set[str],
    size: float,
    pose_covariance: Float64 | None,
    transforms: Mapping[int, Sim3],
) -> str | None:
    """The camera that is farthest from where the others, without it, expect it; or None."""
    worst, worst_ratio = None, 1.0
    for name in sorted(inliers):
        others = [s for s in sightings if s.camera in inliers and s.camera != name]
        if not _pairs(others):
            continue
        fit = RigLikelihood(others, size, pose_covariance, transforms)
        without = fit.with_all_sets(sightings)
        own = [s for s in sightings if s.camera == name]
        residual = camera_residuals(own, without)[name]
        if (
            residual.centre < _OUTLIER_CENTRE * size
            and residual.rotation_rad < _OUTLIER_ROTATION_RAD
        ):
            continue
        ratio = fit.surprise(own)
        if ratio > worst_ratio:
            worst, worst_ratio = name, ratio
    return worst


def _orientation_only(
    sightings: Sequence[Sighting], bounds: Bounds, scale: float, why: str
) -> RigFit:
    transforms = {}
    for number in sorted({s.frame_set for s in sightings}):
        members = [s for s in sightings if s.frame_set == number]
        first = place_set(members, number, scale).rotation
        near = [
            s
            for s in members
            if Rigid3(nearest_rotation(s.rig_from_scene_rotation.T @ first), np.zeros(3)).angle_rad
            < bounds.rotation_rad
        ]
        rotation = nearest_rotation(np.sum([s.rig_from_scene_rotation for s in near], axis=0))
        transforms[number] = similarity_from_rotation(rotation, scale, near)
    residuals = camera_residuals(sightings, transforms)
    inliers = {n for n, r in residuals.items() if r.rotation_rad < bounds.rotation_rad}
    return RigFit(transforms, scale, math.inf, why, _marked(residuals, inliers))
