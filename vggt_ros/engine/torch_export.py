"""What the exports of all networks share: one run of torch's exporter, tidied and written.

Which exporter, and why: docs/decisions/0006-export.md.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vggt_ros.engine.check import check_model
from vggt_ros.engine.memory import GIB, peak_rss
from vggt_ros.engine.model_files import (
    describe,
    import_onnx_ir,
    save_graph,
    sha256_of_model,
    size_of_model,
    static_shape,
)
from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules around a node, the outermost first, the node last."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportReport:
    """An exported graph."""

    path: Path
    sha256: str
    """Of the graph and its weights; see `model_files.sha256_of_model`."""
    size_bytes: int
    opset: int
    inputs: dict[str, tuple[int, ...]]
    """Shape by name; -1: free."""
    outputs: dict[str, tuple[int, ...]]
    nodes: int
    parameters: int
    model_name: str
    checkpoint: str
    """File of the weights; "random, seed 0" where they were asked for."""
    checkpoint_sha256: str
    quant_mode_requested: str = "none"
    quant_mode_effective: str = "none"
    quantisation: str = "none"
    """What was done to the weights, in words."""
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    """Most memory of the process until here."""


def require_torch() -> None:
    """Fail in words where torch is missing.

    Raises:
        EngineError: not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise EngineError(
            "an export needs torch, which is not installed; install the extra: pip install "
            "'vggt_ros[export]'"
        )
    import_onnx_ir()


def export_module(
    module: torch.nn.Module,
    example: torch.Tensor,
    out: Path,
    *,
    input_name: str,
    output_names: Sequence[str],
    opset: int,
    facts: Mapping[str, object],
    dynamic_batch: bool = False,
) -> ir.Model:
    """Export a network and write it.

    Weights are kept once in memory: they are referred to until they are written, one by one.

    Args:
        module: takes one tensor, returns a tuple of tensors.
        example: input of the size to export.
        out: the file.
        input_name: of the input.
        output_names: in the order of the tuple.
        opset: version of the operators.
        facts: go into the graph's metadata.
        dynamic_batch: leave the first dimension free.

    Returns:
        The graph as it was written.

    Raises:
        EngineError: the exporter cannot follow the network.
        ExportError: the file cannot be written.
    """
    import torch

    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    started = time.perf_counter()
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_shapes=shapes,
                verbose=False,
                optimize=False,  # see `fold`
            )
        except torch.onnx.errors.OnnxExporterError as error:
            first = str(error).strip().splitlines()[0]
            raise EngineError(f"torch {torch.__version__} cannot export: {first}") from error
    if program is None:
        raise EngineError(f"torch {torch.__version__}: the exporter returned nothing")
    model = program.model
    with _quiet():
        fold(model)
    _tidy(model)
    describe(model, facts)
    _logger.info("exported in %.0f s; writing %s", time.perf_counter() - started, out)
    save_graph(model, out)
    check_model(out)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints to the terminal and warns about its own insides."""
    noisy = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def fold(model: ir.Model) -> None:
    """Compute what is constant, share what is equal, drop what nobody reads; in place.

    What the exporter's own optimiser does, without its pattern rewriter: that takes two thirds of
    the time of an export (24 of 36 CPU-seconds with a small network, two minutes with VGGT-1B)
    and leaves 3 % fewer nodes.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    passes.InlinePass()(model)
    passes.ShapeInferencePass()(model)
    optimizer.fold_constants(model)
    _drop_casts(model)
    for run in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
        passes.ShapeInferencePass(),
    ):
        run(model)


def _drop_casts(model: ir.Model) -> None:
    """CastLike between equal types, which the exporter puts around every attention."""
    import onnx_ir as ir

    for node in list(model.graph):
        if node.op_type != "CastLike" or node.outputs[0].is_graph_output():
            continue
        value, like = node.inputs[0], node.inputs[1]
        if value is not None and like is not None and value.dtype == like.dtype is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            model.graph.remove(node, safe=True)


def _tidy(model: ir.Model) -> None:
    """Names from modules, no notes of the exporter (they hold the paths of this machine)."""
    fold_transposed_weights(model)
    name_after_modules(model)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.doc_string = None
    model.producer_name, model.producer_version = "vggt_ros", None


def name_after_modules(model: ir.Model) -> None:
    """Call each node `<module>/<operator>_<number>`: passes and engine inspectors show it.

    So are the weights that the exporter has folded and named `val_<number>`.
    """
    for number, node in enumerate(model.graph):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = next((s for s in reversed(scopes[:-1]) if s), "")
        node.name = f"{module}/{node.op_type}_{number}"
        for value in node.inputs:
            if value is None or not value.is_initializer() or len(value.shape or ()) < 2:
                continue
            name = f"{module}.weight_t"
            if str(value.name).startswith("val_") and name not in model.graph.initializers:
                value.name = name


def fold_transposed_weights(model: ir.Model) -> int:
    """Store weights the way they are read: Transpose of a constant becomes a constant.

    The exporter folds only those that are read once and small; the camera head reads each of
    its own four times. What is stored is transposed when it is written, one tensor at a time.

    Returns:
        How many nodes went.
    """
    import onnx_ir as ir

    graph = model.graph
    made: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
    obsolete = []
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" and node.inputs else None
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        tensor = weight.const_value
        rank = len(tensor.shape)
        order = tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))
        key = (weight, order)
        if key not in made:
            stored = _transposed(tensor, order, f"{weight.name}_t{''.join(map(str, order))}")
            value = ir.Value(
                name=stored.name, shape=stored.shape, type=ir.TensorType(stored.dtype),
                const_value=stored,
            )  # fmt: skip
            graph.register_initializer(value)
            made[key] = value
        ir.convenience.replace_all_uses_with(node.outputs[0], made[key])
        obsolete.append(node)
    for node in obsolete:
        graph.remove(node, safe=True)
    for weight, _ in made:
        if (
            not weight.uses()
            and not weight.is_graph_output()
            and weight.name in graph.initializers
        ):
            del graph.initializers[str(weight.name)]
    return len(obsolete)


def _transposed(tensor: ir.TensorProtocol, order: tuple[int, ...], name: str) -> ir.LazyTensor:
    import onnx_ir as ir

    shape = ir.Shape([static_shape(tensor)[axis] for axis in order])

    def make() -> ir.Tensor:
        values = np.ascontiguousarray(np.transpose(tensor.numpy(), order))
        return ir.Tensor(values, dtype=tensor.dtype, name=name)

    return ir.LazyTensor(make, dtype=tensor.dtype, shape=shape, name=name)


def shapes_of(values: Sequence[ir.Value]) -> dict[str, tuple[int, ...]]:
    """Shape of each by its name; -1: free."""
    return {
        str(value.name): tuple(n if isinstance(n, int) else -1 for n in (value.shape or ()))
        for value in values
    }


def make_report(model: ir.Model, out: Path, started: float, **fields: Any) -> ExportReport:
    """Report on what `export_module` wrote."""
    report = ExportReport(
        path=out,
        sha256=sha256_of_model(out),
        size_bytes=size_of_model(out),
        opset=model.graph.opset_imports[""],
        inputs=shapes_of(model.graph.inputs),
        outputs=shapes_of(model.graph.outputs),
        nodes=len(model.graph),
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss(),
        **fields,
    )
    _logger.info(
        "%s: %d nodes, %.2f GiB, opset %d, %.0f s, peak memory %.1f GiB",
        out, report.nodes, report.size_bytes / GIB, report.opset, report.seconds,
        report.peak_rss_bytes / GIB,
    )  # fmt: skip
    return report
