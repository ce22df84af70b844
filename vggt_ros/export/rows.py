"""Clouds and other tables as rows of a file, a chunk at a time.

PLY, PCD, 3-D Gaussians and meshes are all a header and then packed rows; they differ in the
header and in the columns. Fifty million points are written without a second copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ExportError
from vggt_ros.export.files import atomic_write
from vggt_ros.types import PointCloud

CHUNK = 1 << 14
"""Rows that are packed at a time: half a megabyte, which stays in the cache (measured: packing
5 million points takes 45 ms, 80 ms with chunks of 4 MB)."""

BAR_DELAY_S = 2.0
"""Progress is shown only for what takes longer."""


@dataclass(frozen=True)
class Columns:
    """Columns of one type that stand side by side in each row."""

    names: tuple[str, ...]
    type: str
    """"<f4" or "u1"."""
    values: Callable[[slice], NDArray[Any]]
    """The values of some rows, (n, len(names)) or (n,)."""


def chunks(count: int, what: str, progress: bool, size: int = 0) -> Iterator[slice]:
    """Slices that cover `count` rows in order; a bar is drawn if it takes seconds.

    Args:
        what: name of the bar.
        progress: whether bars are wanted; they are drawn on terminals only.
        size: rows of a slice; 0: `CHUNK`.
    """
    size = size or CHUNK
    starts: Any = range(0, count, size)
    if progress and count > size:
        from tqdm import tqdm

        starts = tqdm(starts, desc=what, unit="chunk", delay=BAR_DELAY_S, disable=None)
    for start in starts:
        yield slice(start, min(start + size, count))


def cloud_comments(cloud: PointCloud) -> tuple[str, str]:
    """Header comments that say frame and unit."""
    return f"frame {cloud.frame}", f"unit {'m' if cloud.is_metric else 'unscaled'}"


def check_cloud(cloud: PointCloud) -> None:
    """Refuse clouds that no format can hold.

    Raises:
        ExportError: the arrays of the cloud do not fit together.
    """
    count = len(cloud.points)
    expected: list[tuple[str, NDArray[Any] | None, tuple[int, ...]]] = [
        ("points", cloud.points, (count, 3)),
        ("colours", cloud.colours, (count, 3)),
        ("normals", cloud.normals, (count, 3)),
        ("confidence", cloud.confidence, (count,)),
    ]
    for name, array, shape in expected:
        if array is not None and array.shape != shape:
            raise ExportError(f"cloud: expected {name} of shape {shape}, got {array.shape}")
    if cloud.colours.dtype != np.uint8:
        raise ExportError(f"cloud: expected colours as uint8, got {cloud.colours.dtype}")


def check_finite(path: str | Path, points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest coordinates (3,) of points (N, 3), N >= 1.

    Raises:
        ExportError: a coordinate is NaN or infinite.
    """
    # both are NaN if any is; along the columns it takes ten times as long
    low = np.array([column.min() for column in points.T])
    high = np.array([column.max() for column in points.T])
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ExportError(
            f"cannot write {path}: expected finite coordinates, got {points[row].tolist()} at "
            f"point {row}; this format has no way to say unknown: leave such points out"
        )
    return low, high


def array_columns(names: Sequence[str], array: NDArray[Any], type: str = "<f4") -> Columns:
    """Columns of an array (N, len(names)) or (N,)."""
    return Columns(tuple(names), type, lambda rows: array[rows])


def cloud_columns(cloud: PointCloud, normals: Sequence[str] = ("nx", "ny", "nz")) -> list[Columns]:
    """Columns x y z [normals] red green blue [confidence].

    Raises:
        ExportError: the arrays of the cloud do not fit together.
    """
    check_cloud(cloud)
    columns = [array_columns("xyz", cloud.points)]
    if cloud.normals is not None:
        columns.append(array_columns(normals, cloud.normals))
    columns.append(array_columns(("red", "green", "blue"), cloud.colours, "u1"))
    if cloud.confidence is not None:
        columns.append(array_columns(("confidence",), cloud.confidence))
    return columns


def write_table(
    path: str | Path,
    header: Sequence[str],
    columns: Sequence[Columns],
    count: int,
    *,
    ascii: bool = False,
    progress: bool = False,
) -> None:
    """Write header lines and rows, atomically.

    Raises:
        ExportError: the file cannot be written, or a header line is not one line.
    """
    with atomic_write(path) as file:
        write_header(file, path, header)
        write_rows(file, columns, count, ascii=ascii, what=Path(path).name, progress=progress)


def write_header(file: IO[bytes], path: str | Path, lines: Sequence[str]) -> None:
    """Write lines of text; what is not ASCII is escaped.

    Raises:
        ExportError: a line has a line break or another control character in it.
    """
    for line in lines:
        if not line.isprintable():
            raise ExportError(f"cannot write {path}: a comment must be one line, got {line!r}")
    file.write(("\n".join(lines) + "\n").encode("ascii", "backslashreplace"))


def write_rows(
    file: IO[bytes],
    columns: Sequence[Columns],
    count: int,
    *,
    ascii: bool = False,
    what: str = "",
    progress: bool = False,
) -> None:
    """Write packed rows, little-endian or one line of text each."""
    named = np.dtype([(name, group.type) for group in columns for name in group.names])
    # One copy for a group of columns: as a number per column it takes twice as long.
    types = [np.dtype(group.type) for group in columns]
    whole = [f"V{type.itemsize * len(g.names)}" for type, g in zip(types, columns, strict=True)]
    buffer = np.empty(min(CHUNK, count), np.dtype([(str(i), v) for i, v in enumerate(whole)]))
    for part in chunks(count, what, progress):
        rows = buffer[: part.stop - part.start]
        for i, group in enumerate(columns):
            values = np.ascontiguousarray(group.values(part), types[i])
            rows[str(i)] = values.reshape(len(rows), -1).view(whole[i])[:, 0]
        if ascii:
            _write_rows_as_text(file, rows.view(named))
        else:
            file.write(rows.data)


def _write_rows_as_text(file: IO[bytes], rows: NDArray[Any]) -> None:
    """One line per row; nine digits give a float32 back exactly."""
    columns = [rows[name].tolist() for name in rows.dtype.names or ()]
    formats = ["%d" if rows.dtype[i].kind in "iu" else "%.9g" for i in range(len(columns))]
    line = " ".join(formats) + "\n"
    file.write("".join(line % row for row in zip(*columns, strict=True)).encode())
