"""Sequence operators to tensor operators: TensorRT cannot parse ONNX sequences."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.engine.model_files import load_graph, save_graph
from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir as ir

SEQUENCE_OPS = frozenset(
    {
        "SequenceEmpty",
        "SequenceConstruct",
        "SequenceInsert",
        "SequenceErase",
        "SequenceAt",
        "SequenceLength",
        "SplitToSequence",
        "ConcatFromSequence",
    }
)

_logger = logging.getLogger(__name__)


def remove_sequences(onnx_in: str | Path, onnx_out: str | Path) -> int:
    """Rewrite a graph without sequences.

    Every sequence is followed from where it is made to where it is read: its length and the
    positions must be constants, as they are in unrolled networks.

    Returns:
        How many sequence operators were replaced. With 0 nothing is written: go on with
        `onnx_in`.

    Raises:
        EngineError: no such file, or a sequence whose length is only known at run time, that is
            an output, or that goes into a loop or branch; the message names the node.
    """
    model = load_graph(onnx_in)
    for node in model.graph.all_nodes():
        if node.op_type in SEQUENCE_OPS and node.graph is not model.graph:
            raise EngineError(
                f"{onnx_in}: {node.op_type} '{node.name}' is inside a loop or branch and cannot "
                "be removed; export the network with a fixed number of views"
            )
    removed = _Removal(model, Path(onnx_in)).run()
    if removed:
        _logger.info("%s: %d sequence operators replaced", onnx_in, removed)
        save_graph(model, onnx_out)
    return removed


class _Removal:
    """One pass over the nodes, in order, with the tensors that each sequence holds."""

    def __init__(self, model: ir.Model, path: Path) -> None:
        self.graph = model.graph
        self.path = path
        self.sequences: dict[ir.Value, list[ir.Value]] = {}
        self.obsolete: list[ir.Node] = []

    def run(self) -> int:
        for node in list(self.graph):
            if node.op_type in SEQUENCE_OPS and node.domain == "":
                getattr(self, "_" + node.op_type)(node)
                self.obsolete.append(node)
            elif node.op_type == "Identity" and node.inputs[0] in self.sequences:
                self.sequences[node.outputs[0]] = self.sequences[node.inputs[0]]
                self.obsolete.append(node)
            else:
                for value in node.inputs:
                    if value in self.sequences:
                        raise self._error(node, "takes a sequence, which is not understood")
        for value in self.graph.outputs:
            if value in self.sequences:
                raise EngineError(
                    f"{self.path}: output '{value.name}' is a sequence; expected tensors"
                )
        for node in reversed(self.obsolete):
            self.graph.remove(node, safe=True)
        return sum(node.op_type in SEQUENCE_OPS for node in self.obsolete)

    def _error(self, node: ir.Node, what: str) -> EngineError:
        return EngineError(f"{self.path}: {node.op_type} '{node.name}': {what}")

    def _held(self, node: ir.Node) -> list[ir.Value]:
        value = node.inputs[0]
        if value not in self.sequences:
            raise self._error(node, "reads a sequence that is an input or made by a loop")
        return self.sequences[value]

    def _position(self, node: ir.Node, slot: int, count: int, default: int | None) -> int:
        value = node.inputs[slot] if len(node.inputs) > slot else None
        if value is None:
            if default is None:
                raise self._error(node, "has no position")
            return default
        constant = _constant(value)
        if constant is None:
            raise self._error(node, f"position '{value.name}' is not a constant")
        position = int(constant.reshape(-1)[0])
        position += count if position < 0 else 0
        if not 0 <= position < count:
            raise self._error(node, f"position {position} of a sequence of {count}")
        return position

    def _insert(self, before: ir.Node, op: str, inputs: list[ir.Value | None], **attributes):  # type: ignore[no-untyped-def]
        import onnx_ir as ir

        outputs = attributes.pop("outputs", 1)
        node = ir.node(op, inputs, attributes or None, num_outputs=outputs)
        self.graph.insert_before(before, node)
        return node

    def _ints(self, before: ir.Node, values: list[int]) -> ir.Value:
        import onnx_ir as ir

        tensor = ir.tensor(np.asarray(values, np.int64))
        node = ir.node("Constant", [], {"value": tensor})
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def _replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let everything that read the output of `node` read `value`."""
        import onnx_ir as ir

        old = node.outputs[0]
        value.shape, value.type = value.shape or old.shape, value.type or old.type
        if old.is_graph_output():
            # the name of an output must stay
            name, old.name = old.name, f"{old.name}_sequence"
            identity = ir.node("Identity", [value])
            identity.outputs[0].name = name
            identity.outputs[0].shape, identity.outputs[0].type = old.shape, old.type
            self.graph.insert_before(node, identity)
            value = identity.outputs[0]
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)

    # one method per operator, named after it

    def _SequenceEmpty(self, node: ir.Node) -> None:
        self.sequences[node.outputs[0]] = []

    def _SequenceConstruct(self, node: ir.Node) -> None:
        self.sequences[node.outputs[0]] = [v for v in node.inputs if v is not None]

    def _SequenceInsert(self, node: ir.Node) -> None:
        held, tensor = list(self._held(node)), node.inputs[1]
        if tensor is None:
            raise self._error(node, "has no tensor")
        held.insert(self._position(node, 2, len(held) + 1, len(held)), tensor)
        self.sequences[node.outputs[0]] = held

    def _SequenceErase(self, node: ir.Node) -> None:
        held = list(self._held(node))
        del held[self._position(node, 1, len(held), len(held) - 1)]
        self.sequences[node.outputs[0]] = held

    def _SequenceAt(self, node: ir.Node) -> None:
        held = self._held(node)
        self._replace(node, held[self._position(node, 1, len(held), None)])

    def _SequenceLength(self, node: ir.Node) -> None:
        import onnx_ir as ir

        tensor = ir.tensor(np.asarray(len(self._held(node)), np.int64))
        constant = ir.node("Constant", [], {"value": tensor})
        self.graph.insert_before(node, constant)
        self._replace(node, constant.outputs[0])

    def _ConcatFromSequence(self, node: ir.Node) -> None:
        held: list[ir.Value | None] = list(self._held(node))
        if not held:
            raise self._error(node, "joins an empty sequence")
        axis = node.attributes.get_int("axis", 0)
        if node.attributes.get_int("new_axis", 0):
            axes = self._ints(node, [axis])
            held = [self._insert(node, "Unsqueeze", [v, axes]).outputs[0] for v in held]
        self._replace(node, self._insert(node, "Concat", held, axis=axis).outputs[0])

    def _SplitToSequence(self, node: ir.Node) -> None:
        value = node.inputs[0]
        if value is None:
            raise self._error(node, "has no input")
        axis = node.attributes.get_int("axis", 0)
        length = value.shape[axis] if value.shape is not None else None
        split = node.inputs[1] if len(node.inputs) > 1 else None
        sizes = self._sizes(node, length, split)
        # without `split` each piece loses the axis, unless keepdims says otherwise
        squeeze = split is None and not node.attributes.get_int("keepdims", 1)
        if len(sizes) == 1 and not squeeze:
            self.sequences[node.outputs[0]] = [value]
            return
        parts = self._insert(
            node, "Split", [value, self._ints(node, sizes)], axis=axis, outputs=len(sizes)
        ).outputs
        if squeeze:
            axes = self._ints(node, [axis])
            parts = [self._insert(node, "Squeeze", [p, axes]).outputs[0] for p in parts]
        self.sequences[node.outputs[0]] = list(parts)

    def _sizes(self, node: ir.Node, length: object, split: ir.Value | None) -> list[int]:
        """Lengths of the pieces along the axis."""
        constant = None if split is None else _constant(split)
        if split is not None and constant is None:
            raise self._error(node, f"lengths '{split.name}' are not constants")
        if constant is not None and constant.ndim == 1:
            return [int(n) for n in constant]
        if not isinstance(length, int):
            raise self._error(node, "the length of the axis is only known at run time")
        step = 1 if constant is None else int(constant)
        return [min(step, length - start) for start in range(0, length, step)]


def _constant(value: ir.Value) -> np.ndarray | None:
    """What a value holds, if that is known now."""
    import onnx_ir as ir

    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
