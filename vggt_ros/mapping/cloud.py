"""Point clouds: voxel averages and thinning."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vggt_ros.mapping.kernels_voxel import number_cells
from vggt_ros.mapping.surfels import CELL_LIMIT
from vggt_ros.types import Float32, PointCloud


def thin_to(count: int, most: int) -> NDArray[np.int64]:
    """Indices of `most` of `count` points, evenly spaced in their order; all if 0 or enough."""
    if most <= 0 or count <= most:
        return np.arange(count)
    return np.arange(most) * count // most


def voxel_average(cloud: PointCloud, voxel_m: float, max_points: int = 0) -> PointCloud:
    """One point for each occupied cell: the mean of position, colour, normal and confidence.

    Args:
        voxel_m: edge of a cell; cells are aligned with the origin.
        max_points: evenly thinned to this number afterwards; 0: no limit.

    Raises:
        ValueError: a voxel that is not positive, or a point that is not finite or more than a
            million cells from the origin.
    """
    if not (math.isfinite(voxel_m) and voxel_m > 0):
        raise ValueError(f"voxel average: expected voxel_m > 0, got {voxel_m}")
    points = np.ascontiguousarray(cloud.points, np.float32)
    cells, count, mean_points = number_cells(points, np.float32(1 / voxel_m))
    if count < 0:
        raise ValueError(
            f"voxel average: expected finite points within {CELL_LIMIT * voxel_m:.3g} of the "
            "origin; drop the others first or enlarge voxel_m"
        )
    colours = _means(np.ascontiguousarray(cloud.colours), cells, count)
    normals = confidence = None
    if cloud.normals is not None:
        normals = _means(np.ascontiguousarray(cloud.normals, np.float32), cells, count)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + np.float32(1e-12)
    if cloud.confidence is not None:
        column = np.ascontiguousarray(cloud.confidence, np.float32)[:, None]
        confidence = _means(column, cells, count)[:, 0]
    keep = thin_to(count, max_points)
    return PointCloud(
        mean_points[keep],
        np.rint(colours[keep]).astype(np.uint8),
        None if normals is None else normals[keep],
        None if confidence is None else confidence[keep],
        cloud.frame,
        cloud.is_metric,
    )


def voxel_cell_means(points: Float32, voxel_m: float) -> Float32:
    """Mean position of the points (N, 3) in each occupied cell, in the order of first points."""
    means: Float32 = number_cells(points, np.float32(1 / voxel_m))[2]
    return means


@njit(cache=True, nogil=True, error_model="numpy")
def _means(values, cells, count):
    """Mean of the rows of `values` (N, 3) or (N, 1) in each cell.

    Differences to the first row of the cell are summed, which keeps float32 exact.
    """
    width = values.shape[1]
    # Count and sums side by side: one cache line for each point.
    sums = np.zeros((count, 4), np.float32)
    means = np.empty((count, width), np.float32)
    for p in range(len(cells)):
        cell = cells[p]
        row = sums[cell]
        if row[3] == 0:
            for c in range(width):
                means[cell, c] = values[p, c]
        else:
            for c in range(width):
                row[c] += np.float32(values[p, c]) - means[cell, c]
        row[3] += np.float32(1)
    for cell in range(count):
        share = np.float32(1) / sums[cell, 3]
        for c in range(width):
            means[cell, c] += sums[cell, c] * share
    return means
