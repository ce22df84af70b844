"""Drawing surfels: each is one entry of a pyramid of z-buffers.

A surfel that looks smaller than a pixel is drawn into the image itself, a larger one into a
coarser level whose cells are about as large as the distance between such surfels, so that a
closed surface leaves no holes and a surfel costs one comparison whatever its size. Afterwards
`kernels_paint` paints the plane of each cell's surfel over the pixels of the cell.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.surfels import CHUNK

LEVELS = 7
"""The coarsest cells have 64 pixels a side."""

POINT_RADIUS_PX = 0.56
"""Surfels of this radius, 0.8 px apart, are the largest that are drawn as single pixels; each
coarser level takes twice the radius. A cell then is 1.2 to 2.4 times as wide as the distance
between surfels."""

NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)

FALL_FRACTION = 0.08
"""Part of the depth that is added at the rim of a pixel or cell: one standard deviation of a good
depth."""

NEARLY_COARSER = 0.7
"""Part of the largest radius of a level from which a surfel is drawn in the next one, too."""

OTHER = -1
"""What stands for the pixel of a surfel in the image that is not drawn as a point."""


def level_offsets(width: int, height: int) -> np.ndarray:
    """(LEVELS + 1,) where the cells of each level start in one common array."""
    sizes = [-(-width // 2**level) * -(-height // 2**level) for level in range(LEVELS)]
    return np.concatenate([[0], np.cumsum(sizes)])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _project_points(
    position, start, stop, rotation, translation, intrinsics, fall, width, height, dump, uv,
    depth, pixel, key,
):  # fmt: skip
    """Pixels and depths of rows start..stop; without branches, so that it is vectorised.

    Only 32-bit numbers, so that a register holds as many of each kind.

    Inputs:
        dump: index to give to what is outside of the image, behind the camera or dead.

    Outputs:
        uv: (2, CHUNK) float32 column and row plus one half, 0 for what is outside.
        depth: (CHUNK,) float32 z in the camera.
        pixel: (CHUNK,) int32 index of the pixel, `dump`, or OTHER if it is young or large.
        key: (CHUNK,) float32 depth by which a point competes.
    """
    fx, fy = intrinsics[0], intrinsics[1]
    cx, cy = intrinsics[2] + np.float32(0.5), intrinsics[3] + np.float32(0.5)
    r00, r01, r02 = fx * rotation[0, 0], fx * rotation[0, 1], fx * rotation[0, 2]
    r10, r11, r12 = fy * rotation[1, 0], fy * rotation[1, 1], fy * rotation[1, 2]
    r20, r21, r22 = rotation[2, 0], rotation[2, 1], rotation[2, 2]
    t0, t1, t2 = fx * translation[0], fy * translation[1], translation[2]
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    right, bottom = np.float32(width), np.float32(height)
    columns, outside, other = np.int32(width), np.int32(dump), np.int32(OTHER)
    # Radius over depth of the largest points.
    largest = np.float32(POINT_RADIUS_PX) / max(fx, fy)
    share, twice = np.float32(2 * FALL_FRACTION), np.float32(2) * fall
    xs, ys, zs = position[0, start:stop], position[1, start:stop], position[2, start:stop]
    radii = position[3, start:stop]
    us, vs = uv[0], uv[1]
    for i in range(stop - start):
        x, y, z, radius = xs[i], ys[i], zs[i], radii[i]
        d = r20 * x + (r21 * y + (r22 * z + t2))
        inverse = one / d
        u = (r00 * x + (r01 * y + (r02 * z + t0))) * inverse + cx
        v = (r10 * x + (r11 * y + (r12 * z + t1))) * inverse + cy
        is_inside = (u >= zero) & (v >= zero) & (u < right) & (v < bottom) & (d > zero)
        u = u if is_inside else zero  # also where it is NaN
        v = v if is_inside else zero
        column, line = np.int32(u), np.int32(v)
        # From the centre of the pixel.
        du = u - np.float32(column) - half
        dv = v - np.float32(line) - half
        is_point = (radius >= zero) & (radius < largest * d)
        at = np.int32(line * columns + column)
        at = at if is_point else other
        us[i] = u
        vs[i] = v
        depth[i] = d
        pixel[i] = at if is_inside else outside
        key[i] = d + (twice + share * d) * (du * du + dv * dv)


@njit(cache=True, nogil=True)
def _has_other(pixel, count):
    """Whether OTHER, the only negative number, is among the first pixels."""
    bits = np.int32(0)
    for i in range(count):
        bits = np.int32(bits | pixel[i])
    return bits < 0


@njit(cache=True, nogil=True, error_model="numpy")
def _splat_cell(cells, offsets, drawn, width, u, v, z, radius, fall, row):
    """Enter a surfel into the level of its size.

    Inputs:
        u, v: column and row plus one half.
        radius: in pixels over POINT_RADIUS_PX, 1 or more.

    Outputs:
        drawn: (LEVELS,) uint8, 1 for its level or levels.
    """
    half = np.float32(0.5)
    # Power of two at or above the radius, from the exponent of the number below it.
    level = ((np.int64(np.float32(radius).view(np.int32)) - 1) >> 23) - 126
    level = min(max(level, 1), LEVELS - 1)
    per_side = np.int32((127 - level) << 23).view(np.float32)  # 2^-level
    # Also into the next coarser level if it nearly belongs there: where the distance makes
    # surfels change the level, the last cells of the finer one may stay empty.
    is_near_end = radius * per_side > np.float32(NEARLY_COARSER)
    last = min(level + is_near_end, LEVELS - 1)
    for k in range(level, last + 1):
        column, line = np.int64(u) >> k, np.int64(v) >> k
        # From the centre of the cell, in cells.
        du = u * per_side - np.float32(column) - half
        dv = v * per_side - np.float32(line) - half
        distance = np.float32(2) * (du * du + dv * dv)
        key = z + (fall + np.float32(FALL_FRACTION) * z) * distance
        # Key depth in the high half, so that comparing the words compares the depths.
        bits = np.uint64(np.float32(key).view(np.uint32))
        word = (bits << np.uint64(32)) | np.uint64(row)
        cell = np.uint64(offsets[k] + line * (((width - 1) >> k) + 1) + column)
        cells[cell] = min(cells[cell], word)
        drawn[k] = 1
        per_side *= half


@njit(cache=True, nogil=True, error_model="numpy")
def _splat_mixed(
    cells, young_cells, offsets, drawn, width, uv, depth, pixel, high, low, radii, per_depth,
    fall, start,
):  # fmt: skip
    """Draw a chunk of which not all surfels are established points.

    A function of its own, because in `splat` it would slow the loop over points down.

    Inputs:
        uv, depth, pixel, high, low: of the chunk, as in `splat`.
        radii: of the chunk.
        per_depth: pixels over POINT_RADIUS_PX of a length at depth 1.
        start: row of the first surfel.

    Outputs:
        cells, young_cells: with the dump at the end; the latter of size 0 until something young is
            drawn.
        drawn: of both.

    Returns:
        The young cells.
    """
    others = np.empty(CHUNK, np.int32)
    number, dump = 0, np.int32(cells.size - 1)
    columns, lines = uv[0], uv[1]
    drawn_old, drawn_young = drawn[0], drawn[1]
    for i in range(len(radii)):
        # Without branches: which are points cannot be predicted.
        is_other = pixel[i] < 0
        others[number] = i
        number += is_other
        cell = np.uint64(np.uint32(dump if is_other else pixel[i]))
        word = (np.uint64(high[i]) << np.uint64(32)) | np.uint64(low[i])
        cells[cell] = min(cells[cell], word)
    for i in others[:number]:
        u, v, z = columns[i], lines[i], depth[i]
        radius = radii[i] * per_depth / z
        if radius >= np.float32(0):
            _splat_cell(cells, offsets, drawn_old, width, u, v, z, radius, fall, start + i)
            continue
        if young_cells.size == 0:
            young_cells = np.full(cells.size, NOTHING, np.uint64)
        if radius > np.float32(-1):
            cell = np.uint64(np.int64(v) * width + np.int64(u))
            word = (np.uint64(high[i]) << np.uint64(32)) | np.uint64(low[i])
            young_cells[cell] = min(young_cells[cell], word)
        else:
            _splat_cell(
                young_cells, offsets, drawn_young, width, u, v, z, -radius, fall, start + i
            )
    return young_cells


@njit(cache=True, nogil=True, error_model="numpy")
def splat(
    position, rows, chunks, rotation, translation, intrinsics, voxel, width, height, offsets,
    want_rows,
):  # fmt: skip
    """Draw the surfels of the given chunks, the young and the others each into a pyramid.

    Several surfels of one surface meet in a pixel or cell. So that the one nearest to its centre
    wins, and not the one that noise or slant has put before the others, their depths compete
    with up to one voxel and FALL_FRACTION added by the distance from the centre.

    Inputs:
        chunks: from `visible_chunks`.
        rotation, translation: `camera_from_map`, float32.
        offsets: from `level_offsets`.
        want_rows: keep which surfel is drawn in the finest level instead of its depth.

    Returns:
        The cells of all levels, uint64, of the established surfels and of the young ones (size 0
        if none is in the image): NOTHING where empty, else row in the low half (in the finest
        level the bits of the depth unless `want_rows`). And (2, LEVELS) uint8, whether anything
        is drawn in a level of the first and of the second.
    """
    dump = offsets[LEVELS]
    cells = np.full(dump + 1, NOTHING, np.uint64)
    young_cells = np.empty(0, np.uint64)
    drawn = np.zeros((2, LEVELS), np.uint8)
    uv = np.empty((2, CHUNK), np.float32)
    depth = np.empty(CHUNK, np.float32)
    pixel = np.empty(CHUNK, np.int32)
    key = np.empty(CHUNK, np.float32)
    row_bits = np.empty(CHUNK, np.uint32)
    high, at = key.view(np.uint32), pixel.view(np.uint32)
    low = row_bits if want_rows else depth.view(np.uint32)
    per_depth = max(intrinsics[0], intrinsics[1]) / np.float32(POINT_RADIUS_PX)
    fall, half_word = np.float32(voxel), np.uint64(32)
    for chunk in chunks:
        start = chunk * CHUNK
        count = min(start + CHUNK, rows) - start
        _project_points(
            position, start, start + count, rotation, translation, intrinsics, fall, width,
            height, dump, uv, depth, pixel, key,
        )  # fmt: skip
        if want_rows:
            for i in range(count):
                row_bits[i] = start + i
        if not _has_other(pixel, count):
            for i in range(count):
                # Always written: whether it is nearer cannot be predicted.
                cell = np.uint64(at[i])
                word = (np.uint64(high[i]) << half_word) | np.uint64(low[i])
                cells[cell] = min(cells[cell], word)
            continue
        young_cells = _splat_mixed(
            cells, young_cells, offsets, drawn, width, uv, depth, pixel, high, low,
            position[3, start : start + count], per_depth, fall, start,
        )  # fmt: skip
    return cells, young_cells, drawn
