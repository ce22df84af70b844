"""What an ONNX file says about its numbers, read without the onnx package.

An ONNX file is one protobuf message (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
Only the few fields that tell the precision are looked at; weights are skipped, not read.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vggt_ros.errors import EngineError

_FLOATS = {1: "fp32", 10: "fp16", 11: "fp32", 16: "bf16"}
_QUANTISED = {2: "int8", 3: "int8", 17: "fp8", 18: "fp8", 19: "fp8", 20: "fp8", 21: "int4",
              22: "int4", 23: "fp4"}  # fmt: skip
"""TensorProto.DataType to the names used here; float64 counts as fp32."""

_BYTES = 2
"""Wire type of strings, messages and packed numbers."""


@dataclass
class OnnxNumbers:
    """Elements of the weights by type, and the operators that change types."""

    elements: dict[str, int] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)

    @property
    def precision(self) -> str:
        """What the graph computes in: the quantised type where activations are quantised too."""
        floats = {k: n for k, n in self.elements.items() if k in _FLOATS.values()}
        rest = {k: n for k, n in self.elements.items() if k not in floats}
        quantising = {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"}
        if rest and self.operators & quantising:
            return max(rest, key=lambda name: rest[name])
        # types of equal count: the wider one
        return max(floats, key=lambda name: (floats[name], name == "fp32"), default="fp32")


def read_numbers(path: Path) -> OnnxNumbers:
    """Types of the weights of an ONNX file.

    Raises:
        EngineError: not an ONNX file, or cut off.
    """
    numbers = OnnxNumbers()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            problem = _read_mapped(data, numbers)
    except (OSError, ValueError) as error:  # empty files cannot be mapped
        problem = str(error)
    if problem:
        raise EngineError(
            f"{path}: expected an ONNX file, got something that cannot be read ({problem}); "
            "export it again: vggt-ros engine export"
        )
    return numbers


def _read_mapped(data: mmap.mmap, numbers: OnnxNumbers) -> str:
    """Read all; returns what is wrong: views in an exception would forbid to close the file."""
    with memoryview(data) as view:
        try:
            _read_model(view, numbers)
        except IndexError:
            return "it is cut off"
        except ValueError as error:
            return str(error)
    return ""


def _read_model(model: memoryview, numbers: OnnxNumbers) -> None:
    """Field 7 holds the graph."""
    graphs = [v for k, v in _fields(model) if k == 7 and isinstance(v, memoryview)]
    if not graphs:
        raise ValueError("no graph in it")
    for graph in graphs:
        _read_graph(graph, numbers)


def _read_graph(graph: memoryview, numbers: OnnxNumbers) -> None:
    """Field 5 holds the weights, 1 the nodes."""
    for number, value in _fields(graph):
        if number == 5 and isinstance(value, memoryview):
            _read_tensor(value, numbers)
        elif number == 1 and isinstance(value, memoryview):
            _read_node(value, numbers)


def _read_node(node: memoryview, numbers: OnnxNumbers) -> None:
    """Field 4 is the operator, 5 the attributes, of which 5 in turn is a tensor."""
    kind, attributes = "", []
    for number, value in _fields(node):
        if number == 4 and isinstance(value, memoryview):
            kind = bytes(value).decode("utf-8", "replace")
        elif number == 5 and isinstance(value, memoryview):
            attributes.append(value)
    if "Quantize" in kind or kind.endswith("Integer"):
        numbers.operators.add(kind)
    for attribute in attributes if kind == "Constant" else ():
        for number, value in _fields(attribute):
            if number == 5 and isinstance(value, memoryview):
                _read_tensor(value, numbers)


def _read_tensor(tensor: memoryview, numbers: OnnxNumbers) -> None:
    """Fields: dims = 1, data_type = 2; weights beside the file have both as well."""
    elements, kind = 1, 0
    for number, value in _fields(tensor):
        if number == 1:
            for size in _packed(value) if isinstance(value, memoryview) else (value,):
                elements *= size
        elif number == 2 and isinstance(value, int):
            kind = value
    name = _FLOATS.get(kind) or _QUANTISED.get(kind)
    if name:
        numbers.elements[name] = numbers.elements.get(name, 0) + elements


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of the fields of a message; what has a length is a view of it."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == _BYTES:
            size, at = _varint(message, at)
            if at + size > end:
                raise ValueError("it is cut off")
            yield number, message[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not a number")
