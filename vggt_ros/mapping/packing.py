"""Packing a cloud into the bytes of a PointCloud2, in one pass and without temporary copies.

Little endian, fields without gaps: x y z (float32, metres in the cloud's frame), rgb (float32
whose bits are 0x00RRGGBB, as RViz and PCL read it), confidence (float32, 0 to 1) and, if wanted,
normal_x normal_y normal_z (float32).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vggt_ros.types import PointCloud

FLOAT32 = 7
"""sensor_msgs/PointField.FLOAT32."""

FIELDS = ("x", "y", "z", "rgb", "confidence")
NORMAL_FIELDS = ("normal_x", "normal_y", "normal_z")


def point_fields(normals: bool) -> tuple[tuple[str, int, int], ...]:
    """(name, byte offset, datatype) of each field, for sensor_msgs/PointField with count 1."""
    names = FIELDS + NORMAL_FIELDS if normals else FIELDS
    return tuple((name, 4 * i, FLOAT32) for i, name in enumerate(names))


def point_step(normals: bool) -> int:
    """Bytes of one point."""
    return 4 * len(point_fields(normals))


def pack_xyzrgb(
    cloud: PointCloud, out: NDArray[np.uint8] | None = None, normals: bool = False
) -> NDArray[np.uint8]:
    """The data of a PointCloud2 with the fields of `point_fields`.

    Args:
        cloud: a missing confidence is written as 1, missing normals as NaN.
        out: one-dimensional buffer that is reused if it is large enough; its contents are lost.
        normals: also write the normals.

    Returns:
        (len(cloud) * point_step(normals),) uint8: a view of `out` if that was used.

    Raises:
        ValueError: arrays of the cloud whose shapes do not agree, or an `out` that is not a
            contiguous, writeable uint8 vector.
    """
    n = len(cloud)
    size = n * point_step(normals)
    _check(cloud)
    if out is None or out.size < size:
        out = np.empty(size, np.uint8)
    elif out.dtype != np.uint8 or out.ndim != 1 or not out.flags.c_contiguous:
        raise ValueError(
            f"packing: expected out to be a contiguous uint8 vector, got {out.dtype} {out.shape}"
        )
    elif not out.flags.writeable:
        raise ValueError("packing: expected a writeable out")
    data = out[:size]
    # An odd start of a caller's buffer is fine for x86 and ARM but not for a float32 view.
    words = data.view(np.uint32) if data.ctypes.data % 4 == 0 else np.empty(size // 4, np.uint32)
    empty = np.empty(0, np.float32)
    _pack(
        words,
        np.ascontiguousarray(cloud.points, np.float32).reshape(-1).view(np.uint32),
        np.ascontiguousarray(cloud.colours, np.uint8).reshape(-1),
        (empty if cloud.confidence is None else _float32(cloud.confidence)).view(np.uint32),
        (empty if cloud.normals is None else _float32(cloud.normals).reshape(-1)).view(np.uint32),
        n,
        normals,
    )
    if words.base is None:
        data[:] = words.view(np.uint8)
    return data


def _float32(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)


def _check(cloud: PointCloud) -> None:
    n = len(cloud)
    for name, array, shape in (
        ("points", cloud.points, (n, 3)),
        ("colours", cloud.colours, (n, 3)),
        ("normals", cloud.normals, (n, 3)),
        ("confidence", cloud.confidence, (n,)),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"packing: expected {name} of shape {shape}, got {array.shape}")


@njit(cache=True, nogil=True)
def _pack(words, points, colours, confidence, normals, count, with_normals):
    """Write `count` points; empty arrays stand for what is missing.

    All arrays are flat, the floats as their bits: addresses that are plain multiples of the
    index are what lets this run at the speed of memory, three times that of rows of matrices.
    """
    one, nothing = np.uint32(0x3F800000), np.uint32(0x7FC00000)
    has_confidence, has_normals = confidence.size > 0, normals.size > 0
    step = 8 if with_normals else 5
    if has_confidence and not with_normals:  # the usual case, without a branch
        for i in range(count):
            to, of = 5 * i, 3 * i
            words[to] = points[of]
            words[to + 1] = points[of + 1]
            words[to + 2] = points[of + 2]
            words[to + 3] = (
                (np.uint32(colours[of]) << np.uint32(16))
                | (np.uint32(colours[of + 1]) << np.uint32(8))
                | np.uint32(colours[of + 2])
            )
            words[to + 4] = confidence[i]
        return
    for i in range(count):
        to, of = step * i, 3 * i
        words[to] = points[of]
        words[to + 1] = points[of + 1]
        words[to + 2] = points[of + 2]
        words[to + 3] = (
            (np.uint32(colours[of]) << np.uint32(16))
            | (np.uint32(colours[of + 1]) << np.uint32(8))
            | np.uint32(colours[of + 2])
        )
        words[to + 4] = confidence[i] if has_confidence else one
        if with_normals:
            for k in range(3):
                words[to + 5 + k] = normals[of + k] if has_normals else nothing
