"""Ray casting in numba: intersections, distances, bounds in the image.

Geometry is float64. The shapes' numbers are those of
`primitives.Shape`. A ray is origin + t * direction; with direction z = 1 in the camera, t is the
depth.
"""

from __future__ import annotations

import math

import numba
import numpy as np

TILE = 16
"""Side of a tile [px] that shares one list of candidate primitives."""
NEAR = 1e-3
"""Nothing closer than this [m] along z is seen."""

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


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
def distances(shapes, half, rotations, places, points, skip):
    """Unsigned distance (N,) of points (N, 3) to the nearest primitive p where not skip[p]."""
    result = np.full(len(points), np.inf)
    for i in range(len(points)):
        for p in range(len(shapes)):
            if skip[p]:
                continue
            r = rotations[p]
            ax = points[i, 0] - places[p, 0]
            ay = points[i, 1] - places[p, 1]
            az = points[i, 2] - places[p, 2]
            x = abs(r[0, 0] * ax + r[1, 0] * ay + r[2, 0] * az)
            y = abs(r[0, 1] * ax + r[1, 1] * ay + r[2, 1] * az)
            z = abs(r[0, 2] * ax + r[1, 2] * ay + r[2, 2] * az)
            if shapes[p] == 3:
                d = abs(math.sqrt(x * x + y * y + z * z) - half[p, 0])
            elif shapes[p] == 2:
                qx, qz = math.sqrt(x * x + y * y) - half[p, 0], z - half[p, 2]
                outside = math.sqrt(max(qx, 0.0) ** 2 + max(qz, 0.0) ** 2)
                d = abs(outside + min(max(qx, qz), 0.0))
            else:
                qx, qy, qz = x - half[p, 0], y - half[p, 1], z - half[p, 2]
                outside = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
                d = abs(outside + min(max(qx, max(qy, qz)), 0.0))
            result[i] = min(result[i], d)
    return result


@_jit
def image_bounds(half, rotations, places):
    """Bounds of the primitives on the plane z = 1 of a camera, and their least depth.

    `rotations` and `places` are those of `camera_from_primitive`.

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
                    if z >= NEAR or other[2] < NEAR:
                        continue
                    s = (NEAR - z) / (other[2] - z)
                    x, y, z = x + s * (other[0] - x), y + s * (other[1] - y), NEAR
                elif z < NEAR:
                    continue
                lo_x, hi_x = min(lo_x, x / z), max(hi_x, x / z)
                lo_y, hi_y = min(lo_y, y / z), max(hi_y, y / z)
                lo_z = min(lo_z, z)
        bounds[p] = (lo_x, hi_x, lo_y, hi_y, lo_z)
    return bounds


@_jit
def touched_tiles(bounds, rays, tiles_y, tiles_x):
    """(tiles_y, tiles_x) which tiles, and their neighbours, primitives of `bounds` may touch."""
    height, width = rays.shape[:2]
    hit = np.zeros((tiles_y, tiles_x), np.bool_)
    for row in range(height):
        for col in range(width):
            if hit[row // TILE, col // TILE]:
                continue
            x, y = rays[row, col, 0], rays[row, col, 1]
            for p in range(len(bounds)):
                if bounds[p, 0] <= x <= bounds[p, 1] and bounds[p, 2] <= y <= bounds[p, 3]:
                    hit[row // TILE, col // TILE] = True
                    break
    touched = hit.copy()
    for ty in range(tiles_y):
        for tx in range(tiles_x):
            if hit[ty, tx]:
                touched[max(ty - 1, 0) : ty + 2, max(tx - 1, 0) : tx + 2] = True
    return touched
