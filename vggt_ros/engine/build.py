"""An engine with its passport: built, inspected, compared with the reference, then shown."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
from pathlib import Path

from vggt_ros.engine.passports import engine_passport, record_parity, refuse_bad_parity
from vggt_ros.engine.tensorrt_build import BuildOptions, BuildReport, build_engine
from vggt_ros.engine.tensorrt_inspect import effective_precision, report_precisions
from vggt_ros.errors import ExportError
from vggt_ros.inference.backend import BackendOptions, open_backend
from vggt_ros.inference.passport import Passport, Runtime, read_passport, write_passport

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """What was built."""

    path: Path
    passport: Passport
    report: BuildReport
    lines: tuple[str, ...]
    """Of the precision inspection."""


def build_with_passport(
    graph: str | Path, engine: str | Path, options: BuildOptions | None = None
) -> BuiltEngine:
    """Build an engine of a graph with passport, and give it one.

    Engine and passport appear only when the engine has answered the golden input as its
    precision allows; what stood there before is untouched until then.

    Raises:
        EngineError: no passport, no TensorRT or GPU, a graph that TensorRT refuses, or an answer
            outside the tolerance.
        ExportError: the files cannot be written.
    """
    options = options or BuildOptions()
    graph, engine = Path(graph), Path(engine)
    requested = read_passport(graph).precision.requested
    try:
        engine.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{engine.stem[:64]}.", dir=engine.parent))
    except OSError as error:
        raise ExportError(f"cannot write {engine}: {error.strerror}") from error
    try:
        hidden = folder / engine.name
        report = build_engine(graph, hidden, options)
        lines = tuple(report_precisions(report.inspector_json, requested))
        gpu = report.gpu
        passport = engine_passport(
            hidden,
            graph,
            Runtime(report.backend, report.version, gpu.name, gpu.compute_capability, gpu.driver),
            effective_precision(report.precisions) or read_passport(graph).precision.effective,
            {"source": os.path.relpath(graph, engine.parent), **_notes(options)},
        )
        write_passport(hidden, passport)  # the back end looks into it
        backend = open_backend(
            hidden, options.module, BackendOptions(device=f"cuda:{options.device}")
        )
        try:
            passport = record_parity(passport, backend.run)
        finally:
            backend.close()
        refuse_bad_parity(engine, passport)
        try:
            os.replace(hidden, engine)
        except OSError as error:
            raise ExportError(f"cannot write {engine}: {error.strerror}") from error
        write_passport(engine, passport)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return BuiltEngine(engine, passport, dataclasses.replace(report, engine=engine), lines)


def _notes(options: BuildOptions) -> dict[str, str]:
    """What it takes to build the same again, and what a runner must know."""
    flags = [] if options.module == "tensorrt" else ["--module", options.module]
    usual = BuildOptions()
    if options.workspace_gb != usual.workspace_gb:
        flags += ["--workspace-gb", f"{options.workspace_gb:g}"]
    if options.opt_level != usual.opt_level:
        flags += ["--opt-level", str(options.opt_level)]
    for shapes in options.profile.values():
        for word, shape in (
            ("min", shapes.minimum),
            ("opt", shapes.optimum),
            ("max", shapes.maximum),
        ):
            flags += [f"--{word}-shape", "x".join(map(str, shape))]
    if options.version_compatible:
        flags += ["--version-compatible"]
    notes = {"build_flags": " ".join(flags)} if flags else {}
    return {**notes, "version_compatible": "true"} if options.version_compatible else notes
