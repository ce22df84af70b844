"""Errors of trajectories: absolute (ATE) and relative (RPE).

Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.errors import AlignmentError
from vggt_ros.evaluation.cameras import Align, align_poses
from vggt_ros.export.trajectory import StampedPose
from vggt_ros.geometry import Rigid3, Sim3


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of a trajectory; lengths in the unit of the truth [m], angles in degrees."""

    align: Align
    found: int
    truth: int
    matched: int
    """Poses of the three kinds."""
    ate_rmse: float
    """Distance of the positions after the alignment, as all that follow."""
    ate_mean: float
    ate_median: float
    ate_max: float
    rotation_median_deg: float
    rpe_translation_rmse: float
    """Error of the motion over `rpe_step` matched poses."""
    rpe_rotation_rmse_deg: float
    rpe_step: int
    scale: float
    """Of the best similarity, truth over found, whatever `align` is; NaN without motion."""
    length: float
    """Of the true path through the matched poses."""
    truth_from_found: Sim3


def evaluate_trajectory(
    found: Sequence[StampedPose],
    truth: Sequence[StampedPose],
    align: Align = "se3",
    *,
    max_difference_ns: int = 10_000_000,
    rpe_step: int = 1,
) -> TrajectoryErrors:
    """Compare two trajectories of the same body.

    Each found pose is paired with the true pose nearest in time.

    Args:
        found: poses in any frame, in any order.
        truth: poses [m].
        align: what may differ between the two frames.
        max_difference_ns: poses farther apart in time are no pair.
        rpe_step: number of matched poses over which motion is compared.

    Raises:
        AlignmentError: fewer than two pairs, or for `sim3` no motion.
    """
    pairs = match_by_stamp(found, truth, max_difference_ns)
    if len(pairs) < 2:
        raise AlignmentError(
            f"trajectory: expected at least two poses of the same time, got {len(pairs)}: found "
            f"{_span(found)}, truth {_span(truth)}, at most {max_difference_ns / 1e6:g} ms apart"
        )
    a = [found[i].map_from_body for i, _ in pairs]
    b = [truth[j].map_from_body for _, j in pairs]
    transform = align_poses(a, b, align)
    try:
        scale = align_poses(a, b, "sim3").scale
    except AlignmentError:  # no motion: the scale is unknown, which NaN says
        scale = math.nan
    aligned = [transform.apply_to_pose(pose) for pose in a]
    positions = np.array([pose.translation for pose in b])
    distance = np.linalg.norm(np.array([p.translation for p in aligned]) - positions, axis=1)
    rotation = [math.degrees((x.inverse() @ y).angle_rad) for x, y in zip(aligned, b, strict=True)]
    step = min(rpe_step, len(pairs) - 1)
    relative = [
        _motion(b, i, step).inverse() @ _motion(aligned, i, step) for i in range(len(pairs) - step)
    ]
    moved = np.array([np.linalg.norm(error.translation) for error in relative])
    turned = np.array([math.degrees(error.angle_rad) for error in relative])
    return TrajectoryErrors(
        align=align,
        found=len(found),
        truth=len(truth),
        matched=len(pairs),
        ate_rmse=float(np.sqrt((distance**2).mean())),
        ate_mean=float(distance.mean()),
        ate_median=float(np.median(distance)),
        ate_max=float(distance.max()),
        rotation_median_deg=float(np.median(rotation)),
        rpe_translation_rmse=float(np.sqrt((moved**2).mean())),
        rpe_rotation_rmse_deg=float(np.sqrt((turned**2).mean())),
        rpe_step=step,
        scale=scale,
        length=float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()),
        truth_from_found=transform,
    )


def match_by_stamp(
    found: Sequence[StampedPose], truth: Sequence[StampedPose], max_difference_ns: int
) -> list[tuple[int, int]]:
    """Pairs of indices (found, truth) in the order of time; no pose is in two pairs.

    Where several found poses have the same nearest true pose, the nearest of them gets it.
    """
    if not found or not truth:
        return []
    order = sorted(range(len(truth)), key=lambda j: truth[j].stamp_ns)
    stamps = np.array([truth[j].stamp_ns for j in order], np.int64)
    best: dict[int, tuple[int, int]] = {}
    for i, pose in enumerate(found):
        after = int(np.searchsorted(stamps, pose.stamp_ns))
        near = [k for k in (after - 1, after) if 0 <= k < len(stamps)]
        k = min(near, key=lambda k: abs(int(stamps[k]) - pose.stamp_ns))
        difference = abs(int(stamps[k]) - pose.stamp_ns)
        if difference <= max_difference_ns and difference < best.get(k, (1 << 63, 0))[0]:
            best[k] = (difference, i)
    return [(best[k][1], order[k]) for k in sorted(best)]


def _motion(poses: Sequence[Rigid3], i: int, step: int) -> Rigid3:
    return poses[i].inverse() @ poses[i + step]


def _span(poses: Sequence[StampedPose]) -> str:
    if not poses:
        return "no poses"
    stamps = [pose.stamp_ns for pose in poses]
    return f"{len(poses)} from {min(stamps) / 1e9:.3f} to {max(stamps) / 1e9:.3f} s"
