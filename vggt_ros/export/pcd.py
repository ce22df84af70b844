"""PCD point clouds, version 0.7, as the Point Cloud Library reads and writes them.

Source of the format: pointclouds.org, "The PCD (Point Cloud Data) file format". Colour is one
float32 field `rgb` whose bits are 0x00RRGGBB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import SourceError
from vggt_ros.export.ply import cloud_from_columns, read_text_table
from vggt_ros.export.rows import Columns, cloud_columns, cloud_comments, write_table
from vggt_ros.types import PointCloud

_NORMALS = {"nx": "normal_x", "ny": "normal_y", "nz": "normal_z"}


def write_pcd(
    path: str | Path,
    cloud: PointCloud,
    *,
    ascii: bool = False,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> None:
    """Write a cloud, atomically; the same cloud gives the same bytes.

    Fields are `x y z rgb [normal_x normal_y normal_z] [confidence]`, all float32.

    Args:
        path: the file; its folder must exist.
        cloud: any number of points, also none.
        ascii: text instead of little-endian binary.
        comments: further header lines, after `frame <name>` and `unit m` or `unit unscaled`.
        progress: show a bar if it takes seconds.

    Raises:
        ExportError: the file cannot be written, or the arrays of the cloud do not fit together.
    """
    xyz, *rest = cloud_columns(cloud, tuple(_NORMALS.values()))
    rgb = Columns(("rgb",), "<f4", lambda rows: pack_rgb(*cloud.colours[rows].T))
    columns = [xyz, rgb, *(c for c in rest if c.type == "<f4")]
    names = [name for group in columns for name in group.names]
    header = ["# .PCD v0.7 - Point Cloud Data file format"]
    header += [f"# {text}" for text in (*cloud_comments(cloud), *comments)]
    header += [
        "VERSION 0.7",
        f"FIELDS {' '.join(names)}",
        f"SIZE {' '.join('4' for _ in names)}",
        f"TYPE {' '.join('F' for _ in names)}",
        f"COUNT {' '.join('1' for _ in names)}",
        f"WIDTH {len(cloud)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(cloud)}",
        f"DATA {'ascii' if ascii else 'binary'}",
    ]
    write_table(path, header, columns, len(cloud), ascii=ascii, progress=progress)


def pack_rgb(
    red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Three bytes in the bits of one float32, 0x00RRGGBB."""
    bits = red.astype(np.uint32) << 16 | green.astype(np.uint32) << 8 | blue.astype(np.uint32)
    return bits.view(np.float32)


def read_pcd(path: str | Path) -> PointCloud:
    """Read a PCD file with `DATA ascii` or `binary`.

    `frame` and `is_metric` come from the comments of `write_pcd`; a file without them has frame
    "" and is not called metric. A file without colours gives black points.

    Raises:
        SourceError: missing or damaged file, no x, y, z, or `DATA binary_compressed`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            header, comments = _read_header(file, path)
            columns = _read_columns(file, path, header)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    for name in ("rgb", "rgba"):
        if name in columns:
            packed = columns.pop(name)
            if packed.dtype == np.float32:
                bits = np.ascontiguousarray(packed).view(np.uint32)
            else:
                bits = packed.astype(np.uint32)
            for shift, colour in ((16, "red"), (8, "green"), (0, "blue")):
                columns[colour] = (bits >> shift & 255).astype(np.uint8)
    for ours, theirs in _NORMALS.items():
        if theirs in columns:
            columns[ours] = columns.pop(theirs)
    return cloud_from_columns(columns, path, comments)


def _read_header(file: IO[bytes], path: Path) -> tuple[dict[str, list[str]], list[str]]:
    header: dict[str, list[str]] = {}
    comments: list[str] = []
    for _ in range(1000):
        line = file.readline(4096).decode("utf-8", "replace")
        if not line:
            break
        words = line.split()
        if line.startswith("#"):
            comments.append(line[1:].strip())
        elif words:
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                return header, comments
    raise SourceError(f"{path}: is not a PCD file: the header has no 'DATA' line")


def _read_columns(
    file: IO[bytes], path: Path, header: dict[str, list[str]]
) -> dict[str, NDArray[Any]]:
    names: list[str] = []
    kinds: list[str] = []
    try:
        fields = header["FIELDS"]
        counts = header.get("COUNT", ["1"] * len(fields))
        for name, size, kind, count in zip(
            fields, header["SIZE"], header["TYPE"], counts, strict=True
        ):
            for i in range(int(count)):  # padding is called "_", possibly several times
                names.append(name if int(count) == 1 and name != "_" else f"_{len(names)}_{i}")
                kinds.append(f"<{kind.lower()}{int(size)}")
        dtype = np.dtype(list(zip(names, kinds, strict=True)))
        points = int(header["POINTS"][0])
        data = header["DATA"][0].lower()
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: the PCD header is damaged: {error}") from error
    if data == "ascii":
        table = read_text_table(file, path, points, len(names))
        return {
            n: table[:, i].astype(k) for i, (n, k) in enumerate(zip(names, kinds, strict=True))
        }
    if data != "binary":
        raise SourceError(
            f"{path}: expected DATA ascii or binary, got {data}; convert it with "
            "pcl_convert_pcd_ascii_binary IN OUT 1"
        )
    content = file.read(points * dtype.itemsize)
    if len(content) < points * dtype.itemsize:
        got = len(content) // dtype.itemsize
        raise SourceError(f"{path}: is cut off: expected {points} points, got {got}")
    rows = np.frombuffer(content, dtype, points)
    return {name: rows[name] for name in names}
