"""Errors of point clouds: accuracy and completeness.

The two figures of Knapitsch et al., "Tanks and Temples", ACM TOG 2017 (precision and recall),
with the distances behind them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.errors import AlignmentError
from vggt_ros.evaluation.nearest import NearestNeighbours

Float64 = NDArray[np.float64]

THRESHOLDS_M = (0.02, 0.05, 0.10)


@dataclass(frozen=True)
class CloudErrors:
    """Distances [m] between a cloud and a reference; dictionaries by threshold [m]."""

    points: int
    """Found points that were compared; infinite ones are left out."""
    reference_points: int
    accuracy_median: float
    """Of the distances from found points to the reference, as the next two; NaN without one."""
    accuracy_mean: float
    accuracy_90: float
    """90 % of the found points are nearer than this."""
    accuracy: dict[float, float]
    """Share of found points that are at most so far from the reference."""
    completeness_median: float
    """Of the distances from reference points to found points; NaN without reference points."""
    completeness: dict[float, float]
    """Share of reference points that have a found point at most so far away."""
    f_score: dict[float, float]
    """Harmonic mean of the two shares."""


def evaluate_cloud(
    found: ArrayLike,
    reference: ArrayLike | None = None,
    *,
    distance: Callable[[Float64], Float64] | None = None,
    thresholds: Sequence[float] = THRESHOLDS_M,
    max_queries: int = 500_000,
) -> CloudErrors:
    """Compare a cloud with a reference in the same frame.

    Args:
        found: points (N, 3) [m].
        reference: points (M, 3) [m] of the surface that should have been found. Accuracy
            against points cannot be better than half their spacing.
        distance: the exact distance [m] of points (K, 3) from the true surface, where it is
            known; accuracy then uses it instead of `reference`.
        thresholds: distances [m] for the shares.
        max_queries: larger clouds are compared at so many points, evenly spaced by index; all
            points stay in the trees.

    Raises:
        AlignmentError: no finite points on one side, or neither reference nor distance.
    """
    points = _finite(found, "found")
    truth = None if reference is None else _finite(reference, "reference")
    if truth is None and distance is None:
        raise AlignmentError("cloud evaluation: expected reference points or a distance function")
    queries = _thin(points, max_queries)
    if distance is not None:
        accuracy = np.abs(np.asarray(distance(queries), np.float64))
        if accuracy.shape != (len(queries),):
            raise AlignmentError(
                f"cloud evaluation: expected {len(queries)} distances, got {accuracy.shape}"
            )
    else:
        accuracy, _ = NearestNeighbours(truth if truth is not None else points).query(queries)
    missed = np.array([])
    if truth is not None:
        missed, _ = NearestNeighbours(points).query(_thin(truth, max_queries))
    accurate = {float(t): _share(accuracy, t) for t in thresholds}
    complete = {float(t): _share(missed, t) for t in thresholds}
    return CloudErrors(
        points=len(points),
        reference_points=0 if truth is None else len(truth),
        accuracy_median=float(np.median(accuracy)),
        accuracy_mean=float(accuracy.mean()),
        accuracy_90=float(np.quantile(accuracy, 0.9)),
        accuracy=accurate,
        completeness_median=float(np.median(missed)) if len(missed) else math.nan,
        completeness=complete,
        f_score={t: _harmonic_mean(accurate[t], complete[t]) for t in accurate},
    )


def _finite(points: ArrayLike, which: str) -> Float64:
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise AlignmentError(
            f"cloud evaluation: expected {which} points (N, 3), got {array.shape}"
        )
    array = array[np.isfinite(array).all(axis=1)]
    if len(array) == 0:
        raise AlignmentError(f"cloud evaluation: the {which} cloud has no finite points")
    return array


def _thin(points: Float64, count: int) -> Float64:
    if len(points) <= count:
        return points
    return points[np.linspace(0, len(points) - 1, count).astype(np.int64)]


def _share(distances: Float64, threshold: float) -> float:
    return float((distances <= threshold).mean()) if len(distances) else math.nan


def _harmonic_mean(a: float, b: float) -> float:
    if a + b == 0:
        return 0.0
    return 2 * a * b / (a + b)
