"""Local planes of a depth image: normals, incidence and the weight of a measurement."""

from __future__ import annotations

import numpy as np
from numba import njit

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


@njit(cache=True, nogil=True)
def _middle(values, u0, v0):
    """Median of the valid values in the centre of a tile, else in all of it; NaN without any."""
    height, width = values.shape
    least, largest, total = np.float32(np.inf), np.float32(-np.inf), np.float32(0)
    count = 0
    for v in range(v0 + TILE // 2 - 1, min(v0 + TILE // 2 + 1, height)):
        for u in range(u0 + TILE // 2 - 1, min(u0 + TILE // 2 + 1, width)):
            w = values[v, u]
            if w == w:
                least, largest = min(least, w), max(largest, w)
                total += w
                count += 1
    if count == 4:
        return (total - least - largest) * np.float32(0.5)
    found = np.empty(TILE * TILE, np.float32)
    count = 0
    for v in range(v0, min(v0 + TILE, height)):
        for u in range(u0, min(u0 + TILE, width)):
            w = values[v, u]
            if w == w:
                k = count
                while k > 0 and found[k - 1] > w:
                    found[k] = found[k - 1]
                    k -= 1
                found[k] = w
                count += 1
    return found[count // 2] if count else np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def tile_planes(depth, intrinsics, rotation):
    """Planes of inverse depth, one for each tile of TILE x TILE pixels.

    A plane in space is a plane in inverse depth over the image, 1/z = n . (x/z, y/z, 1), so a
    linear fit gives it without a bias by the depth.

    Inputs:
        depth: (H, W), invalid: NaN or not positive.
        intrinsics: fx fy cx cy.
        rotation: of `map_from_camera`.

    Returns:
        (H / TILE, W / TILE, 7) float32: n in the camera frame, with n . p = 1 for the points p of
        the plane; the unit normal in map, towards the camera; 1 / |n|. NaN where too few pixels
        agree.
    """
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics
    lines, columns = -(-height // TILE), -(-width // TILE)
    planes = np.full((lines, columns, 7), np.nan, np.float32)
    inverse_depth = np.empty((height, width), np.float32)
    for v in range(height):
        for u in range(width):
            d = depth[v, u]
            is_depth = (d > np.float32(0)) & (d < np.float32(np.inf))
            inverse_depth[v, u] = np.float32(1) / d if is_depth else np.float32(np.nan)
    for line in range(lines):
        for column in range(columns):
            v0, u0 = line * TILE, column * TILE
            middle = _middle(inverse_depth, u0, v0)
            if not middle > 0:
                continue
            gate = np.float32(GATE) * middle
            n = 0
            su = sv = suu = suv = svv = 0
            sw = suw = svw = np.float32(0)
            # Symmetric about the centre of the tile, which lies between pixels.
            for dv in range(-WINDOW + 1, WINDOW, 2):
                v = v0 + TILE // 2 + dv
                if v < 0 or v >= height:
                    continue
                for du in range(-WINDOW + 1, WINDOW, 2):
                    u = u0 + TILE // 2 + du
                    if u < 0 or u >= width:
                        continue
                    w = inverse_depth[v, u] - middle
                    if not abs(w) < gate:
                        continue
                    n += 1
                    su += du
                    sv += dv
                    suu += du * du
                    suv += du * dv
                    svv += dv * dv
                    sw += w
                    suw += np.float32(du) * w
                    svw += np.float32(dv) * w
            if n < 8:
                continue
            inverse = 1.0 / n
            muu = suu - su * su * inverse
            muv = suv - su * sv * inverse
            mvv = svv - sv * sv * inverse
            muw = suw - su * sw * inverse
            mvw = svw - sv * sw * inverse
            determinant = muu * mvv - muv * muv
            if determinant < 1.0:
                continue
            a = (muw * mvv - mvw * muv) / determinant
            b = (mvw * muu - muw * muv) / determinant
            c = middle + (sw - a * su - b * sv) * inverse
            u_middle, v_middle = u0 + TILE // 2, v0 + TILE // 2
            px, py = a * fx, b * fy
            pz = c + a * (cx - u_middle) + b * (cy - v_middle)
            length = np.sqrt(px * px + py * py + pz * pz)
            planes[line, column, 0] = px
            planes[line, column, 1] = py
            planes[line, column, 2] = pz
            for i in range(3):
                planes[line, column, 3 + i] = (
                    -(rotation[i, 0] * px + rotation[i, 1] * py + rotation[i, 2] * pz) / length
                )
            planes[line, column, 6] = 1 / length
    return planes


@njit(cache=True, nogil=True, error_model="numpy")
def normal_at(planes, column, line, rx, ry, depth, x, y, z):
    """Unit normal in map, towards the camera, and cosine of incidence at a pixel.

    Pixels off the plane of their tile get the direction of their ray and UNKNOWN_COSINE.

    Inputs:
        planes: from `tile_planes`.
        column, line: the pixel.
        rx, ry: its ray, with z = 1.
        depth: its depth.
        x, y, z: from the camera's centre to the point in map, any length.
    """
    tile = planes[line // TILE, column // TILE]
    along = tile[0] * rx + tile[1] * ry + tile[2]  # inverse depth of the plane
    if abs(along * depth - np.float32(1)) < np.float32(OFF_PLANE):
        cosine = along * tile[6] / np.sqrt(rx * rx + ry * ry + np.float32(1))
        return tile[3], tile[4], tile[5], cosine
    scale = np.float32(-1) / np.sqrt(x * x + y * y + z * z)
    return x * scale, y * scale, z * scale, np.float32(UNKNOWN_COSINE)


@njit(cache=True, nogil=True, error_model="numpy")
def is_steep(depth, u, v, fx, fy, least_cosine):
    """Whether the depth changes too fast on both sides of a pixel for a surface not too flat.

    For pixels without a plane: surfaces seen so flatly that no window fits on them.
    """
    height, width = depth.shape
    d = depth[v, u]
    before = abs(depth[v, max(0, u - 1)] - d) if u > 0 else np.float32(np.inf)
    after = abs(depth[v, min(width - 1, u + 1)] - d) if u < width - 1 else np.float32(np.inf)
    above = abs(depth[max(0, v - 1), u] - d) if v > 0 else np.float32(np.inf)
    below = abs(depth[min(height - 1, v + 1), u] - d) if v < height - 1 else np.float32(np.inf)
    along = min(before, after) * fx
    across = min(above, below) * fy
    # Tangent of the incidence, squared; missing neighbours (NaN, infinity) say nothing.
    square = (along * along if along < np.inf else np.float32(0)) + (
        across * across if across < np.inf else np.float32(0)
    )
    return square * least_cosine * least_cosine > d * d


@njit(cache=True, nogil=True, error_model="numpy")
def measurement_weight(confidence, cosine, depth, voxel):
    """Confidence x cosine of incidence / z^2, 1 at fifty voxels.

    Neighbouring pixels err together, and 1/z^2 of them fall into a voxel, so a view as a whole
    counts with 1/z^4: the inverse variance of a triangulated depth, whose error grows with z^2.
    """
    ratio = np.float32(50) * voxel / depth
    return min(np.float32(1), confidence) * cosine * ratio * ratio


@njit(cache=True, nogil=True, error_model="numpy")
def footprint_radius(depth, focal, cosine, voxel):
    """Radius of a surfel: half the diagonal of a pixel on the surface, at least of a voxel."""
    pixel = np.float32(0.7) * depth / (focal * max(np.float32(0.3), cosine))
    return max(np.float32(0.7) * voxel, pixel)
