"""The triangles of a PLY file."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import SourceError
from vggt_ros.export.mesh import Mesh
from vggt_ros.export.ply import Property, check_count, read_header, read_ply, skip_element


def read_mesh(path: str | Path) -> Mesh | None:
    """A mesh from a PLY file; None where it has no faces.

    Frame and unit come from the comments, as with `read_ply`.

    Raises:
        SourceError: missing or damaged file, or faces that are no triangles.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            order, elements, _ = read_header(file, path)
            triangles = None
            for name, count, properties in elements:
                if name == "face" and count:
                    triangles = _read_faces(file, path, order, count, properties)
                    break
                skip_element(file, path, order, count, properties)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if triangles is None:
        return None
    cloud = read_ply(path)
    if triangles.min() < 0 or triangles.max() >= len(cloud):
        raise SourceError(f"{path}: a face names a vertex that is not among the {len(cloud)}")
    return Mesh(
        cloud.points, triangles, cloud.colours, cloud.normals, cloud.frame, cloud.is_metric
    )


def _read_faces(
    file: IO[bytes], path: Path, order: str, count: int, properties: list[Property]
) -> NDArray[np.int32]:
    lists = [name for name, _, list_type in properties if list_type]
    if len(lists) != 1 or not properties[0][2]:
        raise SourceError(
            f"{path}: expected faces with one list, the vertices, first, got "
            f"{', '.join(name for name, _, _ in properties)}"
        )
    if not order:
        rows = [file.readline().split()[:4] for _ in range(count)]
        check_count(path, sum(bool(row) for row in rows), count)
        try:
            table = np.array(rows, np.int64)
        except ValueError as error:
            raise SourceError(f"{path}: expected triangles only: {error}") from error
        sizes, corners = table[:, 0], table[:, 1:]
    else:
        _, kind, list_type = properties[0]
        fields: list[tuple[str, str] | tuple[str, str, int]] = [("n", order + list_type)]
        fields.append(("corners", order + kind, 3))
        fields += [(name, order + type) for name, type, _ in properties[1:]]
        dtype = np.dtype(fields)
        data = file.read(count * dtype.itemsize)
        faces = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
        sizes, corners = faces["n"], faces["corners"]
        if (sizes == 3).all():
            check_count(path, len(faces), count)
    if not (sizes == 3).all():
        other = int(sizes[sizes != 3][0])
        raise SourceError(
            f"{path}: expected triangles only, got a face of {other} vertices; triangulate the "
            "mesh first"
        )
    return np.ascontiguousarray(corners, np.int32)
