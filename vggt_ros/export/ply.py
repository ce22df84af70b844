"""PLY point clouds (Turk, "The PLY polygon file format", 1994).

Written: little-endian `x y z [nx ny nz] red green blue [confidence]`, float32 and uchar, with
comments that name frame and unit. Read: any order and type of properties, ascii and both byte
orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import SourceError
from vggt_ros.export.rows import Columns, cloud_columns, cloud_comments, write_table
from vggt_ros.types import PointCloud

_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_PLY_NAMES = {"<f4": "float", "u1": "uchar"}
_BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_COLOUR_NAMES = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
_CONFIDENCE_NAMES = ("confidence", "conf", "quality")
_MAX_HEADER_LINES = 10_000


def write_ply(
    path: str | Path,
    cloud: PointCloud,
    *,
    ascii: bool = False,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> None:
    """Write a cloud, atomically; the same cloud gives the same bytes.

    Args:
        path: the file; its folder must exist.
        cloud: any number of points, also none.
        ascii: text instead of little-endian binary.
        comments: further header lines, after `frame <name>` and `unit m` or `unit unscaled`.
        progress: show a bar if it takes seconds.

    Raises:
        ExportError: the file cannot be written, or the arrays of the cloud do not fit together.
    """
    columns = cloud_columns(cloud)
    header = ply_header(
        [("vertex", len(cloud), column_properties(columns))],
        [*cloud_comments(cloud), *comments],
        ascii,
    )
    write_table(path, header, columns, len(cloud), ascii=ascii, progress=progress)


def ply_header(
    elements: Sequence[tuple[str, int, Sequence[str]]], comments: Sequence[str], ascii: bool
) -> list[str]:
    """Header lines of a PLY file.

    Args:
        elements: name, count, and what follows "property " in each of its lines.
    """
    lines = ["ply", f"format {'ascii' if ascii else 'binary_little_endian'} 1.0"]
    lines += [f"comment {text}" for text in comments]
    for name, count, properties in elements:
        lines.append(f"element {name} {count}")
        lines += [f"property {text}" for text in properties]
    return [*lines, "end_header"]


def column_properties(columns: Sequence[Columns]) -> list[str]:
    """Type and name of each column, as in a PLY header."""
    return [f"{_PLY_NAMES[c.type]} {name}" for c in columns for name in c.names]


def read_ply(path: str | Path) -> PointCloud:
    """Read the vertices of a PLY file.

    Integer colours are reduced to eight bits, float colours are taken for [0, 1]; a file
    without colours gives black points. `frame` and `is_metric` come from the comments of
    `write_ply`; a file without them has frame "" and is not called metric.

    Raises:
        SourceError: missing or damaged file, or no vertices with x, y, z.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            order, elements, comments = read_header(file, path)
            rows = _read_vertices(file, path, order, elements)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    return cloud_from_columns(rows, path, comments)


Property = tuple[str, str, str]
"""Name, type, and the type of the count where it is a list (else "")."""


def read_header(
    file: IO[bytes], path: Path
) -> tuple[str, list[tuple[str, int, list[Property]]], list[str]]:
    """Byte order ("" for ascii), elements (name, count, properties) in order, and comments.

    Raises:
        SourceError: no PLY header.
    """
    if file.readline(16).strip() != b"ply":
        raise SourceError(f"{path}: is not a PLY file: the first line is not 'ply'")
    order: str | None = None
    elements: list[tuple[str, int, list[Property]]] = []
    comments: list[str] = []
    for _ in range(_MAX_HEADER_LINES):
        line = file.readline(4096).decode("utf-8", "replace").strip()
        words = line.split()
        try:
            if line == "end_header":
                if order is None:
                    raise SourceError(f"{path}: the PLY header has no 'format' line")
                return order, elements, comments
            if not words:
                raise SourceError(f"{path}: the PLY header ends before 'end_header'")
            if words[0] in ("comment", "obj_info"):
                comments.append(line[len(words[0]) :].strip())
            elif words[0] == "format":
                order = _BYTE_ORDERS[words[1]]
            elif words[0] == "element":
                elements.append((words[1], int(words[2]), []))
            elif words[0] == "property" and words[1] == "list":
                elements[-1][2].append((words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                elements[-1][2].append((words[2], _TYPES[words[1]], ""))
            else:
                raise KeyError(words[0])
        except (KeyError, IndexError, ValueError) as error:
            raise SourceError(f"{path}: PLY header line not understood: {line!r}") from error
    raise SourceError(f"{path}: the PLY header has more than {_MAX_HEADER_LINES} lines")


def _read_vertices(
    file: IO[bytes], path: Path, order: str, elements: list[tuple[str, int, list[Property]]]
) -> dict[str, NDArray[Any]]:
    for name, count, properties in elements:
        if name != "vertex":
            skip_element(file, path, order, count, properties)
            continue
        if any(list_type for _, _, list_type in properties):
            raise SourceError(f"{path}: lists among the vertex properties are not supported")
        dtype = np.dtype([(key, order + kind) for key, kind, _ in properties])
        if order:
            data = file.read(count * dtype.itemsize)
            check_count(path, len(data) // dtype.itemsize, count)
            rows = np.frombuffer(data, dtype, count)
            return {key: rows[key] for key in dtype.names or ()}
        table = read_text_table(file, path, count, len(properties))
        return {key: table[:, i].astype(kind) for i, (key, kind, _) in enumerate(properties)}
    raise SourceError(f"{path}: the PLY file has no 'vertex' element")


def read_text_table(file: IO[bytes], path: Path, rows: int, columns: int) -> NDArray[np.float64]:
    """The next lines of an ascii file as float64 (rows, columns).

    Raises:
        SourceError: fewer rows, another number of columns, or no numbers.
    """
    if rows == 0:
        return np.empty((0, columns))
    try:
        table = np.loadtxt(file, np.float64, comments=None, ndmin=2, max_rows=rows)
    except ValueError as error:
        raise SourceError(f"{path}: a line of numbers is damaged: {error}") from error
    check_count(path, len(table), rows)
    if table.shape[1] != columns:
        raise SourceError(f"{path}: expected {columns} numbers a line, got {table.shape[1]}")
    return table


def check_count(path: Path, got: int, expected: int) -> None:
    """Raises SourceError if a file has fewer rows than it says."""
    if got < expected:
        raise SourceError(f"{path}: is cut off: expected {expected} points, got {got}")


def skip_element(
    file: IO[bytes], path: Path, order: str, count: int, properties: list[Property]
) -> None:
    """Read past an element.

    Raises:
        SourceError: the file ends.
    """
    if not order:
        for _ in range(count):
            file.readline()
        return
    if not any(list_type for _, _, list_type in properties):
        row = sum(np.dtype(kind).itemsize for _, kind, _ in properties)
        file.seek(count * row, 1)
        return
    for _ in range(count):
        for _, kind, list_type in properties:
            length = 1
            if list_type:
                size = np.dtype(list_type)
                data = file.read(size.itemsize)
                if len(data) < size.itemsize:
                    raise SourceError(f"{path}: is cut off before the vertices")
                length = int(np.frombuffer(data, order + list_type)[0])
            file.seek(length * np.dtype(kind).itemsize, 1)


def cloud_from_columns(
    columns: dict[str, NDArray[Any]], path: Path, comments: Sequence[str]
) -> PointCloud:
    """A cloud from named columns of any type; `comments` are those of the header.

    Raises:
        SourceError: x, y or z is missing.
    """
    for name in "xyz":
        if name not in columns:
            raise SourceError(f"{path}: expected properties x, y, z, got {', '.join(columns)}")
    points = _stack(columns, ("x", "y", "z"))
    colours = np.zeros((len(points), 3), np.uint8)
    for names in _COLOUR_NAMES:
        if all(name in columns for name in names):
            colours = np.stack([_eight_bits(columns[name]) for name in names], axis=1)
            break
    normals = None
    if all(name in columns for name in ("nx", "ny", "nz")):
        normals = _stack(columns, ("nx", "ny", "nz"))
    confidence = None
    for name in _CONFIDENCE_NAMES:
        if name in columns:
            confidence = columns[name].astype(np.float32)
            break
    said = {key: value for key, _, value in (text.partition(" ") for text in reversed(comments))}
    return PointCloud(
        points, colours, normals, confidence, said.get("frame", ""), said.get("unit") == "m"
    )


def _stack(columns: dict[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[np.float32]:
    out = np.empty((len(columns[names[0]]), len(names)), np.float32)
    for i, name in enumerate(names):
        out[:, i] = columns[name]
    return out


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return np.asarray(values // 257, np.uint8)
    if values.dtype.kind == "f":
        values = values * 255.0
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
