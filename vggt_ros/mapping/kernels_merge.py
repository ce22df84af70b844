"""From depth maps into surfels: local planes, and the merge of measured points."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_observe import HIT_LOG_ODDS, NOBODY, confirm
from vggt_ros.mapping.kernels_planes import TILE, footprint_radius, measurement_weight, normal_at
from vggt_ros.mapping.surfels import (
    ALIVE,
    CELL_LIMIT,
    MOST_WEIGHT,
    SAME_COSINE,
    average,
    extend_bounds,
    find,
    pack_key,
    put,
    rekey,
)

REACH_FRACTION = 0.03
MAX_REACH = 3
"""A point also joins a surfel up to 3 % of its depth away along the main axis of its normal (at
least one cell, at most three), so that noise makes no layers."""

OPPOSITE_COSINE = -0.2
"""Normals farther apart belong to two sides of a thin wall."""

NEIGHBOUR_VOXELS = 1.0
"""A point also joins the surfel that a neighbouring pixel sees within this lateral distance."""

INVALID, FAR, GRAZING, OUTSIDE, FULL = 0, 1, 2, 3, 4
ADDED, UPDATED, JOINED = 5, 6, 7
COUNTS = 8


@njit(cache=True, nogil=True)
def _append(
    surfels, table, row, key, x, y, z, nx, ny, nz, red, green, blue, radius, weight, odds, view
):
    """Write a new surfel into a row and enter it in the hash."""
    surfels.x[row], surfels.y[row], surfels.z[row] = x, y, z
    surfels.radius[row] = radius
    surfels.key[row] = key
    full = np.float32(32767)
    surfels.normal[row, 0] = np.int16(np.rint(nx * full))
    surfels.normal[row, 1] = np.int16(np.rint(ny * full))
    surfels.normal[row, 2] = np.int16(np.rint(nz * full))
    surfels.rgb[row, 0] = np.uint16(red)
    surfels.rgb[row, 1] = np.uint16(green)
    surfels.rgb[row, 2] = np.uint16(blue)
    surfels.weight[row] = weight
    surfels.log_odds[row] = odds
    surfels.hits[row] = 1
    surfels.first[row] = view
    surfels.last[row] = view
    surfels.flags[row] = ALIVE
    extend_bounds(surfels, row, True)
    put(table, key, row)


@njit(cache=True, nogil=True)
def _find_in_column(surfels, table, i, j, k, nx, ny, nz, reach):
    """A surfel of the same surface in the cells before and behind, along the normal's main axis."""
    ax, ay, az = abs(nx), abs(ny), abs(nz)
    di = dj = dk = 0
    if az >= ax and az >= ay:
        dk = 1
    elif ay >= ax:
        dj = 1
    else:
        di = 1
    for step in range(1, reach + 1):
        for sign in (step, -step):
            key = pack_key(i + sign * di, j + sign * dj, k + sign * dk)
            row = find(surfels, table, key, nx, ny, nz, SAME_COSINE)
            if row >= 0:
                return row
    return -1


@njit(cache=True, nogil=True)
def _agrees(surfels, row, nx, ny, nz):
    """Whether the owner of a pixel still lives and belongs to the same side."""
    normal = surfels.normal[row]
    cosine = normal[0] * nx + normal[1] * ny + normal[2] * nz
    return surfels.flags[row] & ALIVE != 0 and cosine > 0


@njit(cache=True, nogil=True)
def _find_beside(surfels, owner, u, v, width, height, x, y, z, nx, ny, nz, lateral):
    """The owner of one of the eight neighbouring pixels that lies near enough on the surface."""
    best, least = np.int64(-1), lateral
    for line in range(max(0, v - 1), min(height, v + 2)):
        for column in range(max(0, u - 1), min(width, u + 2)):
            row = owner[line * width + column]
            if row == NOBODY or not _agrees(surfels, row, nx, ny, nz):
                continue
            a, b, c = x - surfels.x[row], y - surfels.y[row], z - surfels.z[row]
            along = a * nx + b * ny + c * nz
            distance = a * a + b * b + c * c - along * along
            if distance < least:
                best, least = row, distance
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def merge(
    surfels, table, rows, capacity, owner, depth, confidence, rgb, planes, intrinsics, rotation,
    translation, voxel, max_depth, least_cosine, view,
):  # fmt: skip
    """Merge one depth map into the map.

    Pixels whose surfel `observe` has updated are left out. The others join the surfel of their
    voxel, that of a neighbouring pixel or one before or behind them, or become a new one.

    Args:
        rows: rows in use.
        capacity: rows there may be; points that need more are counted as FULL.
        depth, confidence, rgb: (H, W), (H, W), (H, W, 3).
        owner: from `kernels_observe.observe`.
        planes: from `tile_planes`.
        intrinsics: fx fy cx cy, float32.
        rotation, translation: `map_from_camera`, float32.
        least_cosine: flatter views are left out.
        view: number of this depth map, ascending.

    Returns:
        (rows in use afterwards, counts by reason (COUNTS,) int64).
    """
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics
    inverse_voxel = np.float32(1) / np.float32(voxel)
    lateral = np.float32((NEIGHBOUR_VOXELS * voxel) ** 2)
    counts = np.zeros(COUNTS, np.int64)
    last_key, last_row = np.int64(-1), -1
    block = 4 * TILE
    for v_block in range(0, height, block):
        for u_block in range(0, width, block):
            for v in range(v_block, min(v_block + block, height)):
                for u in range(u_block, min(u_block + block, width)):
                    d = depth[v, u]
                    c = confidence[v, u]
                    if not (d > 0 and d < np.inf and c > 0):
                        counts[INVALID] += 1
                        continue
                    if d > max_depth:
                        counts[FAR] += 1
                        continue
                    c = min(np.float32(1), c)
                    rx = (u - cx) / fx
                    ry = (v - cy) / fy
                    px, py, pz, cosine = normal_at(planes, u, v, rx, ry, d)
                    if cosine < least_cosine:
                        counts[GRAZING] += 1
                        continue
                    x = (rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]) * d
                    y = (rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]) * d
                    z = (rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]) * d
                    x += translation[0]
                    y += translation[1]
                    z += translation[2]
                    nx = rotation[0, 0] * px + rotation[0, 1] * py + rotation[0, 2] * pz
                    ny = rotation[1, 0] * px + rotation[1, 1] * py + rotation[1, 2] * pz
                    nz = rotation[2, 0] * px + rotation[2, 1] * py + rotation[2, 2] * pz
                    fi = np.floor(x * inverse_voxel)
                    fj = np.floor(y * inverse_voxel)
                    fk = np.floor(z * inverse_voxel)
                    limit = np.float32(CELL_LIMIT - 2 * MAX_REACH)
                    if not (abs(fi) < limit and abs(fj) < limit and abs(fk) < limit):
                        counts[OUTSIDE] += 1
                        continue
                    i, j, k = np.int64(fi), np.int64(fj), np.int64(fk)
                    key = pack_key(i, j, k)
                    weight = measurement_weight(c, cosine, d, voxel)
                    red = np.float32(rgb[v, u, 0]) * np.float32(256)
                    green = np.float32(rgb[v, u, 1]) * np.float32(256)
                    blue = np.float32(rgb[v, u, 2]) * np.float32(256)
                    odds = np.float32(HIT_LOG_ODDS) * c

                    # `observe` has brought the surfel of this pixel up to date.
                    row, in_cell = owner[v * width + u], False
                    if row != NOBODY and _agrees(surfels, row, nx, ny, nz):
                        continue
                    row = -1
                    if key == last_key:
                        normal = surfels.normal[last_row]
                        if normal[0] * nx + normal[1] * ny + normal[2] * nz > 0:
                            row, in_cell = last_row, True
                    if row < 0:
                        row = find(surfels, table, key, nx, ny, nz, OPPOSITE_COSINE)
                        in_cell = row >= 0
                    if row < 0:
                        row = _find_beside(
                            surfels, owner, u, v, width, height, x, y, z, nx, ny, nz, lateral
                        )
                    if row < 0:
                        reach = int(np.ceil(REACH_FRACTION * d * inverse_voxel))
                        reach = max(1, min(MAX_REACH, reach))
                        row = _find_in_column(surfels, table, i, j, k, nx, ny, nz, reach)
                    if row < 0:
                        if rows >= capacity:
                            counts[FULL] += 1
                            continue
                        radius = footprint_radius(d, fx, cosine, voxel)
                        _append(
                            surfels, table, rows, key, x, y, z, nx, ny, nz, red, green, blue,
                            radius, weight, odds, view,
                        )  # fmt: skip
                        counts[ADDED] += 1
                        last_key, last_row = key, rows
                        rows += 1
                        continue
                    if not in_cell:
                        # Along the normal only: a surfel keeps its place on the surface.
                        a = (
                            (x - surfels.x[row]) * nx
                            + (y - surfels.y[row]) * ny
                            + (z - surfels.z[row]) * nz
                        )
                        x = surfels.x[row] + a * nx
                        y = surfels.y[row] + a * ny
                        z = surfels.z[row] + a * nz
                    total = surfels.weight[row] + weight
                    average(surfels, row, weight / total, x, y, z, nx, ny, nz, red, green, blue)
                    surfels.weight[row] = min(np.float32(MOST_WEIGHT), total)
                    if surfels.last[row] != view:
                        confirm(surfels, row, c, view)
                        surfels.radius[row] = min(
                            surfels.radius[row], footprint_radius(d, fx, cosine, voxel)
                        )
                        counts[UPDATED] += 1
                    before = row
                    row, joined = rekey(surfels, table, row, voxel)
                    counts[JOINED] += joined
                    if in_cell or row != before:
                        last_key, last_row = key, row
    return rows, counts
