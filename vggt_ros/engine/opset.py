"""Versions of the ONNX operator set: repaired where missing, raised where a type needs it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_OPSET = 18
NEEDED = {"fp32": 17, "fp16": 17, "bf16": 22, "int8": 19, "fp8": 19, "fp4": 23}
"""Least opset for a precision: 17 has LayerNormalization; bfloat16 became a type of Conv and
Resize with 22; 19 has Q/DQ of float16 and of float8; 23 has float4 (onnx `docs/Changelog.md`)."""
NEWEST = 23
"""Highest that is written: what TensorRT 10 and 11 parse."""

_logger = logging.getLogger(__name__)


def effective_opset(requested: int, precisions: Iterable[str] = ("fp32",)) -> int:
    """The requested version, or what one of the precisions needs, with a log line.

    Raises:
        EngineError: a version that is too old for the network or not known here.
    """
    if not NEEDED["fp32"] <= requested <= NEWEST:
        raise EngineError(
            f"opset: expected {NEEDED['fp32']} to {NEWEST}, got {requested}; {DEFAULT_OPSET} is "
            "the usual one"
        )
    opset = requested
    for precision in precisions:
        if NEEDED[precision] > opset:
            opset = NEEDED[precision]
            _logger.info("opset %d: raised to %d, which %s needs", requested, opset, precision)
    return opset


def raise_opset(model: ir.Model, precision: str) -> int:
    """Convert a graph in place to what a precision needs; no-op where it has it.

    Returns:
        The version it has now.

    Raises:
        EngineError: an operator that cannot be converted.
    """
    from onnxscript import version_converter

    have = model.graph.opset_imports.get("", DEFAULT_OPSET)
    want = NEEDED[precision]
    if have >= want:
        return have
    _logger.info("opset %d: raised to %d, which %s needs", have, want, precision)
    try:
        version_converter.convert_version(model, want)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise EngineError(
            f"opset {have} cannot be raised to {want}, which {precision} needs ({error}); export "
            f"again with --opset {want}"
        ) from error
    found = model.graph.opset_imports.get("", 0)
    if found != want:
        raise EngineError(
            f"opset {have} cannot be raised to {want}, which {precision} needs; export again with "
            f"--opset {want}"
        )
    model.ir_version = max(model.ir_version, 10)
    return found


def repair_opset(onnx_in: str | Path, onnx_out: str | Path, opset: int = DEFAULT_OPSET) -> bool:
    """Add a missing opset_import ("model with IR version >= 3 must specify opset_import").

    Returns:
        Whether `onnx_out` was written; False where nothing was missing.
    """
    from vggt_ros.engine.model_files import load_graph, load_proto, save_graph

    proto = load_proto(onnx_in)
    if any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        return False
    _logger.warning("%s: no opset_import; taken to be %d", onnx_in, opset)
    model = load_graph(onnx_in)
    model.graph.opset_imports[""] = opset
    save_graph(model, onnx_out)
    return True
