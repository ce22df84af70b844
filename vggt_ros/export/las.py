"""LAS 1.4 and LAZ point clouds, through laspy.

Source of the format: ASPRS, "LAS Specification 1.4 - R15", point format 7. Coordinates are whole
multiples of a step from an offset; colours have sixteen bits (257 times the eight of the image,
so that 255 is full); normals and confidence are extra dimensions. Frame, unit and scale stand in
a text record (`LASF_Spec`, 3), for LAS itself has no place to say that a cloud is not in metres.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from vggt_ros.errors import ExportError
from vggt_ros.export.files import atomic_write
from vggt_ros.export.rows import check_cloud, check_finite, chunks, cloud_comments
from vggt_ros.types import Float64, PointCloud

FINEST, COARSEST = 1e-6, 1e-5
"""Steps of the coordinates: half of one is the error."""

_REACH = 2.0**31 - 2
"""Steps to either side of the offset."""

_CHUNK = 1 << 16


def write_las(
    path: str | Path,
    cloud: PointCloud,
    *,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> None:
    """Write a cloud, atomically; the suffix `.laz` compresses.

    Args:
        path: the file; its folder must exist.
        cloud: at least one point.
        comments: further lines of the text record.
        progress: show a bar if it takes seconds.

    Raises:
        ExportError: laspy is not installed, the cloud is more than 40 km wide, a point is not
            finite, or the file cannot be written.
    """
    laspy = _import_laspy(path)
    check_cloud(cloud)
    if len(cloud) == 0:
        raise ExportError(f"cannot write {path}: expected at least one point, got none")
    low, high = check_finite(path, cloud.points)
    offset, step = offset_and_step(path, low.astype(np.float64), high.astype(np.float64))
    header = laspy.LasHeader(version="1.4", point_format=7)
    header.offsets, header.scales = offset, np.full(3, step)
    header.generating_software = "vggt_ros"
    extra = [("NormalX", 0), ("NormalY", 1), ("NormalZ", 2)] if cloud.normals is not None else []
    names = [name for name, _ in extra]
    if cloud.confidence is not None:
        names.append("confidence")
    header.add_extra_dims([laspy.ExtraBytesParams(name, "float32") for name in names])
    text = "\n".join([*cloud_comments(cloud), *comments]).encode()
    header.vlrs.append(laspy.VLR("LASF_Spec", 3, "frame, unit and scale", text))
    try:
        with (
            atomic_write(path) as file,
            _watched(file) as stream,
            laspy.open(
                stream, mode="w", header=header, closefd=False, do_compress=_is_laz(path)
            ) as writer,
        ):
            for part in chunks(len(cloud), Path(path).name, progress, _CHUNK):
                record = laspy.ScaleAwarePointRecord.zeros(part.stop - part.start, header=header)
                steps = np.rint((cloud.points[part].astype(np.float64) - offset) / step)
                record.X, record.Y, record.Z = steps.astype(np.int32).T
                colours = cloud.colours[part].astype(np.uint16) * 257
                record.red, record.green, record.blue = colours.T
                for name, axis in extra:
                    assert cloud.normals is not None
                    record[name] = cloud.normals[part, axis]
                if cloud.confidence is not None:
                    record["confidence"] = cloud.confidence[part]
                writer.write_points(record)
    except laspy.errors.LaspyException as error:
        raise ExportError(
            f"cannot write {path}: {error}; LAZ needs a compressor: pip install 'laspy[lazrs]'"
        ) from error


def offset_and_step(path: str | Path, low: Float64, high: Float64) -> tuple[Float64, float]:
    """Offset (3,) and step of the coordinates for a cloud between two corners.

    Raises:
        ExportError: no step within `COARSEST` spans the cloud.
    """
    offset = np.floor((low + high) / 2)
    reach = float(np.maximum(high - offset, offset - low).max())
    step = max(FINEST, 10.0 ** math.ceil(math.log10(max(reach, 1e-300) / _REACH)))
    if step > COARSEST * 1.001:
        widest_km = 2 * _REACH * COARSEST / 1000
        raise ExportError(
            f"cannot write {path}: expected a cloud less than {widest_km:.0f} km wide, which LAS "
            f"can hold to {COARSEST:g}, got {2 * reach / 1000:.0f} km; cut far points away (a "
            "box) or write PLY"
        )
    return offset, step


def _is_laz(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".laz"


class _Stream:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def _watched(file: IO[bytes]) -> Iterator[_Stream]:
    """A stream for lazrs, whose errors do not tell what the file system said."""
    stream = _Stream(file)
    try:
        yield stream
    except Exception as error:
        if stream.failure is None:
            raise
        raise stream.failure from error


def _import_laspy(path: str | Path) -> Any:
    try:
        import laspy
    except ImportError as error:
        raise ExportError(
            f"cannot write {path}: expected laspy, which is not installed: "
            "pip install 'laspy[lazrs]'"
        ) from error
    return laspy
