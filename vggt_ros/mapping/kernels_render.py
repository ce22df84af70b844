"""Rendering surfels: each is one entry of a pyramid of z-buffers.

A surfel that looks smaller than a pixel is drawn into the image itself, a larger one into a
coarser level whose cells are about as large as the distance between such surfels, so that a
closed surface leaves no holes and a surfel costs one comparison whatever its size. Afterwards
the plane of each cell's surfel is painted over the pixels of the cell.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_view import project_chunk
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

LEVEL_FRACTION = 0.03

NEARLY_COARSER = 0.7
"""Part of the largest radius of a level from which a surfel is drawn in the next one, too."""

EDGE_ON = 0.04
"""Square of the cosine of incidence below which a surfel has the depth of its centre."""

MOST_CHANGE = 0.25
"""Bound of the relative change of inverse depth over a cell."""

SAME_SURFACE = 0.05
"""Relative depth within which neighbouring pixels are one surface when holes are filled."""


def level_offsets(width: int, height: int) -> np.ndarray:
    """(LEVELS + 1,) where the cells of each level start in one common array."""
    sizes = [-(-width // 2**level) * -(-height // 2**level) for level in range(LEVELS)]
    return np.concatenate([[0], np.cumsum(sizes)])


@njit(cache=True, nogil=True)
def _pack(key, row):
    """Key depth in the high half, so that comparing the words compares the depths."""
    return (np.uint64(np.float32(key).view(np.uint32)) << np.uint64(32)) | np.uint64(row)


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(a, b, c, u, v, rotation, intrinsics):
    """How the inverse depth of a surfel's plane changes from pixel to pixel, relative to its own.

    Inputs:
        a, b, c: normal in map, any length.
        u, v: pixel of the surfel.
        rotation: of `camera_from_map`.

    Returns:
        (per column, per row); 0 for a surfel that is nearly edge-on.
    """
    fx, fy, cx, cy = intrinsics
    nx = rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2] * c
    ny = rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2] * c
    nz = rotation[2, 0] * a + rotation[2, 1] * b + rotation[2, 2] * c
    along = nx * (u - cx) / fx + ny * (v - cy) / fy + nz
    if along * along < np.float32(EDGE_ON) * (nx * nx + ny * ny + nz * nz):
        return np.float32(0), np.float32(0)
    scale = np.float32(1) / along
    return nx * scale / fx, ny * scale / fy


OUTSIDE, CELL, YOUNG = -1, -2, -3
"""What stands for the pixel of a surfel that is not in the image, drawn as a cell, or young."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _sort_rows(position, start, stop, focal, fall, uv, depth, pixel, key):
    """How the rows of a projected chunk are drawn.

    Outputs:
        pixel: (CHUNK,) changed to OUTSIDE, CELL or YOUNG where a row is no point.
        key: (CHUNK,) float32 depth by which a point competes.

    Returns:
        Whether young rows are in the image.
    """
    radius = position[3, start:stop]
    us, vs = uv[0], uv[1]
    limit = focal / np.float32(POINT_RADIUS_PX)
    half, share = np.float32(0.5), np.float32(2 * FALL_FRACTION)
    twice = np.float32(2) * fall
    cell, young, zero = np.int32(CELL), np.int32(YOUNG), np.int32(0)
    any_young = zero
    for i in range(stop - start):
        r, z = radius[i], depth[i]
        at = pixel[i]
        # From the centre of the pixel.
        du = us[i] - np.float32(np.int32(us[i])) - half
        dv = vs[i] - np.float32(np.int32(vs[i])) - half
        key[i] = z + (twice + share * z) * (du * du + dv * dv)
        is_inside = at >= zero
        is_young = (r < np.float32(0)) & is_inside
        any_young |= np.int32(is_young)
        way = cell if (r * limit >= z) & is_inside else at
        pixel[i] = young if is_young else way
    return any_young > 0


@njit(cache=True, nogil=True, error_model="numpy")
def _splat_cell(cells, offsets, width, u, v, z, radius, fall, row):
    """Enter a surfel into the level of its size.

    Inputs:
        u, v: column and row plus one half.
        radius: in pixels over POINT_RADIUS_PX, more than 1.
    """
    half = np.float32(0.5)
    level, side = 1, np.float32(2)
    while radius > side and level < LEVELS - 1:
        level += 1
        side *= np.float32(2)
    # Also into the next coarser level if it nearly belongs there: where the distance makes
    # surfels change the level, the last cells of the finer one may stay empty.
    twice = radius > np.float32(NEARLY_COARSER) * side and level < LEVELS - 1
    for k in range(level, level + 1 + twice):
        column, line = int(u) >> k, int(v) >> k
        # From the centre of the cell, in cells.
        du = u / side - np.float32(column) - half
        dv = v / side - np.float32(line) - half
        distance = np.float32(2) * (du * du + dv * dv)
        word = _pack(z + (fall + np.float32(FALL_FRACTION) * z) * distance, row)
        cell = offsets[k] + line * (((width - 1) >> k) + 1) + column
        cells[cell] = min(cells[cell], word)
        side *= np.float32(2)


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
        level the bits of the depth unless `want_rows`).
    """
    cells = np.full(offsets[LEVELS], NOTHING, np.uint64)
    young_cells = np.empty(0, np.uint64)
    uv = np.empty((2, CHUNK), np.float32)
    zs = np.empty(CHUNK, np.float32)
    pixel = np.empty(CHUNK, np.int32)
    keys = np.empty(CHUNK, np.float32)
    words = np.empty(CHUNK, np.uint64)
    large = np.empty(CHUNK, np.int32)
    key_bits, depth_bits = keys.view(np.uint32), zs.view(np.uint32)
    f = max(intrinsics[0], intrinsics[1])
    one, fall = np.float32(1), np.float32(voxel)
    for chunk in chunks:
        start = chunk * CHUNK
        stop = min(start + CHUNK, rows)
        project_chunk(
            position, start, stop, rotation, translation, intrinsics, width, height, uv, zs, pixel
        )
        has_young = _sort_rows(position, start, stop, f, fall, uv, zs, pixel, keys)
        # A loop of its own, so that it is vectorised.
        if want_rows:
            for i in range(stop - start):
                words[i] = (np.uint64(key_bits[i]) << np.uint64(32)) | np.uint64(start + i)
        else:
            for i in range(stop - start):
                words[i] = (np.uint64(key_bits[i]) << np.uint64(32)) | np.uint64(depth_bits[i])
        number = 0
        for i in range(stop - start):
            at = pixel[i]
            if at >= 0:
                # Always written: whether it is nearer cannot be predicted.
                cell = np.uint64(np.uint32(at))
                cells[cell] = min(cells[cell], words[i])
            elif at == CELL:
                large[number] = i
                number += 1
        for i in large[:number]:
            radius = position[3, start + i] * f / (zs[i] * np.float32(POINT_RADIUS_PX))
            _splat_cell(cells, offsets, width, uv[0, i], uv[1, i], zs[i], radius, fall, start + i)
        if not has_young:
            continue
        if young_cells.size == 0:
            young_cells = np.full(offsets[LEVELS], NOTHING, np.uint64)
        for i in range(stop - start):
            if pixel[i] != YOUNG:
                continue
            u, v = uv[0, i], uv[1, i]
            radius = -position[3, start + i] * f / (zs[i] * np.float32(POINT_RADIUS_PX))
            if radius < one:
                cell = np.uint64(int(v) * width + int(u))
                young_cells[cell] = min(young_cells[cell], words[i])
            else:
                _splat_cell(young_cells, offsets, width, u, v, zs[i], radius, fall, start + i)
    return cells, young_cells


@njit(cache=True, nogil=True, error_model="numpy")
def unpacked(cells, width, height):
    """Inverse depth (H, W) of the finest level that holds depths; 0 where it is empty."""
    inverse = np.empty((height, width), np.float32)
    flat = inverse.reshape(-1)
    bits = flat.view(np.uint32)
    infinite = np.uint32(0x7F800000)
    for i in range(flat.size):
        word = cells[i]
        bits[i] = infinite if word == NOTHING else np.uint32(word & np.uint64(0xFFFFFFFF))
    for i in range(flat.size):
        flat[i] = np.float32(1) / flat[i]
    return inverse


@njit(cache=True, nogil=True, error_model="numpy")
def unpacked_rows(position, cells, rotation, translation, width, height):
    """Inverse depth (H, W) and row (H, W) int32 of the finest level that holds rows."""
    inverse = np.zeros((height, width), np.float32)
    owner = np.full((height, width), -1, np.int32)
    flat, rows = inverse.reshape(-1), owner.reshape(-1)
    a, b, c, t = rotation[2, 0], rotation[2, 1], rotation[2, 2], translation[2]
    for i in range(flat.size):
        if cells[i] != NOTHING:
            row = np.int64(cells[i] & np.uint64(0xFFFFFFFF))
            rows[i] = row
            z = a * position[0, row] + b * position[1, row] + c * position[2, row] + t
            flat[i] = np.float32(1) / z
    return inverse, owner


@njit(cache=True, nogil=True, error_model="numpy")
def cell_planes(
    position, data, rotation, translation, intrinsics, cells, width, level
):  # fmt: skip
    """Planes of inverse depth of the cells of one level, with single holes closed.

    Inputs:
        rotation, translation: `camera_from_map`, float32.
        cells: of this level, from `splat`.
        width: cells of a row.

    Returns:
        (cells, 3) float32: inverse depth at the middle of the cell (0 where it is empty) and its
        change per column and row; row of the surfel of each cell (int64).
    """
    fx, fy, cx, cy = intrinsics
    r, t = rotation, translation
    side = np.float32(1 << level)
    middle = (side - np.float32(1)) * np.float32(0.5)
    one, most = np.float32(1), np.float32(MOST_CHANGE)
    planes = np.zeros((cells.size, 3), np.float32)
    rows = np.full(cells.size, -1, np.int64)
    for cell in range(cells.size):
        if cells[cell] == NOTHING:
            continue
        row = np.int64(cells[cell] & np.uint64(0xFFFFFFFF))
        rows[cell] = row
        x, y, z = position[0, row], position[1, row], position[2, row]
        px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0]
        py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1]
        inverse = one / (r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2])
        u, v = fx * px * inverse + cx, fy * py * inverse + cy
        s = data[row]
        slope_u, slope_v = _slopes(
            np.float32(s.nx), np.float32(s.ny), np.float32(s.nz), u, v, rotation, intrinsics
        )
        du = np.float32(cell % width) * side + middle - u
        dv = np.float32(cell // width) * side + middle - v
        change = min(most, max(-most, slope_u * du + slope_v * dv))
        planes[cell, 0] = inverse * (one + change)
        planes[cell, 1] = inverse * slope_u
        planes[cell, 2] = inverse * slope_v
    height = cells.size // width
    near = np.float32(1 - SAME_SURFACE)
    for line in range(height):
        above, below = max(0, line - 1), min(height - 1, line + 1)
        for column in range(width):
            cell = line * width + column
            left, right = max(0, column - 1), min(width - 1, column + 1)
            if cells[cell] != NOTHING or (
                cells[line * width + left] == NOTHING
                and cells[line * width + right] == NOTHING
                and cells[above * width + column] == NOTHING
            ):
                continue
            around, count, nearest, best = -1, 0, np.float32(0), -1
            for j in range(above, below + 1):
                for i in range(left, right + 1):
                    around += 1
                    other = j * width + i
                    if cells[other] != NOTHING:
                        count += 1
                        if planes[other, 0] > nearest:
                            nearest, best = planes[other, 0], other
            if 8 * count < 5 * around:
                continue
            count, inverse, slope_u, slope_v = 0, np.float32(0), np.float32(0), np.float32(0)
            for j in range(above, below + 1):
                for i in range(left, right + 1):
                    other = j * width + i
                    if cells[other] != NOTHING and planes[other, 0] > nearest * near:
                        count += 1
                        slope_u += planes[other, 1]
                        slope_v += planes[other, 2]
                        # Their planes continued to this cell.
                        inverse += planes[other, 0] - side * (
                            (i - column) * planes[other, 1] + (j - line) * planes[other, 2]
                        )
            share = one / np.float32(count)
            planes[cell, 0] = inverse * share
            planes[cell, 1] = slope_u * share
            planes[cell, 2] = slope_v * share
            rows[cell] = rows[best]
    return planes, rows


@njit(cache=True, nogil=True, error_model="numpy")
def paint(planes, rows, width, level, voxel, inverse, owner):
    """Paint the cells of one level over the image, where it is empty or they are clearly nearer.

    Surfels of one surface may lie in several levels; the finer one keeps its pixels if the
    difference is but noise: within one voxel and LEVEL_FRACTION of the depth.

    Inputs:
        planes, rows, width: of `cell_planes`.
        inverse: (H, W) inverse depth, 0 where empty; changed.
        owner: (H, W) int32 row of each pixel, changed, or of size 0.
    """
    image_height, image_width = inverse.shape
    side = 1 << level
    middle = np.float32((side - 1) * 0.5)
    most, one = np.float32(MOST_CHANGE), np.float32(1)
    for cell in range(len(planes)):
        centre = planes[cell, 0]
        if not centre > 0:
            continue
        slope_u, slope_v = planes[cell, 1], planes[cell, 2]
        least, largest = centre * (1 - most), centre * (1 + most)
        v0, u0 = (cell // width) * side, (cell % width) * side
        for v in range(v0, min(v0 + side, image_height)):
            base = centre + slope_v * (np.float32(v - v0) - middle)
            for u in range(u0, min(u0 + side, image_width)):
                w = base + slope_u * (np.float32(u - u0) - middle)
                w = min(largest, max(least, w))
                old = inverse[v, u]
                if w > old * (one + np.float32(LEVEL_FRACTION) + np.float32(voxel) * old):
                    inverse[v, u] = w
                    if owner.size:
                        owner[v, u] = rows[cell]


@njit(cache=True, nogil=True, error_model="numpy")
def inverted(values):
    """1 / x of each value: depth to inverse depth and back, infinity to 0 and back."""
    result = np.empty(values.shape, np.float32)
    flat, out = values.reshape(-1), result.reshape(-1)
    for i in range(flat.size):
        out[i] = np.float32(1) / flat[i]
    return result


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def fill_holes(depth):
    """Close single pixels: empty ones, and ones through which the background shows.

    A pixel that is empty with at least 5 of 8 neighbours drawn, or that lies behind at least 7
    of them, takes the mean of those neighbours that belong to the nearest surface.

    Inputs:
        depth: (H, W) with infinity where nothing is.

    Returns:
        (H, W) with NaN where nothing is.
    """
    height, width = depth.shape
    filled = np.empty((height, width), np.float32)
    infinity = np.float32(np.inf)
    wall = np.full(width + 2, infinity, np.float32)
    lines = np.empty((3, width + 2), np.float32)
    near, far = np.float32(1 + SAME_SURFACE), np.float32(1 - SAME_SURFACE)
    nothing = np.float32(np.nan)
    zero, one = np.float32(0), np.float32(1)
    lines[0] = wall
    lines[1] = wall
    lines[2] = wall
    if height > 0:
        lines[1, 1 : width + 1] = depth[0]
    for v in range(height):
        a, b, c = lines[v % 3], lines[(v + 1) % 3], lines[(v + 2) % 3]
        if v + 1 < height:
            c[1 : width + 1] = depth[v + 1]
        else:
            c[:] = infinity
        out = filled[v]
        for u in range(width):
            n0, n1, n2 = a[u], a[u + 1], a[u + 2]
            n3, centre, n5 = b[u], b[u + 1], b[u + 2]
            n6, n7, n8 = c[u], c[u + 1], c[u + 2]
            least = n0 if n0 < n1 else n1
            least = least if least < n2 else n2
            least = least if least < n3 else n3
            least = least if least < n5 else n5
            least = least if least < n6 else n6
            least = least if least < n7 else n7
            least = least if least < n8 else n8
            limit = least * near
            before = centre * far
            total, count, nearer = zero, zero, zero
            total += n0 if n0 <= limit else zero
            total += n1 if n1 <= limit else zero
            total += n2 if n2 <= limit else zero
            total += n3 if n3 <= limit else zero
            total += n5 if n5 <= limit else zero
            total += n6 if n6 <= limit else zero
            total += n7 if n7 <= limit else zero
            total += n8 if n8 <= limit else zero
            count += one if n0 <= limit else zero
            count += one if n1 <= limit else zero
            count += one if n2 <= limit else zero
            count += one if n3 <= limit else zero
            count += one if n5 <= limit else zero
            count += one if n6 <= limit else zero
            count += one if n7 <= limit else zero
            count += one if n8 <= limit else zero
            nearer += one if n0 < before else zero
            nearer += one if n1 < before else zero
            nearer += one if n2 < before else zero
            nearer += one if n3 < before else zero
            nearer += one if n5 < before else zero
            nearer += one if n6 < before else zero
            nearer += one if n7 < before else zero
            nearer += one if n8 < before else zero
            needed = np.float32(5) if centre == infinity else np.float32(7)
            value = total / count if nearer >= needed else centre
            out[u] = value if value < infinity else nothing
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def compose(depth, owner, young_depth, young_owner, margin, fraction):
    """Put young surfels where there is nothing else or clearly in front of what there is.

    Within `margin` plus `fraction` of the depth they are noise about an established surface.

    Inputs:
        depth, young_depth: (H, W), NaN where nothing is; the first is changed.
        owner, young_owner: (H, W) int32 rows, or of size 0; the first is changed.
    """
    height, width = depth.shape
    for v in range(height):
        for u in range(width):
            d, y = depth[v, u], young_depth[v, u]
            if y == y and not y >= d - margin - fraction * d:
                depth[v, u] = y
                if owner.size:
                    owner[v, u] = young_owner[v, u]


@njit(cache=True, nogil=True, error_model="numpy")
def attributes_of(data, owner):
    """Colour, normal in map and confidence of the surfels that pixels show.

    Inputs:
        owner: (H, W) int32 rows, negative where nothing is.

    Returns:
        rgb (H, W, 3) uint8, normals (H, W, 3) and confidence (H, W) float32; black, NaN and 0
        where nothing is.
    """
    height, width = owner.shape
    rgb = np.zeros((height, width, 3), np.uint8)
    normals = np.full((height, width, 3), np.nan, np.float32)
    confidence = np.zeros((height, width), np.float32)
    for v in range(height):
        for u in range(width):
            if owner[v, u] < 0:
                continue
            s = data[owner[v, u]]
            a, b, c = np.float32(s.nx), np.float32(s.ny), np.float32(s.nz)
            scale = np.float32(1) / (np.sqrt(a * a + b * b + c * c) + np.float32(1e-6))
            normals[v, u, 0], normals[v, u, 1], normals[v, u, 2] = a * scale, b * scale, c * scale
            rgb[v, u, 0], rgb[v, u, 1], rgb[v, u, 2] = s.red >> 8, s.green >> 8, s.blue >> 8
            confidence[v, u] = 1 / (1 + np.exp(-s.log_odds))
    return rgb, normals, confidence
