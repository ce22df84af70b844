"""`tsdf_volume.npz`: the voxels of a TSDF as points, for other programs, and to go on with.

Keys: `coords` (N, 3) float32, centres of the voxels with a measurement, in the frame of the map;
`values` (N,) float32, signed distance over the truncation, 1 in free space, negative behind the
surface; `weights` (N,), `colours` (N, 3) uint8, `voxel_size`, `truncation`, `origin`. Beside
them lie the members of the saved map itself, so that `TsdfMap.load` reads the file, too.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.export.files import atomic_write
from vggt_ros.mapping.tsdf_map import BLOCK, TsdfMap

_BLOCKS = 256
"""Blocks that are worked on at a time: 12 MB of coordinates."""
_MAP_MEMBERS = ("header", "keys", "seen", "first", "tsdf", "weight", "color")


def write_tsdf_volume(path: str | Path, map_: TsdfMap) -> int:
    """Write the file, compressed and in small parts; returns the number of voxels.

    Raises:
        ExportError: the file cannot be written; what stood there stays.
    """
    with tempfile.TemporaryDirectory(dir=Path(path).absolute().parent, prefix=".tsdf_") as folder:
        saved = Path(folder) / "map.npz"
        map_.save(saved)
        with (
            zipfile.ZipFile(saved) as source,
            atomic_write(path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        ):
            count = _write_voxels(source, target, map_)
            for name in _MAP_MEMBERS:
                _copy(source, target, f"{name}.npy")
    return count


def _write_voxels(source: zipfile.ZipFile, target: zipfile.ZipFile, map_: TsdfMap) -> int:
    voxel = map_.config.voxel_m
    _, width = _Member(source, "keys").shape
    assert width == 3  # TsdfMap.save wrote it
    measured = sum(int((w > 0).sum()) for w in _Member(source, "weight"))

    def coords(keys: NDArray[Any], weight: NDArray[Any], _: Any) -> NDArray[Any]:
        at, cell = np.nonzero(weight > 0)
        # Within a block x runs fastest, then y, then z (Open3D's VoxelBlockGrid).
        local = np.stack([cell % BLOCK, cell // BLOCK % BLOCK, cell // BLOCK**2], axis=1)
        return ((keys[at].astype(np.int64) * BLOCK + local) * voxel).astype(np.float32)

    def values(_: Any, weight: NDArray[Any], tsdf: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(tsdf[weight > 0], np.float32)

    def weights(_: Any, weight: NDArray[Any], __: Any) -> NDArray[Any]:
        return np.asarray(weight[weight > 0], np.float32)

    def colours(_: Any, weight: NDArray[Any], colour: NDArray[Any]) -> NDArray[Any]:
        rgb = colour.reshape(len(colour), BLOCK**3, 3)[weight > 0]
        return np.asarray(np.clip(rgb // 257 if rgb.max(initial=0) > 255 else rgb, 0, 255), "u1")

    jobs: list[tuple[str, str, tuple[int, ...], str, Callable[..., NDArray[Any]]]] = [
        ("coords", "tsdf", (measured, 3), "<f4", coords),
        ("values", "tsdf", (measured,), "<f4", values),
        ("weights", "tsdf", (measured,), "<f4", weights),
        ("colours", "color", (measured, 3), "|u1", colours),
    ]
    for name, member, shape, dtype, make in jobs:
        with target.open(f"{name}.npy", "w", force_zip64=True) as out:
            _write_header(out, shape, dtype)
            parts = zip(
                _Member(source, "keys"),
                _Member(source, "weight"),
                _Member(source, member),
                strict=True,
            )
            for keys, weight, content in parts:
                out.write(np.ascontiguousarray(make(keys, weight, content)).tobytes())
    facts = {
        "voxel_size": np.float32(voxel),
        "truncation": np.float32(voxel * map_.config.truncation_voxels),
        "origin": np.zeros(3, np.float32),
    }
    for name, value in facts.items():
        with target.open(f"{name}.npy", "w") as out:
            np.lib.format.write_array(out, np.asarray(value))
    return measured


class _Member:
    """An array in a saved map, read by blocks; iterating again begins anew."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive = archive
        self._name = f"{name}.npy"
        with archive.open(self._name) as file:
            self.shape, self._dtype = _read_header(file)

    def __iter__(self) -> Any:
        rows, width = self.shape[0], int(np.prod(self.shape[1:], dtype=np.int64))
        with self._archive.open(self._name) as file:
            _read_header(file)
            for start in range(0, rows, _BLOCKS):
                count = min(_BLOCKS, rows - start)
                data = file.read(count * width * self._dtype.itemsize)
                yield np.frombuffer(data, self._dtype).reshape(count, *self.shape[1:])


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    assert not fortran  # TsdfMap.save writes C order
    return shape, dtype


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: str) -> None:
    header = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(file, header)


def _copy(source: zipfile.ZipFile, target: zipfile.ZipFile, name: str) -> None:
    with source.open(name) as old, target.open(name, "w", force_zip64=True) as new:
        while chunk := old.read(1 << 20):
            new.write(chunk)
