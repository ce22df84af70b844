"""Loops behind `colmap`: records of a length that differs from point to point."""

from __future__ import annotations

import numpy as np
from numba import njit

HEAD = 51
"""Bytes of a point without its track: id, position, colour, error, length."""


@njit(cache=True, nogil=True)
def count_tracks(rows, start, lengths):
    """Add one to the length of each of `rows`, which count from `start`."""
    for row in rows:
        lengths[row - start] += 1


@njit(cache=True, nogil=True)
def fill_tracks(rows, start, image, first, cursors, elements):
    """Enter one image into the tracks of its points.

    Inputs:
        rows: points that the image sees; `start` is the first of the chunk.
        image: its id.
        first: number of the first of these points within the image.
        cursors: (n,) next free row of `elements` for each point; moved on.
        elements: (M, 2) int32, image and number of the point within it.
    """
    for i in range(len(rows)):
        point = rows[i] - start
        at = cursors[point]
        elements[at, 0] = image
        elements[at, 1] = first + i
        cursors[point] = at + 1


@njit(cache=True, nogil=True)
def interleave(heads, elements, lengths, out):
    """Write head and track of each point one after the other; all is bytes.

    Inputs:
        heads: (n, HEAD).
        elements: the tracks, 8 bytes for each of the `lengths`.
    """
    # Unsigned, because numba looks at each signed index whether it counts from the end: a fifth
    # of the time.
    at, element, none = np.uint64(0), np.uint64(0), np.uint64(0)
    one, size = np.uint64(1), np.uint64(HEAD)
    for i in range(len(heads)):
        b = none
        while b < size:
            out[at + b] = heads[i, b]
            b += one
        at += size
        for _ in range(lengths[i]):
            b = none
            while b < np.uint64(8):
                out[at + b] = elements[element + b]
                b += one
            at += np.uint64(8)
            element += np.uint64(8)


@njit(cache=True, nogil=True, error_model="numpy")
def project_points(points, rows, rotation, translation, intrinsics, first, out, ids):
    """Pixels and ids, (n, 3) float64 and the same memory as int64, of some points of a pinhole.

    Inputs:
        intrinsics: fx, fy, cx, cy, half pixels added as COLMAP wants them.
        first: id of the point in row 0.
    """
    fx, fy, cx, cy = intrinsics
    for i in range(len(rows)):
        row = rows[i]
        x, y = np.float64(points[row, 0]), np.float64(points[row, 1])
        z = np.float64(points[row, 2])
        u = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + translation[0]
        v = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + translation[1]
        w = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        out[i, 0] = fx * u / w + cx
        out[i, 1] = fy * v / w + cy
        ids[i, 2] = row + first
