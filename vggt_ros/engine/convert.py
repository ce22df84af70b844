"""From a checkpoint to graphs and engines with passports.

What can be refused is refused first: hours of work are not thrown away for a folder that holds
no images. Then the reference answers the golden input, then `pipeline` makes the graphs, then
each graph gets its passport and, where wanted, becomes an engine.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vggt_ros.engine import names
from vggt_ros.engine.build import BuiltEngine, build_with_passport
from vggt_ros.engine.calibration import open_calibration
from vggt_ros.engine.checkpoints import resolve_checkpoint
from vggt_ros.engine.export_vggt import VggtExport
from vggt_ros.engine.model_files import facts_of, load_graph, require_file
from vggt_ros.engine.opset import effective_opset
from vggt_ros.engine.passports import (
    graph_passport,
    model_facts,
    reference_golden,
    write_graph_passport,
)
from vggt_ros.engine.pipeline import (
    PipelineOptions,
    PipelineReport,
    PrecisionReport,
    run_pipeline,
)
from vggt_ros.engine.random_source import RandomSource
from vggt_ros.engine.run_onnx import OnnxSession
from vggt_ros.engine.tensorrt_build import BuildOptions
from vggt_ros.engine.torch_export import ExportReport, shapes_of
from vggt_ros.errors import EngineError
from vggt_ros.inference.golden import make_golden
from vggt_ros.inference.onnx_file import read_numbers
from vggt_ros.inference.passport import (
    Golden,
    ModelFacts,
    Passport,
    Precision,
    passport_path,
    read_passport,
)
from vggt_ros.inference.verify import this_machine
from vggt_ros.models.vggt_config import VggtConfig
from vggt_ros.types import Float32

QUANTISED = ("int8", "fp8")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """What to make, from what, and where."""

    folder: Path
    """Of all files; see `names.mode_folder`."""
    options: PipelineOptions
    export: VggtExport | None = None
    """Export VGGT first; else `onnx_in` is taken."""
    onnx_in: Path | None = None
    build: BuildOptions | None = None
    """None: graphs only."""
    device: str = "auto"
    """Of PyTorch, for the golden outputs."""


@dataclass(frozen=True)
class Converted:
    """What was made."""

    graph: Path
    """In float32, with passport."""
    passports: dict[str, Passport] = field(default_factory=dict)
    """Of the graph of each precision, by its path."""
    engines: tuple[BuiltEngine, ...] = ()


def convert(conversion: Conversion, tell: Callable[[str], None] = lambda line: None) -> Converted:
    """Do all of it; stops at the first failure.

    Args:
        conversion: what.
        tell: gets the documented lines about precision.

    Raises:
        EngineError: of the stage that failed.
        ExportError: a file cannot be written.
    """
    _check(conversion)
    options, export = conversion.options, conversion.export
    if export is not None:
        source = _source(export)
        path = names.onnx_path(conversion.folder, export.stem)
        passport_path(path).unlink(missing_ok=True)  # of the graph that is written over
        checkpoint = None if isinstance(source, RandomSource) else source
        report = run_pipeline(conversion.folder, options, export=export, checkpoint=checkpoint)
        if report.export is None:
            raise EngineError(f"{path}: the export reported nothing")
        origin = _origin_of_checkpoint(export, source, report.export, conversion.device)
    else:
        path = require_file(conversion.onnx_in or Path())
        origin = _origin_of_graph(path)
        report = run_pipeline(conversion.folder, options, onnx_in=path)
    stem = path.name.removesuffix(".onnx")
    if export is not None:
        base = Precision("fp32", "fp32", *_modes(path))
        _write_or_remove(path, _passport(path, origin, base), conversion, report)
    converted: dict[str, Passport] = {}
    engines = []
    for made in report.precisions:
        wanted = _passport_of(made, origin, path.name)
        passport = _write_or_remove(made.path, wanted, conversion, report)
        converted[str(made.path)] = passport
        if conversion.build is not None:
            engine = names.engine_path(conversion.folder, stem, made.precision_requested)
            built = build_with_passport(made.path, engine, conversion.build)
            engines.append(built)
            for line in built.lines:
                tell(line)
    return Converted(path, converted, tuple(engines))


def _write_or_remove(
    path: Path, passport: Passport, conversion: Conversion, report: PipelineReport
) -> Passport:
    """Give a graph its passport; one that is refused does not stay, unless it was given.

    Nor do others of this conversion that have no passport yet: nobody could run them.
    """
    try:
        return write_graph_passport(path, passport)
    except EngineError:
        others = [made.path for made in report.precisions if not passport_path(made.path).exists()]
        given = conversion.onnx_in
        for graph in {path, *others}:
            if given is None or graph.resolve() != given.resolve():
                _remove(graph)
        if given is None:
            drop_intermediates(path)
        raise


def _remove(graph: Path) -> None:
    """A graph and what lies beside it."""
    for file in (graph, Path(f"{graph}.data"), names.report_path(graph), passport_path(graph)):
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Origin:
    """What all passports of a conversion share."""

    model: ModelFacts
    golden: Golden
    notes: Mapping[str, str]


def _check(conversion: Conversion) -> None:
    """Refuse what cannot become something."""
    options, export = conversion.options, conversion.export
    if (export is None) == (conversion.onnx_in is None):
        raise EngineError("expected either an export or an existing graph (--export or --onnx-in)")
    if conversion.build is not None:
        this_machine(conversion.build.module, f"cuda:{conversion.build.device}")
    if export is None:
        path = require_file(conversion.onnx_in or Path())
        shape = _shape(path)
    else:
        effective_opset(export.opset)
        shape = export.stem.shape
    if _needs_images(options):
        _calibration(options, shape)


def _source(export: VggtExport) -> Path | RandomSource:
    if export.random_weights:
        return RandomSource(export.seed, export.tiny)
    return resolve_checkpoint(export.model_name)


def _needs_images(options: PipelineOptions) -> bool:
    return bool(set(QUANTISED) & set(options.precisions))


def _calibration(options: PipelineOptions, shape: tuple[int, ...]) -> None:
    views, channels, height, width = (max(n, 1) for n in shape)
    found = open_calibration(
        options.calib_data,
        (views, channels, height, width),
        options.calib_batches,
        options.calib_seed,
        options.allow_synthetic_calib,
    )
    if found.source != "synthetic":
        next(iter(found))  # one batch is read: images that are none, numbers out of range


def _shape(path: Path) -> tuple[int, ...]:
    shape = next(iter(shapes_of(load_graph(path).graph.inputs).values()), ())
    if len(shape) != 4:
        raise EngineError(f"{path}: expected one input (N, 3, H, W), got {list(shape)}")
    return shape


def _origin_of_checkpoint(
    export: VggtExport, source: Path | RandomSource, report: ExportReport, device: str
) -> _Origin:
    """Ask the reference; minutes on a CPU at full size."""
    model = model_facts(source, export.model_name, report.checkpoint_sha256)
    golden = reference_golden(
        source, export.stem.shape, tuple(report.outputs), model.normalisation, device
    )
    return _Origin(model, golden, {"checkpoint": report.checkpoint})


def _origin_of_graph(path: Path) -> _Origin:
    """Of its passport; a graph of others is its own reference."""
    if passport_path(path).is_file():
        passport = read_passport(path)
        if passport.golden is None or passport.precision.effective != "fp32":
            raise EngineError(
                f"{path}: expected a graph in fp32 with golden outputs in its passport, got "
                f"{passport.precision.effective}"
                f"{'' if passport.golden else ' without'}; export it again: vggt-ros engine export"
            )
        notes = {k: v for k, v in passport.notes.items() if k in ("checkpoint", "warning")}
        return _Origin(passport.model, passport.golden, notes)
    found = read_numbers(path).precision
    if found != "fp32":  # it cannot be its own reference, nor become what it is named
        raise EngineError(
            f"{path}: expected a graph in fp32, or its passport beside it, got {found} without "
            "one; export it again: vggt-ros engine export"
        )
    session = OnnxSession(path)
    known = VggtConfig().output_names
    if list(session.inputs) != ["images"] or not {"pose_enc", "depth"} <= set(session.outputs):
        raise EngineError(
            f"{path}: expected the input images and outputs of {', '.join(known)}, got "
            f"{', '.join(session.inputs)} and {', '.join(session.outputs)}; export it with: "
            "vggt-ros engine export"
        )

    def answer(images: Float32) -> dict[str, NDArray[Any]]:
        return dict(session.run({"images": images}))

    facts = facts_of(path)
    model = ModelFacts("vggt", facts.get("model_name", "unknown"), "unknown", "", "zero_to_one")
    warning = "the graph came without a passport: it is its own reference"
    _logger.warning("%s: %s", path, warning)
    golden = make_golden(_shape(path), "zero_to_one", f"{path.name} in ONNX Runtime", answer)
    return _Origin(model, golden, {"warning": warning})


def _modes(path: Path) -> tuple[str, str]:
    facts = facts_of(path)
    return facts.get("quant_mode_requested", "none"), facts.get("quant_mode_effective", "none")


def _passport(path: Path, origin: _Origin, precision: Precision) -> Passport:
    return graph_passport(path, origin.model, origin.golden, precision, origin.notes)


def _passport_of(made: PrecisionReport, origin: _Origin, source: str) -> Passport:
    """Of one precision; where ONNX Runtime cannot run it, with the parity of its simulation."""
    precision = Precision(
        made.precision_requested,
        made.precision_effective,
        made.quant_mode_requested,
        made.quant_mode_effective,
        made.calibration,
        made.calibration_samples,
    )
    passport = _passport(made.path, origin, precision)
    return dataclasses.replace(
        passport,
        notes={**passport.notes, "source": source, "parity_on_images": made.parity_note},
    )


def drop_intermediates(graph: Path) -> None:
    """Remove what the passes left beside a graph and nobody runs."""
    stem = graph.name.removesuffix(".onnx")
    for kind in (".opset", ".NOSEQ", ".simp"):
        _remove(graph.with_name(f"{stem}{kind}.onnx"))
