"""Antialiased bicubic resizing of 8-bit images, bit for bit as Pillow does it.

That is, rows first, and rounded in between; Pillow 13 does columns first for some shapes. VGGT
was trained on images that Pillow resized. OpenCV's bicubic has another kernel and does not smooth
before it shrinks.
"""

from __future__ import annotations

import functools
import math
import threading

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from vggt_ros.types import Float32, Image

_SUPPORT = 2.0
"""Half width of the cubic kernel [source pixels, or target pixels when shrinking]."""
_A = -0.5
"""Slope of the kernel at 1 (Catmull-Rom; Keys, 1981)."""
_BITS = 22
"""Fraction of the fixed-point weights: 32 bits less 8 of the pixel and 2 against overflow."""


def resize_into(image: Image, width: int, height: int, out: Float32, top: int = 0) -> None:
    """Resize as `PIL.Image.resize` with BICUBIC does, to planes in [0, 1].

    Args:
        image: (h, w, 3).
        width: of the resized image.
        height: of the resized image.
        out: (3, rows, width), where rows `top` and following of the resized image go.
        top: first row that is wanted.
    """
    rows, columns = image.shape[:2]
    horizontal = _weights(columns, width)
    first, weights = _weights(rows, height)
    kept = slice(top, top + out.shape[1])
    planes = [_scratch(f"plane {c}", (rows, columns)) for c in range(3)]
    tall = _scratch("tall", (columns, rows))
    narrow = _scratch("narrow", (width, rows))
    wide = _scratch("wide", (rows, width))
    cv2.split(image, planes)
    for plane, values in zip(planes, out, strict=True):
        # Pillow goes along the rows first. Transposed, both passes add up whole rows.
        cv2.transpose(plane, tall)
        _resample_columns(tall, *horizontal, narrow)
        cv2.transpose(narrow, wide)
        _resample_rows(wide, first[kept], weights[kept], values)


_memory = threading.local()


def _scratch(name: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Memory of this thread for one purpose, kept until another size is wanted.

    New pages would cost as much as the smaller half of the work.
    """
    arrays: dict[str, NDArray[np.uint8]] = _memory.__dict__
    array = arrays.get(name)
    if array is None or array.shape != shape:
        array = arrays[name] = np.empty(shape, np.uint8)
    return array


def resize_bicubic(image: Image, width: int, height: int) -> Image:
    """Resize (H, W, 3) uint8 to planes (3, height, width), as `PIL.Image.resize` with BICUBIC."""
    out = np.empty((3, height, width), np.float32)
    resize_into(image, width, height, out)
    return np.rint(out * 255).astype(np.uint8)


def warm_up() -> None:
    """Compile the kernels, which takes a second where they are not cached yet."""
    resize_bicubic(np.zeros((4, 4, 3), np.uint8), 2, 2)


@functools.lru_cache(maxsize=64)
def _weights(size: int, target: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First source pixel (target,) and weights (target, taps) of each target pixel."""
    scale = size / target
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    firsts = np.zeros(target, np.int32)
    weights = np.zeros((target, math.ceil(support) * 2 + 1), np.int32)
    for k in range(target):
        centre = (k + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), size)
        values = _cubic((np.arange(first, last) - centre + 0.5) * (1.0 / stretch))
        # One after the other, like Pillow; np.sum rounds differently.
        total = 0.0
        for value in values:
            total += value
        fixed = values * (1.0 / total) * (1 << _BITS)
        firsts[k] = first
        weights[k, : last - first] = np.trunc(fixed + np.copysign(0.5, fixed))
    firsts.flags.writeable = weights.flags.writeable = False
    return firsts, weights


def _cubic(offset: NDArray[np.floating]) -> NDArray[np.floating]:
    x = np.abs(offset)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _resample_columns(source, firsts, weights, out):
    """Rows of `out` (n, m) are weighted sums of rows of `source` (k, m), rounded to uint8."""
    size = source.shape[1]
    total = np.empty(size, np.int32)
    for i in range(len(firsts)):
        _add_rows(source, firsts[i], weights[i], total)
        target = out[i]
        for j in range(size):
            target[j] = min(max(total[j] >> _BITS, 0), 255)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _resample_rows(source, firsts, weights, out):
    """The same, over 255 as float32."""
    size = source.shape[1]
    total = np.empty(size, np.int32)
    for i in range(len(firsts)):
        _add_rows(source, firsts[i], weights[i], total)
        target = out[i]
        for j in range(size):
            target[j] = np.float32(min(max(total[j] >> _BITS, 0), 255)) / np.float32(255)


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _add_rows(source, first, weights, total):
    """Half a unit and the weighted sum of rows, in fixed point.

    Four rows at a time: `total` is read and written a quarter as often, a tenth of the time.
    """
    count = len(weights)
    while count > 0 and weights[count - 1] == 0:
        count -= 1
    total[:] = np.int32(1 << (_BITS - 1))
    k = 0
    while k + 4 <= count:
        a, b, c, d = (
            source[first + k],
            source[first + k + 1],
            source[first + k + 2],
            source[first + k + 3],
        )
        wa, wb, wc, wd = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        for j in range(len(total)):
            total[j] += (
                wa * np.int32(a[j])
                + wb * np.int32(b[j])
                + wc * np.int32(c[j])
                + wd * np.int32(d[j])
            )
        k += 4
    while k < count:
        row, weight = source[first + k], weights[k]
        for j in range(len(total)):
            total[j] += weight * np.int32(row[j])
        k += 1
