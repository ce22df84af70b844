"""Surfels of one surface before and behind each other: layers that noise makes."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.surfels import CHUNK, SAME_COSINE, absorb, find, kill, pack_key

REACH_FRACTION = 0.03
MAX_REACH = 8
"""A point joins a surfel up to 3 % of its depth away along the main axis of its normal (at
least one cell, at most eight), so that noise makes no layers."""

GRADUATION_HITS = (3, 8)
"""Seen this often, a surfel looks for others before and behind it to merge with."""


@njit(cache=True, nogil=True)
def reach_cells(depth, inverse_voxel):
    """Cells along the normal within which a surfel is the same surface as a measured point."""
    reach = int(np.ceil(np.float32(REACH_FRACTION) * depth * inverse_voxel))
    return max(1, min(MAX_REACH, reach))


@njit(cache=True, nogil=True)
def _main_axis(nx, ny, nz):
    """Unit step of cells along the largest component of a normal."""
    ax, ay, az = abs(nx), abs(ny), abs(nz)
    if az >= ax and az >= ay:
        return 0, 0, 1
    if ay >= ax:
        return 0, 1, 0
    return 1, 0, 0


@njit(cache=True, nogil=True)
def find_in_column(data, table, i, j, k, nx, ny, nz, reach):
    """A surfel of the same surface in the cells before and behind, along the main axis."""
    di, dj, dk = _main_axis(nx, ny, nz)
    for step in range(1, reach + 1):
        for sign in (step, -step):
            key = pack_key(i + sign * di, j + sign * dj, k + sign * dk)
            row = find(data, table, key, nx, ny, nz, SAME_COSINE)
            if row >= 0:
                return row
    return -1


@njit(cache=True, nogil=True)
def merge_layers(
    position, data, changed, table, row, nx, ny, nz, reach, near, inverse_voxel, view
):
    """Merge a surfel and those before and behind it into the heaviest of them.

    Inputs:
        nx, ny, nz: unit normal in map.
        reach: cells looked into on either side.
        near: square of the greatest lateral distance.

    Returns:
        (row that holds them all, how many vanished).
    """
    merged = 0
    di, dj, dk = _main_axis(nx, ny, nz)
    i = np.int64(np.floor(position[0, row] * inverse_voxel))
    j = np.int64(np.floor(position[1, row] * inverse_voxel))
    k = np.int64(np.floor(position[2, row] * inverse_voxel))
    for step in range(1, reach + 1):
        for sign in (step, -step):
            key = pack_key(i + sign * di, j + sign * dj, k + sign * dk)
            other = find(data, table, key, nx, ny, nz, SAME_COSINE)
            if other < 0 or other == row:
                continue
            a = position[0, other] - position[0, row]
            b = position[1, other] - position[1, row]
            c = position[2, other] - position[2, row]
            along = a * nx + b * ny + c * nz
            if a * a + b * b + c * c - along * along >= near:
                continue
            heavy, light = (row, other) if data[row].weight > data[other].weight else (other, row)
            absorb(position, data, heavy, light)
            kill(position, data, table, light)
            changed[heavy // CHUNK] = view
            changed[light // CHUNK] = view
            merged += 1
            row = heavy
    return row, merged
