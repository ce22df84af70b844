"""Q/DQ nodes: eight-bit matrix products and convolutions as the content of the graph.

Weights are symmetric per output channel, activations symmetric per tensor, which is what
TensorRT's int8 and fp8 kernels take. Scales of activations are found by running the float32 graph
on calibration images. The weights are stored in eight bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.engine.codebooks import quantise_int8
from vggt_ros.engine.model_files import describe, load_graph, release, save_graph, working_folder
from vggt_ros.engine.opset import raise_opset
from vggt_ros.engine.run_onnx import OnnxSession
from vggt_ros.errors import EngineError
from vggt_ros.types import Float32

if TYPE_CHECKING:
    import onnx_ir as ir

    from vggt_ros.engine.calibration import Calibration

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""Largest magnitude of a code; 448 is that of float8 E4M3 (arXiv 2209.05433)."""
_RANGE = "_absmax"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QdqReport:
    """What became of a graph."""

    path: Path
    precision: str
    opset: int
    quantised_nodes: int
    left_out: tuple[str, ...]
    """Nodes with weights that stay in floating point."""
    quantised_parameters: int
    calibration: str
    calibration_batches: int
    ranges: Mapping[str, float]
    """Largest magnitude of each quantised activation."""


def quantisable(model: ir.Model, exclude: Sequence[str] = ()) -> tuple[list[ir.Node], list[str]]:
    """Nodes with constant weights that are quantised, and the names of those left out.

    Args:
        model: the float32 graph.
        exclude: parts of names of nodes.
    """
    chosen, left_out = [], []
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or len(node.inputs) < 2:
            continue
        activation, weight = node.inputs[0], node.inputs[1]
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        if activation is None or activation.is_initializer() or len(weight.shape or ()) < 2:
            continue
        if any(part in str(node.name) for part in exclude):
            left_out.append(str(node.name))
        else:
            chosen.append(node)
    return chosen, left_out


def find_ranges(
    path: str | Path, names: Iterable[str], batches: Iterable[Float32], input_name: str = "images"
) -> dict[str, float]:
    """Largest magnitude that each value takes over all batches.

    The maxima are made in the graph, so that nothing but one number per value leaves it.

    Args:
        path: of the graph.
        names: of values.
        batches: inputs.
        input_name: of the input.

    Raises:
        EngineError: the graph does not run, or a value is not finite.
    """
    import onnx_ir as ir

    model = load_graph(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    values |= {value.name: value for value in model.graph.inputs}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        value = values[name]
        magnitude = ir.node("Abs", [value])
        largest = ir.node("ReduceMax", [magnitude.outputs[0]], {"keepdims": 0})
        largest.outputs[0].name = name + _RANGE
        largest.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        largest.outputs[0].shape = ir.Shape([])
        producer = value.producer()
        # right behind it, so that no activation outlives its use
        if producer is not None:
            model.graph.insert_after(producer, [magnitude, largest])
        else:
            model.graph.insert_before(next(iter(model.graph)), [magnitude, largest])
        model.graph.outputs.append(largest.outputs[0])
    ranges = dict.fromkeys(wanted, 0.0)
    # in the folder of the graph: the data file beside it is referred to by its name
    with working_folder(Path(path).parent) as folder:
        augmented = folder / "augmented.onnx"
        _save_beside(model, Path(path), augmented)
        session = OnnxSession(augmented)
        for count, batch in enumerate(batches, start=1):
            found = session.run({input_name: batch})
            for name in wanted:
                # unlike max(), this keeps NaN
                ranges[name] = float(np.maximum(ranges[name], found[name + _RANGE]))
            _logger.debug("calibration: batch %d", count)
    bad = [name for name, value in ranges.items() if not np.isfinite(value)]
    if bad:
        raise EngineError(f"{path}: '{bad[0]}' is not finite on the calibration images")
    return ranges


def _save_beside(model: ir.Model, original: Path, path: Path) -> None:
    """Write a graph that goes on using the weights of another one."""
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            link = path.parent / tensor.location
            if not link.exists():
                link.hardlink_to(original.parent / tensor.location)
    ir.save(model, path)


def insert_qdq(
    model: ir.Model, nodes: Sequence[ir.Node], ranges: Mapping[str, float], precision: str
) -> int:
    """Quantise weights and activations of nodes, in place.

    Args:
        model: of opset 19 or newer.
        nodes: of `quantisable`.
        ranges: largest magnitude by the name of the activation.
        precision: "int8" or "fp8".

    Returns:
        Weights that were quantised.
    """
    activations: dict[ir.Value, ir.Value] = {}
    weights: dict[tuple[ir.Value, int], ir.Value] = {}
    parameters = 0
    for node in nodes:
        value, weight = node.inputs[0], node.inputs[1]
        if value is None or weight is None:
            continue
        axis = _output_axis(node, len(weight.shape or ()))
        if (weight, axis) not in weights:
            weights[weight, axis] = _weight(model, weight, axis, precision)
            parameters += weight.const_value.size if weight.const_value is not None else 0
        if value not in activations:
            activations[value] = _activation(model, value, ranges[str(value.name)], precision)
        node.replace_input_with(0, activations[value])
        node.replace_input_with(1, weights[weight, axis])
    for weight, _ in weights:
        if not weight.uses() and not weight.is_graph_output():
            del model.graph.initializers[str(weight.name)]
    return parameters


def _output_axis(node: ir.Node, rank: int) -> int:
    """Axis of a weight that counts output channels."""
    if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1:
        return 0
    return rank - 1


def _activation(model: ir.Model, value: ir.Value, largest: float, precision: str) -> ir.Value:
    """Insert Q and DQ behind a value; only the quantised nodes will read what comes out."""
    import onnx_ir as ir

    name = str(value.name)
    step = max(largest, 1e-6) / LARGEST[precision]
    scale = _constant(model, f"{name}_scale", np.float32(step).reshape(()))
    zero = _constant(model, f"{name}_zero", np.zeros((), _code_type(precision)))
    q = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}/QuantizeLinear")
    dq = ir.node("DequantizeLinear", [q.outputs[0], scale, zero], name=f"{name}/DequantizeLinear")
    q.outputs[0].name, dq.outputs[0].name = f"{name}_q", f"{name}_dq"
    q.outputs[0].shape = dq.outputs[0].shape = value.shape
    q.outputs[0].type, dq.outputs[0].type = zero.type, ir.TensorType(ir.DataType.FLOAT)
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, [q, dq])
    else:
        model.graph.insert_before(next(iter(model.graph)), [q, dq])
    return dq.outputs[0]


def _weight(model: ir.Model, weight: ir.Value, axis: int, precision: str) -> ir.Value:
    """Store codes and scales in place of a weight, and a DQ that puts them together."""
    import onnx_ir as ir

    tensor = weight.const_value
    if tensor is None:
        raise EngineError(f"weight '{weight.name}' has no values")
    values, name = tensor.numpy(), str(weight.name)
    if precision == "int8":
        codes, scales = quantise_int8(values, axis)
    else:
        codes, scales = _quantise_fp8(values, axis)
    del values
    release(tensor)
    held = _constant(model, f"{name}_q", codes)
    scale = _constant(model, f"{name}_scale", scales)
    zero = _constant(model, f"{name}_zero", np.zeros(scales.shape, codes.dtype))
    dq = ir.node(
        "DequantizeLinear", [held, scale, zero], {"axis": axis}, name=f"{name}/DequantizeLinear"
    )
    dq.outputs[0].name = f"{name}_dq"
    dq.outputs[0].shape, dq.outputs[0].type = weight.shape, ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(next(iter(model.graph)), dq)
    return dq.outputs[0]


def _quantise_fp8(values: Float32, axis: int) -> tuple[np.ndarray, Float32]:
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12)
    scale = (largest / LARGEST["fp8"]).astype(np.float32)
    return (values / scale).astype(_code_type("fp8")), scale.ravel()


def _code_type(precision: str) -> np.dtype:
    if precision == "int8":
        return np.dtype(np.int8)
    import ml_dtypes

    return np.dtype(ml_dtypes.float8_e4m3fn)


def _constant(model: ir.Model, name: str, values: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.Tensor(np.ascontiguousarray(values), name=name)
    made = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(made)
    return made


def quantise_graph(
    onnx_in: str | Path,
    out: str | Path,
    precision: str,
    calibration: Calibration,
    exclude: Sequence[str] = (),
    ranges: Mapping[str, float] | None = None,
) -> QdqReport:
    """Write a graph with Q/DQ nodes.

    Args:
        onnx_in: the float32 graph.
        out: the graph to write.
        precision: "int8" or "fp8".
        calibration: images; not run where `ranges` are given.
        exclude: parts of names of nodes that stay in floating point.
        ranges: of an earlier calibration of the same graph.

    Raises:
        EngineError: nothing to quantise, or the graph does not run.
        ExportError: the file cannot be written.
    """
    model = load_graph(onnx_in)
    opset = raise_opset(model, precision)
    nodes, left_out = quantisable(model, exclude)
    if not nodes:
        raise EngineError(f"{onnx_in}: no matrix product or convolution with weights to quantise")
    names = list(dict.fromkeys(str(node.inputs[0].name) for node in nodes if node.inputs[0]))
    if ranges is None or not set(names) <= set(ranges):
        ranges = find_ranges(onnx_in, names, calibration, str(model.graph.inputs[0].name))
    parameters = insert_qdq(model, nodes, ranges, precision)
    describe(
        model,
        {
            "precision_requested": precision,
            "precision_effective": precision,
            "calibration": calibration.source,
            "calibration_samples": calibration.batches * calibration.shape[0],
        },
    )
    save_graph(model, out)
    _logger.info(
        "%s: %d nodes in %s, %d left out; calibrated on %d batches of %s",
        out, len(nodes), precision, len(left_out), calibration.batches, calibration.source,
    )  # fmt: skip
    return QdqReport(
        path=Path(out),
        precision=precision,
        opset=opset,
        quantised_nodes=len(nodes),
        left_out=tuple(left_out),
        quantised_parameters=parameters,
        calibration=calibration.source,
        calibration_batches=calibration.batches,
        ranges={name: ranges[name] for name in names},
    )
