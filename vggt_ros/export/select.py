"""Which points of a cloud are exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ExportError
from vggt_ros.types import AlignedScene, Features, PointCloud


def select(cloud: PointCloud, keep: NDArray[Any] | slice) -> PointCloud:
    """The points where `keep`, (N,) of booleans, rows or a slice, says so."""
    return dataclasses.replace(
        cloud,
        points=cloud.points[keep],
        colours=cloud.colours[keep],
        normals=None if cloud.normals is None else cloud.normals[keep],
        confidence=None if cloud.confidence is None else cloud.confidence[keep],
    )


def select_features(scene: AlignedScene, box: Sequence[float]) -> AlignedScene:
    """The scene with the features of those points only that lie in a box (see `filter_cloud`)."""
    points = scene.points_in_map
    inside = np.asarray(((points >= box[:3]) & (points <= box[3:])).all(axis=1))
    features = {}
    for name, found in scene.features.items():
        keep = inside[found.rows]
        features[name] = Features(found.rows[keep], found.pixels[keep])
    return dataclasses.replace(scene, features=features)


def filter_cloud(
    cloud: PointCloud,
    *,
    min_confidence: float = 0.0,
    confidence_percentile: float = 0.0,
    box: Sequence[float] | None = None,
) -> PointCloud:
    """Points that are sure enough and inside a box; the cloud itself if nothing is asked.

    Args:
        min_confidence: points below are left out, 0 to 1.
        confidence_percentile: points below this percentile of all confidences, and those without
            any (<= 1e-5), are left out, 0 to 100; 0: keep all.
        box: x y z of the lower corner, then of the upper one, in the frame and unit of the cloud.

    Raises:
        ExportError: a number out of its range, or a cloud that has no confidence to go by.
    """
    if not 0 <= min_confidence <= 1:
        raise ExportError(f"min_confidence: expected 0 to 1, got {min_confidence:g}")
    if not 0 <= confidence_percentile <= 100:
        raise ExportError(f"confidence percentile: expected 0 to 100, got {confidence_percentile}")
    keep: NDArray[np.bool_] | None = None
    if min_confidence > 0 or confidence_percentile > 0:
        if cloud.confidence is None:
            raise ExportError(
                "confidence: expected a cloud with a confidence per point, got one without; "
                "leave the filter out"
            )
        least = min_confidence
        if confidence_percentile > 0 and len(cloud):
            least = max(least, float(np.percentile(cloud.confidence, confidence_percentile)))
        keep = np.asarray(cloud.confidence >= least)
        if confidence_percentile > 0:
            keep &= cloud.confidence > 1e-5
    if box is not None:
        low, high = np.array(box[:3], np.float32), np.array(box[3:], np.float32)
        if len(box) != 6 or not (low < high).all():  # also false for NaN
            raise ExportError(
                "box: expected six numbers, the lower corner x y z below the upper one, got "
                f"{' '.join(f'{v:g}' for v in box)}"
            )
        inside = np.asarray(((cloud.points >= low) & (cloud.points <= high)).all(axis=1))
        keep = inside if keep is None else np.logical_and(keep, inside)
    return cloud if keep is None else select(cloud, keep)
