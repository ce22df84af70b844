"""Antialiased bicubic resizing of 8-bit images, bit for bit as Pillow does it.

That is, rows first, and rounded in between; Pillow 13 does columns first for some shapes. VGGT
was trained on images that Pillow resized. OpenCV's bicubic has another kernel and does not smooth
before it shrinks.
"""

from __future__ import annotations

import functools
import math

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from vggt_ros.types import Image

_SUPPORT = 2.0
"""Half width of the cubic kernel [source pixels, or target pixels when shrinking]."""
_A = -0.5
"""Slope of the kernel at 1 (Catmull-Rom; Keys, 1981)."""
_BITS = 22
"""Fraction of the fixed-point weights: 32 bits less 8 of the pixel and 2 against overflow."""


def resize_bicubic(image: Image, width: int, height: int) -> Image:
    """Resize (H, W, 3) uint8 to planes (3, height, width), as `PIL.Image.resize` with BICUBIC."""
    columns = _weights(image.shape[1], width)
    rows = _weights(image.shape[0], height)
    resized = np.empty((3, height, width), np.uint8)
    narrow = np.empty((width, image.shape[0]), np.uint8)
    for plane, out in zip(cv2.split(image), resized, strict=True):
        # Pillow goes along the rows first. Transposed, both passes add up whole rows.
        _resample_rows(cv2.transpose(plane), *columns, narrow)
        _resample_rows(cv2.transpose(narrow), *rows, out)
    return resized


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
def _resample_rows(source, firsts, weights, out):
    """Each row of `out` (n, m) is a weighted sum of rows of `source` (k, m), rounded to uint8."""
    columns = source.shape[1]
    total = np.empty(columns, np.int32)
    for i in range(len(firsts)):
        total[:] = np.int32(1 << (_BITS - 1))
        for k in range(weights.shape[1]):
            weight = weights[i, k]
            if weight == 0:
                continue
            row = source[firsts[i] + k]
            for j in range(columns):
                total[j] += weight * np.int32(row[j])
        target = out[i]
        for j in range(columns):
            target[j] = min(max(total[j] >> _BITS, 0), 255)
