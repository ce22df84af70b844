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
    empty = np.empty((0, 3), np.float32)
    _pack(
        words.reshape(n, point_step(normals) // 4),
        np.ascontiguousarray(cloud.points, np.float32).view(np.uint32),
        np.ascontiguousarray(cloud.colours, np.uint8),
        empty[:, 0] if cloud.confidence is None else _float32(cloud.confidence),
        empty if cloud.normals is None else _float32(cloud.normals),
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
def _pack(words, points, colours, confidence, normals, with_normals):
    """Write the rows of `words` (N, 5 or 8) uint32; empty arrays stand for what is missing."""
    one, nothing = np.uint32(0x3F800000), np.uint32(0x7FC00000)
    confidence_bits, normal_bits = confidence.view(np.uint32), normals.view(np.uint32)
    has_confidence, has_normals = confidence.size > 0, normals.size > 0
    for i in range(len(words)):
        row, point, colour = words[i], points[i], colours[i]
        row[0] = point[0]
        row[1] = point[1]
        row[2] = point[2]
        row[3] = (
            (np.uint32(colour[0]) << np.uint32(16))
            | (np.uint32(colour[1]) << np.uint32(8))
            | np.uint32(colour[2])
        )
        row[4] = confidence_bits[i] if has_confidence else one
        if with_normals:
            for k in range(3):
                row[5 + k] = normal_bits[i, k] if has_normals else nothing
