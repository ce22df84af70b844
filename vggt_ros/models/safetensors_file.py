"""The safetensors container, read and written with numpy alone.

Layout (huggingface/safetensors, `README.md`): 8 bytes with the length of the header, unsigned,
little-endian; the header, JSON, `{name: {"dtype", "shape", "data_offsets"}}` with an optional
`__metadata__` of strings; then the tensors, without gaps, offsets counted from the end of the
header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.export.files import atomic_write

ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
"""Bytes per number of each type that is understood."""

_MAX_HEADER = 100_000_000
"""Longest header [bytes] that the reference implementation accepts."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    stop: int


@dataclass(frozen=True)
class SafetensorsFile:
    """The checked table of contents of a file."""

    path: Path
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]

    def read(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one tensor, in memory of their own.

        Raises:
            EngineError: the file has become shorter since it was opened.
        """
        entry = self.tensors[name]
        count = entry.stop - entry.start
        data = np.fromfile(self.path, np.uint8, count, offset=entry.start)
        if len(data) != count:
            raise EngineError(
                f"{self.path}: tensor '{name}': expected {count} bytes, got {len(data)}; the "
                "file is truncated: download it again"
            )
        return data


def open_safetensors(path: str | Path) -> SafetensorsFile:
    """Read and check the table of contents.

    Raises:
        EngineError: not a safetensors file, or truncated; the message says where.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > _MAX_HEADER or length < 2:
            raise EngineError(
                f"{path}: expected a safetensors file, got {size} bytes that start with "
                f"{first!r}; download it again"
            )
        if 8 + length > size:
            raise EngineError(
                f"{path}: expected a header of {length} bytes, got a file of {size}; it is "
                "truncated: download it again"
            )
        header = file.read(length)
    try:
        content = json.loads(header)
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {type(content).__name__}")
        metadata = content.pop("__metadata__", {})
        tensors = {name: _entry(fields, 8 + length) for name, fields in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: broken safetensors header: {error}") from error
    _check_layout(path, tensors, 8 + length, size)
    return SafetensorsFile(path, tensors, {str(k): str(v) for k, v in dict(metadata).items()})


def _entry(fields: Any, base: int) -> TensorEntry:
    dtype, shape = fields["dtype"], tuple(int(n) for n in fields["shape"])
    start, stop = (int(n) for n in fields["data_offsets"])
    if dtype not in ITEM_SIZES:
        raise ValueError(f"unknown type {dtype!r}; known are {', '.join(ITEM_SIZES)}")
    if min(shape, default=0) < 0 or stop - start != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"{dtype} of shape {shape} in bytes {start} to {stop}")
    return TensorEntry(dtype, shape, base + start, base + stop)


def _check_layout(path: Path, tensors: dict[str, TensorEntry], base: int, size: int) -> None:
    end = base
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise EngineError(
                f"{path}: tensor '{name}' starts at byte {entry.start}, expected {end}: the "
                "table of contents is damaged"
            )
        end = entry.stop
    if end != size:
        what = "truncated: download it again" if size < end else "damaged: it is too long"
        raise EngineError(f"{path}: expected {end} bytes, got {size}; the file is {what}")


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes | memoryview]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file, atomically.

    Args:
        path: of the file; replaced where it exists.
        tensors: type, shape and little-endian bytes of each.
        metadata: strings to go into the header.

    Raises:
        ValueError: bytes that do not fit type and shape.
        ExportError: the file cannot be written; what stood there is untouched.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        count = memoryview(data).nbytes
        if count != math.prod(shape) * ITEM_SIZES[dtype]:
            raise ValueError(f"tensor '{name}': {dtype} of shape {shape} in {count} bytes")
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + count]}
        end += count
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligned for whoever maps the file into memory
    with atomic_write(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, _, data in tensors.values():
            file.write(data)
