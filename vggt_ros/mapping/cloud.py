"""Point clouds: voxel averages and thinning."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vggt_ros.mapping.surfels import CELL_LIMIT, mix, pack_key
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
    cells, count = voxel_cells(points, np.float32(1 / voxel_m))
    if count < 0:
        raise ValueError(
            f"voxel average: expected finite points within {CELL_LIMIT * voxel_m:.3g} of the "
            "origin; drop the others first or enlarge voxel_m"
        )
    mean_points, _ = _means(points, cells, count)
    colours, _ = _means(np.ascontiguousarray(cloud.colours), cells, count)
    normals = confidence = None
    if cloud.normals is not None:
        normals, _ = _means(np.ascontiguousarray(cloud.normals, np.float32), cells, count)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + np.float32(1e-12)
    if cloud.confidence is not None:
        column = np.ascontiguousarray(cloud.confidence, np.float32)[:, None]
        confidence = _means(column, cells, count)[0][:, 0]
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
    cells, count = voxel_cells(points, np.float32(1 / voxel_m))
    means: Float32 = _means(points, cells, count)[0]
    return means


@njit(cache=True, nogil=True, error_model="numpy")
def voxel_cells(points, inverse_voxel):
    """Number the occupied cells in the order of their first point.

    Returns:
        (cell of each point (N,) int32, number of cells; -1 if a point is not finite or too far).
    """
    n = len(points)
    cells = np.empty(n, np.int32)
    bits = 10
    while (1 << bits) < 2 * n and bits < 16:
        bits += 1
    keys = np.full(1 << bits, -1, np.int64)
    numbers = np.empty(1 << bits, np.int32)
    mask = (1 << bits) - 1
    count = 0
    limit = np.float32(CELL_LIMIT)
    last_key, last_cell = np.int64(-1), np.int32(0)
    for p in range(n):
        i = np.floor(points[p, 0] * inverse_voxel)
        j = np.floor(points[p, 1] * inverse_voxel)
        k = np.floor(points[p, 2] * inverse_voxel)
        if not (abs(i) < limit and abs(j) < limit and abs(k) < limit):
            return cells, -1
        key = pack_key(i, j, k)
        if key == last_key:
            cells[p] = last_cell
            continue
        slot = np.int64(mix(key)) & mask
        while keys[slot] != key:
            if keys[slot] == -1:
                if 2 * count > mask:  # half full: twice the table
                    bits += 1
                    mask = (1 << bits) - 1
                    new_keys = np.full(1 << bits, -1, np.int64)
                    new_numbers = np.empty(1 << bits, np.int32)
                    for old in range(keys.size):
                        if keys[old] != -1:
                            at = np.int64(mix(keys[old])) & mask
                            while new_keys[at] != -1:
                                at = (at + 1) & mask
                            new_keys[at] = keys[old]
                            new_numbers[at] = numbers[old]
                    keys, numbers = new_keys, new_numbers
                    slot = np.int64(mix(key)) & mask
                    while keys[slot] != -1:
                        slot = (slot + 1) & mask
                keys[slot] = key
                numbers[slot] = count
                count += 1
                break
            slot = (slot + 1) & mask
        last_key, last_cell = key, numbers[slot]
        cells[p] = last_cell
    return cells, count


@njit(cache=True, nogil=True, error_model="numpy")
def _means(values, cells, count):
    """Mean of the rows of `values` (N, C) in each cell, and the rows of each cell."""
    width = values.shape[1]
    means = np.zeros((count, width), np.float32)
    counts = np.zeros(count, np.float32)
    for p in range(len(cells)):
        cell = cells[p]
        counts[cell] += np.float32(1)
        share = np.float32(1) / counts[cell]
        for c in range(width):
            means[cell, c] += (np.float32(values[p, c]) - means[cell, c]) * share
    return means, counts
