"""All stages from a checkpoint, or an exported graph, to a graph per precision.

export, sequence removal, simplification, check; then for each precision a cast or Q/DQ, a check
and the parity against float32. Building engines is the next step and elsewhere. The first failure
ends it; what was finished before is complete on the disk, and nothing else is there.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.engine import names
from vggt_ros.engine.calibration import (
    DEFAULT_BATCHES,
    DEFAULT_SEED,
    Calibration,
    normalise,
    open_calibration,
    synthetic_images,
)
from vggt_ros.engine.cast import cast_precision
from vggt_ros.engine.check import check_model
from vggt_ros.engine.export_vggt import INPUT, VggtExport, export_vggt
from vggt_ros.engine.memory import GIB, available_memory
from vggt_ros.engine.model_files import (
    facts_of,
    inputs_of,
    opset_of,
    sha256_of_model,
    size_of_model,
    working_folder,
)
from vggt_ros.engine.opset import repair_opset
from vggt_ros.engine.parity import Parity, compare
from vggt_ros.engine.quantise_int8 import QuantiseOptions, quantise
from vggt_ros.engine.run_onnx import OnnxSession, estimate_run_memory
from vggt_ros.engine.sequence_removal import remove_sequences
from vggt_ros.engine.simplify import simplify
from vggt_ros.engine.torch_export import ExportReport
from vggt_ros.errors import EngineError
from vggt_ros.export.files import write_json
from vggt_ros.types import Float32

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineOptions:
    """What to make of a graph."""

    precisions: tuple[str, ...] = ("fp16",)
    simplify: bool = True
    force_simplify: bool | None = None
    """FORCE_SIMPLIFY: True at any size, False never, None by size."""
    calib_data: str | None = None
    calib_batches: int = DEFAULT_BATCHES
    calib_seed: int = DEFAULT_SEED
    allow_synthetic_calib: bool = False
    quantise: QuantiseOptions = dataclasses.field(
        default_factory=lambda: QuantiseOptions(rest="fp16")
    )
    parity: bool = True
    """Run float32 and each precision in ONNX Runtime and compare, where the memory suffices."""
    progress: bool = True
    """Show a bar on a terminal."""


@dataclass(frozen=True)
class PrecisionReport:
    """One graph that was made."""

    path: Path
    sha256: str
    size_bytes: int
    opset: int
    precision_requested: str
    precision_effective: str
    quant_mode_requested: str
    quant_mode_effective: str
    calibration: str
    """none, synthetic, or the source."""
    calibration_samples: int
    parity: Mapping[str, Parity] | None
    """Against float32, by output; None where it was not measured."""
    parity_note: str
    """What it was measured on and with, or why not."""
    seconds: float
    details: Mapping[str, Any]
    """Of the pass: numbers of nodes and the like."""

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`; the path is the name of the file, infinity is the text "inf"."""
        fields = dataclasses.asdict(self) | {"path": self.path.name}
        found: dict[str, Any] = json.loads(json.dumps(_plain(fields)))
        return found


@dataclass(frozen=True)
class PipelineReport:
    """What all stages did."""

    export: ExportReport | None
    """None where a graph was given."""
    graph: Path
    """The float32 graph after all stages."""
    sequences_removed: int
    simplified_by: str
    """onnxslim, onnxsim, or empty."""
    precisions: tuple[PrecisionReport, ...]


def run_pipeline(
    folder: str | Path,
    options: PipelineOptions | None = None,
    *,
    export: VggtExport | None = None,
    checkpoint: str | Path | None = None,
    onnx_in: str | Path | None = None,
) -> PipelineReport:
    """Run all stages.

    Args:
        folder: for everything that is written; made if it is not there. See `names.mode_folder`.
        options: precisions, simplification, calibration.
        export: export VGGT first, with these options.
        checkpoint: of that export; None takes `export.model_name`.
        onnx_in: a graph to start from instead.

    Raises:
        EngineError: of the stage that failed.
        ExportError: a file cannot be written.
    """
    options = options or PipelineOptions()
    folder = Path(folder)
    if (export is None) == (onnx_in is None):
        raise EngineError("expected either an export or an existing graph (--export or --onnx-in)")
    for precision in options.precisions:
        names.check_precision(precision)
    if not options.precisions:
        raise EngineError(f"precision: expected some of {', '.join(names.PRECISIONS)}, got none")
    bar = _Progress(5 + len(options.precisions), options.progress)
    with bar:
        # the calibration is looked at first: before the minutes of all else
        if export is not None:
            calibration = _calibration(options, export.stem.shape)
            bar.stage("export")
            report = export_vggt(checkpoint, folder, export)
            path = report.path
        else:
            bar.stage("read")
            report, path = None, Path(str(onnx_in))
            calibration = _calibration(options, _input_shape(path), _normalisation(path))
        stem = path.name.removesuffix(".onnx").removesuffix(".simp").removesuffix(".NOSEQ")
        original = path
        bar.stage("opset")
        if repair_opset(path, folder / f"{stem}.opset.onnx"):
            path = folder / f"{stem}.opset.onnx"
        bar.stage("sequences")
        removed = remove_sequences(path, names.noseq_path(folder, stem))
        path = names.noseq_path(folder, stem) if removed else path
        bar.stage("simplify")
        tool = simplify(
            path, names.simp_path(folder, stem), enabled=options.simplify,
            force=options.force_simplify,
        )  # fmt: skip
        path = names.simp_path(folder, stem) if tool else path
        bar.stage("check")
        check_model(path)
        _logger.info("%s: valid, from %s", path, original)
        maker = _Maker(path, folder, stem, options, calibration)
        reports = []
        for precision in options.precisions:
            bar.stage(precision)
            reports.append(maker.make(precision))
    return PipelineReport(report, path, removed, tool, tuple(reports))


def _normalisation(path: Path) -> str:
    """What the network takes; graphs that do not say are VGGT's, which has it inside."""
    return facts_of(path).get("normalisation", "zero_to_one")


def _calibration(
    options: PipelineOptions,
    shape: tuple[int, int, int, int],
    normalisation: str = "zero_to_one",
) -> Calibration | None:
    if not {"int8", "fp8"} & set(options.precisions):
        return None
    return open_calibration(
        options.calib_data, shape, options.calib_batches, options.calib_seed,
        options.allow_synthetic_calib, normalisation,
    )  # fmt: skip


def _input_shape(path: Path) -> tuple[int, int, int, int]:
    shapes = inputs_of(path)
    shape = next(iter(shapes.values()), ())
    if len(shapes) != 1 or len(shape) != 4 or shape[1] != 3:
        raise EngineError(
            f"{path}: expected one input (N, 3, H, W), got "
            f"{', '.join(f'{n} {s}' for n, s in shapes.items()) or 'none'}"
        )
    # a free batch: one image at a time will do for calibration
    views, channels, height, width = (max(n, 1) for n in shape)
    return views, channels, height, width


class _Maker:
    """Makes one precision after another of one graph; calibrates and runs the reference once."""

    def __init__(
        self,
        graph: Path,
        folder: Path,
        stem: str,
        options: PipelineOptions,
        calibration: Calibration | None,
    ) -> None:
        self.graph = graph
        self.folder = folder
        self.stem = stem
        self.options = options
        self.calibration = calibration
        self.facts = facts_of(graph)
        self.input_name = next(iter(inputs_of(graph)), INPUT)
        self.ranges: Mapping[str, float] | None = None
        self.reference: dict[str, Float32] | None = None
        self.images: Float32 | None = None
        self.images_note = ""
        if options.parity:
            self.images, self.images_note = self._test_images()

    def make(self, precision: str) -> PrecisionReport:
        started = time.perf_counter()
        out = self.graph
        details: dict[str, Any] = {}
        if precision != "fp32":
            out = names.precision_path(self.folder, self.stem, precision)
        if precision in ("fp16", "bf16"):
            details = dataclasses.asdict(cast_precision(self.graph, out, precision))
        elif precision in ("int8", "fp8"):
            details = self._quantise(precision, out)
        check_model(out)
        parity, note = self._parity(precision, out)
        uses_calibration = precision in ("int8", "fp8") and self.calibration is not None
        report = PrecisionReport(
            path=out,
            sha256=sha256_of_model(out),
            size_bytes=size_of_model(out),
            opset=opset_of(out),
            precision_requested=precision,
            precision_effective=precision,
            quant_mode_requested=self.facts.get("quant_mode_requested", "none"),
            quant_mode_effective=self.facts.get("quant_mode_effective", "none"),
            calibration=self.calibration.source
            if uses_calibration and self.calibration
            else "none",
            calibration_samples=self.calibration.batches * self.calibration.shape[0]
            if uses_calibration and self.calibration
            else 0,
            parity=parity,
            parity_note=note,
            seconds=time.perf_counter() - started,
            details={k: v for k, v in details.items() if k not in ("path", "ranges")},
        )
        write_json(names.report_path(out), report.as_json())
        for name, value in (parity or {}).items():
            _logger.info("%s: %s: %s", precision, name, value)
        if parity is None:
            _logger.info("%s: parity %s", precision, note)
        _logger.info("%s: %.2f GiB", out, report.size_bytes / GIB)
        return report

    def _quantise(self, precision: str, out: Path) -> dict[str, Any]:
        if self.calibration is None:
            raise EngineError(f"{precision} needs calibration")
        cache = names.calibration_cache_path(self.folder, self.calibration.shape)
        key = {
            "onnx_sha256": sha256_of_model(self.graph),
            "source": self.calibration.source,
            "batches": self.calibration.batches,
            "seed": self.options.calib_seed,
            "views": self.calibration.samples,
        }
        if self.ranges is None:
            self.ranges = _read_cache(cache, key)
        report = quantise(
            self.graph, out, precision, self.calibration, self.options.quantise, self.ranges
        )
        self.ranges = {**(self.ranges or {}), **report.ranges}
        write_json(cache, {**key, "ranges": dict(self.ranges)})
        return dataclasses.asdict(dataclasses.replace(report, ranges={}))

    def _test_images(self) -> tuple[Float32, str]:
        """Images that were not calibrated on where there are others."""
        if self.calibration is not None and self.calibration.source != "synthetic":
            return self.calibration.test_batch(), f"images of {self.calibration.source}"
        images = synthetic_images(_input_shape(self.graph))
        return normalise(images, _normalisation(self.graph)), "synthetic images"

    def _parity(self, precision: str, out: Path) -> tuple[dict[str, Parity] | None, str]:
        if self.images is None:
            return None, "not measured, as asked"
        if importlib.util.find_spec("onnxruntime") is None:
            return None, "not measured: onnxruntime is not installed"
        needed, available = estimate_run_memory(self.graph), available_memory()
        if needed > available:
            return None, (
                f"not measured: float32 needs about {needed / GIB:.0f} GiB in ONNX Runtime, "
                f"{available / GIB:.0f} GiB are available"
            )
        feeds = {self.input_name: self.images}
        if self.reference is None:
            self.reference = OnnxSession(self.graph).run(feeds)
        if precision == "fp32":
            got, how = self.reference, "float32 is the reference"
        elif precision == "bf16":
            # ONNX Runtime has no bfloat16 on CPUs
            with working_folder(self.folder) as folder:
                simulated = folder / "simulated.onnx"
                cast_precision(self.graph, simulated, precision, simulate=True)
                got, how = OnnxSession(simulated).run(feeds), "rounded after every operator"
        else:
            # its optimiser moves float8 through operators that do not take it
            got = OnnxSession(out, optimise=precision != "fp8").run(feeds)
            how = "run"
        return compare(
            self.reference, got
        ), f"{self.images_note}, {how} in ONNX Runtime on the CPU"


def _read_cache(path: Path, key: Mapping[str, Any]) -> dict[str, float] | None:
    """Ranges of an earlier calibration of the same graph on the same images."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ranges = {str(name): float(value) for name, value in content["ranges"].items()}
        stale = [name for name, value in key.items() if content.get(name) != value]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        _logger.warning("%s: not readable; calibrating anew", path)
        return None
    if stale:
        _logger.info("%s: of another %s; calibrating anew", path, ", ".join(stale))
        return None
    _logger.info("%s: ranges of an earlier calibration are used; delete it to refresh", path)
    return ranges


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(float(value))
    return str(value) if isinstance(value, Path) else value


class _Progress:
    """A bar on a terminal, a log line elsewhere; `vggt_ros[export]` brings tqdm."""

    def __init__(self, stages: int, show: bool) -> None:
        from tqdm import tqdm

        # None: only where somebody watches
        self.bar = tqdm(total=stages, disable=None if show else True, unit="stage", leave=False)
        self.started = False

    def stage(self, name: str) -> None:
        if self.started:
            self.bar.update()
        self.started = True
        self.bar.set_description(name)
        _logger.info("stage: %s", name)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
