"""int8 and fp8 graphs: Q/DQ around the large products, half precision or float32 elsewhere."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.engine.cast import cast_precision
from vggt_ros.engine.model_files import working_folder
from vggt_ros.engine.qdq import QdqReport, quantise_graph
from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    from vggt_ros.engine.calibration import Calibration

LEFT_OUT = (
    "patch_embed.patch_embed",
    "embeddings.patch_embeddings",
    "camera_head.",
    "scratch.refinenet1.",
    "scratch.output_conv",
    "neck.fusion_stage.layers.3",
    "head.conv",
)
"""Parts of the names of nodes that stay in floating point: where pixels come in, where poses and
depth come out. With them int8 has half the error of depth at 4 % of the arithmetic (measured;
docs/decisions/0006-export.md). Attention (two products without weights, softmax), norms and
position embeddings are never quantised."""
RESTS = ("fp32", "fp16", "bf16")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantiseOptions:
    """What is quantised, and what the rest computes in."""

    left_out: tuple[str, ...] = LEFT_OUT
    rest: str = "fp32"
    """fp16 is fast on a GPU; CPUs compute in fp32 anyway."""


def quantise_int8(
    onnx_in: str | Path,
    out: str | Path,
    calibration: Calibration,
    options: QuantiseOptions | None = None,
    ranges: Mapping[str, float] | None = None,
) -> QdqReport:
    """Write an int8 graph; see `quantise`."""
    return quantise(onnx_in, out, "int8", calibration, options, ranges)


def quantise_fp8(
    onnx_in: str | Path,
    out: str | Path,
    calibration: Calibration,
    options: QuantiseOptions | None = None,
    ranges: Mapping[str, float] | None = None,
) -> QdqReport:
    """Write an fp8 (E4M3) graph; see `quantise`."""
    return quantise(onnx_in, out, "fp8", calibration, options, ranges)


def quantise(
    onnx_in: str | Path,
    out: str | Path,
    precision: str,
    calibration: Calibration,
    options: QuantiseOptions | None = None,
    ranges: Mapping[str, float] | None = None,
) -> QdqReport:
    """Write a graph with Q/DQ nodes, its rest in another precision if wanted.

    Args:
        onnx_in: the float32 graph.
        out: the graph to write.
        precision: "int8" or "fp8".
        calibration: images.
        options: what stays in floating point.
        ranges: of an earlier calibration of the same graph, which is then not repeated.

    Raises:
        EngineError: wrong options, nothing to quantise, or the graph does not run.
        ExportError: the file cannot be written.
    """
    options = options or QuantiseOptions()
    if precision not in ("int8", "fp8"):
        raise EngineError(f"precision: expected int8 or fp8, got '{precision}'")
    if options.rest not in RESTS:
        raise EngineError(f"rest: expected one of {', '.join(RESTS)}, got '{options.rest}'")
    out = Path(out)
    parts: Sequence[str] = options.left_out
    if options.rest == "fp32":
        return quantise_graph(onnx_in, out, precision, calibration, parts, ranges)
    with working_folder(out.parent) as folder:
        first = folder / "quantised.onnx"
        report = quantise_graph(onnx_in, first, precision, calibration, parts, ranges)
        facts = {
            "precision_requested": precision,
            "precision_effective": precision,
            "rest": options.rest,
        }
        cast = cast_precision(first, out, options.rest, facts=facts)
    return dataclasses.replace(report, path=out, opset=cast.opset)
