"""Loops behind `visibility`: projection, a z-buffer of squares, and the test against it."""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 16
"""Edge [px] of the blocks in which the density of points is measured."""

_WIDEST = 16
"""Half the edge [px] of the largest square that a point is drawn as."""


@njit(cache=True, nogil=True, error_model="numpy")
def project(points, rotation, translation, focal_x, focal_y, centre_x, centre_y, pixels, depths):
    """Pinhole projection of points (N, 3) in map; pixels (N, 2) are NaN where z <= 0."""
    for i in range(len(points)):
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        u = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + translation[0]
        v = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + translation[1]
        w = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        depths[i] = w
        if w > 0:
            pixels[i, 0] = focal_x * u / w + centre_x
            pixels[i, 1] = focal_y * v / w + centre_y
        else:
            pixels[i, 0] = pixels[i, 1] = np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def count(pixels, depths, width, height, counts, sums):
    """Add up number and depth of the points in each block of the image."""
    for i in range(len(pixels)):
        u, v = pixels[i, 0] + 0.5, pixels[i, 1] + 0.5
        if u >= 0 and v >= 0 and u < width and v < height:
            row, column = int(v) // BLOCK, int(u) // BLOCK
            counts[row, column] += 1
            sums[row, column] += depths[i]


@njit(cache=True, nogil=True, error_model="numpy")
def draw(pixels, depths, width, height, reach, nearest):
    """Keep the nearest depth of the squares that the points are drawn as.

    Half the edge of a square [px] is `reach` [px * map units] over the depth of its point.
    """
    for i in range(len(pixels)):
        u, v = pixels[i, 0] + 0.5, pixels[i, 1] + 0.5
        if not (u >= -_WIDEST and v >= -_WIDEST):  # NaN too
            continue
        if u >= width + _WIDEST or v >= height + _WIDEST:
            continue
        z = np.float32(depths[i])
        half = min(_WIDEST, int(reach / z + 0.5))
        column, row = int(np.floor(u)), int(np.floor(v))
        for y in range(max(row - half, 0), min(row + half + 1, height)):
            for x in range(max(column - half, 0), min(column + half + 1, width)):
                if z < nearest[y, x]:
                    nearest[y, x] = z


@njit(cache=True, nogil=True, error_model="numpy")
def visible(pixels, depths, width, height, nearest, margin, fraction, seen):
    """Whether each point is in the image and not behind what is nearest at its pixel."""
    for i in range(len(pixels)):
        u, v = pixels[i, 0] + 0.5, pixels[i, 1] + 0.5
        seen[i] = False
        if u >= 0 and v >= 0 and u < width and v < height:
            limit = nearest[int(v), int(u)] * (1 + fraction) + margin
            seen[i] = depths[i] <= limit
