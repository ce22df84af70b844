"""From z-buffers to images: planes of large surfels over their cells, attributes of pixels."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_fill import SAME_SURFACE
from vggt_ros.mapping.kernels_splat import NOTHING

LEVEL_FRACTION = 0.03

EDGE_ON = 0.04
"""Square of the cosine of incidence below which a surfel has the depth of its centre."""

MOST_CHANGE = 0.25
"""Bound of the relative change of inverse depth over a cell."""


@njit(cache=True, nogil=True, error_model="numpy")
def unpacked(cells, width, height):
    """Depth (H, W) of the finest level that holds depths; infinity where it is empty."""
    depth = np.empty((height, width), np.float32)
    bits = depth.reshape(-1).view(np.uint32)
    infinite = np.uint32(0x7F800000)
    for i in range(bits.size):
        word = cells[i]
        bits[i] = infinite if word == NOTHING else np.uint32(word & np.uint64(0xFFFFFFFF))
    return depth


@njit(cache=True, nogil=True, error_model="numpy")
def unpacked_rows(position, cells, rotation, translation, width, height):
    """Depth (H, W) and row (H, W) int32 of the finest level that holds rows."""
    depth = np.full((height, width), np.float32(np.inf))
    owner = np.full((height, width), -1, np.int32)
    flat, rows = depth.reshape(-1), owner.reshape(-1)
    a, b, c, t = rotation[2, 0], rotation[2, 1], rotation[2, 2], translation[2]
    for i in range(flat.size):
        if cells[i] != NOTHING:
            row = np.int64(cells[i] & np.uint64(0xFFFFFFFF))
            rows[i] = row
            # In the order of `kernels_splat`, so that it is the same depth.
            flat[i] = a * position[0, row] + (b * position[1, row] + (c * position[2, row] + t))
    return depth, owner


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


@njit(cache=True, nogil=True, error_model="numpy")
def cell_planes(
    position, data, rotation, translation, intrinsics, cells, width, level
):  # fmt: skip
    """Planes of inverse depth of the cells of one level, with single holes closed.

    Inputs:
        rotation, translation: `camera_from_map`, float32.
        cells: of this level, from `splat`; changed, a hole that is closed gets the word of the
            nearest cell around it.
        width: cells of a row.

    Returns:
        Cells with a plane (N,) int32, and (cells, 3) float32, of which theirs are set: inverse
        depth at the middle of the cell and its change per column and row.
    """
    fx, fy, cx, cy = intrinsics
    r, t = rotation, translation
    side = np.float32(1 << level)
    middle = (side - np.float32(1)) * np.float32(0.5)
    one, most = np.float32(1), np.float32(MOST_CHANGE)
    planes = np.empty((cells.size, 3), np.float32)
    listed = np.empty(cells.size, np.int32)
    number = 0
    height = cells.size // width
    first_column, last_column = width, -1
    for cell in range(cells.size):
        if cells[cell] == NOTHING:
            continue
        listed[number] = cell
        number += 1
        column, line = cell % width, cell // width
        first_column, last_column = min(first_column, column), max(last_column, column)
        row = np.int64(cells[cell] & np.uint64(0xFFFFFFFF))
        x, y, z = position[0, row], position[1, row], position[2, row]
        px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0]
        py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1]
        inverse = one / (r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2])
        u, v = fx * px * inverse + cx, fy * py * inverse + cy
        s = data[row]
        slope_u, slope_v = _slopes(
            np.float32(s.nx), np.float32(s.ny), np.float32(s.nz), u, v, rotation, intrinsics
        )
        du = np.float32(column) * side + middle - u
        dv = np.float32(line) * side + middle - v
        change = min(most, max(-most, slope_u * du + slope_v * dv))
        planes[cell, 0] = inverse * (one + change)
        planes[cell, 1] = inverse * slope_u
        planes[cell, 2] = inverse * slope_v
    if number == 0:
        return listed[:0], planes
    closed, near = number, np.float32(1 - SAME_SURFACE)
    first_line, last_line = listed[0] // width, listed[number - 1] // width
    for line in range(max(0, first_line - 1), min(height, last_line + 2)):
        above, below = max(0, line - 1), min(height - 1, line + 1)
        for column in range(max(0, first_column - 1), min(width, last_column + 2)):
            cell = line * width + column
            left, right = max(0, column - 1), min(width - 1, column + 1)
            if cells[cell] != NOTHING or (
                cells[line * width + left] == NOTHING
                and cells[line * width + right] == NOTHING
                and cells[above * width + column] == NOTHING
            ):
                continue
            around, count, nearest = -1, 0, np.float32(0)
            for j in range(above, below + 1):
                for i in range(left, right + 1):
                    around += 1
                    other = j * width + i
                    if cells[other] != NOTHING:
                        count += 1
                        nearest = max(nearest, planes[other, 0])
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
            listed[closed] = cell
            closed += 1
    # Only now, so that no hole is closed from another one.
    for cell in listed[number:closed]:
        line, column = cell // width, cell % width
        nearest, word = np.float32(0), NOTHING
        for j in range(max(0, line - 1), min(height, line + 2)):
            for i in range(max(0, column - 1), min(width, column + 2)):
                other = j * width + i
                if cells[other] != NOTHING and planes[other, 0] > nearest:
                    nearest, word = planes[other, 0], cells[other]
        cells[cell] = word
    return listed[:closed], planes


@njit(cache=True, nogil=True, error_model="numpy")
def paint(listed, planes, cells, width, level, voxel, depth, owner):
    """Paint the cells of one level over the image, where it is empty or they are clearly nearer.

    Surfels of one surface may lie in several levels; the finer one keeps its pixels if the
    difference is but noise: within one voxel and LEVEL_FRACTION of the depth.

    Inputs:
        listed, planes: of `cell_planes`.
        cells, width: given to it.
        depth: (H, W), infinity where empty; changed.
        owner: (H, W) int32 row of each pixel, changed, or of size 0.
    """
    image_height, image_width = depth.shape
    side = 1 << level
    middle = np.float32((side - 1) * 0.5)
    most, one, zero = np.float32(MOST_CHANGE), np.float32(1), np.float32(0)
    noise, margin = np.float32(1 + LEVEL_FRACTION), np.float32(voxel)
    infinity = np.float32(np.inf)
    for cell in listed:
        centre = planes[cell, 0]
        if not centre > zero:
            continue
        slope_u, slope_v = planes[cell, 1], planes[cell, 2]
        least, largest = centre * (one - most), centre * (one + most)
        v0, u0 = (cell // width) * side, (cell % width) * side
        for v in range(v0, min(v0 + side, image_height)):
            base = centre + slope_v * (np.float32(v - v0) - middle)
            for u in range(u0, min(u0 + side, image_width)):
                w = base + slope_u * (np.float32(u - u0) - middle)
                w = min(largest, max(least, w))
                old = depth[v, u]
                if old == infinity or w * old * old > noise * old + margin:
                    depth[v, u] = one / w
                    if owner.size:
                        owner[v, u] = np.int32(cells[cell] & np.uint64(0xFFFFFFFF))


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
