"""Sparse depth of a camera from scene points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import Float32


def reference_from_points(
    points_in_map: ArrayLike, model: CameraModel, map_from_camera: Rigid3
) -> Float32:
    """Sparse reference depth from the points of a bootstrap, for the time before the map.

    Args:
        points_in_map: (M, 3); points that are not finite are left out.
        model: pinhole camera.
        map_from_camera: its pose.

    Returns:
        (H, W) depth of the nearest point in each pixel, NaN elsewhere.

    Raises:
        AlignmentError: points of another shape.
    """
    points = np.asarray(points_in_map, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise AlignmentError(f"reference points: expected shape (M, 3), got {points.shape}")
    in_camera = map_from_camera.inverse().apply(points[np.isfinite(points).all(axis=1)])
    in_camera = in_camera[in_camera[:, 2] > 0]
    uv = np.rint(model.project(in_camera))
    inside = (uv >= 0).all(axis=1) & (uv[:, 0] < model.width) & (uv[:, 1] < model.height)
    columns, lines = uv[inside].astype(np.int64).T
    depth = np.full(model.height * model.width, np.inf, np.float32)
    np.minimum.at(depth, lines * model.width + columns, in_camera[inside, 2].astype(np.float32))
    depth[np.isinf(depth)] = np.nan
    return depth.reshape(model.height, model.width)
