"""TensorRT 10 and 11 and TensorRT for RTX: importing them, hearing what they log, engine facts.

The names used here and in `tensorrt_backend` and `engine.tensorrt_build` are those that both
major versions have; a test holds them against the surfaces of the real bindings.
"""

from __future__ import annotations

import json
import logging
from importlib import import_module
from typing import Any

from vggt_ros.errors import EngineError
from vggt_ros.inference.tensors import first_line

SUPPORTED = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}
"""Major versions by module."""

_FLOATS = ("FP32", "BF16", "FP16")
_QUANTISED = ("FP4", "INT4", "FP8", "INT8")
_WORDS = {
    "FLOAT": "FP32",
    "FP32": "FP32",
    "FLOAT32": "FP32",
    "HALF": "FP16",
    "FP16": "FP16",
    "FLOAT16": "FP16",
    "BF16": "BF16",
    "BFLOAT16": "BF16",
    "INT8": "INT8",
    "FP8": "FP8",
    "FP4": "FP4",
    "INT4": "INT4",
    "E2M1": "FP4",
    "E4M3": "FP8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
    "UINT8": "UINT8",
}
"""First words of the inspector's "Format/Datatype", after "Row major linear" and the like."""

_logger = logging.getLogger(__name__)


def import_tensorrt(name: str = "tensorrt") -> Any:
    """The module `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineError: not installed, or a major version that is not supported.
    """
    try:
        module = import_module(name)
    # besides ImportError, the bindings fail with OSError on a library that is missing
    except (ImportError, OSError) as error:
        extra = "tensorrt" if name == "tensorrt" else "tensorrt-rtx"
        raise EngineError(
            f"backend {name}: TensorRT is not installed ({first_line(error)}); pip install "
            f"'vggt_ros[{extra}]' (on Jetson TensorRT comes with JetPack)"
        ) from error
    if major(module) not in SUPPORTED[name]:
        raise EngineError(
            f"backend {name}: expected major version "
            f"{' or '.join(str(v) for v in SUPPORTED[name])}, found {module.__version__}; "
            "install one of these"
        )
    return module


def major(module: Any) -> int:
    """Major version of an imported module."""
    return int(module.__version__.split(".")[0])


def listen(module: Any) -> Any:
    """A logger for TensorRT that passes on to `logging` and remembers errors.

    The object has `errors`, a list of the messages since it was made. Keep it as long as
    anything that was made with it.
    """

    class Listener(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any thread."""
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.errors.append(message.strip())
                _logger.error("TensorRT: %s", message)
            elif severity == module.ILogger.WARNING:
                _logger.warning("TensorRT: %s", message)
            else:
                _logger.debug("TensorRT: %s", message)

    return Listener()


def start(module: Any, kind: str, listener: Any) -> Any:
    """A `Runtime` or `Builder`.

    Raises:
        EngineError: TensorRT does not start, for which the bindings have a TypeError only.
    """
    make = module.Runtime if kind == "Runtime" else module.Builder
    try:
        return make(listener)
    except TypeError as error:
        raise EngineError(
            f"TensorRT {module.__version__} does not start{told(listener)}: its libraries do not "
            "fit the NVIDIA driver (see nvidia-smi for the CUDA version it supports) or its "
            "bindings; install those of one release"
        ) from error


def told(listener: Any) -> str:
    """Errors that a listener heard, as the end of a message; empty if none."""
    # the first says why, those after it what failed therefore
    return f": {first_line(Exception(listener.errors[0]))}" if listener.errors else ""


def engine_information(module: Any, engine: Any) -> str:
    """JSON of the engine inspector; layer names alone unless it was built with details."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def tensor_precisions(inspector_json: str) -> dict[str, int]:
    """Tensors of an engine by type, each tensor once, most frequent first.

    Reads the inspector's JSON of TensorRT 8.5 to 11: a list of layers, each with `Inputs` and
    `Outputs` whose `Format/Datatype` ends in a type, and the engine's own tensors as a list of
    names (`Bindings`, from 11 on `I/O Tensors`) or of such objects.

    Returns:
        {"FP16": 812, "FP32": 6}; empty where the engine was built without details.

    Raises:
        EngineError: not the inspector's JSON.
    """
    try:
        content = json.loads(inspector_json)
    except ValueError as error:
        raise EngineError(f"engine inspector: expected JSON, got {error}") from error
    if not isinstance(content, dict):
        raise EngineError(f"engine inspector: expected an object, got {type(content).__name__}")
    types: dict[str, str] = {}
    layers = content.get("Layers") or []
    tensors = [
        tensor
        for layer in layers
        if isinstance(layer, dict)
        for side in ("Inputs", "Outputs")
        for tensor in layer.get(side) or []
    ]
    for key in ("Bindings", "I/O Tensors"):
        tensors += content.get(key) or []
    for tensor in tensors:
        if isinstance(tensor, dict) and "Name" in tensor:
            kind = _type_of(str(tensor.get("Format/Datatype") or tensor.get("Datatype") or ""))
            if kind:
                types.setdefault(str(tensor["Name"]), kind)
    counts: dict[str, int] = {}
    for kind in types.values():
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def effective_precision(counts: dict[str, int]) -> str:
    """What an engine with these tensors computes in: fp32, bf16, fp16, int8, ...; "" unknown."""
    for kind in _QUANTISED:
        if counts.get(kind):
            return kind.lower()
    floats = [kind for kind in _FLOATS if counts.get(kind)]
    # of as many tensors the narrower type: inputs and outputs are float32 in any engine
    return max(floats, key=lambda k: (counts[k], _FLOATS.index(k))).lower() if floats else ""


def _type_of(text: str) -> str:
    """The type in "Row major linear FP16 format", "Half", "... wide row major Int8 format ..."."""
    for word in text.replace(",", " ").replace("/", " ").replace(":", " ").split():
        if word.upper() in _WORDS:
            return _WORDS[word.upper()]
    return ""
