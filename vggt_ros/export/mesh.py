"""Triangle meshes as PLY, OBJ and GLB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ExportError, nearest
from vggt_ros.export.files import atomic_write
from vggt_ros.export.glb import Primitive
from vggt_ros.export.ply import column_properties, ply_header
from vggt_ros.export.rows import (
    Columns,
    array_columns,
    check_cloud,
    chunks,
    cloud_columns,
    cloud_comments,
    write_header,
    write_rows,
)
from vggt_ros.types import Float32, Image, PointCloud


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles (T, 3), rows of `vertices` (V, 3) in `frame`, counter-clockwise from outside."""

    vertices: Float32
    triangles: NDArray[Any]
    colours: Image | None = None
    """(V, 3), RGB."""
    normals: Float32 | None = None
    """(V, 3), of length 1."""
    frame: str = "map"
    is_metric: bool = True

    def __len__(self) -> int:
        return len(self.triangles)


def write_mesh_ply(
    path: str | Path,
    mesh: Mesh,
    *,
    ascii: bool = False,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> None:
    """Write vertices and faces, atomically; the unit stands in the header as in `write_ply`.

    Raises:
        ExportError: the file cannot be written, or the arrays of the mesh do not fit together.
    """
    cloud = _vertices(mesh)
    columns = cloud_columns(cloud)
    if mesh.colours is None:
        columns = [c for c in columns if "red" not in c.names]
    three = Columns(("n",), "u1", lambda rows: np.full(rows.stop - rows.start, 3, np.uint8))
    corners = array_columns("abc", mesh.triangles, "<i4")
    header = ply_header(
        [
            ("vertex", len(cloud), column_properties(columns)),
            ("face", len(mesh), ["list uchar int vertex_indices"]),
        ],
        [*cloud_comments(cloud), *comments],
        ascii,
    )
    with atomic_write(path) as file:
        write_header(file, path, header)
        name = Path(path).name
        write_rows(file, columns, len(cloud), ascii=ascii, what=name, progress=progress)
        write_rows(file, [three, corners], len(mesh), ascii=ascii, what=name, progress=progress)


def write_mesh_obj(
    path: str | Path, mesh: Mesh, *, comments: Sequence[str] = (), progress: bool = False
) -> None:
    """Write a Wavefront OBJ, atomically: `v x y z [r g b]`, colours from 0 to 1, `vn`, `f`.

    Raises:
        ExportError: the file cannot be written, or the arrays of the mesh do not fit together.
    """
    cloud = _vertices(mesh)
    values: list[NDArray[Any]] = [mesh.vertices]
    if mesh.colours is not None:
        values.append(mesh.colours)
    with atomic_write(path) as file:
        write_header(file, path, [f"# {text}" for text in (*cloud_comments(cloud), *comments)])

        def lines(count: int, line: str, rows: Callable[[slice], list[Any]]) -> None:
            _write_lines(file, count, line, rows, Path(path).name, progress)

        def vertex_rows(part: slice) -> list[Any]:
            return np.concatenate([_unit_colours(array[part]) for array in values], 1).tolist()

        lines(len(cloud), "v " + " ".join(["%.9g"] * 3 * len(values)) + "\n", vertex_rows)
        face = "f %d %d %d\n"
        if mesh.normals is not None:
            normals = mesh.normals
            lines(len(cloud), "vn %.9g %.9g %.9g\n", lambda part: normals[part].tolist())
            face = "f %d//%d %d//%d %d//%d\n"
        repeat = 1 if mesh.normals is None else 2

        def corners(part: slice) -> list[Any]:
            return np.repeat(mesh.triangles[part].astype(np.int64) + 1, repeat, 1).tolist()

        lines(len(mesh), face, corners)


def mesh_primitive(mesh: Mesh) -> Primitive:
    """The mesh for `write_glb`.

    Raises:
        ExportError: the arrays of the mesh do not fit together.
    """
    _vertices(mesh)
    return Primitive("mesh", mesh.vertices, mesh.colours, mesh.triangles, mesh.normals)


MESH_FORMATS = ("ply", "obj", "glb")


def write_mesh(
    path: str | Path,
    mesh: Mesh,
    format: str = "",
    *,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> None:
    """Write a mesh as one of `MESH_FORMATS`, by name or by the suffix of the path.

    PLY and OBJ keep the axes of the map (z up); GLB is turned to y up.

    Raises:
        ExportError: unknown format, empty mesh, or the file cannot be written.
    """
    from vggt_ros.export.glb_scene import write_scene_glb

    name = (format or Path(path).suffix[1:]).lower()
    if name not in MESH_FORMATS:
        raise ExportError(
            f"mesh: expected a format of {', '.join(MESH_FORMATS)}, got '{name}'"
            f"{nearest(name, MESH_FORMATS)}"
        )
    if not len(mesh):
        raise ExportError(f"export to {path}: the mesh has no triangles; nothing was written")
    if name == "ply":
        write_mesh_ply(path, mesh, comments=comments, progress=progress)
    elif name == "obj":
        write_mesh_obj(path, mesh, comments=comments, progress=progress)
    else:
        none = PointCloud(
            np.empty((0, 3), np.float32),
            np.empty((0, 3), np.uint8),
            frame=mesh.frame,
            is_metric=mesh.is_metric,
        )
        write_scene_glb(path, none, {}, mesh=mesh, comments=comments, progress=progress)


def _vertices(mesh: Mesh) -> PointCloud:
    """The vertices as a cloud, after all checks."""
    colours = mesh.colours
    if colours is None:
        colours = np.broadcast_to(np.uint8(0), mesh.vertices.shape)
    cloud = PointCloud(mesh.vertices, colours, mesh.normals, None, mesh.frame, mesh.is_metric)
    check_cloud(cloud)
    triangles = mesh.triangles
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise ExportError(
            f"mesh: expected triangles (T, 3) of whole numbers, got {triangles.shape} of "
            f"{triangles.dtype}"
        )
    if len(triangles) and not (triangles.min() >= 0 and triangles.max() < len(cloud)):
        raise ExportError(
            f"mesh: expected rows of the {len(cloud)} vertices in triangles, got "
            f"{triangles.min()} to {triangles.max()}"
        )
    return cloud


def _unit_colours(array: NDArray[Any]) -> NDArray[np.float64]:
    return array / 255.0 if array.dtype == np.uint8 else array.astype(np.float64)


def _write_lines(
    file: IO[bytes],
    count: int,
    line: str,
    rows: Callable[[slice], list[Any]],
    what: str,
    progress: bool,
) -> None:
    for part in chunks(count, what, progress):
        file.write("".join([line % tuple(row) for row in rows(part)]).encode())
