"""Where the rest of the package gets its networks from: opened, verified, with their passport.

A bare checkpoint has no passport and needs none: nothing was converted. It gets one in memory,
marked as such, so that who runs it reads the same fields.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.errors import EngineError, nearest
from vggt_ros.inference.backend import Backend, BackendOptions, choose_backend, open_backend
from vggt_ros.inference.passport import (
    FAMILIES,
    ModelFacts,
    Passport,
    Precision,
    Runtime,
    Tensor,
    passport_path,
    read_passport,
)
from vggt_ros.inference.verify import VerifyReport, check_interface, open_verified

ENGINE_SUFFIXES = (".engine", ".plan", ".onnx", ".xml")
"""Files that have a passport."""
PRECISION_ORDER = ("fp16", "bf16", "fp32", "int8", "fp8", "nvfp4")
"""The automatic choice. Quantised engines come last and only with a recorded parity that passes:
a name proves nothing, and on current GPUs they were not faster (docs/engines.md)."""
_PASSES = (".NOSEQ", ".simp", ".opset")
"""Ends of the names of graphs on the way to one; they have no passport and are not listed."""
QUANTISED = ("int8", "fp8", "nf4", "fp4", "nvfp4")

BARE = "bare checkpoint: not converted, no golden output to verify"
"""Note in passports that were made up in memory."""

_NON_COMMERCIAL = "non-commercial (CC-BY-NC-4.0)"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Engine:
    """A network, opened; `passport` says how to feed and to read it."""

    path: Path
    backend: Backend
    passport: Passport
    report: VerifyReport | None
    """None for a bare checkpoint, and where verifying was declined."""
    notes: tuple[str, ...] = field(default=())

    @property
    def summary(self) -> str:
        """One line for status and logs: back end, device, precision, file, verified or not."""
        verified = "verified" if self.report else "not verified"
        return (
            f"{self.backend.name} on {self.backend.device}, {self.backend.precision}, "
            f"{self.path.name} ({verified})"
        )

    def close(self) -> None:
        """Give memory and device back."""
        self.backend.close()


@dataclass(frozen=True)
class Listed:
    """An engine in a folder: its passport, or why it has none."""

    path: Path
    passport: Passport | None
    problem: str = ""


def open_engine(
    path: str | Path,
    backend: str = "auto",
    options: BackendOptions | None = None,
    verify: bool = True,
) -> Engine:
    """Open a network, verified on this machine.

    Args:
        path: an engine with its passport, or a checkpoint (`.safetensors`, `.pt`, folder).
        backend: name, or auto.
        options: device, precision, contexts, threads.
        verify: False skips hash, machine and golden run, not the passport itself.

    Raises:
        EngineError: nothing there, no passport, or something of it does not hold.
    """
    path = Path(path)
    chosen = choose_backend(path, backend)
    if not path.exists():
        raise EngineError(f"{path}: expected an engine or checkpoint, found nothing there")
    if chosen == "torch":
        opened = open_backend(path, chosen, options)
        return Engine(path, opened, bare_passport(path, opened), None, (BARE,))
    if verify:
        opened, report = open_verified(path, chosen, options)
        for note in report.notes:
            _logger.warning("%s: %s", path, note)
        return Engine(path, opened, report.passport, report, report.notes)
    passport = read_passport(path)
    opened = open_backend(path, chosen, options)
    try:
        check_interface(path, passport, opened)
    except BaseException:
        opened.close()
        raise
    return Engine(path, opened, passport, None, ("not verified, as asked",))


def bare_passport(path: Path, backend: Backend) -> Passport:
    """What can be said of a checkpoint from its content.

    Raises:
        EngineError: neither VGGT nor Depth Anything.
    """
    model = describe_checkpoint(path)
    return Passport(
        file=path.name,
        sha256="",
        model=model,
        precision=Precision(backend.precision, backend.precision),
        runtime=Runtime(backend.name, ""),
        inputs=tuple(_tensor(spec.name, spec.shape, spec.dtype) for spec in backend.inputs),
        outputs=tuple(_tensor(spec.name, spec.shape, spec.dtype) for spec in backend.outputs),
        notes={"warning": BARE},
    )


def _tensor(name: str, shape: Sequence[int | None], dtype: str) -> Tensor:
    return Tensor(name, tuple(-1 if n is None else n for n in shape), dtype)


def describe_checkpoint(path: str | Path) -> ModelFacts:
    """Family, name, licence, normalisation and kind of depth of a checkpoint, by its content.

    Depth Anything is a folder with a `config.json` of `transformers`; everything else that the
    torch back end opens is VGGT, and loading it is what checks its keys.

    Raises:
        EngineError: a `config.json` of another model.
    """
    path = Path(path)
    config = _transformers_config(path)
    kind = str(config.get("model_type", ""))
    if kind and kind != "depth_anything":
        raise EngineError(
            f"{path}: expected a checkpoint of VGGT or Depth Anything, found '{kind}' in "
            "config.json; give facebook/VGGT-1B or depth-anything/Depth-Anything-V2-Small-hf"
        )
    if not kind:
        name, licence = _vggt_source(path)
        return ModelFacts("vggt", name, licence, "", "zero_to_one")
    metric = config.get("depth_estimation_type") == "metric"
    name, licence = _depth_anything_source(path, config)
    return ModelFacts(
        family="depth_anything",
        name=name,
        licence=licence,
        checkpoint_sha256="",
        normalisation="imagenet",
        depth_kind="metric_depth" if metric else "disparity",
    )


def _depth_anything_source(path: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Name and licence as far as the path tells them, else what the configuration says."""
    stated = str(config.get("license", "unknown"))
    # a folder of that name, or Hugging Face's cache: models--depth-anything--Depth-Anything-V2-...
    match = re.search(
        r"Depth-Anything-V2-(?:Metric-\w+-)?(Small|Base|Large)", str(path.absolute())
    )
    if match is None:
        return "depth_anything", stated
    return f"depth-anything/{match[0]}", "Apache-2.0" if match[1] == "Small" else _NON_COMMERCIAL


def _transformers_config(path: Path) -> dict[str, Any]:
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{file}: not a readable configuration ({error}); download it again"
        ) from error
    return content if isinstance(content, dict) else {}


def _vggt_source(path: Path) -> tuple[str, str]:
    """Name and licence as far as the path tells them: the two publications differ in licence."""
    whole = str(path.absolute())
    if "VGGT-1B-Commercial" in whole:
        return "facebook/VGGT-1B-Commercial", "VGGT commercial licence (gated)"
    if "VGGT-1B" in whole or path.name == "vggt-1b.pt":
        return "facebook/VGGT-1B", _NON_COMMERCIAL
    return "vggt", "unknown"


def list_engines(folder: str | Path) -> list[Listed]:
    """All engines under a folder, by path, with their passports.

    Raises:
        EngineError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EngineError(
            f"{folder}: expected a folder of engines, found none; make one: vggt-ros engine export"
        )
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = path.name.startswith(".") or path.parent.name.startswith(".")
        if path.suffix in ENGINE_SUFFIXES and not hidden and path.is_file():
            listed = _listed(path)
            if listed.passport or not path.stem.endswith(_PASSES):
                found.append(listed)
    return found


def _listed(path: Path) -> Listed:
    if not passport_path(path).is_file():
        return Listed(path, None, "no passport")
    try:
        return Listed(path, read_passport(path))
    except EngineError as error:
        return Listed(path, None, str(error))


def parity_passes(passport: Passport) -> bool:
    """Whether the error of every golden output was measured when it was made, and accepted."""
    golden = passport.golden
    return (
        golden is not None
        and bool(golden.outputs)
        and all(o.parity is not None and o.parity <= o.tolerance for o in golden.outputs)
    )


def find_engine(
    folder: str | Path,
    family: str,
    num_views: int | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    precision: str = "auto",
) -> Path:
    """The engine of a folder to run: fp16 first, quantised ones only with a proof.

    Among engines of one precision TensorRT's win over ONNX graphs. Nothing is opened; who opens
    it verifies it.

    Args:
        folder: searched with its sub-folders.
        family: of `FAMILIES`.
        num_views: that the input must take; None: any.
        size: height and width that the input must take; None: any.
        backend: that must be for the file; auto: any but tensorrt_rtx.
        precision: effective one; auto: by `PRECISION_ORDER`.

    Raises:
        EngineError: no such folder, or none fits; the message says why each does not.
    """
    if family not in FAMILIES:
        raise EngineError(
            f"family: expected one of {', '.join(FAMILIES)}, got '{family}'"
            f"{nearest(family, FAMILIES)}"
        )
    candidates: list[tuple[tuple[int, int, str], Path]] = []
    reasons = []
    for listed in list_engines(folder):
        reason = listed.problem or _unfit(listed, family, num_views, size, backend, precision)
        if reason:
            reasons.append(f"{listed.path.name}: {reason}")
        elif listed.passport:
            effective = listed.passport.precision.effective
            rank = PRECISION_ORDER.index(effective) if effective in PRECISION_ORDER else 99
            built = listed.path.suffix in (".engine", ".plan")
            candidates.append(((rank, 0 if built else 1, listed.path.as_posix()), listed.path))
    if not candidates:
        raise EngineError(
            f"{folder}: expected an engine of {family}"
            f"{f' for {num_views} views' if num_views else ''}"
            f"{f' of {size[0]}x{size[1]}' if size else ''}, found none that fits "
            f"({'; '.join(reasons) or 'the folder holds no engine'}); make one: vggt-ros engine "
            "export"
        )
    return min(candidates)[1]


def _unfit(
    listed: Listed,
    family: str,
    num_views: int | None,
    size: tuple[int, int] | None,
    backend: str,
    precision: str,
) -> str:
    """Why an engine is not the one that is sought; empty if it is."""
    passport = listed.passport
    if passport is None or not passport.inputs:
        return "no input in its passport"
    effective = passport.precision.effective
    if passport.model.family != family:
        return f"is {passport.model.family}"
    if backend == "auto" and passport.runtime.backend == "tensorrt_rtx":
        return "is for tensorrt_rtx, which must be named"
    if backend != "auto" and not _runs_on(listed.path, passport, backend):
        return f"is not for {backend}"
    if precision not in ("auto", effective):
        return f"is {effective}"
    if precision == "auto" and effective in QUANTISED and not parity_passes(passport):
        return f"is {effective} without a recorded parity that passes"
    shape = passport.inputs[0].shape
    views = shape[-4] if len(shape) >= 4 else 1
    if num_views is not None and views not in (-1, num_views):
        return f"takes {views} views"
    if size is not None and any(a not in (-1, b) for a, b in zip(shape[-2:], size, strict=True)):
        return f"takes {shape[-2]}x{shape[-1]}"
    return ""


def _runs_on(path: Path, passport: Passport, backend: str) -> bool:
    if path.suffix in (".engine", ".plan"):
        return backend == passport.runtime.backend
    return backend in (("openvino",) if path.suffix == ".xml" else ("onnxruntime", "openvino"))
