"""Compiled helpers for images, shared by the loops of the plane sweep.

Images are float32 (H, W). The source images of one view lie one after the other in a flat array.
Small functions become part of the loops that call them, so they cost nothing and the loops still
run in vectors.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
FAST: dict[str, Any] = {**OPTIONS, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}


@njit(**FAST)
def is_inside(u, v, w, low, u_max, v_max):
    """Whether a pixel (u, v) of positive depth w lies in view, `low` from the border."""
    return (w > np.float32(0)) & (u >= low) & (u <= u_max) & (v >= low) & (v <= v_max)


@njit(**FAST)
def split(value, largest):
    """Whole and fractional part of a coordinate, kept between 0 and `largest`."""
    clipped = min(max(value, np.float32(0)), largest)
    whole = np.int32(clipped)
    return whole, clipped - np.float32(whole)


@njit(**FAST)
def four(flat, index, pitch):
    """The pixel at `index` of a flat image and its right, lower and lower right neighbours."""
    i = np.uint64(index)
    j = i + np.uint64(pitch)
    return flat[i], flat[i + np.uint64(1)], flat[j], flat[j + np.uint64(1)]


@njit(**FAST)
def reflect(i, n):
    """Index of a row mirrored at the border, as cv2.BORDER_REFLECT_101."""
    if i < 0:
        i = -i
    if i >= n:
        i = 2 * n - 2 - i
    return i


@njit(**FAST)
def row_sums(sums, padded, row, radius):
    """Sums of 2 radius + 1 neighbours of `sums`, mirrored at the ends by way of `padded`."""
    columns = sums.shape[0]
    start = np.uint64(radius)
    for x in range(columns):
        padded[np.uint64(x) + start] = sums[x]
    for k in range(radius):
        padded[radius - 1 - k] = sums[1 + k]
        padded[radius + columns + k] = sums[columns - 2 - k]
    for x in range(columns):
        row[x] = padded[x]
    for k in range(1, 2 * radius + 1):
        shift = np.uint64(k)
        for x in range(columns):
            row[x] += padded[np.uint64(x) + shift]
