"""Is this engine what its passport says, and does it answer as it must on this machine?

In this order, because each step makes the next one safe: the file is the one that was made; it
was made for this runtime and GPU; it opens; its inputs and outputs have the names and shapes of
the passport; it answers the golden input within the tolerance.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import (
    Backend,
    BackendOptions,
    TensorSpec,
    choose_backend,
    open_backend,
)
from vggt_ros.inference.golden import TOLERANCE, array_sha256, golden_errors, golden_input
from vggt_ros.inference.passport import Passport, Runtime, Tensor, passport_path, read_passport

TENSORRT = ("tensorrt", "tensorrt_rtx")
"""Back ends whose files are bound to a version and a GPU architecture."""

_CHUNK = 1 << 22

Facts = Callable[[str], Runtime]
"""Tells what a back end would run on here, by its name."""


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, and found right."""

    engine: str
    passport: Passport
    backend: str
    device: str
    precision: str
    errors: dict[str, float]
    """`relative_error` of each golden output."""
    seconds: float
    """Of the golden run alone, the first one."""
    notes: tuple[str, ...] = ()
    """What does not forbid to run it and people must know; of the passport and this machine."""

    @property
    def text(self) -> str:
        """One line."""
        golden = self.passport.golden
        worst = max(self.errors, key=lambda name: self.errors[name], default="")
        told = (
            f"largest error {self.errors[worst]:.2g} ({worst}) against {golden.reference}"
            if golden and worst
            else "without a golden output"
        )
        return f"{self.engine}: right; {self.precision} on {self.device} ({self.backend}), {told}"


def file_sha256(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """Hash of a file of any size.

    Args:
        path: the file.
        progress: told the bytes of each piece that is read.

    Raises:
        EngineError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                if progress:
                    progress(len(piece))
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def mending_command(engine: str | Path, passport: Passport) -> str:
    """The command that makes an engine anew from what it was made from."""
    path, notes = Path(engine), passport.notes
    source = os.path.normpath(path.parent / notes["source"]) if "source" in notes else ""
    precision = passport.precision
    if passport.runtime.backend in TENSORRT:
        words = ["build", source or "MODEL.onnx", *notes.get("build_flags", "").split()]
        words += ["--out", str(path)]
    elif source and precision.effective != "fp32" and Path(source).is_file():
        words = ["quantise", source, "--precision", precision.requested]
        words += [*_calibration_words(passport), "--out", str(path.parent)]
    else:
        words = ["export", *_export_words(passport), *_calibration_words(passport)]
        words += ["--out", str(path.parent)]
    return "vggt-ros engine " + " ".join(shlex.quote(word) for word in words)


def _calibration_words(passport: Passport) -> list[str]:
    """Where the ranges of int8 and fp8 came from."""
    calibration = passport.precision.calibration
    if calibration in ("", "none"):
        return []
    if calibration == "synthetic":
        return ["--allow-synthetic-calib"]
    return ["--calib-data", calibration]


def _export_words(passport: Passport) -> list[str]:
    """Checkpoint, sizes and precision of an export."""
    checkpoint = passport.notes.get("checkpoint") or passport.model.name or "CHECKPOINT"
    words = [checkpoint]
    if checkpoint.startswith("random"):
        words = ["--random-weights", *(["--tiny"] if "tiny" in checkpoint else [])]
    vggt = passport.model.family == "vggt"
    if passport.golden and len(passport.golden.input_shape) >= 4:
        views, _, height, width = passport.golden.input_shape[-4:]
        words += ["--num-cams", str(views)] if vggt else []
        words += ["--height", str(height), "--width", str(width)]
    if vggt and not any(tensor.name == "world_points" for tensor in passport.outputs):
        words += ["--pcd-only"]
    if passport.precision.quant_mode_requested != "none":
        words += ["--quant-mode", passport.precision.quant_mode_requested]
    return [*words, "--precision", passport.precision.requested]


def verify_passport(
    engine: str | Path,
    backend: str = "auto",
    options: BackendOptions | None = None,
    facts: Facts | None = None,
) -> VerifyReport:
    """Check an engine completely, and close it again.

    Args:
        engine: the file; its passport lies beside it.
        backend: name, or auto.
        options: how to open it.
        facts: what this machine is; found out if not given.

    Raises:
        EngineError: anything differs; the message names the field, what was expected, what was
            found, and the command that mends it.
    """
    opened, report = open_verified(engine, backend, options, facts)
    opened.close()
    return report


def open_verified(
    engine: str | Path,
    backend: str = "auto",
    options: BackendOptions | None = None,
    facts: Facts | None = None,
) -> tuple[Backend, VerifyReport]:
    """Check an engine completely and hand it over, opened and warm.

    Raises:
        EngineError: as `verify_passport`.
    """
    path = Path(engine)
    chosen = choose_backend(path, backend)
    if not path.exists():
        raise EngineError(
            f"{path}: expected an engine, found nothing there; what there is: vggt-ros engine "
            "list FOLDER"
        )
    if chosen == "torch" and not passport_path(path).is_file():
        raise EngineError(
            f"{path}: a checkpoint has no passport to verify; whether it fits the network: "
            f"vggt-ros engine inspect {shlex.quote(str(path))}; to make what can be verified: "
            f"vggt-ros engine export {shlex.quote(str(path))}"
        )
    passport = read_passport(path)
    check_files(path, passport)
    device = options.device if options else "auto"
    here = facts(chosen) if facts else this_machine(chosen, device)
    notes = check_machine(path, passport, chosen, here)
    opened = open_backend(path, chosen, options)
    try:
        check_interface(path, passport, opened)
        errors, seconds = run_golden(path, passport, opened, options)
    except BaseException:
        opened.close()
        raise
    report = VerifyReport(
        engine=str(path),
        passport=passport,
        backend=opened.name,
        device=opened.device,
        precision=opened.precision,
        errors=errors,
        seconds=seconds,
        notes=(*((passport.notes["warning"],) if "warning" in passport.notes else ()), *notes),
    )
    return opened, report


def check_files(engine: str | Path, passport: Passport) -> None:
    """The file and what lies beside it are those that were made.

    Raises:
        EngineError: another name, a hash that differs, or a file that is not there.
    """
    path = Path(engine)
    mend = mending_command(path, passport)
    for name, expected in {path.name: passport.sha256, **passport.data_files}.items():
        file = path.parent / name
        if not file.is_file():
            raise EngineError(f"{path}: data file: expected {file}, found none; mend: {mend}")
        found = file_sha256(file)
        if found != expected:
            raise EngineError(
                f"{file}: sha256: expected {expected[:16]}, found {found[:16]}: this is not the "
                f"file that {passport_path(path).name} was written for; mend: {mend}"
            )


def check_machine(
    engine: str | Path, passport: Passport, backend: str, here: Runtime
) -> tuple[str, ...]:
    """The engine was made for the runtime and GPU of this machine.

    Args:
        engine: for messages.
        passport: of it.
        backend: name of the one that will open it.
        here: what this machine has.

    Returns:
        What differs and does not matter.

    Raises:
        EngineError: another kind of back end, TensorRT version or GPU architecture.
    """
    path, made = Path(engine), passport.runtime
    mend = f"mend: {mending_command(path, passport)}"
    if (backend in TENSORRT or made.backend in TENSORRT) and backend != made.backend:
        raise EngineError(f"{path}: backend: expected {made.backend}, found {backend}; {mend}")
    if backend not in TENSORRT:
        return ()
    same_major = made.version.split(".")[0] == here.version.split(".")[0]
    compatible = same_major and passport.notes.get("version_compatible") == "true"
    if made.version != here.version and not compatible:
        raise EngineError(
            f"{path}: TensorRT {'version' if same_major else 'major version'}: expected "
            f"{made.version}, found {here.version or 'none'}; an engine runs only with the "
            f"version that built it; {mend}"
        )
    if made.compute_capability != here.compute_capability:
        raise EngineError(
            f"{path}: GPU architecture: expected {made.compute_capability} ({made.gpu}), found "
            f"{here.compute_capability or 'none'} ({here.gpu or 'no GPU'}); {mend}"
        )
    pairs = (
        ("TensorRT", made.version, here.version),
        ("GPU", made.gpu, here.gpu),
        ("driver", made.driver, here.driver),
    )
    return tuple(f"{what}: built on {a}, here {b}" for what, a, b in pairs if a != b)


def check_interface(engine: str | Path, passport: Passport, backend: Backend) -> None:
    """Inputs and outputs have the names, shapes and types of the passport.

    Raises:
        EngineError: one differs.
    """
    mend = f"mend: {mending_command(engine, passport)}"
    for kind, expected, found in (
        ("input", passport.inputs, backend.inputs),
        ("output", passport.outputs, backend.outputs),
    ):
        want = {tensor.name: tensor for tensor in expected}
        have = {spec.name: spec for spec in found}
        if set(want) != set(have):
            raise EngineError(
                f"{engine}: {kind} names: expected {', '.join(sorted(want))}, found "
                f"{', '.join(sorted(have))}; {mend}"
            )
        for name, tensor in want.items():
            if not _fits(tensor, have[name]):
                raise EngineError(
                    f"{engine}: {kind} {name}: expected {list(tensor.shape)} {tensor.dtype}, "
                    f"found {[-1 if n is None else n for n in have[name].shape]} "
                    f"{have[name].dtype}; {mend}"
                )


def _fits(tensor: Tensor, spec: TensorSpec) -> bool:
    """Whether shapes agree; a size that is free on one side fits any."""
    if len(tensor.shape) != len(spec.shape) or tensor.dtype != spec.dtype:
        return False
    return all(
        a == b or a == -1 or b is None for a, b in zip(tensor.shape, spec.shape, strict=True)
    )


def run_golden(
    engine: str | Path,
    passport: Passport,
    backend: Backend,
    options: BackendOptions | None = None,
) -> tuple[dict[str, float], float]:
    """Draw the golden input and compare the answer.

    Returns:
        Error of each output, and seconds that the run took.

    Raises:
        EngineError: no golden input in the passport, another input than was drawn when it was
            written, or an answer outside the tolerance.
    """
    mend = f"mend: {mending_command(engine, passport)}"
    golden = passport.golden
    if golden is None or not golden.outputs or len(passport.inputs) != 1:
        raise EngineError(
            f"{engine}: golden: expected an input with its outputs in the passport, found none; "
            f"{mend}"
        )
    images = golden_input(
        golden.recipe, golden.input_shape, golden.seed, passport.model.normalisation
    )
    drawn = array_sha256(images)
    if drawn != golden.input_sha256:
        raise EngineError(
            f"{engine}: golden input: expected sha256 {golden.input_sha256[:16]}, drew "
            f"{drawn[:16]}: recipe, seed, shape or normalisation of the passport are not those "
            f"it was made with; {mend}"
        )
    started = time.perf_counter()
    answer = backend.run({passport.inputs[0].name: images.astype(passport.inputs[0].dtype)})
    seconds = time.perf_counter() - started
    errors = golden_errors(golden, answer)
    # a wish for less than the file holds is a wish for its errors too
    wished = TOLERANCE.get(options.precision, 0.0) if options else 0.0
    for output in golden.outputs:
        error, accepted = errors[output.name], max(output.tolerance, wished)
        if not error <= accepted:
            raise EngineError(
                f"{engine}: golden output {output.name}: expected an error of at most "
                f"{accepted:g} against {golden.reference}, found {error:.3g} with "
                f"{backend.precision} on {backend.device}; {mend}"
            )
    return errors, seconds


def this_machine(backend: str, device: str = "auto") -> Runtime:
    """What a back end would run on here; only TensorRT's is looked up.

    Raises:
        EngineError: TensorRT or its GPU is not there.
    """
    if backend not in TENSORRT:
        return Runtime(backend, "")
    from vggt_ros.inference.cuda_memory import open_cuda
    from vggt_ros.inference.devices import cuda_index
    from vggt_ros.inference.tensorrt_module import import_tensorrt

    version = import_tensorrt(backend).__version__
    opened = open_cuda(cuda_index("cuda:0" if device == "auto" else device) or 0)
    gpu = opened.facts
    opened.close()
    return Runtime(backend, version, gpu.name, gpu.compute_capability, gpu.driver)
