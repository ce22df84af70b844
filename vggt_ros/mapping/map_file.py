"""Maps in files: named arrays with a header, checked when they are read.

The container is numpy's npz (a zip of npy members, stored without compression), which carries a
checksum of each member. Written atomically: a failed save leaves the previous file as it was.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import SourceError
from vggt_ros.export.files import atomic_write

_HEADER = "header"

Arrays = dict[str, NDArray[Any]]

MapPath = str | Path | IO[bytes]
"""Where a map is saved to and loaded from: a file by name, or one that is open (and can seek)."""


class MapBytes(io.BytesIO):
    """A map file in memory, as a part of a larger file.

    Args:
        name: what errors call it.
        content: of the file; empty for one to be written.
    """

    def __init__(self, name: str, content: bytes = b"") -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name


def write_map(
    path: MapPath, kind: str, version: int, header: Mapping[str, Any], arrays: Arrays
) -> None:
    """Write the arrays of a map.

    Args:
        path: file to write, `.npz` by habit, or one that is open.
        kind: of map, such as "surfel".
        version: of the layout.
        header: what else is to be known, as JSON.
        arrays: by name; no objects.

    Raises:
        ExportError: the file cannot be written; what stood there stays.
    """
    text = json.dumps({"kind": kind, "version": version, **header}, sort_keys=True)
    members: dict[str, Any] = {_HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}
    if isinstance(path, (str, Path)):
        with atomic_write(path) as file:
            np.savez(file, **members)
    else:
        np.savez(path, **members)


def read_map(path: MapPath, kind: str, version: int) -> tuple[dict[str, Any], Arrays]:
    """Read what `write_map` wrote; every checksum is compared.

    Returns:
        (header, arrays by name).

    Raises:
        SourceError: no such file, no map, cut off or damaged, of another kind or version.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
        if not isinstance(header, dict):
            raise ValueError("its header is none")
    except FileNotFoundError as error:
        raise SourceError(f"map file {path}: no such file") from error
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"map file {path}: expected a complete map of kind '{kind}', but it is cut off, "
            f"damaged or something else ({error}); use another copy"
        ) from error
    found = (header.get("kind"), header.get("version"))
    if found != (kind, version):
        raise SourceError(
            f"map file {path}: expected kind '{kind}' version {version}, got kind '{found[0]}' "
            f"version {found[1]}; load it with the map.kind and the release that wrote it"
        )
    return header, arrays


def check_array(
    path: MapPath,
    arrays: Arrays,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int | None, ...],
) -> NDArray[Any]:
    """An array of a map file, if it has the expected type and shape (None: any length).

    Raises:
        SourceError: it is missing or different.
    """
    array = arrays.get(name)
    if (
        array is None
        or array.dtype != dtype
        or array.ndim != len(shape)
        or any(
            want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
        )
    ):
        got = "nothing" if array is None else f"{array.dtype} {array.shape}"
        raise SourceError(
            f"map file {path}: expected '{name}' to be {dtype} of shape {shape}, got {got}; "
            "the file was not written by this package or is damaged"
        )
    return array
