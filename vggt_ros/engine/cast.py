"""Half precision as the content of the graph: float16 or bfloat16 inside, float32 outside.

TensorRT 11 runs what the graph says and has no flags for it. Inputs and outputs stay float32.
What else stays, and what was measured: docs/decisions/0006-export.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.engine.model_files import (
    describe,
    load_graph,
    release,
    save_graph,
    static_shape,
)
from vggt_ros.engine.opset import raise_opset
from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir as ir

LAYOUT_OPS = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape"),
        *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)
"""Move numbers without changing them."""
_ELEMENTWISE_OPS = frozenset(
    {
        *("Abs", "Add", "Cast", "Clip", "Div", "Exp", "Expm1", "Log", "Max", "Min", "Mul", "Neg"),
        *("Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Sub", "Tanh", "Where"),
    }
)
_CHEAP_OPS = LAYOUT_OPS | _ELEMENTWISE_OPS
_FLOAT32_SLOTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that are float32 by the operator's definition."""
LARGEST_FLOAT16 = 65504.0
KEEP: dict[str, tuple[str, ...]] = {"fp16": (), "bf16": ("vggt.camera_head",)}
"""Nodes that stay in float32 by default, by the beginnings of their names. The camera head adds
up four refinements; in bfloat16 that doubles the error of the poses (docs/decisions/0006-export),
and its cost is a hundredth of the network's."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CastReport:
    """What became of a graph."""

    path: Path
    precision: str
    opset: int
    low_nodes: int
    kept_nodes: int
    """Nodes that compute in float32."""
    casts: int
    overflowing: tuple[str, ...]
    """Constants beyond float16; the nodes that read them stay in float32."""
    vanishing: int
    """Weights that are not zero and become zero."""


def cast_precision(
    onnx_in: str | Path,
    out: str | Path,
    precision: str,
    *,
    keep: Iterable[str] | None = None,
    simulate: bool = False,
    facts: Mapping[str, object] | None = None,
) -> CastReport:
    """Write a graph that computes in half precision.

    In float32 stay: inputs, outputs, the elementwise operators between the last matrix product
    and an output (the exponential of the depth head overflows float16 at 11), those between an
    input and the first matrix product, and whatever reads a constant that float16 cannot hold.

    Args:
        onnx_in: the float32 graph; Q/DQ nodes may be in it.
        out: the graph to write.
        precision: "fp16" or "bf16".
        keep: beginnings of the names of nodes that stay in float32 too; None takes `KEEP`.
        simulate: round to the precision, but compute and store in float32: to measure bf16 where
            no runtime has it.
        facts: for the graph's metadata, over "precision_requested" and "precision_effective".

    Raises:
        EngineError: another precision, no such file, or loops and branches in the graph.
        ExportError: the file cannot be written.
    """
    if precision not in ("fp16", "bf16"):
        raise EngineError(f"precision: expected fp16 or bf16, got '{precision}'")
    model = load_graph(onnx_in)
    if any(node.graph is not model.graph for node in model.graph.all_nodes()):
        raise EngineError(f"{onnx_in}: has loops or branches, which cannot be cast; simplify it")
    opset = raise_opset(model, precision)
    infer_types(model)
    cast = _Cast(model, precision, KEEP[precision] if keep is None else tuple(keep), simulate)
    report = cast.run(Path(out), opset)
    told = {"precision_requested": precision, "precision_effective": precision}
    describe(model, {**told, **(facts or {})})
    save_graph(model, out)
    _logger.info(
        "%s: %d nodes in %s, %d in fp32, %d casts",
        out, report.low_nodes, precision, report.kept_nodes, report.casts,
    )  # fmt: skip
    return report


def infer_types(model: ir.Model) -> None:
    """Fill in the types that a graph leaves out.

    Raises:
        EngineError: a value whose type cannot be found.
    """
    import onnx
    import onnx_ir as ir

    if not _untyped(model):
        return
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    types = {info.name: info.type.tensor_type.elem_type for info in proto.graph.value_info}
    for value in _untyped(model):
        if value.name in types:
            value.type = ir.TensorType(ir.DataType(types[value.name]))
    left = [value.name for value in _untyped(model)]
    if left:
        raise EngineError(f"the type of {len(left)} values is unknown, '{left[0]}' among them")


def _untyped(model: ir.Model) -> list[ir.Value]:
    return [v for node in model.graph for v in node.outputs if v.name and v.dtype is None]


class _Cast:
    """One pass over the nodes, in order."""

    def __init__(
        self, model: ir.Model, precision: str, keep: tuple[str, ...], simulate: bool
    ) -> None:
        import onnx_ir as ir

        self.graph = model.graph
        self.keep = keep
        self.simulate = simulate
        self.full = ir.DataType.FLOAT
        self.low = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16
        self.overflowing: list[str] = []
        self.vanishing = 0
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.rounded: set[ir.Value] = set()
        self.wanted_low: dict[ir.Value, list[tuple[ir.Node, int]]] = {}

    def run(self, out: Path, opset: int) -> CastReport:
        nodes = [node for node in self.graph if node.op_type != "Constant"]
        self._lift_constants()
        kept = self._kept(nodes)
        for node in nodes:
            if node in kept:
                self._keep(node)
            else:
                self._lower(node)
        self._convert_weights()
        self._restore_outputs()
        return CastReport(
            path=out,
            precision="fp16" if self.low.name == "FLOAT16" else "bf16",
            opset=opset,
            low_nodes=len(nodes) - len(kept),
            kept_nodes=len(kept),
            casts=len(self.casts),
            overflowing=tuple(self.overflowing),
            vanishing=self.vanishing,
        )

    def _lift_constants(self) -> None:
        """Make initializers of float Constant nodes, so that there is one kind of constant."""
        import onnx_ir as ir

        for node in list(self.graph):
            value = node.outputs[0] if node.op_type == "Constant" else None
            if value is None or value.is_graph_output():
                continue
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None or tensor.dtype != self.full:
                continue
            made = ir.Value(
                name=f"{value.name}_constant", shape=ir.Shape(static_shape(tensor)),
                type=ir.TensorType(self.full), const_value=tensor,
            )  # fmt: skip
            self.graph.register_initializer(made)
            ir.convenience.replace_all_uses_with(value, made)
            self.graph.remove(node, safe=True)

    # which nodes stay

    def _kept(self, nodes: list[ir.Node]) -> set[ir.Node]:
        kept = self._cheap_from([v.producer() for v in self.graph.outputs], _producers)
        starts = [use.node for value in self.graph.inputs for use in value.uses()]
        kept |= self._cheap_from(starts, _consumers)
        bad = self._overflowing() if self.low.name == "FLOAT16" else set()
        for node in nodes:
            constants = [v.name for v in node.inputs if v is not None and v.is_initializer()]
            named = bool(self.keep) and str(node.name).startswith(self.keep)
            if named or any(name in bad for name in constants):
                kept.add(node)
        return kept

    def _cheap_from(
        self,
        starts: Sequence[ir.Node | None],
        follow: Callable[[ir.Node], Iterable[ir.Node | None]],
    ) -> set[ir.Node]:
        found: set[ir.Node] = set()
        pending = list(starts)
        while pending:
            node = pending.pop()
            if node is None or node in found or node.op_type not in _CHEAP_OPS:
                continue
            found.add(node)
            pending.extend(follow(node))
        return found

    def _overflowing(self) -> set[str]:
        for name, value in self.graph.initializers.items():
            if value.dtype != self.full or value.const_value is None:
                continue
            magnitude = np.abs(value.const_value.numpy())
            release(value.const_value)
            finite = magnitude[np.isfinite(magnitude)]
            if finite.size and float(finite.max()) > LARGEST_FLOAT16:
                self.overflowing.append(name)
            # half of the smallest subnormal rounds to zero
            self.vanishing += int(((finite > 0) & (finite < 2.0**-25)).sum())
        if self.overflowing:
            _logger.warning(
                "%d constants are beyond float16 (%s): what reads them stays in float32",
                len(self.overflowing), ", ".join(self.overflowing[:5]),
            )  # fmt: skip
        return set(self.overflowing)

    # what happens to them

    def _keep(self, node: ir.Node) -> None:
        for slot, value in enumerate(node.inputs):
            if value is not None and value.dtype == self.low and not self.simulate:
                node.replace_input_with(slot, self._as(value, self.full, node))

    def _lower(self, node: ir.Node) -> None:
        import onnx_ir as ir

        for slot, value in enumerate(node.inputs):
            if value is None or value.dtype != self.full:
                continue
            if slot in _FLOAT32_SLOTS.get(node.op_type, ()):
                continue
            if value.is_initializer():
                self.wanted_low.setdefault(value, []).append((node, slot))
            elif not self.simulate:
                node.replace_input_with(slot, self._as(value, self.low, node))
            elif value not in self.rounded:
                # from an input or a float32 node
                node.replace_input_with(slot, self._round(value))
        if self.simulate:
            if node.op_type not in LAYOUT_OPS:
                for value in node.outputs:
                    if value.dtype == self.full:
                        self._round_output(value)
            else:
                self.rounded.update(node.outputs)
            return
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == self.full:
            node.attributes["to"] = ir.AttrInt64("to", int(self.low))
        if node.op_type == "ConstantOfShape":
            tensor = node.attributes.get_tensor("value", None)
            if tensor is None or tensor.dtype == self.full:
                filler = np.zeros(1, np.float32) if tensor is None else tensor.numpy()
                node.attributes["value"] = ir.AttrTensor("value", self._converted(filler))
        for value in node.outputs:
            if value.dtype == self.full:
                value.type = ir.TensorType(self.low)

    def _as(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """The value in another type, cast once for all who want it so."""
        import onnx_ir as ir

        key = (value, dtype)
        if key not in self.casts:
            cast = ir.node("Cast", [value], {"to": int(dtype)})
            cast.outputs[0].name = f"{value.name}_{dtype.name.lower()}"
            cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(dtype)
            self._place(value, cast, before)
            self.casts[key] = cast.outputs[0]
        return self.casts[key]

    def _place(self, value: ir.Value, cast: ir.Node, before: ir.Node) -> None:
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, cast)
        else:
            self.graph.insert_before(next(iter(self.graph)), cast)

    def _convert_weights(self) -> None:
        """Give half precision to those weights that somebody reads so."""
        import onnx_ir as ir

        for value, readers in self.wanted_low.items():
            low = self.full if self.simulate else self.low
            tensor = value.const_value
            if tensor is None:
                raise EngineError(f"weight '{value.name}' has no values")
            if len(readers) < len(value.uses()) or value.is_graph_output():
                # others read it in float32: both stay
                copy = ir.Value(
                    name=f"{value.name}_{self.low.name.lower()}", shape=value.shape,
                    type=ir.TensorType(low), const_value=self._lazy(tensor),
                )  # fmt: skip
                self.graph.register_initializer(copy)
                for node, slot in readers:
                    node.replace_input_with(slot, copy)
            else:
                value.const_value = self._lazy(tensor)
                value.type = ir.TensorType(low)

    def _lazy(self, tensor: ir.TensorProtocol) -> ir.LazyTensor:
        import onnx_ir as ir

        shape = ir.Shape(static_shape(tensor))
        low = self.full if self.simulate else self.low

        def make() -> ir.Tensor:
            converted = self._converted(tensor.numpy())
            release(tensor)
            return converted

        return ir.LazyTensor(make, dtype=low, shape=shape, name=tensor.name)

    def _converted(self, values: np.ndarray) -> ir.Tensor:
        import onnx_ir as ir

        with np.errstate(over="ignore"):
            rounded = values.astype(self.low.numpy())
        if self.simulate:
            return ir.Tensor(rounded.astype(np.float32))
        return ir.Tensor(rounded, dtype=self.low)

    def _round(self, value: ir.Value) -> ir.Value:
        import onnx_ir as ir

        key = (value, self.low)
        if key not in self.casts:
            down = ir.node("Cast", [value], {"to": int(self.low)})
            down.outputs[0].type, down.outputs[0].shape = ir.TensorType(self.low), value.shape
            up = ir.node("Cast", [down.outputs[0]], {"to": int(self.full)})
            up.outputs[0].type, up.outputs[0].shape = ir.TensorType(self.full), value.shape
            producer = value.producer()
            if producer is not None:
                self.graph.insert_after(producer, [down, up])
            else:
                self.graph.insert_before(next(iter(self.graph)), [down, up])
            self.casts[key] = up.outputs[0]
            self.rounded.add(up.outputs[0])
        return self.casts[key]

    def _round_output(self, value: ir.Value) -> None:
        uses = list(value.uses())
        rounded = self._round(value)
        for use in uses:
            use.node.replace_input_with(use.idx, rounded)

    def _restore_outputs(self) -> None:
        """Outputs are float32 under their old names."""
        import onnx_ir as ir

        for index, value in enumerate(self.graph.outputs):
            producer = value.producer()
            if value.dtype != self.low or producer is None:
                continue
            name = value.name
            value.name = f"{name}_{self.low.name.lower()}"
            cast = ir.node("Cast", [value], {"to": int(self.full)})
            cast.outputs[0].name = name
            cast.outputs[0].shape = value.shape
            cast.outputs[0].type = ir.TensorType(self.full)
            self.graph.insert_after(producer, cast)
            self.graph.outputs[index] = cast.outputs[0]


def _producers(node: ir.Node) -> list[ir.Node | None]:
    return [value.producer() for value in node.inputs if value is not None]


def _consumers(node: ir.Node) -> list[ir.Node | None]:
    return [use.node for value in node.outputs for use in value.uses()]
