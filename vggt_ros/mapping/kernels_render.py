"""Rendering surfels: z-buffer splatting, hole filling, and the attributes of what is seen."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_view import project_chunk
from vggt_ros.mapping.surfels import CHUNK

POINT_RADIUS_PX = 0.6
"""Surfels that look smaller are drawn as one pixel; what stays open is filled afterwards."""

MAX_RADIUS_PX = 24
"""Larger discs, of surfels just before the camera, are cut to this radius."""

EDGE_ON = 0.04
"""Square of the cosine of incidence below which a disc has the depth of its centre."""

SAME_SURFACE = 0.05
"""Relative depth within which neighbouring pixels are one surface when holes are filled."""


@njit(cache=True, nogil=True)
def _pack(key, low):
    """Key depth in the high half, so that comparing the words compares the depths."""
    return (np.uint64(np.float32(key).view(np.uint32)) << np.uint64(32)) | np.uint64(low)


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
def _disc(u, v, z, radius, slope_u, slope_v, fall, width, height, row, want_rows, buffer):
    """Draw a surfel as a disc of `radius` px with the depth of its plane.

    Discs of one surface overlap. So that the one whose centre is nearest wins, and not the one
    that noise has put before the others, a disc competes as a cone that falls off behind by
    `fall` at its rim.
    """
    r = min(np.float32(MAX_RADIUS_PX), radius)
    half, one = np.float32(0.5), np.float32(1)
    # u and v are half a pixel too large, so that cutting off the fraction rounds.
    u0, u1 = max(0, int(np.floor(u - r))), min(width - 1, int(np.floor(u + r)))
    v0, v1 = max(0, int(np.floor(v - r))), min(height - 1, int(np.floor(v + r)))
    fall = fall / (r * r)
    # A pixel belongs to the disc if the circle within it touches it.
    limit = (r + half) * (r + half)
    most = np.float32(0.25)
    for line in range(v0, v1 + 1):
        dv = np.float32(line) + half - v
        for column in range(u0, u1 + 1):
            du = np.float32(column) + half - u
            distance = du * du + dv * dv
            if distance > limit:
                continue
            change = slope_u * du + slope_v * dv
            change = min(most, max(-most, change))
            depth = z / (one + change)
            low = np.uint32(row) if want_rows else np.float32(depth).view(np.uint32)
            word = _pack(depth + fall * distance, low)
            at = line * width + column
            if word < buffer[at]:
                buffer[at] = word


@njit(cache=True, nogil=True, error_model="numpy")
def splat(
    position,
    data,
    rows,
    chunks,
    rotation,
    translation,
    intrinsics,
    voxel,
    want_rows,
    width,
    height,
):
    """Draw the surfels of the given chunks into a z-buffer.

    Inputs:
        chunks: from `visible_chunks`.
        rotation, translation: `camera_from_map`, float32.
        want_rows: the low half of a word is the row instead of the bits of the depth.

    Returns:
        (H * W,) uint64: high half the bits of the competing depth (float32, positive, so they
        sort like numbers), low half depth or row; all ones where there is nothing.
    """
    empty = np.uint64(0xFFFFFFFFFFFFFFFF)
    buffer = np.full(width * height, empty, np.uint64)
    uv = np.empty((2, CHUNK), np.float32)
    depth = np.empty(CHUNK, np.float32)
    f = max(intrinsics[0], intrinsics[1])
    fall = np.float32(voxel)
    for chunk in chunks:
        start = chunk * CHUNK
        stop = min(start + CHUNK, rows)
        project_chunk(
            position, start, stop, rotation, translation, intrinsics, width, height, uv, depth
        )
        for i in range(stop - start):
            u, v = uv[0, i], uv[1, i]
            if u < 0 or v < 0 or u >= width or v >= height:
                continue
            row = start + i
            z = depth[i]
            radius = data[row].radius * f
            if radius < np.float32(POINT_RADIUS_PX) * z:
                low = np.uint32(row) if want_rows else np.float32(z).view(np.uint32)
                word = _pack(z, low)
                at = int(v) * width + int(u)
                if word < buffer[at]:
                    buffer[at] = word
            else:
                s = data[row]
                slope_u, slope_v = _slopes(
                    np.float32(s.nx), np.float32(s.ny), np.float32(s.nz),
                    u - np.float32(0.5), v - np.float32(0.5), rotation, intrinsics,
                )  # fmt: skip
                _disc(
                    u, v, z, radius / z, slope_u, slope_v, fall, width, height, row, want_rows,
                    buffer,
                )  # fmt: skip
    return buffer


@njit(cache=True, nogil=True, error_model="numpy")
def unpack_depth(buffer, width, height):
    """Depth (H, W) of a buffer that holds depth; infinity where it is empty."""
    depth = np.empty((height, width), np.float32)
    flat = depth.reshape(-1)
    empty = np.uint64(0xFFFFFFFFFFFFFFFF)
    bits = flat.view(np.uint32)
    infinite_bits = np.uint32(0x7F800000)
    for i in range(buffer.size):
        word = buffer[i]
        bits[i] = infinite_bits if word == empty else np.uint32(word & np.uint64(0xFFFFFFFF))
    return depth


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
def unpack_rows(position, data, buffer, rotation, translation, intrinsics, width, height):
    """Depth and attributes of a buffer that holds rows.

    Returns:
        depth (H, W) with infinity where nothing is, rgb (H, W, 3) uint8, normals in map
        (H, W, 3) and confidence (H, W) float32.
    """
    fx, fy, cx, cy = intrinsics
    depth = np.full((height, width), np.inf, np.float32)
    rgb = np.zeros((height, width, 3), np.uint8)
    normals = np.full((height, width, 3), np.nan, np.float32)
    confidence = np.zeros((height, width), np.float32)
    empty = np.uint64(0xFFFFFFFFFFFFFFFF)
    r, t = rotation, translation
    for v in range(height):
        for u in range(width):
            word = buffer[v * width + u]
            if word == empty:
                continue
            row = np.int64(word & np.uint64(0xFFFFFFFF))
            x, y, z = position[0, row], position[1, row], position[2, row]
            s = data[row]
            a, b, c = np.float32(s.nx), np.float32(s.ny), np.float32(s.nz)
            length = np.sqrt(a * a + b * b + c * c) + np.float32(1e-6)
            a, b, c = a / length, b / length, c / length
            px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0]
            py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1]
            pz = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2]
            d = pz
            if s.radius * max(fx, fy) >= np.float32(POINT_RADIUS_PX) * pz:
                pu, pv = fx * px / pz + cx, fy * py / pz + cy
                slope_u, slope_v = _slopes(a, b, c, pu, pv, rotation, intrinsics)
                change = slope_u * (u - pu) + slope_v * (v - pv)
                d = pz / (1 + min(0.25, max(-0.25, change)))
            depth[v, u] = d
            normals[v, u, 0], normals[v, u, 1], normals[v, u, 2] = a, b, c
            rgb[v, u, 0], rgb[v, u, 1], rgb[v, u, 2] = s.red >> 8, s.green >> 8, s.blue >> 8
            confidence[v, u] = 1 / (1 + np.exp(-s.log_odds))
    return depth, rgb, normals, confidence
