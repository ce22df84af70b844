"""What a depth map says about the surfels in its view: confirmed and refined, or seen through."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_column import GRADUATION_HITS, merge_layers, reach_cells
from vggt_ros.mapping.kernels_planes import (
    TILE,
    UNKNOWN_COSINE,
    footprint_radius,
    measurement_weight,
    normal_at,
)
from vggt_ros.mapping.kernels_view import DEPTH, FREE, HIGH, LOW, project_chunk
from vggt_ros.mapping.surfels import (
    ALIVE,
    CHUNK,
    MERGED,
    MOST_HITS,
    MOST_WEIGHT,
    MOVED,
    YOUNG_HITS,
    absorb,
    average,
    key_at,
    kill,
    mix,
    rekey,
    shrink,
)

MISS_LOG_ODDS = 1.8
"""What one look through a surfel takes off, times the confidence of the pixel (p = 1/3)."""

HIT_LOG_ODDS = 0.85
"""What one depth map that sees a surfel adds, times its confidence (p = 0.7)."""

MOST_LOG_ODDS = 3.5
"""Bound of the log odds (p = 0.97): after it five looks through a surfel remove it, however long
it stood."""

DUPLICATE_VOXELS = 0.7
"""Two surfels of one surface that one pixel sees at this lateral distance or less are one."""

MATURE_HITS = 16
MATURE_TURNS = 12
"""Surfels seen this often hardly change any more; a chunk of them is refined every twelfth time
only, drawn by the hash of its number and the view's, so that all cameras come round."""

NOBODY = -1


@njit(cache=True, nogil=True)
def confirm(position, data, row, confidence, view):
    """Count a depth map that agrees with a surfel, once for each depth map."""
    s = data[row]
    if s.last == view:
        return
    s.last = view
    if s.hits < MOST_HITS:
        s.hits += 1
    if s.hits >= YOUNG_HITS:
        position[3, row] = abs(position[3, row])
    odds = s.log_odds + np.float32(HIT_LOG_ODDS) * min(np.float32(1), confidence)
    s.log_odds = min(np.float32(MOST_LOG_ODDS), odds)


@njit(cache=True, nogil=True)
def _miss(position, data, table, row, confidence):
    """Take odds off a surfel that was seen through; True if it died of that."""
    s = data[row]
    s.log_odds -= np.float32(MISS_LOG_ODDS) * min(np.float32(1), confidence)
    if s.log_odds >= 0:
        return False
    kill(position, data, table, row)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def observe(
    position, data, bounds, mature, changed, table, rows, chunks, rotation, translation,
    intrinsics, confidence, rgb, planes, limits, marks, voxel, max_depth, least_cosine, view,
    most_removed,
):  # fmt: skip
    """Compare the surfels in view with a depth map.

    Those that it sees through lose odds and die below even odds. Those that agree with it are
    confirmed and refined, each by its own pixel. The heaviest of a pixel is handed to `merge`;
    lighter ones straight before or behind it, layers of noise, are merged into it.

    Inputs:
        chunks: from `visible_chunks`.
        rotation, translation: `camera_from_map`, float32.
        confidence, rgb: (H, W), (H, W, 3) of the depth map.
        planes: from `tile_planes`.
        limits, marks: from `depth_limits`; SETTLED is added to the marks.
        max_depth, least_cosine: farther or flatter pixels refine nothing.
        view: number of the depth map.
        most_removed: surfels that may be entered under another voxel, each of which leaves a
            removed slot in the hash.

    Returns:
        (surfel of each pixel (H * W,) int32, NOBODY without one; pixels with one; how many surfels
        were refined; killed; merged; entered under another voxel).
    """
    height, width = confidence.shape
    owner = np.full(width * height, NOBODY, np.int32)
    flat_confidence = confidence.reshape(-1)
    uv = np.empty((2, CHUNK), np.float32)
    zs = np.empty(CHUNK, np.float32)
    pixel = np.empty(CHUNK, np.int32)
    refined = killed = merged = moved = 0
    fx, fy, cx, cy = intrinsics
    inverse_fx, inverse_fy = np.float32(1) / fx, np.float32(1) / fy
    half, inverse_voxel = np.float32(0.5), np.float32(1) / np.float32(voxel)
    near = np.float32((DUPLICATE_VOXELS * voxel) ** 2)
    r = rotation
    # Camera centre in map: where rays start.
    ox = -(r[0, 0] * translation[0] + r[1, 0] * translation[1] + r[2, 0] * translation[2])
    oy = -(r[0, 1] * translation[0] + r[1, 1] * translation[1] + r[2, 1] * translation[2])
    oz = -(r[0, 2] * translation[0] + r[1, 2] * translation[1] + r[2, 2] * translation[2])
    for chunk in chunks:
        start = chunk * CHUNK
        stop = min(start + CHUNK, rows)
        project_chunk(
            position, start, stop, rotation, translation, intrinsics, width, height, uv, zs, pixel
        )
        if mature[chunk] and mix(chunk * 65536 + view) % np.uint64(MATURE_TURNS) != 0:
            for i in range(stop - start):
                at, z = pixel[i], zs[i]
                if at < 0:
                    continue
                if z < limits[at, FREE]:
                    killed += _miss(position, data, table, start + i, flat_confidence[at])
                    changed[chunk] = view
                    continue
                # Always written: whether it agrees cannot be predicted.
                agrees = (z > limits[at, LOW]) & (z < limits[at, HIGH])
                owner[at] = np.int32(start + i) if agrees else owner[at]
                marks[at] |= np.uint8(agrees)
            continue
        least_hits = MOST_HITS
        has_seen = False
        for i in range(stop - start):
            at, z = pixel[i], zs[i]
            if at < 0:
                continue
            row = np.int64(start + i)
            s = data[row]
            # It may have been merged a moment ago, after its chunk was projected.
            if not s.flags & ALIVE:
                continue
            c = flat_confidence[at]
            if z < limits[at, FREE]:
                killed += _miss(position, data, table, row, c)
                changed[chunk] = view
                continue
            if not (z > limits[at, LOW] and z < limits[at, HIGH]):
                continue
            d = limits[at, DEPTH]
            u, v = uv[0, i], uv[1, i]
            column, line = int(u), int(v)
            du, dv = u - half - np.float32(column), v - half - np.float32(line)
            x, y, w = position[0, row], position[1, row], position[2, row]
            nx, ny, nz, cosine = normal_at(
                planes, column, line, (np.float32(column) - cx) * inverse_fx,
                (np.float32(line) - cy) * inverse_fy, d, x - ox, y - oy, w - oz,
            )  # fmt: skip
            if s.nx * nx + s.ny * ny + s.nz * nz <= 0:
                continue
            confirm(position, data, row, c, view)
            changed[chunk] = view
            has_seen = True
            least_hits = min(least_hits, np.int64(s.hits))
            marks[at] |= np.uint8(s.hits >= MATURE_HITS)
            if d <= max_depth and cosine >= least_cosine:
                refined += 1
                # The surfel is not where the pixel's centre is: follow the plane to there.
                inverse = np.float32(1) / d
                if cosine != np.float32(UNKNOWN_COSINE):
                    tile = planes[line // TILE, column // TILE]
                    inverse += tile[0] * du * inverse_fx + tile[1] * dv * inverse_fy
                step = (np.float32(1) / (inverse * z) - np.float32(1)) * (
                    nx * (x - ox) + ny * (y - oy) + nz * (w - oz)
                )
                weight = measurement_weight(c, cosine, d, voxel)
                total = s.weight + weight
                average(
                    position, data, row, weight / total,
                    x + step * nx, y + step * ny, w + step * nz, nx, ny, nz,
                    np.float32(rgb[line, column, 0]) * np.float32(256),
                    np.float32(rgb[line, column, 1]) * np.float32(256),
                    np.float32(rgb[line, column, 2]) * np.float32(256),
                )  # fmt: skip
                s.weight = min(np.float32(MOST_WEIGHT), total)
                shrink(position, row, footprint_radius(d, fx, cosine, voxel))
                key = key_at(position, row, inverse_voxel)
                if key != s.key and moved < most_removed:
                    row, change = rekey(position, data, bounds, table, row, key)
                    moved += change == MOVED
                    merged += change == MERGED
                    changed[row // CHUNK] = view
                if data[row].hits in GRADUATION_HITS:
                    row, gone = merge_layers(
                        position, data, changed, table, row, nx, ny, nz,
                        reach_cells(d, inverse_voxel), near, inverse_voxel, view,
                    )  # fmt: skip
                    merged += gone
            other = np.int64(owner[at])
            if other == NOBODY or not data[other].flags & ALIVE:
                owner[at] = row
                continue
            if other == row:
                continue
            a = position[0, other] - position[0, row]
            b = position[1, other] - position[1, row]
            e = position[2, other] - position[2, row]
            # Apart along the normal is noise; apart along the surface is a neighbour.
            along = a * nx + b * ny + e * nz
            is_heavier = data[row].weight > data[other].weight
            if is_heavier:
                owner[at] = row
            if a * a + b * b + e * e - along * along < near:
                heavy, light = (row, other) if is_heavier else (other, row)
                absorb(position, data, heavy, light)
                kill(position, data, table, light)
                changed[other // CHUNK] = view
                merged += 1
        if has_seen:
            mature[chunk] = least_hits >= MATURE_HITS
    owned = 0
    for at in range(owner.size):
        owned += owner[at] != NOBODY
    return owner, owned, refined, killed, merged, moved
