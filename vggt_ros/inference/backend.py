"""What runs a network: named arrays in, named arrays out. One file per runtime, opened lazily.

| back end | files | devices |
|---|---|---|
| `torch` | `.safetensors`, `.pt`, or a folder with one of them | cpu, cuda:N |
| `onnxruntime` | `.onnx` | cpu, cuda:N |
| `openvino` | `.onnx`, `.xml` | cpu |
| `tensorrt` | `.engine`, `.plan` | cuda:N |
| `tensorrt_rtx` | `.engine`, `.plan`; only when it is named | cuda:N |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from vggt_ros import config
from vggt_ros.errors import EngineError, nearest

Arrays = Mapping[str, NDArray[Any]]

BACKENDS = config.BACKENDS[1:]
"""Names; `vggt_ros.inference.<name>_backend` holds each, with a function `open_file`."""

_BY_SUFFIX = {
    ".safetensors": "torch",
    ".pt": "torch",
    ".onnx": "onnxruntime",
    ".xml": "openvino",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
}
"""What `auto` chooses; a folder is a checkpoint."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; None stands for a size that is free."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    """NumPy's name: float32, float16, int64, ..."""


@dataclass(frozen=True)
class BackendOptions:
    """How to open a network."""

    device: str = "auto"
    """cpu, cuda:N, or auto: what the back end's own build runs on. Never changed in silence."""
    precision: str = "auto"
    """For back ends that choose at run time (torch, openvino): fp32, bf16, fp16; auto: as the
    file is stored. Elsewhere the file decides, and another wish is an error."""
    contexts: int = 1
    """Calls of `run` that may go on at the same time; others wait."""
    threads: int = 0
    """On a CPU; 0: the runtime's own choice."""


class Backend(Protocol):
    """A network that is loaded. `run` may be called from several threads."""

    name: str
    device: str
    """Where it runs, for people too: "cpu", "cuda:0 (NVIDIA H200)"."""
    precision: str
    """What it effectively computes in: fp32, bf16, fp16, int8, ..."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute all outputs; they are the caller's own.

        Raises:
            EngineError: names, shapes or types are not those of `inputs`, or the runtime failed.
        """
        ...

    def close(self) -> None:
        """Give memory and device back; `run` is an error from then on."""
        ...


def choose_backend(path: str | Path, name: str = "auto") -> str:
    """The back end for a file, by its name.

    Raises:
        EngineError: unknown back end, or a file that none is for.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise EngineError(
                f"backend: expected auto or one of {', '.join(BACKENDS)}, got '{name}'"
                f"{nearest(name, BACKENDS)}"
            )
        return name
    suffix = Path(path).suffix
    if Path(path).is_dir():
        return "torch"
    if suffix not in _BY_SUFFIX:
        raise EngineError(
            f"{path}: expected a file ending in {', '.join(_BY_SUFFIX)} or a folder with a "
            "checkpoint; name the back end, or export an engine: vggt-ros engine export"
        )
    return _BY_SUFFIX[suffix]


def open_backend(
    path: str | Path, name: str = "auto", options: BackendOptions | None = None
) -> Backend:
    """Load a network.

    Raises:
        EngineError: no such file, a runtime that is not installed, a device that is not there,
            or a file that does not fit them; the message says what mends it.
    """
    chosen = choose_backend(path, name)
    if not Path(path).exists():
        raise EngineError(f"{path}: expected an engine or checkpoint, found nothing there")
    options = options or BackendOptions()
    for option, value, least in (
        ("contexts", options.contexts, 1),
        ("threads", options.threads, 0),
    ):
        if value < least:
            raise EngineError(f"{option}: expected at least {least}, got {value}")
    module = import_module(f"vggt_ros.inference.{chosen}_backend")
    backend: Backend = module.open_file(Path(path), options)
    return backend
