"""Kernels of the occupancy grid: points counted by cell, rays that leave free cells behind."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def count_points(points, low, high, inverse, x0, y0, counts):
    """Count the points (N, 3) of heights `low` to `high` [map units] by cell, up to 65535.

    Inputs:
        inverse: cells per unit.
        x0, y0: cell indices of `counts[0, 0]`.
        counts: (rows of y, columns of x) uint16, added to.
    """
    rows, columns = counts.shape
    for p in range(len(points)):
        z = points[p, 2]
        if not (low <= z <= high):
            continue
        column = np.int64(np.floor(points[p, 0] * inverse)) - x0
        row = np.int64(np.floor(points[p, 1] * inverse)) - y0
        if 0 <= row < rows and 0 <= column < columns and counts[row, column] < 65535:
            counts[row, column] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def free_rays(
    depth, fx, fy, cx, cy, rotation, centre, low, high, floor_top, inverse, x0, y0, free
):
    """Mark the cells that rays of a depth image pass over between two heights.

    A ray counts from its camera to the surface it meets, where its height lies between `low`
    and `high`. The cell of the surface is marked only if that is floor.

    Inputs:
        depth: (H, W) along z, NaN where nothing is.
        rotation, centre: of `map_from_camera`.
        low, high: heights in map.
        floor_top: surfaces below are floor.
        inverse, x0, y0: as in `count_points`.
        free: (rows, columns) uint8, set to 1.
    """
    height, width = depth.shape
    for v in range(height):
        for u in range(width):
            d = depth[v, u]
            if not (d > 0 and d < np.inf):
                continue
            a, b = (u - cx) / fx, (v - cy) / fy
            dx = d * (rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2])
            dy = d * (rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2])
            dz = d * (rotation[2, 0] * a + rotation[2, 1] * b + rotation[2, 2])
            # The part of the ray, 0 at the camera and 1 at the surface, between the heights.
            first, last = 0.0, 1.0
            end_z = centre[2] + dz
            if dz == 0:
                if not (low <= centre[2] <= high):
                    continue
            else:
                at_low, at_high = (low - centre[2]) / dz, (high - centre[2]) / dz
                first = max(first, min(at_low, at_high))
                last = min(last, max(at_low, at_high))
            if first >= last:
                continue
            marks_end = last < 1.0 or end_z < floor_top
            _mark(
                (centre[0] + first * dx) * inverse - x0,
                (centre[1] + first * dy) * inverse - y0,
                (centre[0] + last * dx) * inverse - x0,
                (centre[1] + last * dy) * inverse - y0,
                marks_end,
                free,
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _mark(x, y, end_x, end_y, marks_end, free):
    """Set the cells of a segment, in cells (Amanatides and Woo, Eurographics 1987)."""
    rows, columns = free.shape
    column, row = np.int64(np.floor(x)), np.int64(np.floor(y))
    end_column, end_row = np.int64(np.floor(end_x)), np.int64(np.floor(end_y))
    dx, dy = end_x - x, end_y - y
    step_x = 1 if dx > 0 else -1
    step_y = 1 if dy > 0 else -1
    per_x = abs(1.0 / dx)  # infinite where the ray does not move along x
    per_y = abs(1.0 / dy)
    next_x = per_x * ((column + 1 - x) if dx > 0 else (x - column)) if dx != 0 else np.inf
    next_y = per_y * ((row + 1 - y) if dy > 0 else (y - row)) if dy != 0 else np.inf
    for _ in range(abs(end_column - column) + abs(end_row - row)):
        if 0 <= row < rows and 0 <= column < columns:
            free[row, column] = 1
        if next_x < next_y:
            column += step_x
            next_x += per_x
        else:
            row += step_y
            next_y += per_y
    if marks_end and 0 <= end_row < rows and 0 <= end_column < columns:
        free[end_row, end_column] = 1


@njit(cache=True, nogil=True)
def occupied(counts, least):
    """Which cells (rows, columns) have a point, and `least` with their eight neighbours."""
    rows, columns = counts.shape
    found = np.zeros((rows, columns), np.bool_)
    for row in range(rows):
        for column in range(columns):
            if counts[row, column] == 0:
                continue
            total = np.int64(0)
            for j in range(max(row - 1, 0), min(row + 2, rows)):
                for i in range(max(column - 1, 0), min(column + 2, columns)):
                    total += counts[j, i]
            found[row, column] = total >= least
    return found


@njit(cache=True, nogil=True)
def height_histogram(points, normals, lowest, inverse, least_up, bins, exact, members):
    """Count the points (N, 3) whose surface looks up by height, and sum their heights.

    Inputs:
        normals: (N, 3); empty: all count.
        lowest: height of the lower edge of the first bin.
        inverse: bins per unit.
        least_up: smallest z of a normal that looks up.
        exact: (bins,) float64, sums of heights, added to.
        members: (bins,) int64, counts, added to.
    """
    for p in range(len(points)):
        if len(normals) and normals[p, 2] < least_up:
            continue
        k = np.int64(np.floor((points[p, 2] - lowest) * inverse))
        if 0 <= k < bins:
            exact[k] += points[p, 2]
            members[k] += 1
