"""From depth maps into surfels: local planes, and the merge of measured points."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.surfels import ALIVE, CELL_LIMIT, extend_bounds, find, kill, pack_key
from vggt_ros.mapping.surfels import put, take_out

TILE = 4
"""Pixels that share one plane."""

WINDOW = 6
"""The plane is fitted to every second pixel up to this far from the tile's centre: 36 samples
bring 1 % of noise down to 7 degrees at 270 px focal length, where neighbouring pixels alone would
give noise only."""

GATE = 0.1
"""Relative inverse depth by which samples may differ from the middle of their tile."""

OFF_PLANE = 0.05
"""Pixels relatively farther off the plane of their tile have no known normal."""

UNKNOWN_COSINE = 0.5
"""Incidence taken for pixels without a normal."""

REACH_FRACTION = 0.01
MAX_REACH = 3
"""A point also joins a surfel up to 1 % of its depth away along the main axis of its normal (at
least one cell, at most three), so that noise makes no layers."""

OPPOSITE_COSINE = -0.2
"""Normals farther apart belong to two sides of a thin wall."""

SAME_COSINE = 0.5
"""Surfels of two cells are one surface only if their normals differ by less than 60 degrees."""

HIT_LOG_ODDS = 0.85
"""What one depth map that sees a surfel adds, times its confidence (p = 0.7)."""

MOST_LOG_ODDS = 3.5
"""Bound of the log odds (p = 0.97): after it five looks through a surfel remove it, however long
it stood."""

MOST_WEIGHT = 1000.0
"""Bound of the accumulated weight: the average of the last thousand measurements at one metre."""

INVALID, FAR, GRAZING, OUTSIDE, FULL = 0, 1, 2, 3, 4
ADDED, UPDATED, JOINED = 5, 6, 7
COUNTS = 8


@njit(cache=True, nogil=True, error_model="numpy")
def tile_planes(depth, intrinsics):
    """Planes of inverse depth, one for each tile of TILE x TILE pixels.

    A plane in space is a plane in inverse depth over the image, 1/z = n . (x/z, y/z, 1), so a
    linear fit gives it without a bias by the depth.

    Args:
        depth: (H, W), invalid: NaN or not positive.
        intrinsics: fx fy cx cy.

    Returns:
        (H / TILE, W / TILE, 3) float32: n in the camera frame, with n . p = 1 for the points p of
        the plane; NaN where too few pixels agree.
    """
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics
    lines, columns = -(-height // TILE), -(-width // TILE)
    planes = np.full((lines, columns, 3), np.nan, np.float32)
    sorted_values = np.empty(TILE * TILE, np.float32)
    for line in range(lines):
        for column in range(columns):
            v0, u0 = line * TILE, column * TILE
            count = 0
            for v in range(v0, min(v0 + TILE, height)):
                for u in range(u0, min(u0 + TILE, width)):
                    d = depth[v, u]
                    if d > 0 and d < np.inf:
                        k = count
                        while k > 0 and sorted_values[k - 1] > d:
                            sorted_values[k] = sorted_values[k - 1]
                            k -= 1
                        sorted_values[k] = d
                        count += 1
            if count == 0:
                continue
            middle = 1 / np.float64(sorted_values[count // 2])
            gate = GATE * middle
            n = 0
            su = sv = sw = suu = suv = svv = suw = svw = 0.0
            # Symmetric about the centre of the tile, which lies between pixels.
            for dv in range(-WINDOW + 1, WINDOW, 2):
                v = v0 + TILE // 2 + dv
                if v < 0 or v >= height:
                    continue
                for du in range(-WINDOW + 1, WINDOW, 2):
                    u = u0 + TILE // 2 + du
                    if u < 0 or u >= width:
                        continue
                    w = 1 / np.float64(depth[v, u]) - middle
                    if not abs(w) < gate:
                        continue
                    n += 1
                    su += du
                    sv += dv
                    sw += w
                    suu += du * du
                    suv += du * dv
                    svv += dv * dv
                    suw += du * w
                    svw += dv * w
            if n < 8:
                continue
            inverse = 1.0 / n
            suu -= su * su * inverse
            suv -= su * sv * inverse
            svv -= sv * sv * inverse
            suw -= su * sw * inverse
            svw -= sv * sw * inverse
            determinant = suu * svv - suv * suv
            if determinant < 1.0:
                continue
            a = (suw * svv - svw * suv) / determinant
            b = (svw * suu - suw * suv) / determinant
            c = middle + (sw - a * su - b * sv) * inverse
            u_middle, v_middle = u0 + TILE // 2, v0 + TILE // 2
            planes[line, column, 0] = a * fx
            planes[line, column, 1] = b * fy
            planes[line, column, 2] = c + a * (cx - u_middle) + b * (cy - v_middle)
    return planes


@njit(cache=True, nogil=True)
def _average(surfels, row, a, x, y, z, nx, ny, nz, red, green, blue):
    """Move a surfel by the fraction `a` towards a measurement."""
    surfels.x[row] += a * (x - surfels.x[row])
    surfels.y[row] += a * (y - surfels.y[row])
    surfels.z[row] += a * (z - surfels.z[row])
    full = np.float32(32767)
    normal = surfels.normal[row]
    normal[0] = np.int16(np.rint(normal[0] + a * (nx * full - normal[0])))
    normal[1] = np.int16(np.rint(normal[1] + a * (ny * full - normal[1])))
    normal[2] = np.int16(np.rint(normal[2] + a * (nz * full - normal[2])))
    rgb = surfels.rgb[row]
    rgb[0] = np.uint16(rgb[0] + a * (red - np.float32(rgb[0])) + np.float32(0.5))
    rgb[1] = np.uint16(rgb[1] + a * (green - np.float32(rgb[1])) + np.float32(0.5))
    rgb[2] = np.uint16(rgb[2] + a * (blue - np.float32(rgb[2])) + np.float32(0.5))


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
def _rekey(surfels, table, row, voxel):
    """Enter a surfel under the cell in which it now lies, or merge it with the one there.

    Returns:
        (row that holds the surfel now, surfels that vanished: 0 or 1).
    """
    inverse = np.float32(1) / np.float32(voxel)
    key = pack_key(
        np.floor(surfels.x[row] * inverse),
        np.floor(surfels.y[row] * inverse),
        np.floor(surfels.z[row] * inverse),
    )
    if key == surfels.key[row]:
        return row, 0
    normal = surfels.normal[row]
    a, b, c = np.float32(normal[0]), np.float32(normal[1]), np.float32(normal[2])
    length = np.sqrt(a * a + b * b + c * c) + np.float32(1e-6)
    a, b, c = a / length, b / length, c / length
    other = find(surfels, table, key, a, b, c, SAME_COSINE)
    if other < 0:
        take_out(table, surfels.key[row], row)
        surfels.key[row] = key
        put(table, key, row)
        extend_bounds(surfels, row, False)
        return row, 0
    weight = surfels.weight[row]
    share = weight / (weight + surfels.weight[other])
    rgb = surfels.rgb[row]
    _average(
        surfels, other, share, surfels.x[row], surfels.y[row], surfels.z[row], a, b, c,
        np.float32(rgb[0]), np.float32(rgb[1]), np.float32(rgb[2]),
    )  # fmt: skip
    surfels.weight[other] = min(np.float32(MOST_WEIGHT), surfels.weight[other] + weight)
    surfels.radius[other] = min(surfels.radius[other], surfels.radius[row])
    surfels.log_odds[other] = max(surfels.log_odds[other], surfels.log_odds[row])
    surfels.hits[other] = max(surfels.hits[other], surfels.hits[row])
    surfels.first[other] = min(surfels.first[other], surfels.first[row])
    surfels.last[other] = max(surfels.last[other], surfels.last[row])
    surfels.flags[other] |= surfels.flags[row]
    kill(surfels, table, row)
    return other, 1


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


@njit(cache=True, nogil=True, error_model="numpy")
def merge(
    surfels, table, rows, capacity, depth, confidence, rgb, planes, intrinsics, rotation,
    translation, voxel, max_depth, least_cosine, view,
):  # fmt: skip
    """Merge one depth map into the map.

    A measurement weighs confidence x cosine of incidence / z^2. Neighbouring pixels err together,
    and 1/z^2 of them fall into a voxel, so a view as a whole counts with 1/z^4: the inverse
    variance of a triangulated depth, whose error grows with z^2.

    Args:
        rows: rows in use.
        capacity: rows there may be; points that need more are counted as FULL.
        depth, confidence, rgb: (H, W), (H, W), (H, W, 3).
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
    near = np.float32(50 * voxel)  # distance of weight 1; only ratios matter
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
                    range_ = np.sqrt(rx * rx + ry * ry + np.float32(1))
                    plane = planes[v // TILE, u // TILE]
                    px, py, pz = plane[0], plane[1], plane[2]
                    along = px * rx + py * ry + pz  # inverse depth of the plane
                    if abs(along * d - np.float32(1)) < OFF_PLANE:
                        length = np.sqrt(px * px + py * py + pz * pz)
                        cosine = along / (length * range_)
                        if cosine < least_cosine:
                            counts[GRAZING] += 1
                            continue
                        scale = np.float32(-1) / length
                        px, py, pz = px * scale, py * scale, pz * scale
                    else:
                        cosine = np.float32(UNKNOWN_COSINE)
                        scale = np.float32(-1) / range_
                        px, py, pz = rx * scale, ry * scale, scale
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
                    ratio = near / d
                    weight = c * cosine * ratio * ratio
                    red = np.float32(rgb[v, u, 0]) * np.float32(256)
                    green = np.float32(rgb[v, u, 1]) * np.float32(256)
                    blue = np.float32(rgb[v, u, 2]) * np.float32(256)
                    odds = np.float32(HIT_LOG_ODDS) * c

                    row = -1
                    if key == last_key:
                        normal = surfels.normal[last_row]
                        if normal[0] * nx + normal[1] * ny + normal[2] * nz > 0:
                            row = last_row
                    if row < 0:
                        row = find(surfels, table, key, nx, ny, nz, OPPOSITE_COSINE)
                    if row < 0:
                        reach = int(np.ceil(REACH_FRACTION * d * inverse_voxel))
                        reach = max(1, min(MAX_REACH, reach))
                        row = _find_in_column(surfels, table, i, j, k, nx, ny, nz, reach)
                    if row < 0:
                        if rows >= capacity:
                            counts[FULL] += 1
                            continue
                        # Half the pitch of the pixels on the surface, or of the voxels.
                        footprint = np.float32(0.7) * d / (fx * max(np.float32(0.3), cosine))
                        radius = max(np.float32(0.7 * voxel), footprint)
                        _append(
                            surfels, table, rows, key, x, y, z, nx, ny, nz, red, green, blue,
                            radius, weight, odds, view,
                        )  # fmt: skip
                        counts[ADDED] += 1
                        last_key, last_row = key, rows
                        rows += 1
                        continue
                    total = surfels.weight[row] + weight
                    _average(surfels, row, weight / total, x, y, z, nx, ny, nz, red, green, blue)
                    surfels.weight[row] = min(np.float32(MOST_WEIGHT), total)
                    if surfels.last[row] != view:
                        surfels.last[row] = view
                        if surfels.hits[row] < 65535:
                            surfels.hits[row] += 1
                        surfels.log_odds[row] = min(
                            np.float32(MOST_LOG_ODDS), surfels.log_odds[row] + odds
                        )
                        footprint = np.float32(0.7) * d / (fx * max(np.float32(0.3), cosine))
                        surfels.radius[row] = min(
                            surfels.radius[row], max(np.float32(0.7 * voxel), footprint)
                        )
                        counts[UPDATED] += 1
                        row, joined = _rekey(surfels, table, row, voxel)
                        counts[JOINED] += joined
                    last_key, last_row = key, row
    return rows, counts
