"""The passport of an engine: what it is, where it came from, what it must answer.

It lies beside the engine as `<engine file>.json`. Whoever runs an engine reads from here what a
name or a shape cannot tell: how the input is normalised, what depth means, the effective
precision. Nothing of it is guessed. The seal is a hash over all fields: it shows an edit or a
damaged file, and is no signature.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.errors import EngineError
from vggt_ros.export.files import write_text

FORMAT = 1
"""Of the file; readers refuse others."""

FAMILIES = ("vggt", "depth_anything")
NORMALISATIONS = ("zero_to_one", "imagenet")
"""Of the input: RGB in [0, 1] (the rest is inside), or that less mean over deviation."""

_SAMPLES = re.compile(r'\[\n[^"\[\]{}]*\]')
"""Lists of numbers, which are written on one line."""


@dataclass(frozen=True)
class ModelFacts:
    """The network and its weights."""

    family: str
    """One of `FAMILIES`: which decoder its outputs need."""
    name: str
    """facebook/VGGT-1B, depth-anything/Depth-Anything-V2-Small-hf, ..."""
    licence: str
    """Of the weights, as their publisher states it; "unknown" where nobody has."""
    checkpoint_sha256: str
    normalisation: str
    depth_kind: str = ""
    """A value of `DepthKind` for depth_anything; empty for vggt, whose scale is arbitrary."""


@dataclass(frozen=True)
class Tensor:
    """One input or output. Shapes are those the engine was made for; -1: free."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str = ""


@dataclass(frozen=True)
class Precision:
    """What was asked for and what it became; they differ only with --allow-fallback."""

    requested: str
    effective: str
    quant_mode_requested: str = "none"
    quant_mode_effective: str = "none"
    calibration: str = "none"
    """none, synthetic, or where the images came from."""
    calibration_samples: int = 0


@dataclass(frozen=True)
class Runtime:
    """What the file was made with and for; empty strings where it does not matter."""

    backend: str
    version: str
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""


@dataclass(frozen=True)
class GoldenOutput:
    """Samples of one output of the reference, at even steps through the flattened array."""

    name: str
    indices: tuple[int, ...]
    values: tuple[float, ...]
    tolerance: float
    """Largest accepted error, relative, as `verify` measures it."""
    parity: float | None = None
    """The error that was measured when the engine was made, the same way."""


@dataclass(frozen=True)
class Golden:
    """An input that is drawn anew from its recipe, and what the fp32 reference answers."""

    recipe: str
    """Name of a generator in `inference.golden`."""
    seed: int
    input_shape: tuple[int, ...]
    """What the input was drawn for; the engine's own may have free sizes."""
    input_sha256: str
    outputs: tuple[GoldenOutput, ...]
    reference: str
    """What computed the values: "torch 2.13.0 fp32", ..."""


@dataclass(frozen=True)
class Passport:
    """All of it."""

    file: str
    sha256: str
    model: ModelFacts
    precision: Precision
    runtime: Runtime
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    golden: Golden | None = None
    onnx_sha256: str = ""
    opset: int = 0
    created: str = ""
    """UTC, ISO 8601."""
    data_files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of further files by name, such as the weights of a large ONNX graph."""
    notes: dict[str, str] = field(default_factory=dict)
    """`source`: name of the file it was made from; `checkpoint`; `warning`: for people."""
    seal: str = ""
    """Over all other fields; written by `to_json`."""
    format: int = FORMAT

    @property
    def free_sizes(self) -> bool:
        """Whether an input takes more than one shape."""
        return any(-1 in tensor.shape for tensor in self.inputs)


def passport_path(engine: str | Path) -> Path:
    """Where the passport of an engine lies."""
    return Path(f"{engine}.json")


def seal_of(passport: Passport) -> str:
    """The hash that `seal` must be."""
    fields = {**dataclasses.asdict(passport), "seal": ""}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def to_json(passport: Passport) -> str:
    """Text of the file, sealed."""
    sealed = {**dataclasses.asdict(passport), "seal": seal_of(passport)}
    return _SAMPLES.sub(_one_line, json.dumps(sealed, indent=2)) + "\n"


def write_passport(engine: str | Path, passport: Passport) -> Path:
    """Write the passport beside an engine, atomically.

    Returns:
        Where it lies.

    Raises:
        ExportError: it cannot be written; what stood there is untouched.
    """
    path = passport_path(engine)
    write_text(path, to_json(passport))
    return path


def _one_line(match: re.Match[str]) -> str:
    return " ".join(match[0].split())


def read_passport(engine: str | Path) -> Passport:
    """Read the passport that lies beside an engine.

    Raises:
        EngineError: there is none, it is not one, or it was edited; the message has the mending
            command.
    """
    path = passport_path(engine)
    mend = f"make {Path(engine).name} anew: vggt-ros engine {_maker(engine)}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{engine}: expected its passport {path.name} beside it, found none; {mend}"
        ) from None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: not a readable passport ({error}); {mend}") from error
    try:
        if content["format"] != FORMAT:
            raise EngineError(
                f"{path}: expected passport format {FORMAT}, got {content['format']}; {mend}"
            )
        passport = _build(content)
        expected = seal_of(passport)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"{path}: not a passport ({error!r}); {mend}") from error
    if passport.seal != expected:
        raise EngineError(
            f"{path}: seal: expected {expected[:12]}, found '{passport.seal[:12]}': the passport "
            f"was edited or damaged; {mend}"
        )
    return passport


def _maker(engine: str | Path) -> str:
    """The sub-command that makes such a file."""
    return "build" if Path(engine).suffix in (".engine", ".plan") else "export"


def _build(content: dict[str, Any]) -> Passport:
    golden = content["golden"]
    return Passport(
        **{
            **content,
            "model": ModelFacts(**content["model"]),
            "precision": Precision(**content["precision"]),
            "runtime": Runtime(**content["runtime"]),
            "inputs": tuple(_tensor(t) for t in content["inputs"]),
            "outputs": tuple(_tensor(t) for t in content["outputs"]),
            "golden": None if golden is None else _golden(golden),
        }
    )


def _tensor(content: dict[str, Any]) -> Tensor:
    return Tensor(**{**content, "shape": tuple(content["shape"])})


def _golden(content: dict[str, Any]) -> Golden:
    outputs = tuple(
        GoldenOutput(**{**o, "indices": tuple(o["indices"]), "values": tuple(o["values"])})
        for o in content["outputs"]
    )
    shape = tuple(content["input_shape"])
    return Golden(**{**content, "input_shape": shape, "outputs": outputs})
