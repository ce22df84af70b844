"""Ray casting in numba: intersections, candidate lists per tile, textures.

Geometry is float64, colours are float32 in linear light. The shapes' numbers are those of
`primitives.Shape`. A ray is origin + t * direction; with direction z = 1 in the camera, t is the
depth.
"""

from __future__ import annotations

import math

import numba
import numpy as np

TILE = 16
"""Side of a tile [px] that shares one list of candidate primitives."""
_NEAR = 1e-3
"""Nothing closer than this [m] along z is seen."""
_MAX_ANISOTROPY = 10

_jit = numba.njit(cache=True, nogil=True, fastmath=False)


@_jit
def intersect(shape, hx, hy, hz, ox, oy, oz, dx, dy, dz, t_min):
    """Nearest t > t_min and face of a ray in the frame of a primitive of half size h.

    (inf, -1) where it misses.
    """
    inf = math.inf
    if shape == 0:
        if dz == 0.0:
            return inf, -1
        t = -oz / dz
        if t <= t_min or abs(ox + t * dx) > hx or abs(oy + t * dy) > hy:
            return inf, -1
        return t, 0
    if shape == 1:
        near, far = -inf, inf
        near_face, far_face = -1, -1
        for axis in range(3):
            if axis == 0:
                o, d, h = ox, dx, hx
            elif axis == 1:
                o, d, h = oy, dy, hy
            else:
                o, d, h = oz, dz, hz
            if d == 0.0:
                if abs(o) > h:
                    return inf, -1
                continue
            inverse = 1.0 / d
            t0, t1 = (-h - o) * inverse, (h - o) * inverse
            f0, f1 = 2 * axis, 2 * axis + 1
            if t0 > t1:
                t0, t1 = t1, t0
                f0, f1 = f1, f0
            if t0 > near:
                near, near_face = t0, f0
            if t1 < far:
                far, far_face = t1, f1
            if near > far:
                return inf, -1
        if near > t_min:
            return near, near_face
        if far > t_min:
            return far, far_face
        return inf, -1
    if shape == 3:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - hx * hx
        discriminant = b * b - a * c
        if discriminant < 0.0:
            return inf, -1
        root = math.sqrt(discriminant)
        t = (-b - root) / a
        if t > t_min:
            return t, 0
        t = (-b + root) / a
        if t > t_min:
            return t, 0
        return inf, -1
    best, best_face = inf, -1
    a = dx * dx + dy * dy
    if a > 0.0:
        b = ox * dx + oy * dy
        c = ox * ox + oy * oy - hx * hx
        discriminant = b * b - a * c
        if discriminant < 0.0:
            return inf, -1
        root = math.sqrt(discriminant)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            if t_min < t < best and abs(oz + t * dz) <= hz:
                best, best_face = t, 0
    if dz != 0.0:
        for cap in range(2):
            t = ((hz if cap == 1 else -hz) - oz) / dz
            x, y = ox + t * dx, oy + t * dy
            if t_min < t < best and x * x + y * y <= hx * hx:
                best, best_face = t, 1 + cap
    return best, best_face


@_jit
def cast_rays(shapes, half, rotations, places, origins, directions, skip):
    """Nearest hit of each ray (N, 3) with any primitive p where not skip[p].

    Returns:
        t (N,), inf for none; primitive (N,), -1 for none; face (N,).
    """
    count = len(origins)
    ts = np.full(count, np.inf)
    prims = np.full(count, -1, np.int32)
    faces = np.full(count, -1, np.int32)
    for i in range(count):
        for p in range(len(shapes)):
            if skip[p]:
                continue
            r = rotations[p]
            ax, ay, az = origins[i] - places[p]
            bx, by, bz = directions[i]
            t, face = intersect(
                shapes[p],
                half[p, 0],
                half[p, 1],
                half[p, 2],
                r[0, 0] * ax + r[1, 0] * ay + r[2, 0] * az,
                r[0, 1] * ax + r[1, 1] * ay + r[2, 1] * az,
                r[0, 2] * ax + r[1, 2] * ay + r[2, 2] * az,
                r[0, 0] * bx + r[1, 0] * by + r[2, 0] * bz,
                r[0, 1] * bx + r[1, 1] * by + r[2, 1] * bz,
                r[0, 2] * bx + r[1, 2] * by + r[2, 2] * bz,
                0.0,
            )
            if t < ts[i]:
                ts[i], prims[i], faces[i] = t, p, face
    return ts, prims, faces


@_jit
def image_bounds(half, rotations, places):
    """Bounds of the primitives on the plane z = 1 of a camera, and their least depth.

    Args:
        rotations, places: `camera_from_primitive`.

    Returns:
        (P, 5): x min, x max, y min, y max, z min; x min > x max where nothing is in front.
    """
    count = len(half)
    bounds = np.empty((count, 5))
    corners = np.empty((8, 3))
    for p in range(count):
        lo_x, hi_x, lo_y, hi_y, lo_z = np.inf, -np.inf, np.inf, -np.inf, np.inf
        for k in range(8):
            for axis in range(3):
                corners[k, axis] = places[p, axis]
                for j in range(3):
                    sign = 1.0 if (k >> j) & 1 else -1.0
                    corners[k, axis] += rotations[p, axis, j] * sign * half[p, j]
        for k in range(8):
            # The corner itself, and the three edges that leave it, cut at the near plane.
            for j in range(-1, 3):
                x, y, z = corners[k]
                if j >= 0:
                    other = corners[k ^ (1 << j)]
                    if z >= _NEAR or other[2] < _NEAR:
                        continue
                    s = (_NEAR - z) / (other[2] - z)
                    x, y, z = x + s * (other[0] - x), y + s * (other[1] - y), _NEAR
                elif z < _NEAR:
                    continue
                lo_x, hi_x = min(lo_x, x / z), max(hi_x, x / z)
                lo_y, hi_y = min(lo_y, y / z), max(hi_y, y / z)
                lo_z = min(lo_z, z)
        bounds[p] = (lo_x, hi_x, lo_y, hi_y, lo_z)
    return bounds


@_jit
def _nearest(order, shapes, half, m, o, near, x, y):
    """Nearest primitive on the ray (x, y, 1) among candidates sorted by least depth."""
    best, prim, best_face = np.inf, -1, -1
    for p in order:
        if near[p] > best:
            break
        r = m[p]
        t, face = intersect(
            shapes[p],
            half[p, 0],
            half[p, 1],
            half[p, 2],
            o[p, 0],
            o[p, 1],
            o[p, 2],
            r[0, 0] * x + r[0, 1] * y + r[0, 2],
            r[1, 0] * x + r[1, 1] * y + r[1, 2],
            r[2, 0] * x + r[2, 1] * y + r[2, 2],
            _NEAR,
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
def _sample_texture(texels, levels, count, u, v, ux, vx, uy, vy, decode, out):
    """Anisotropic, trilinear texture at (u, v) in [0, 1]^2 into out (3,), linear light.

    Args:
        levels: (L, 3) of offset, width, height; `count` of them are used.
        ux, vx, uy, vy: change of (u, v) per pixel to the right and downwards.
    """
    width, height = levels[0, 1], levels[0, 2]
    ux, uy, vx, vy = ux * width, uy * width, vx * height, vy * height
    # The image of a pixel in the texture is an ellipse: axes from J J^T.
    p, q, r = ux * ux + uy * uy, ux * vx + uy * vy, vx * vx + vy * vy
    mean, spread = 0.5 * (p + r), math.sqrt(0.25 * (p - r) * (p - r) + q * q)
    major, minor = math.sqrt(mean + spread), math.sqrt(max(mean - spread, 0.0))
    samples = 1
    if major > 1.0:
        ratio = major / max(minor, 1.0)
        samples = min(max(int(math.ceil(ratio)), 1), _MAX_ANISOTROPY)
    axis_x, axis_y = q, mean + spread - p
    if abs(mean + spread - r) > abs(axis_y):
        axis_x, axis_y = mean + spread - r, q
    norm = math.hypot(axis_x, axis_y)
    if norm > 0.0:
        axis_x, axis_y = axis_x / norm * major, axis_y / norm * major
    lod = math.log2(max(major / samples, 1.0))
    lod = min(lod, count - 1.0)
    level = int(lod)
    fraction = np.float32(lod - level)
    out[0] = out[1] = out[2] = np.float32(0.0)
    for s in range(samples):
        shift = (s + 0.5) / samples - 0.5
        su = u + shift * axis_x / width
        sv = v + shift * axis_y / height
        for k in range(2):
            weight = (fraction if k == 1 else np.float32(1.0) - fraction) / np.float32(samples)
            if weight == 0.0 or level + k >= count:
                continue
            offset, w, h = levels[level + k, 0], levels[level + k, 1], levels[level + k, 2]
            _bilinear(texels, offset, w, h, su * w - 0.5, sv * h - 0.5, decode, out, weight)


@_jit
def _light(lights, lightmap, u, v, out):
    """Multiply out (3,) by the light map at (u, v) in [0, 1]^2, bilinear."""
    offset, width, height = lightmap[0], lightmap[1], lightmap[2]
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
def face_coordinates(shape, half, face, frame, x, y, z):
    """(u, v) in [0, 1]^2 of a point on a face, in the frame of the primitive.

    Args:
        frame: (11,) corner, u axis, v axis, width, height.
    """
    if shape == 3 or (shape == 2 and face == 0):
        u = (math.atan2(y, x) + math.pi) / (2.0 * math.pi)
        if shape == 2:
            return u, (z + half[2]) / (2.0 * half[2])
        return u, math.asin(min(max(z / half[0], -1.0), 1.0)) / math.pi + 0.5
    x, y, z = x - frame[0], y - frame[1], z - frame[2]
    u = (x * frame[3] + y * frame[4] + z * frame[5]) / frame[9]
    v = (x * frame[6] + y * frame[7] + z * frame[8]) / frame[10]
    return u, v


@_jit
def _shade(
    shape, half, face, frame, r, o, t, x, y, dxx, dxy, dyx, dyy,
    texels, levels, level_count, lights, lightmap, decode, out,
):  # fmt: skip
    """Colour in linear light of the hit at depth t of the ray (x, y, 1), into out (3,).

    (dxx, dxy) and (dyx, dyy): change of (x, y) per pixel to the right and downwards.
    """
    bx = r[0, 0] * x + r[0, 1] * y + r[0, 2]
    by = r[1, 0] * x + r[1, 1] * y + r[1, 2]
    bz = r[2, 0] * x + r[2, 1] * y + r[2, 2]
    px, py, pz = o[0] + t * bx, o[1] + t * by, o[2] + t * bz
    u, v = face_coordinates(shape, half, face, frame, px, py, pz)
    # Tangent plane: normal and the u and v axes, from which the size of a pixel follows.
    ax, ay, az = frame[3], frame[4], frame[5]
    cx, cy, cz = frame[6], frame[7], frame[8]
    if shape == 3 or (shape == 2 and face == 0):
        radius = math.hypot(px, py)
        ring = max(radius, 1e-9)
        ax, ay, az = -py / ring, px / ring, 0.0
        cx, cy, cz = 0.0, 0.0, 1.0
        if shape == 3:
            cx, cy, cz = -px * pz / (ring * half[0]), -py * pz / (ring * half[0]), radius / half[0]
    nx, ny, nz = ay * cz - az * cy, az * cx - ax * cz, ax * cy - ay * cx
    facing = nx * bx + ny * by + nz * bz
    if abs(facing) < 1e-6:
        facing = 1e-6
    uv = np.empty(4)
    for k in range(2):
        ex, ey = (dxx, dxy) if k == 0 else (dyx, dyy)
        qx = r[0, 0] * ex + r[0, 1] * ey
        qy = r[1, 0] * ex + r[1, 1] * ey
        qz = r[2, 0] * ex + r[2, 1] * ey
        dt = -t * (nx * qx + ny * qy + nz * qz) / facing
        qx, qy, qz = t * qx + dt * bx, t * qy + dt * by, t * qz + dt * bz
        uv[2 * k] = (qx * ax + qy * ay + qz * az) / frame[9]
        uv[2 * k + 1] = (qx * cx + qy * cy + qz * cz) / frame[10]
    _sample_texture(
        texels, levels, level_count, u, 1.0 - v, uv[0], -uv[1], uv[2], -uv[3], decode, out
    )
    _light(lights, lightmap, u, v, out)


@_jit
def render(
    rays, rays_dx, rays_dy, m, o, bounds, shapes, half, first_face, frames,
    texels, levels, level_counts, lights, lightmaps, decode, encode, background, supersample,
):  # fmt: skip
    """One image by ray casting.

    Inside a surface one anisotropic sample per pixel is taken; where a neighbour shows another
    face, supersample^2 rays.

    Args:
        rays, rays_dx, rays_dy: (H, W, 2), see `rays.pixel_rays`.
        m, o: rotation `primitive_from_camera` (P, 3, 3), camera centre in the primitive (P, 3).
        bounds: from `image_bounds`.
        first_face, frames: index of a primitive's first face; (F, 11), see `face_coordinates`.
        levels, level_counts: (F, L, 3) and (F,), pyramid of the texture of each face.
        lights, lightmaps: (N, 3); (F, 3) offset, width, height.
        decode: (256,) grey value to linear light; encode: (4096,) back, by the root of the light.

    Returns:
        rgb (H, W, 3) uint8, depth (H, W) float32 with NaN, primitive (H, W) int16 with -1.
    """
    height, width = rays.shape[:2]
    rgb = np.empty((height, width, 3), np.uint8)
    depth = np.full((height, width), np.nan, np.float32)
    prims = np.full((height, width), -1, np.int16)
    faces = np.full((height, width), -1, np.int32)
    ts = np.full((height, width), np.inf)
    by_depth = np.argsort(bounds[:, 4])
    near = bounds[:, 4]
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    candidates = np.empty(tiles_x * tiles_y * len(shapes), np.int32)
    filled = 0
    for ty in range(tiles_y):
        for tx in range(tiles_x):
            top, left = ty * TILE, tx * TILE
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            lo_x, hi_x, lo_y, hi_y = np.inf, -np.inf, np.inf, -np.inf
            for row in range(top, bottom):
                for col in range(left, right):
                    x, y = rays[row, col, 0], rays[row, col, 1]
                    # One pixel of margin for the rays between the pixel centres.
                    ex = abs(rays_dx[row, col, 0]) + abs(rays_dy[row, col, 0])
                    ey = abs(rays_dx[row, col, 1]) + abs(rays_dy[row, col, 1])
                    if x - ex < lo_x:
                        lo_x = x - ex
                    if x + ex > hi_x:
                        hi_x = x + ex
                    if y - ey < lo_y:
                        lo_y = y - ey
                    if y + ey > hi_y:
                        hi_y = y + ey
            tile = ty * tiles_x + tx
            starts[tile] = filled
            for p in by_depth:
                b = bounds[p]
                if b[0] <= hi_x and b[1] >= lo_x and b[2] <= hi_y and b[3] >= lo_y:
                    candidates[filled] = p
                    filled += 1
            order = candidates[starts[tile] : filled]
            for row in range(top, bottom):
                for col in range(left, right):
                    x, y = rays[row, col, 0], rays[row, col, 1]
                    if math.isnan(x):
                        continue
                    t, p, face = _nearest(order, shapes, half, m, o, near, x, y)
                    if p >= 0:
                        ts[row, col] = t
                        depth[row, col] = t
                        prims[row, col] = p
                        faces[row, col] = first_face[p] + face
    starts[-1] = filled
    colour = np.empty(3, np.float32)
    total = np.empty(3, np.float32)
    for row in range(height):
        for col in range(width):
            f = faces[row, col]
            edge = False
            for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                rr, cc = row + dr, col + dc
                if 0 <= rr < height and 0 <= cc < width and faces[rr, cc] != f:
                    edge = True
            n = supersample if edge else 1
            tile = (row // TILE) * tiles_x + col // TILE
            order = candidates[starts[tile] : starts[tile + 1]]
            total[:] = np.float32(0.0)
            dxx, dxy = rays_dx[row, col, 0] / n, rays_dx[row, col, 1] / n
            dyx, dyy = rays_dy[row, col, 0] / n, rays_dy[row, col, 1] / n
            for i in range(n):
                for j in range(n):
                    a, b = j - 0.5 * (n - 1), i - 0.5 * (n - 1)
                    x = rays[row, col, 0] + a * dxx + b * dyx
                    y = rays[row, col, 1] + a * dxy + b * dyy
                    if n == 1:
                        p, t = np.int64(prims[row, col]), ts[row, col]
                        face = f - first_face[p] if p >= 0 else np.int64(-1)
                    else:
                        t, p, face = _nearest(order, shapes, half, m, o, near, x, y)
                    if p < 0:
                        for c in range(3):
                            total[c] += background[c]
                        continue
                    g = first_face[p] + face
                    _shade(
                        shapes[p], half[p], face, frames[g], m[p], o[p], t, x, y,
                        dxx, dxy, dyx, dyy,
                        texels, levels[g], level_counts[g], lights, lightmaps[g], decode, colour,
                    )  # fmt: skip
                    for c in range(3):
                        total[c] += colour[c]
            for c in range(3):
                value = total[c] / (n * n)
                rgb[row, col, c] = encode[int(math.sqrt(min(max(value, 0.0), 1.0)) * 4095.0 + 0.5)]
    return rgb, depth, prims
