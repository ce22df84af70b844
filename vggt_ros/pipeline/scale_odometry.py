"""The scale of a scene from how far others say the rig has moved between its frame sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry import Rigid3
from vggt_ros.geometry.rigid3 import nearest_rotation
from vggt_ros.pipeline.rig_fit import frame_sets_of
from vggt_ros.pipeline.rig_likelihood import COVARIANCE_INFLATION
from vggt_ros.pipeline.scale_fusion import Evidence, NoScale
from vggt_ros.types import Float64, ScaleEstimate, ScaleSource, UnscaledScene

ODOMETRY_SIGMA = 0.02
"""Default of `scale.odometry_sigma`: wheels and tyres are known to one or two per cent."""

_LEAST_MOTION_M = 0.05
"""Longest distance between two stations; with less the noise of odometry is all there is."""
_LEAST_RATIO = 5.0
"""The motion must be so many times what odometry and reconstruction disagree about."""
_NOISE_PER_METRE = 0.01
"""Of each step of the odometry, beside what is common to all: where nothing better can be seen."""
_HUBER = 1.5


def scale_from_odometry(
    scene: UnscaledScene,
    world_from_rig: Mapping[int, Rigid3],
    rig_from_camera: Mapping[str, Rigid3],
    relative_sigma: float = ODOMETRY_SIGMA,
) -> Evidence:
    """Metres per scene unit from the distances between where the sets were taken.

    Each camera's centre in the world follows from the rig's place and its own place on it. The
    steps from one set to the next in the world are compared with those in the scene, robustly;
    turns alone show nothing, for the cameras are near the rig's axis.

    Args:
        scene: of several frame sets.
        world_from_rig: by `View.stamp_ns` of the sets (that of the frame set) [m].
        rig_from_camera: places on the rig [m]; of one camera alone the identity, where
            `world_from_rig` is its own.
        relative_sigma: of the error that all distances have in common.

    Returns:
        The scale, or why there is none.
    """
    source = ScaleSource.ODOMETRY
    tracks: dict[str, list[_Station]] = {}
    numbers = frame_sets_of(scene)
    for row, (view, number) in enumerate(zip(scene.views, numbers, strict=True)):
        world = world_from_rig.get(view.stamp_ns)
        on_rig = rig_from_camera.get(view.camera)
        if world is None or on_rig is None:
            continue
        centre = world.apply(on_rig.translation)
        station = _Station(number, row, np.asarray(centre), view.scene_from_camera.translation)
        tracks.setdefault(view.camera, []).append(station)
    if not tracks:
        return NoScale(source, "no view has a camera on the rig and a place of the rig")
    steps = _steps(tracks)
    if not steps:
        return NoScale(source, "one frame set shows no motion; raise sfm.sets")
    longest = max(
        float(np.linalg.norm(a.in_world - b.in_world))
        for track in tracks.values()
        for a, b in itertools.combinations(track, 2)
    )
    if longest < _LEAST_MOTION_M:
        return NoScale(
            source, f"the rig moved by {longest:.3f} m at most, {_LEAST_MOTION_M} m are needed"
        )
    turn = _world_from_scene_rotation(scene, world_from_rig, rig_from_camera)
    moved = np.array([b.in_world - a.in_world for a, b in steps])
    seen = np.array([b.in_scene - a.in_scene for a, b in steps]) @ turn.T
    value, weights = _robust_ratio(moved, seen)
    if not value > 0:
        return NoScale(source, "odometry and reconstruction move in different directions")
    spread = math.hypot(
        _relative_spread(moved, seen, weights, np.array([b.number for _, b in steps]), value),
        _of_reconstruction(scene, steps, seen @ turn, weights),
    )
    if spread * _LEAST_RATIO > 1:
        return NoScale(
            source,
            f"odometry and reconstruction disagree about {spread:.0%} of the motion of "
            f"{longest:.2f} m; drive farther",
        )
    return ScaleEstimate(value, value * math.hypot(spread, relative_sigma), source)


@dataclass(frozen=True, eq=False)
class _Station:
    """Where one camera was when one set was taken."""

    number: int
    """Of the set."""
    row: int
    """Of the view."""
    in_world: Float64
    in_scene: Float64


def _steps(tracks: Mapping[str, list[_Station]]) -> list[tuple[_Station, _Station]]:
    """From set to set, of each camera."""
    found: list[tuple[_Station, _Station]] = []
    for track in tracks.values():
        found += itertools.pairwise(sorted(track, key=lambda station: station.number))
    return found


def _of_reconstruction(
    scene: UnscaledScene,
    steps: list[tuple[_Station, _Station]],
    seen: Float64,
    weights: Float64,
) -> float:
    """Relative sigma of the baselines against the size of the scene, (n, 3) steps in scene."""
    if scene.pose_covariance is None:
        return 0.0
    gradient = np.zeros(len(scene.pose_covariance))
    for (before, after), step, weight in zip(steps, seen, weights, strict=True):
        gradient[6 * after.row : 6 * after.row + 3] += weight * step
        gradient[6 * before.row : 6 * before.row + 3] -= weight * step
    gradient /= float(weights @ (seen**2).sum(axis=1))
    variance = float(gradient @ scene.pose_covariance @ gradient)
    return COVARIANCE_INFLATION * math.sqrt(max(variance, 0.0))


def _world_from_scene_rotation(
    scene: UnscaledScene,
    world_from_rig: Mapping[int, Rigid3],
    rig_from_camera: Mapping[str, Rigid3],
) -> Float64:
    total = np.zeros((3, 3))
    for view in scene.views:
        world, on_rig = world_from_rig.get(view.stamp_ns), rig_from_camera.get(view.camera)
        if world is not None and on_rig is not None:
            total += (world @ on_rig).rotation @ view.scene_from_camera.rotation.T
    return np.asarray(nearest_rotation(total))


def _robust_ratio(moved: Float64, seen: Float64) -> tuple[float, Float64]:
    """Least squares of seen = moved / ratio with Huber's weights; the ratio and the weights.

    The noise is in what was seen: the odometry of a step is good to a per cent, the centres of a
    reconstruction to centimetres. The other way round the noise would make the ratio smaller.
    """
    lengths = np.linalg.norm(seen, axis=1)
    if not (lengths > 0).any():
        return 0.0, np.ones(len(moved))
    step = lengths > 0.1 * lengths.max()  # standing still says nothing
    ratio = float(np.median(np.linalg.norm(moved, axis=1)[step] / lengths[step]))
    weights = np.ones(len(moved))
    for _ in range(20):
        off = np.linalg.norm(moved - ratio * seen, axis=1)
        scale = 1.4826 * float(np.median(off))
        if scale > 1e-12:
            weights = np.minimum(1.0, _HUBER * scale / np.maximum(off, 1e-12))
        together = float(weights @ (seen * moved).sum(axis=1))
        if together <= 0:
            return 0.0, weights
        ratio = float(weights @ (moved**2).sum(axis=1)) / together
    return ratio, weights


def _relative_spread(
    moved: Float64,
    seen: Float64,
    weights: Float64,
    steps: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    ratio: float,
) -> float:
    """Relative sigma of the ratio: a jackknife over the steps, which all cameras share.

    Of one or two steps there is no scatter along the motion to be seen; then it is the sideways
    disagreement, at least `_NOISE_PER_METRE`.
    """
    numbers = np.unique(steps)
    path = float(np.sqrt((moved**2).sum()))
    sideways = float(np.sqrt((weights[:, None] * (moved - ratio * seen) ** 2).sum())) / path
    floor = _NOISE_PER_METRE / math.sqrt(len(numbers))
    if len(numbers) < 3:
        return max(sideways, floor)
    without = []
    for number in numbers:
        rest = steps != number
        together = float(weights[rest] @ (seen[rest] * moved[rest]).sum(axis=1))
        if together <= 0:
            return max(sideways, floor)
        without.append(float(weights[rest] @ (moved[rest] ** 2).sum(axis=1)) / together)
    count = len(numbers)
    variance = (count - 1) / count * float(((np.array(without) - np.mean(without)) ** 2).sum())
    return max(math.sqrt(variance) / ratio, floor)
