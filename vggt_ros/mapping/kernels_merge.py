"""From depth maps into surfels: local planes, and the merge of measured points."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_column import MAX_REACH, REACH_FRACTION, find_in_column, reach_cells
from vggt_ros.mapping.kernels_observe import HIT_LOG_ODDS, MATURE_HITS, NOBODY, confirm
from vggt_ros.mapping.kernels_planes import (
    TILE,
    UNKNOWN_COSINE,
    footprint_radius,
    is_steep,
    measurement_weight,
    normal_at,
)
from vggt_ros.mapping.kernels_view import EDGE, MARGIN_VOXELS, SETTLED
from vggt_ros.mapping.surfels import (
    ALIVE,
    CELL_LIMIT,
    CHUNK,
    FIRST_STEP,
    MERGED,
    MOST_WEIGHT,
    MOVED,
    average,
    extend_bounds,
    find,
    key_at,
    pack_key,
    put,
    rekey,
    shrink,
)

OPPOSITE_COSINE = -0.2
"""Normals farther apart belong to two sides of a thin wall."""

NEIGHBOUR_VOXELS = 1.0
"""A point also joins the surfel that a neighbouring pixel sees within this lateral distance."""

WIDE_PIXEL_VOXELS = 1.5
"""Where pixels are this much wider than voxels, those beside are too far away to share."""

INVALID, FAR, GRAZING, OUTSIDE, FULL, EDGES = 0, 1, 2, 3, 4, 5
ADDED, UPDATED, JOINED, MOVES = 6, 7, 8, 9
COUNTS = 10


@njit(cache=True, nogil=True)
def _append(
    position, data, bounds, table, row, key, x, y, z, nx, ny, nz, red, green, blue, radius,
    weight, odds, view,
):  # fmt: skip
    """Write a new surfel into a row and enter it in the hash."""
    position[0, row], position[1, row], position[2, row] = x, y, z
    s = data[row]
    s.key = key
    s.weight = weight
    position[3, row] = -radius  # young
    s.log_odds = odds
    s.first = min(65535, view // FIRST_STEP)
    s.last = view
    full, half = np.float32(32767), np.float32(0.5)
    s.nx = np.int16(np.floor(nx * full + half))
    s.ny = np.int16(np.floor(ny * full + half))
    s.nz = np.int16(np.floor(nz * full + half))
    s.red, s.green, s.blue = np.uint16(red), np.uint16(green), np.uint16(blue)
    s.hits = 1
    s.flags = ALIVE
    extend_bounds(position, bounds, row, True)
    put(table, key, row)


@njit(cache=True, nogil=True)
def _agrees(data, row, nx, ny, nz):
    """Whether the owner of a pixel still lives and belongs to the same side."""
    s = data[row]
    return s.flags & ALIVE != 0 and s.nx * nx + s.ny * ny + s.nz * nz > 0


@njit(cache=True, nogil=True)
def _find_beside(position, data, owner, u, v, width, height, x, y, z, nx, ny, nz, lateral):
    """The owner of one of the eight neighbouring pixels that lies near enough on the surface.

    The first mature one will do, else the nearest.
    """
    best, least = np.int64(-1), lateral
    for line in range(max(0, v - 1), min(height, v + 2)):
        for column in range(max(0, u - 1), min(width, u + 2)):
            row = np.int64(owner[line * width + column])
            if row == NOBODY:
                continue
            a, b, c = x - position[0, row], y - position[1, row], z - position[2, row]
            along = a * nx + b * ny + c * nz
            distance = a * a + b * b + c * c - along * along
            if distance < least and _agrees(data, row, nx, ny, nz):
                if data[row].hits >= MATURE_HITS:
                    return row
                best, least = row, distance
    return best


@njit(cache=True, nogil=True)
def _is_covered(depth, marks, u, v, d, narrow, far):
    """Whether pixels beside show mature surfels at nearly the same depth.

    Such surfels learn nothing more from this pixel, and it is not looked at: of pixels that
    are narrower than a voxel most have no surfel of their own, and to look would take longer
    than all the rest. Up to twice that width both sides must be covered.
    """
    height, width = depth.shape
    at = v * width + u
    left = u > 0 and marks[at - 1] & SETTLED and abs(depth[v, u - 1] - d) < far
    right = u < width - 1 and marks[at + 1] & SETTLED and abs(depth[v, u + 1] - d) < far
    if (left and right) or (d < narrow and (left or right)):
        return True
    above = v > 0 and marks[at - width] & SETTLED and abs(depth[v - 1, u] - d) < far
    below = v < height - 1 and marks[at + width] & SETTLED and abs(depth[v + 1, u] - d) < far
    return (above and below) or (d < narrow and (above or below))


@njit(cache=True, nogil=True, error_model="numpy")
def merge(
    position, data, bounds, mature, changed, table, rows, capacity, owner, marks, depth,
    confidence, rgb, planes, intrinsics, rotation, translation, voxel, max_depth, least_cosine,
    view, most_removed,
):  # fmt: skip
    """Merge one depth map into the map.

    Pixels whose surfel `observe` has updated are left out. The others join the surfel of a
    neighbouring pixel, that of their voxel or one before or behind it, or become a new one.

    Inputs:
        rows: rows in use.
        capacity: rows there may be; points that need more are counted as FULL.
        depth, confidence, rgb: (H, W), (H, W), (H, W, 3).
        owner: from `kernels_observe.observe`.
        marks: from `kernels_view.depth_limits`, with what `observe` has added.
        planes: from `tile_planes`.
        intrinsics: fx fy cx cy, float32.
        rotation, translation: `map_from_camera`, float32.
        least_cosine: flatter views are left out.
        view: number of this depth map, ascending.
        most_removed: surfels that may be entered under another voxel.

    Returns:
        (rows in use afterwards, counts by reason (COUNTS,) int64).
    """
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics
    inverse_voxel = np.float32(1) / np.float32(voxel)
    inverse_fx, inverse_fy = np.float32(1) / fx, np.float32(1) / fy
    limit = np.float32(CELL_LIMIT - 2 * MAX_REACH)
    lateral = np.float32((NEIGHBOUR_VOXELS * voxel) ** 2)
    narrow, far = np.float32(voxel) * fx, np.float32(MARGIN_VOXELS * voxel)
    share, two = np.float32(REACH_FRACTION), np.float32(2)
    widest = np.float32(WIDE_PIXEL_VOXELS * voxel) * fx
    counts = np.zeros(COUNTS, np.int64)
    last_key, last_row = np.int64(-1), np.int64(-1)
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
                    # `observe` has brought the surfel of this pixel up to date, or that into
                    # which it has since been merged.
                    at = v * width + u
                    if marks[at] & EDGE:
                        counts[EDGES] += 1
                        continue
                    if owner[at] != NOBODY or (
                        d < two * narrow
                        and _is_covered(depth, marks, u, v, d, narrow, far + share * d)
                    ):
                        continue
                    rx = (np.float32(u) - cx) * inverse_fx
                    ry = (np.float32(v) - cy) * inverse_fy
                    x = (rotation[0, 0] * rx + rotation[0, 1] * ry + rotation[0, 2]) * d
                    y = (rotation[1, 0] * rx + rotation[1, 1] * ry + rotation[1, 2]) * d
                    z = (rotation[2, 0] * rx + rotation[2, 1] * ry + rotation[2, 2]) * d
                    nx, ny, nz, cosine = normal_at(planes, u, v, rx, ry, d, x, y, z)
                    if cosine < least_cosine or (
                        cosine == np.float32(UNKNOWN_COSINE)
                        and is_steep(depth, u, v, fx, fy, least_cosine)
                    ):
                        counts[GRAZING] += 1
                        continue
                    x += translation[0]
                    y += translation[1]
                    z += translation[2]
                    fi = np.floor(x * inverse_voxel)
                    fj = np.floor(y * inverse_voxel)
                    fk = np.floor(z * inverse_voxel)
                    if not (abs(fi) < limit and abs(fj) < limit and abs(fk) < limit):
                        counts[OUTSIDE] += 1
                        continue
                    row = np.int64(-1)
                    if d < widest:
                        row = _find_beside(
                            position, data, owner, u, v, width, height, x, y, z, nx, ny, nz,
                            lateral,
                        )  # fmt: skip
                    # Owners do not grow old here: `observe` has just seen them.
                    if row >= 0 and data[row].hits >= MATURE_HITS:
                        continue
                    i, j, k = np.int64(fi), np.int64(fj), np.int64(fk)
                    key = pack_key(i, j, k)
                    c = min(np.float32(1), c)
                    weight = measurement_weight(c, cosine, d, voxel)
                    red = np.float32(rgb[v, u, 0]) * np.float32(256)
                    green = np.float32(rgb[v, u, 1]) * np.float32(256)
                    blue = np.float32(rgb[v, u, 2]) * np.float32(256)
                    odds = np.float32(HIT_LOG_ODDS) * c
                    in_cell = False
                    if row < 0 and key == last_key and _agrees(data, last_row, nx, ny, nz):
                        row, in_cell = last_row, True
                    if row < 0:
                        row = find(data, table, key, nx, ny, nz, OPPOSITE_COSINE)
                        in_cell = row >= 0
                    if row < 0:
                        reach = reach_cells(d, inverse_voxel)
                        row = find_in_column(data, table, i, j, k, nx, ny, nz, reach)
                    if row < 0:
                        if rows >= capacity:
                            counts[FULL] += 1
                            continue
                        radius = footprint_radius(d, fx, cosine, voxel)
                        _append(
                            position, data, bounds, table, rows, key, x, y, z, nx, ny, nz,
                            red, green, blue, radius, weight, odds, view,
                        )  # fmt: skip
                        mature[rows // CHUNK] = 0
                        changed[rows // CHUNK] = view
                        counts[ADDED] += 1
                        last_key, last_row = key, np.int64(rows)
                        rows += 1
                        continue
                    if not in_cell:
                        # Along the normal only: a surfel keeps its place on the surface.
                        a = (
                            (x - position[0, row]) * nx
                            + (y - position[1, row]) * ny
                            + (z - position[2, row]) * nz
                        )
                        x = position[0, row] + a * nx
                        y = position[1, row] + a * ny
                        z = position[2, row] + a * nz
                    total = data[row].weight + weight
                    average(
                        position, data, row, weight / total, x, y, z, nx, ny, nz, red, green, blue
                    )
                    data[row].weight = min(np.float32(MOST_WEIGHT), total)
                    if data[row].last != view:
                        confirm(position, data, row, c, view)
                        shrink(position, row, footprint_radius(d, fx, cosine, voxel))
                        counts[UPDATED] += 1
                    before = row
                    changed[row // CHUNK] = view
                    now = key_at(position, row, inverse_voxel)
                    if now != data[row].key and counts[MOVES] < most_removed:
                        row, change = rekey(position, data, bounds, table, row, now)
                        counts[MOVES] += change == MOVED
                        counts[JOINED] += change == MERGED
                        changed[row // CHUNK] = view
                    if in_cell or row != before:
                        last_key, last_row = key, row
    return rows, counts
