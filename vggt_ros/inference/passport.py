"""The passport of an engine: what it is, where it came from, what it must answer.

It lies beside the engine as `<engine file>.json`. Whoever runs an engine reads from here what a
name or a shape cannot tell: how the input is normalised, what depth means, the effective
precision. Nothing of it is guessed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.errors import EngineError

FORMAT = 1
"""Of the file; readers refuse others."""

FAMILIES = ("vggt", "depth_anything")
NORMALISATIONS = ("zero_to_one", "imagenet")
"""Of the input: RGB in [0, 1] (the rest is inside), or that less mean over deviation."""


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
    notes: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def passport_path(engine: str | Path) -> Path:
    """Where the passport of an engine lies."""
    return Path(f"{engine}.json")


def to_json(passport: Passport) -> str:
    """Text of the file."""
    return json.dumps(dataclasses.asdict(passport), indent=2) + "\n"


def read_passport(engine: str | Path) -> Passport:
    """Read the passport that lies beside an engine.

    Raises:
        EngineError: there is none, or it is not one; the message has the mending command.
    """
    path = passport_path(engine)
    mend = f"make the engine anew, or: vggt-ros engine verify {engine}"
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
        return _build(content)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path}: not a passport ({error!r}); {mend}") from error


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
    return Golden(**{**content, "outputs": outputs})
