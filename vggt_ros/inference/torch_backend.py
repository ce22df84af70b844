"""PyTorch: checkpoints of VGGT and folders with Depth Anything, without an export before.

VGGT takes `images` (S, 3, H, W) in [0, 1] and answers with a leading axis of one, as its engines
do; Depth Anything takes `images` (B, 3, H, W), ImageNet-normalised, and answers `depth` (B, H, W).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import Arrays, BackendOptions, TensorSpec
from vggt_ros.inference.devices import check_precision, cpu_name, cuda_index
from vggt_ros.inference.tensors import Slots, check_inputs, first_line
from vggt_ros.models.vggt_config import POSE_SIZE

_SHAPES: dict[str, tuple[int | None, ...]] = {
    "pose_enc": (1, None, POSE_SIZE),
    "depth": (1, None, None, None, 1),
    "depth_conf": (1, None, None, None),
    "world_points": (1, None, None, None, 3),
    "world_points_conf": (1, None, None, None),
}
_STORED = {
    **dict.fromkeys(("F32", "F64", "float32", "float64"), "fp32"),
    **dict.fromkeys(("BF16", "bfloat16"), "bf16"),
    **dict.fromkeys(("F16", "float16"), "fp16"),
}
"""Precision of a tensor's type, as safetensors and torch name it."""

_full_float32 = threading.Lock()
"""Held while TF32 is off: PyTorch has one switch for the process."""


def open_file(path: Path, options: BackendOptions) -> TorchBackend:
    """Load a checkpoint onto a device.

    Raises:
        EngineError: no torch, no such device or precision, or weights that do not fit.
    """
    torch = _import_torch()
    check_precision(options.precision)
    device = _choose_device(torch, options.device)
    if _model_type(path) == "depth_anything":
        network, precision = _load_depth_anything(torch, path, options.precision)
        inputs = (TensorSpec("images", (None, 3, None, None), "float32"),)
        outputs: tuple[TensorSpec, ...] = (TensorSpec("depth", (None, None, None), "float32"),)
        has_batch = True
    else:
        network, precision = _load_vggt(torch, path, options.precision)
        inputs = (TensorSpec("images", (None, 3, None, None), "float32"),)
        outputs = tuple(
            TensorSpec(name, _SHAPES[name], "float32") for name in network.output_names
        )
        has_batch = False
    try:
        network = network.to(device)
    except RuntimeError as error:
        raise EngineError(
            f"{path}: the weights do not go to {device}: {first_line(error)}"
        ) from error
    return TorchBackend(
        torch, path, network, device, precision, inputs, outputs, has_batch, options
    )


class TorchBackend:
    """A network in this process; see `backend.Backend`."""

    name = "torch"

    def __init__(
        self,
        torch: Any,
        path: Path,
        network: Any,
        device: Any,
        precision: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        has_batch: bool,
        options: BackendOptions,
    ) -> None:
        self.precision = precision
        self.inputs = inputs
        self.outputs = outputs
        self._torch = torch
        self._engine = f"torch: {path.name}"
        self._network: Any = network
        self._device = device
        self._has_batch = has_batch
        self._threads = options.threads
        self.device = "cpu"
        streams: list[Any] = [None] * options.contexts
        if device.type == "cuda":
            self.device = f"{device} ({torch.cuda.get_device_name(device)})"
            streams = [torch.cuda.Stream(device) for _ in streams]
        self._slots = Slots(self._engine, streams)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute all outputs; see `backend.Backend.run`."""
        images = check_inputs(self._engine, self.inputs, inputs)["images"]
        torch = self._torch
        with self._slots.take() as stream, torch.inference_mode(), self._settings(stream):
            try:
                x = torch.from_numpy(images).to(self._device)
                computed = self._network(x if self._has_batch else x[None])
                if stream is not None:
                    stream.synchronize()
                # a copy: what lies on the CPU already would share memory with the network
                arrays = [value.float().cpu().numpy().copy() for value in computed]
            except (RuntimeError, ValueError, NotImplementedError) as error:
                raise EngineError(f"{self._engine}: {first_line(error)}") from error
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}

    def close(self) -> None:
        """Drop the weights; see `backend.Backend.close`."""
        if self._slots.close():
            self._network = None
            if self._device.type == "cuda":
                self._torch.cuda.empty_cache()

    @contextlib.contextmanager
    def _settings(self, stream: Any) -> Iterator[None]:
        """Threads, stream and full float32 for the time of a call, as they were afterwards."""
        torch = self._torch
        with contextlib.ExitStack() as stack:
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
                if self.precision == "fp32":
                    stack.enter_context(_full_float32)
                    stack.enter_context(_no_tf32(torch))
            elif self._threads:
                # of the calling thread; other callers keep theirs
                before = torch.get_num_threads()
                stack.callback(torch.set_num_threads, before)
                torch.set_num_threads(self._threads)
            yield


@contextlib.contextmanager
def _no_tf32(torch: Any) -> Iterator[None]:
    """Convolutions and matrices in float32 proper: TF32 keeps 10 bits and is the default."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise EngineError(
            f"backend torch: PyTorch is not installed ({first_line(error)}); "
            "pip install 'vggt_ros[torch]'"
        ) from error
    return torch


def _choose_device(torch: Any, asked: str) -> Any:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        asked = "cuda:0" if there else "cpu"
    index = cuda_index(asked)
    if index is None:
        return torch.device("cpu")
    if index >= there:
        names = [f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(there)]
        reason = "" if torch.version.cuda else "; this PyTorch was built without CUDA"
        raise EngineError(
            f"backend torch: expected device {asked}, found cpu ({cpu_name()})"
            f"{''.join(', ' + name for name in names)}{reason}; give one of these"
        )
    return torch.device("cuda", index)


def _model_type(path: Path) -> str:
    """What Hugging Face's config.json in a folder calls its model; empty without one."""
    file = path / "config.json"
    if not file.is_file():
        return ""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{file}: not readable as JSON ({error}); download it again") from error
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""


def _load_vggt(torch: Any, path: Path, asked: str) -> tuple[Any, str]:
    from vggt_ros.models.checkpoint import check_checkpoint, load_vggt

    precision = asked
    if asked == "auto":
        dtypes = check_checkpoint(path).dtypes
        stored = max(dtypes, key=lambda name: dtypes[name], default="F32")
        precision = _STORED.get(stored, "fp32")
    network, _ = load_vggt(path, dtype=_dtype(torch, precision))
    return network, precision


def _load_depth_anything(torch: Any, path: Path, asked: str) -> tuple[Any, str]:
    from vggt_ros.models.depth_anything import load_depth_anything

    network = load_depth_anything(path)
    if asked == "auto":
        parameter = next(network.parameters())
        asked = _STORED.get(str(parameter.dtype).removeprefix("torch."), "fp32")
    network = network.to(_dtype(torch, asked)).eval().requires_grad_(False)
    dtype = _dtype(torch, asked)
    return _WithInputType(network, dtype), asked


class _WithInputType:
    """A network whose input is turned into the type of its weights."""

    def __init__(self, network: Any, dtype: Any) -> None:
        self._network = network
        self._dtype = dtype

    def to(self, device: Any) -> _WithInputType:
        return _WithInputType(self._network.to(device), self._dtype)

    def __call__(self, images: Any) -> Any:
        return self._network(images.to(self._dtype))


def _dtype(torch: Any, precision: str) -> Any:
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
