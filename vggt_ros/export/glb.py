"""Binary glTF 2.0: points and triangles with colours, streamed.

Source of the format: Khronos, "glTF 2.0 Specification" (ISO/IEC 12113). Positions and normals are
float32, colours four bytes (the bytes of the image as they are, alpha 255), indices uint32. The
coordinates of a primitive stay as they are; the node that holds the scene turns them to glTF's
axes (x right, y up, z towards the viewer).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.errors import ExportError
from vggt_ros.export.files import atomic_write
from vggt_ros.export.rows import check_finite, chunks

_FLOAT, _UBYTE, _UINT = 5126, 5121, 5125
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_POINTS, _TRIANGLES = 0, 4
_LARGEST = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Primitive:
    """One mesh of a glTF scene: points, or triangles where `triangles` is given."""

    name: str
    positions: NDArray[np.float32]
    """(N, 3), N >= 1, in the frame of the scene."""
    colours: NDArray[np.uint8] | None = None
    """(N, 3), RGB."""
    triangles: NDArray[Any] | None = None
    """(T, 3), rows of `positions`."""
    normals: NDArray[np.float32] | None = None
    """(N, 3), of length 1."""


def write_glb(
    path: str | Path,
    primitives: Sequence[Primitive],
    *,
    gltf_from_scene: ArrayLike | None = None,
    extras: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> None:
    """Write primitives as one scene, atomically.

    Args:
        path: the file; its folder must exist.
        primitives: at least one.
        gltf_from_scene: (4, 4), the matrix of the node that holds them all; None: identity.
        extras: what `asset.extras` shall say, such as frame and unit.
        progress: show a bar if it takes seconds.

    Raises:
        ExportError: the file cannot be written, would exceed the 4 GiB of the format, or a
            coordinate is not finite.
    """
    document, blobs = _document(path, primitives, gltf_from_scene, extras)
    with atomic_write(path) as file:
        _write(file, document, blobs, Path(path).name, progress)


def glb_bytes(
    primitives: Sequence[Primitive],
    *,
    gltf_from_scene: ArrayLike | None = None,
    extras: Mapping[str, Any] | None = None,
) -> bytes:
    """The file that `write_glb` writes, for a reply over a wire."""
    document, blobs = _document("a GLB", primitives, gltf_from_scene, extras)
    file = io.BytesIO()
    _write(file, document, blobs, "", False)
    return file.getvalue()


_Blob = tuple[int, Callable[[slice], NDArray[Any]]]
"""Rows, and their little-endian values."""


def _document(
    path: str | Path,
    primitives: Sequence[Primitive],
    gltf_from_scene: ArrayLike | None,
    extras: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], list[_Blob]]:
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    blobs: list[_Blob] = []

    def add(
        rows: int,
        values: Callable[[slice], NDArray[Any]],
        row_bytes: int,
        target: int,
        **accessor: Any,
    ) -> int:
        start = views[-1]["byteOffset"] + views[-1]["byteLength"] if views else 0
        views.append(
            {"buffer": 0, "byteOffset": start, "byteLength": rows * row_bytes, "target": target}
        )
        accessors.append({"bufferView": len(views) - 1, **accessor})
        blobs.append((rows, values))
        return len(accessors) - 1

    def add_vectors(array: NDArray[Any], **accessor: Any) -> int:
        count = len(array)
        accessor |= {"componentType": _FLOAT, "type": "VEC3", "count": count}
        return add(count, _floats(array), 12, _ARRAY_BUFFER, **accessor)

    meshes: list[dict[str, Any]] = []
    for primitive in primitives:
        low, high = check_finite(path, primitive.positions)
        bounds = {"min": [float(v) for v in low], "max": [float(v) for v in high]}
        attributes = {"POSITION": add_vectors(primitive.positions, **bounds)}
        if primitive.normals is not None:
            attributes["NORMAL"] = add_vectors(primitive.normals)
        if primitive.colours is not None:
            attributes["COLOR_0"] = add(
                len(primitive.colours),
                _opaque(primitive.colours),
                4,
                _ARRAY_BUFFER,
                componentType=_UBYTE,
                normalized=True,
                type="VEC4",
                count=len(primitive.colours),
            )
        entry: dict[str, Any] = {"attributes": attributes, "mode": _POINTS}
        if primitive.triangles is None:
            entry["material"] = 0
        else:  # no material: with one, trimesh would not read the colours
            entry["mode"] = _TRIANGLES
            entry["indices"] = add(
                len(primitive.triangles),
                _indices(primitive.triangles),
                12,
                _ELEMENT_ARRAY_BUFFER,
                componentType=_UINT,
                type="SCALAR",
                count=3 * len(primitive.triangles),
            )
        meshes.append({"name": primitive.name, "primitives": [entry]})
    nodes: list[dict[str, Any]] = [{"name": m["name"], "mesh": i} for i, m in enumerate(meshes)]
    root: dict[str, Any] = {"name": "scene", "children": list(range(len(nodes)))}
    if gltf_from_scene is not None:
        matrix = np.asarray(gltf_from_scene, np.float64)
        root["matrix"] = [float(v) + 0.0 for v in matrix.T.ravel()]  # by columns
    size = views[-1]["byteOffset"] + views[-1]["byteLength"]
    if size > _LARGEST - (1 << 20):
        raise ExportError(
            f"cannot write {path}: expected at most 4 GiB, which is the limit of GLB, got "
            f"{size / 2**30:.1f} GiB; thin the points (a voxel, a box) or write PLY"
        )
    asset: dict[str, Any] = {"version": "2.0", "generator": "vggt_ros"}
    if extras:
        asset["extras"] = dict(extras)
    material = {"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}
    document = {
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [len(nodes)]}],
        "nodes": [*nodes, root],
        "meshes": meshes,
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": size}],
    }
    return document, blobs


def _floats(array: NDArray[Any]) -> Callable[[slice], NDArray[Any]]:
    return lambda rows: np.ascontiguousarray(array[rows], "<f4")


def _indices(array: NDArray[Any]) -> Callable[[slice], NDArray[Any]]:
    return lambda rows: np.ascontiguousarray(array[rows], "<u4")


def _opaque(colours: NDArray[np.uint8]) -> Callable[[slice], NDArray[Any]]:
    def values(rows: slice) -> NDArray[Any]:
        rgb = colours[rows]
        rgba = np.full((len(rgb), 4), 255, np.uint8)
        for i in range(3):  # three times as fast as rgba[:, :3] = rgb
            rgba[:, i] = rgb[:, i]
        return rgba

    return values


def _write(
    file: IO[bytes], document: dict[str, Any], blobs: Sequence[_Blob], what: str, progress: bool
) -> None:
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    size = document["buffers"][0]["byteLength"]  # all views are of whole multiples of 4
    head = np.array([0x46546C67, 2, 12 + 8 + len(text) + 8 + size, len(text), 0x4E4F534A], "<u4")
    file.write(head.tobytes() + text)
    file.write(np.array([size, 0x004E4942], "<u4").tobytes())
    for rows, values in blobs:
        for part in _parts(rows, what, progress):
            file.write(values(part).data)


def _parts(rows: int, what: str, progress: bool) -> Iterator[slice]:
    return chunks(rows, what, progress, 1 << 16)
