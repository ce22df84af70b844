"""Closing single holes of a depth image."""

from __future__ import annotations

import numpy as np
from numba import njit

SAME_SURFACE = 0.05
"""Relative depth within which neighbouring pixels are one surface when holes are filled."""


@njit(cache=True, nogil=True, error_model="numpy")
def _closed(depth, u, v):
    """What stands at a pixel once it is closed, see `fill_holes`; the same if it stays."""
    height, width = depth.shape
    infinity = np.float32(np.inf)
    centre, least = depth[v, u], infinity
    before, nearer = centre * np.float32(1 - SAME_SURFACE), 0
    top, bottom = max(0, v - 1), min(height, v + 2)
    left, right = max(0, u - 1), min(width, u + 2)
    for j in range(top, bottom):
        for i in range(left, right):
            nearer += depth[j, i] < before
            if j != v or i != u:
                least = min(least, depth[j, i])
    if nearer < (5 if centre == infinity else 7):
        return centre
    limit = least * np.float32(1 + SAME_SURFACE)
    total, count = np.float32(0), np.float32(0)
    for j in range(top, bottom):
        for i in range(left, right):
            if (j != v or i != u) and depth[j, i] <= limit:
                total += depth[j, i]
                count += np.float32(1)
    return total / count


@njit(cache=True, nogil=True, error_model="numpy")
def fill_holes(depth):
    """Close single pixels: empty ones, and ones through which the background shows.

    A pixel that is empty with at least 5 of 8 neighbours drawn, or that lies behind at least 7
    of them, takes the mean of those neighbours that belong to the nearest surface.

    Nearly all pixels stay, and those with none of the pixels above, below, left and right nearer
    surely do, which a loop in vector registers finds out.

    Inputs:
        depth: (H, W) with infinity where nothing is.

    Returns:
        (H, W) with NaN where nothing is.
    """
    height, width = depth.shape
    filled = np.empty((height, width), np.float32)
    infinity, nothing = np.float32(np.inf), np.float32(np.nan)
    far = np.float32(1 - SAME_SURFACE)
    # A line with a wall on both sides, and what is above and below it.
    line = np.full(width + 2, infinity, np.float32)
    wall = np.full(width, infinity, np.float32)
    behind = np.zeros(-(-width // 8) * 8, np.uint8)
    eights = behind.view(np.uint64)
    for v in range(height):
        line[1 : width + 1] = depth[v]
        above = depth[v - 1] if v > 0 else wall
        below = depth[v + 1] if v + 1 < height else wall
        out = filled[v]
        for u in range(width):
            left, centre, right = line[u], line[u + 1], line[u + 2]
            a, b = above[u], below[u]
            sides = left if left < right else right
            least = a if a < b else b
            least = least if least < sides else sides
            out[u] = centre if centre < infinity else nothing
            behind[u] = np.uint8(least < centre * far)
        for k in range(eights.size):
            if not eights[k]:
                continue
            for u in range(8 * k, 8 * k + 8):
                if behind[u]:
                    value = _closed(depth, u, v)
                    out[u] = value if value < infinity else nothing
    return filled
