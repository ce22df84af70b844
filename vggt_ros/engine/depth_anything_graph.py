"""Depth Anything as a graph with passport."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vggt_ros.engine.checkpoints import resolve_folder
from vggt_ros.engine.export_depth_anything import DepthAnythingExport, export_depth_anything
from vggt_ros.engine.model_files import facts_of
from vggt_ros.engine.passports import (
    graph_passport,
    model_facts,
    reference_golden,
    write_graph_passport,
)
from vggt_ros.inference.passport import Precision, passport_path

_GOLDEN_BATCH = 2
"""Images of the golden input where the graph takes any number."""


def export_depth_anything_with_passport(
    model: str, out: Path, options: DepthAnythingExport, device: str
) -> Path:
    """Export in float32, ask the reference, write the passport.

    Args:
        model: folder, or repository of Hugging Face.
        out: folder.
        options: size and batch.
        device: of the reference.

    Returns:
        The graph.

    Raises:
        EngineError: wrong options or model, or an answer that is not PyTorch's.
        ExportError: a file cannot be written.
    """
    folder = resolve_folder(model)
    graph = out / f"{options.stem}.onnx"
    passport_path(graph).unlink(missing_ok=True)
    report = export_depth_anything(folder, graph, options)
    facts = model_facts(folder, model, report.checkpoint_sha256)
    licence = facts_of(graph).get("licence", facts.licence)  # the loader knows more
    if facts.licence == "unknown":
        facts = dataclasses.replace(facts, licence=licence)
    shape = (options.batch or _GOLDEN_BATCH, 3, options.height, options.width)
    golden = reference_golden(folder, shape, tuple(report.outputs), facts.normalisation, device)
    passport = graph_passport(
        graph, facts, golden, Precision("fp32", "fp32"), {"checkpoint": model}
    )
    write_graph_passport(graph, passport)
    return graph
