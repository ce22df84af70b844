"""Drawing in numba: textures, light and whole images from cast rays.

numba checks only this file when it decides whether its cache is fresh: after a change in
`kernels.py` delete `__pycache__`.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from vggt_ros.synthetic.kernels import NEAR, TILE, intersect

_MAX_ANISOTROPY = 10
"""Samples along the longer side of a pixel's image in the texture, at most."""

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def _nearest(order, shapes, half, m, o, near, x, y):
    """Nearest primitive on the ray (x, y, 1) among candidates sorted by least depth."""
    best, prim, best_face = np.inf, -1, -1
    for p in order:
        if near[p] > best:
            break
        t, face = intersect(
            shapes[p],
            half[p, 0],
            half[p, 1],
            half[p, 2],
            o[p, 0],
            o[p, 1],
            o[p, 2],
            m[p, 0, 0] * x + m[p, 0, 1] * y + m[p, 0, 2],
            m[p, 1, 0] * x + m[p, 1, 1] * y + m[p, 1, 2],
            m[p, 2, 0] * x + m[p, 2, 1] * y + m[p, 2, 2],
            NEAR,
        )
        if t < best:
            best, prim, best_face = t, p, face
    return best, prim, best_face


@_jit
def _bilinear(texels, offset, width, height, x, y, decode, out, weight):
    """Add weight * texture at (x, y) [texels, centres at whole numbers] to out (3,)."""
    x = min(max(x, 0.0), width - 1.0)
    y = min(max(y, 0.0), height - 1.0)
    x0, y0 = int(x), int(y)
    fx, fy = np.float32(x - x0), np.float32(y - y0)
    step_x = 3 if x0 + 1 < width else 0
    step_y = 3 * width if y0 + 1 < height else 0
    at = offset + 3 * (y0 * width + x0)
    one = np.float32(1.0)
    for c in range(3):
        upper = decode[texels[at + c]] * (one - fx) + decode[texels[at + step_x + c]] * fx
        at2 = at + step_y
        lower = decode[texels[at2 + c]] * (one - fx) + decode[texels[at2 + step_x + c]] * fx
        out[c] += weight * (upper * (one - fy) + lower * fy)


@_jit
def _sample_texture(texels, levels, g, count, u, v, ux, vx, uy, vy, decode, out):
    """Anisotropic, trilinear texture at (u, v) in [0, 1]^2 into out (3,), linear light.

    `levels` (F, L, 3) are offset, width and height, of which `count` are used of face g;
    (ux, vx) and (uy, vy) the change of (u, v) per pixel to the right and downwards.
    """
    width, height = levels[g, 0, 1], levels[g, 0, 2]
    ux, uy, vx, vy = ux * width, uy * width, vx * height, vy * height
    # The image of a pixel in the texture is an ellipse: axes from J J^T.
    p, q, r = ux * ux + uy * uy, ux * vx + uy * vy, vx * vx + vy * vy
    mean, spread = 0.5 * (p + r), math.sqrt(0.25 * (p - r) * (p - r) + q * q)
    out[0] = out[1] = out[2] = np.float32(0.0)
    one = np.float32(1.0)
    if mean + spread <= 1.0:  # the texture is magnified
        offset, w, h = levels[g, 0, 0], levels[g, 0, 1], levels[g, 0, 2]
        _bilinear(texels, offset, w, h, u * w - 0.5, v * h - 0.5, decode, out, one)
        return
    major, minor = math.sqrt(mean + spread), math.sqrt(max(mean - spread, 1.0))
    samples = min(math.ceil(major / minor), _MAX_ANISOTROPY)
    axis_x, axis_y = 0.0, 0.0
    if samples > 1:
        axis_x, axis_y = q, mean + spread - p
        if abs(mean + spread - r) > abs(axis_y):
            axis_x, axis_y = mean + spread - r, q
        scale = major / math.sqrt(max(axis_x * axis_x + axis_y * axis_y, 1e-30))
        axis_x, axis_y = axis_x * scale / width, axis_y * scale / height
    lod = math.log2(max(major / samples, 1.0))
    lod = min(lod, count - 1.0)
    level = int(lod)
    fraction = np.float32(lod - level)
    share = one / np.float32(samples)
    for s in range(samples):
        shift = (s + 0.5) / samples - 0.5
        su, sv = u + shift * axis_x, v + shift * axis_y
        for k in range(2):
            weight = (fraction if k == 1 else one - fraction) * share
            if weight == 0.0 or level + k >= count:
                continue
            n = level + k
            offset, w, h = levels[g, n, 0], levels[g, n, 1], levels[g, n, 2]
            _bilinear(texels, offset, w, h, su * w - 0.5, sv * h - 0.5, decode, out, weight)


@_jit
def _light(lights, lightmaps, g, u, v, out):
    """Multiply out (3,) by the light map of face g at (u, v) in [0, 1]^2, bilinear."""
    offset, width, height = lightmaps[g, 0], lightmaps[g, 1], lightmaps[g, 2]
    x = min(max(u * width - 0.5, 0.0), width - 1.0)
    y = min(max(v * height - 0.5, 0.0), height - 1.0)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    fx, fy = np.float32(x - x0), np.float32(y - y0)
    one = np.float32(1.0)
    for c in range(3):
        a = lights[offset + y0 * width + x0, c] * (one - fx)
        a += lights[offset + y0 * width + x1, c] * fx
        b = lights[offset + y1 * width + x0, c] * (one - fx)
        b += lights[offset + y1 * width + x1, c] * fx
        out[c] *= a * (one - fy) + b * fy


@_jit
def face_coordinates(shape, half_height, radius, face, frames, g, x, y, z):
    """(u, v) in [0, 1]^2 of a point on face g, in the frame of the primitive.

    `frames` (F, 11) are corner, u axis, v axis, width and height.
    """
    if shape == 3 or (shape == 2 and face == 0):
        u = (math.atan2(y, x) + math.pi) / (2.0 * math.pi)
        if shape == 2:
            return u, (z + half_height) / (2.0 * half_height)
        return u, math.asin(min(max(z / radius, -1.0), 1.0)) / math.pi + 0.5
    x, y, z = x - frames[g, 0], y - frames[g, 1], z - frames[g, 2]
    u = (x * frames[g, 3] + y * frames[g, 4] + z * frames[g, 5]) / frames[g, 9]
    v = (x * frames[g, 6] + y * frames[g, 7] + z * frames[g, 8]) / frames[g, 10]
    return u, v


@_jit
def _step_on_face(r, p, t, ex, ey, b, n, facing, a, c, width, height):
    """Change of (u, v) when the ray moves by (ex, ey) at z = 1, on the tangent plane."""
    qx = r[p, 0, 0] * ex + r[p, 0, 1] * ey
    qy = r[p, 1, 0] * ex + r[p, 1, 1] * ey
    qz = r[p, 2, 0] * ex + r[p, 2, 1] * ey
    dt = -t * (n[0] * qx + n[1] * qy + n[2] * qz) / facing
    qx, qy, qz = t * qx + dt * b[0], t * qy + dt * b[1], t * qz + dt * b[2]
    return (
        (qx * a[0] + qy * a[1] + qz * a[2]) / width,
        (qx * c[0] + qy * c[1] + qz * c[2]) / height,
    )


@_jit
def _shade(
    shapes, half, p, face, frames, g, r, o, t, x, y, dxx, dxy, dyx, dyy,
    texels, levels, level_counts, lights, lightmaps, decode, out,
):  # fmt: skip
    """Colour in linear light of the hit at depth t of the ray (x, y, 1), into out (3,).

    (dxx, dxy) and (dyx, dyy): change of (x, y) per pixel to the right and downwards.
    """
    shape = shapes[p]
    bx = r[p, 0, 0] * x + r[p, 0, 1] * y + r[p, 0, 2]
    by = r[p, 1, 0] * x + r[p, 1, 1] * y + r[p, 1, 2]
    bz = r[p, 2, 0] * x + r[p, 2, 1] * y + r[p, 2, 2]
    px, py, pz = o[p, 0] + t * bx, o[p, 1] + t * by, o[p, 2] + t * bz
    u, v = face_coordinates(shape, half[p, 2], half[p, 0], face, frames, g, px, py, pz)
    # Tangent plane: the u and v axes and the normal, from which the size of a pixel follows.
    ax, ay, az = frames[g, 3], frames[g, 4], frames[g, 5]
    cx, cy, cz = frames[g, 6], frames[g, 7], frames[g, 8]
    if shape == 3 or (shape == 2 and face == 0):
        ring = math.hypot(px, py)
        safe = max(ring, 1e-9)
        ax, ay, az = -py / safe, px / safe, 0.0
        cx, cy, cz = 0.0, 0.0, 1.0
        if shape == 3:
            radius = half[p, 0]
            cx, cy, cz = -px * pz / (safe * radius), -py * pz / (safe * radius), ring / radius
    nx, ny, nz = ay * cz - az * cy, az * cx - ax * cz, ax * cy - ay * cx
    facing = nx * bx + ny * by + nz * bz
    if abs(facing) < 1e-6:
        facing = 1e-6
    a, b, c, n = (ax, ay, az), (bx, by, bz), (cx, cy, cz), (nx, ny, nz)
    width, height = frames[g, 9], frames[g, 10]
    ux, vx = _step_on_face(r, p, t, dxx, dxy, b, n, facing, a, c, width, height)
    uy, vy = _step_on_face(r, p, t, dyx, dyy, b, n, facing, a, c, width, height)
    _sample_texture(texels, levels, g, level_counts[g], u, 1.0 - v, ux, -vx, uy, -vy, decode, out)
    _light(lights, lightmaps, g, u, v, out)


@_jit
def _tile_bounds(rays, rays_dx, rays_dy, top, bottom, left, right):
    """Least and largest x, then y, of the rays of a tile, one pixel wider on each side."""
    lo_x, hi_x, lo_y, hi_y = np.inf, -np.inf, np.inf, -np.inf
    for row in range(top, bottom):
        for col in range(left, right):
            x, y = rays[row, col, 0], rays[row, col, 1]
            if math.isnan(x):
                continue
            ex = abs(rays_dx[row, col, 0]) + abs(rays_dy[row, col, 0])
            ey = abs(rays_dx[row, col, 1]) + abs(rays_dy[row, col, 1])
            lo_x, hi_x = min(lo_x, x - ex), max(hi_x, x + ex)
            lo_y, hi_y = min(lo_y, y - ey), max(hi_y, y + ey)
    return lo_x, hi_x, lo_y, hi_y


@_jit
def render(
    touched, rgb, depth, prims, faces,
    rays, rays_dx, rays_dy, m, o, bounds, shapes, half, first_face, frames,
    texels, levels, level_counts, lights, lightmaps, decode, encode, background, supersample,
):  # fmt: skip
    """One image by ray casting, written into the tiles that are `touched`.

    Inside a surface one anisotropic sample per pixel is taken; where a neighbour shows another
    face, supersample^2 rays.

    Written are rgb (H, W, 3) uint8; depth (H, W) float32, NaN where nothing is seen; prims and
    faces (H, W) int16 and int32, -1 where nothing is seen. Read are

    * touched (tiles_y, tiles_x) bool; the other tiles must hold the picture already;
    * rays, rays_dx, rays_dy (H, W, 2), see `rays.pixel_rays`;
    * m, o: rotation `primitive_from_camera` (P, 3, 3), camera centre in the primitive (P, 3);
    * bounds from `kernels.image_bounds`; shapes and half sizes of the primitives;
    * first_face, frames: index of a primitive's first face; (F, 11), see `face_coordinates`;
    * levels, level_counts: (F, L, 3) and (F,), pyramid of the texture of each face in texels;
    * lights, lightmaps: (N, 3); (F, 3) offset, width, height;
    * decode, encode: see `tone`; background (3,): linear light where nothing is seen.
    """
    height, width = rays.shape[:2]
    near = bounds[:, 4]
    by_depth = np.argsort(near)
    tiles_y, tiles_x = touched.shape
    starts = np.zeros((tiles_y, tiles_x, 2), np.int64)
    candidates = np.empty(tiles_x * tiles_y * len(shapes), np.int64)
    ts = np.empty((height, width))
    filled = 0
    for ty in range(tiles_y):
        for tx in range(tiles_x):
            if not touched[ty, tx]:
                continue
            top, left = ty * TILE, tx * TILE
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            lo_x, hi_x, lo_y, hi_y = _tile_bounds(rays, rays_dx, rays_dy, top, bottom, left, right)
            starts[ty, tx, 0] = filled
            for p in by_depth:
                if (
                    bounds[p, 0] <= hi_x
                    and bounds[p, 1] >= lo_x
                    and bounds[p, 2] <= hi_y
                    and bounds[p, 3] >= lo_y
                ):
                    candidates[filled] = p
                    filled += 1
            starts[ty, tx, 1] = filled
            order = candidates[starts[ty, tx, 0] : filled]
            for row in range(top, bottom):
                for col in range(left, right):
                    x, y = rays[row, col, 0], rays[row, col, 1]
                    depth[row, col], prims[row, col], faces[row, col] = np.nan, -1, -1
                    if math.isnan(x):
                        continue
                    t, p, face = _nearest(order, shapes, half, m, o, near, x, y)
                    if p >= 0:
                        ts[row, col], depth[row, col], prims[row, col] = t, t, p
                        faces[row, col] = first_face[p] + face
    colour = np.empty(3, np.float32)
    total = np.empty(3, np.float32)
    for ty in range(tiles_y):
        for tx in range(tiles_x):
            if not touched[ty, tx]:
                continue
            top, left = ty * TILE, tx * TILE
            order = candidates[starts[ty, tx, 0] : starts[ty, tx, 1]]
            for row in range(top, min(top + TILE, height)):
                for col in range(left, min(left + TILE, width)):
                    f = faces[row, col]
                    edge = (
                        (row > 0 and faces[row - 1, col] != f)
                        or (row + 1 < height and faces[row + 1, col] != f)
                        or (col > 0 and faces[row, col - 1] != f)
                        or (col + 1 < width and faces[row, col + 1] != f)
                    )
                    n = supersample if edge and not math.isnan(rays[row, col, 0]) else 1
                    total[0] = total[1] = total[2] = np.float32(0.0)
                    dxx, dxy = rays_dx[row, col, 0] / n, rays_dx[row, col, 1] / n
                    dyx, dyy = rays_dy[row, col, 0] / n, rays_dy[row, col, 1] / n
                    for i in range(n):
                        for j in range(n):
                            a, b = j - 0.5 * (n - 1), i - 0.5 * (n - 1)
                            x = rays[row, col, 0] + a * dxx + b * dyx
                            y = rays[row, col, 1] + a * dxy + b * dyy
                            p = np.int64(prims[row, col])
                            t, face = ts[row, col], np.int64(0)
                            if n > 1:
                                t, p, face = _nearest(order, shapes, half, m, o, near, x, y)
                            elif p >= 0:
                                face = f - first_face[p]
                            if p < 0:
                                for c in range(3):
                                    total[c] += background[c]
                                continue
                            g = first_face[p] + face
                            _shade(
                                shapes, half, p, face, frames, g, m, o, t, x, y,
                                dxx, dxy, dyx, dyy,
                                texels, levels, level_counts, lights, lightmaps, decode, colour,
                            )  # fmt: skip
                            for c in range(3):
                                total[c] += colour[c]
                    for c in range(3):
                        value = min(max(total[c] / (n * n), 0.0), 1.0)
                        rgb[row, col, c] = encode[int(math.sqrt(value) * 4095.0 + 0.5)]
