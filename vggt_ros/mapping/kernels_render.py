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

SAME_SURFACE = 0.05
"""Relative depth within which neighbouring pixels are one surface when holes are filled."""


@njit(cache=True, nogil=True)
def _pack(key, low):
    """Key depth in the high half, so that comparing the words compares the depths."""
    return (np.uint64(np.float32(key).view(np.uint32)) << np.uint64(32)) | np.uint64(low)


@njit(cache=True, nogil=True, error_model="numpy")
def _disc(
    surfels, row, u, v, z, radius, rotation, intrinsics, voxel, want_rows, buffer, width, height
):
    """Draw a surfel as a disc of `radius` px with the depth of its plane.

    Discs of one surface overlap. So that the one whose centre is nearest wins, and not the one
    that noise has put before the others, a disc competes as a cone that falls off behind by one
    voxel at its rim.
    """
    fx, fy, cx, cy = intrinsics
    a = np.float32(surfels.normal[row, 0])
    b = np.float32(surfels.normal[row, 1])
    c = np.float32(surfels.normal[row, 2])
    nx = rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2] * c
    ny = rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2] * c
    nz = rotation[2, 0] * a + rotation[2, 1] * b + rotation[2, 2] * c
    # u and v are half a pixel too large, so that cutting off the fraction rounds.
    x, y = (u - np.float32(0.5) - cx) / fx, (v - np.float32(0.5) - cy) / fy
    offset = nx * x + ny * y + nz
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    is_flat = abs(offset) < np.float32(0.2) * length  # nearly edge-on: its depth is its centre's
    r = min(np.float32(MAX_RADIUS_PX), radius)
    u0, u1 = max(0, int(np.floor(u - r))), min(width - 1, int(np.floor(u + r)))
    v0, v1 = max(0, int(np.floor(v - r))), min(height - 1, int(np.floor(v + r)))
    fall = np.float32(voxel) / (r * r)
    inverse_fx, inverse_fy = np.float32(1) / fx, np.float32(1) / fy
    for line in range(v0, v1 + 1):
        dv = np.float32(line) + np.float32(0.5) - v
        ray_y = (np.float32(line) - cy) * inverse_fy
        for column in range(u0, u1 + 1):
            du = np.float32(column) + np.float32(0.5) - u
            distance = du * du + dv * dv
            # A pixel belongs to the disc if its square touches it.
            if distance > (r + np.float32(0.5)) * (r + np.float32(0.5)):
                continue
            depth = z
            if not is_flat:
                ray_x = (np.float32(column) - cx) * inverse_fx
                t = z * offset / (nx * ray_x + ny * ray_y + nz)
                if t > np.float32(0.8) * z and t < np.float32(1.25) * z:
                    depth = t
            key = np.float32(depth + fall * distance)
            low = np.uint32(row) if want_rows else np.float32(depth).view(np.uint32)
            word = _pack(key, low)
            at = line * width + column
            if word < buffer[at]:
                buffer[at] = word


@njit(cache=True, nogil=True, error_model="numpy")
def splat(
    surfels, rows, chunks, rotation, translation, intrinsics, voxel, want_rows, width, height
):
    """Draw the surfels of the given chunks into a z-buffer.

    Args:
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
    for chunk in chunks:
        start = chunk * CHUNK
        stop = min(start + CHUNK, rows)
        project_chunk(
            surfels, start, stop, rotation, translation, intrinsics, width, height, uv, depth
        )
        for i in range(stop - start):
            u, v = uv[0, i], uv[1, i]
            if u < 0 or v < 0 or u >= width or v >= height:
                continue
            row = start + i
            z = depth[i]
            radius = surfels.radius[row] * f
            if radius < np.float32(POINT_RADIUS_PX) * z:
                low = np.uint32(row) if want_rows else np.float32(z).view(np.uint32)
                word = _pack(z, low)
                at = int(v) * width + int(u)
                if word < buffer[at]:
                    buffer[at] = word
            else:
                _disc(
                    surfels, row, u, v, z, radius / z, rotation, intrinsics, voxel, want_rows,
                    buffer, width, height,
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

    Args:
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
def unpack_rows(surfels, buffer, rotation, translation, intrinsics, width, height):
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
            x, y, z = surfels.x[row], surfels.y[row], surfels.z[row]
            a = np.float32(surfels.normal[row, 0])
            b = np.float32(surfels.normal[row, 1])
            c = np.float32(surfels.normal[row, 2])
            length = np.sqrt(a * a + b * b + c * c) + np.float32(1e-6)
            a, b, c = a / length, b / length, c / length
            px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z + t[0]
            py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z + t[1]
            pz = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z + t[2]
            nx = r[0, 0] * a + r[0, 1] * b + r[0, 2] * c
            ny = r[1, 0] * a + r[1, 1] * b + r[1, 2] * c
            nz = r[2, 0] * a + r[2, 1] * b + r[2, 2] * c
            d = pz
            offset = nx * px + ny * py + nz * pz
            is_point = surfels.radius[row] * max(fx, fy) < np.float32(POINT_RADIUS_PX) * pz
            if not is_point and abs(offset) >= np.float32(0.2) * pz:
                across = nx * (u - cx) / fx + ny * (v - cy) / fy + nz
                plane = np.float32(offset / across)
                if plane > np.float32(0.8) * pz and plane < np.float32(1.25) * pz:
                    d = plane
            depth[v, u] = d
            normals[v, u, 0], normals[v, u, 1], normals[v, u, 2] = a, b, c
            for i in range(3):
                rgb[v, u, i] = surfels.rgb[row, i] >> 8
            confidence[v, u] = 1 / (1 + np.exp(-surfels.log_odds[row]))
    return depth, rgb, normals, confidence
