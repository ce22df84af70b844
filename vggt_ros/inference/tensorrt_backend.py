"""TensorRT 10 and 11: engines on the GPU and the version that they were built with.

One engine on the device's primary context, with as many execution contexts, streams and buffers
as calls go on at once. Dynamic shapes go through profile 0.
"""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import Arrays, BackendOptions, TensorSpec
from vggt_ros.inference.cuda_memory import Bytes, CudaDevice, open_cuda
from vggt_ros.inference.devices import check_file_precision, cuda_index
from vggt_ros.inference.passport import Passport, passport_path, read_passport
from vggt_ros.inference.tensorrt_module import (
    effective_precision,
    engine_information,
    import_tensorrt,
    listen,
    start,
    tensor_precisions,
    told,
)
from vggt_ros.inference.tensors import Slots, check_inputs, shape_text

_PROFILE = 0

_logger = logging.getLogger(__name__)


def open_file(path: Path, options: BackendOptions) -> TensorRtBackend:
    """Load an engine; see `open_engine`."""
    return open_engine("tensorrt", path, options)


def open_engine(module_name: str, path: Path, options: BackendOptions) -> TensorRtBackend:
    """Load an engine with one of the TensorRT modules.

    Raises:
        EngineError: no TensorRT or CUDA interface, no such GPU, an engine of another version or
            GPU, too little memory.
    """
    trt = import_tensorrt(module_name)
    index = cuda_index("cuda:0" if options.device == "auto" else options.device)
    if index is None:
        raise EngineError(
            f"backend {module_name}: expected device cuda:N, got cpu; TensorRT runs on NVIDIA "
            "GPUs only: take the back end onnxruntime, openvino or torch for a CPU"
        )
    device = open_cuda(index)
    passport = read_passport(path) if passport_path(path).is_file() else None
    try:
        with device.current():
            loaded = _Loaded(trt, module_name, path, device, passport)
            precision = loaded.precision()
            check_file_precision(loaded.name, options.precision, precision)
            backend = TensorRtBackend(loaded, module_name, precision, options.contexts)
    except BaseException:
        device.close()
        raise
    _logger.info(
        "%s: %s %s on %s through %s, %d contexts",
        path.name, module_name, trt.__version__, device.facts, device.interface,
        options.contexts,
    )  # fmt: skip
    return backend


class _Loaded:
    """An engine in memory, with everything that must live as long as it does."""

    def __init__(
        self, trt: Any, module: str, path: Path, device: CudaDevice, passport: Passport | None
    ) -> None:
        self.trt = trt
        self.name = f"{module}: {path.name}"
        self.device = device
        self.passport = passport
        self.listener = listen(trt)
        self.runtime = start(trt, "Runtime", self.listener)
        if passport is not None and passport.notes.get("version_compatible") == "true":
            # such engines carry the code of their own runtime
            self.runtime.engine_host_code_allowed = True
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise EngineError(self._why_not(path, module))
        self.names = {
            mode: [
                name
                for name in (
                    self.engine.get_tensor_name(k) for k in range(self.engine.num_io_tensors)
                )
                if self.engine.get_tensor_mode(name) == mode
            ]
            for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT)
        }
        self.inputs = tuple(self._spec(name) for name in self.names[trt.TensorIOMode.INPUT])
        self.outputs = tuple(self._spec(name) for name in self.names[trt.TensorIOMode.OUTPUT])

    def _why_not(self, path: Path, module: str) -> str:
        facts = self.device.facts
        built = ""
        if self.passport is not None and self.passport.runtime.version:
            made = self.passport.runtime
            built = (
                f"; its passport says {made.backend} {made.version} on {made.gpu or '?'} "
                f"({made.compute_capability or '?'})"
            )
        return (
            f"{path}: the engine does not load with {module} {self.trt.__version__} on "
            f"{facts.name} (compute capability {facts.compute_capability}){told(self.listener)}"
            f"{built}; engines run only with the TensorRT version and GPU they were built with: "
            f"build it here: vggt-ros engine build {path.with_suffix('.onnx')}"
        )

    def _spec(self, name: str) -> TensorSpec:
        kind = self.engine.get_tensor_dtype(name)
        try:
            dtype = np.dtype(self.trt.nptype(kind)).name
        except TypeError:
            raise EngineError(
                f"{self.name}: tensor '{name}': expected a type that NumPy has, got {kind}; "
                "export it with float32 inputs and outputs"
            ) from None
        shape = tuple(None if size < 0 else size for size in self.engine.get_tensor_shape(name))
        return TensorSpec(name, shape, dtype)

    def precision(self) -> str:
        """By the passport, else by the engine's own tensors, else "unknown"."""
        if self.passport is not None:
            return self.passport.precision.effective
        counts = tensor_precisions(engine_information(self.trt, self.engine))
        return effective_precision(counts) or "unknown"

    def check_profile(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise EngineError for a size that profile 0 does not allow."""
        low, _, high = (tuple(s) for s in self.engine.get_tensor_profile_shape(name, _PROFILE))
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not fits:
            raise EngineError(
                f"{self.name}: input '{name}': expected shapes from {shape_text(low)} to "
                f"{shape_text(high)}, got {shape_text(shape)}; build an engine for this size"
            )


class _Buffer:
    """Memory on the device and page-locked memory beside it, which grow and never shrink."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self.address = 0
        self._host: Bytes = np.empty(0, np.uint8)

    def resize(self, size: int) -> Bytes:
        """Make room for `size` bytes; that much of the page-locked memory."""
        if self._host.nbytes < size:
            self.free()
            self.address = self._device.allocate(size)
            self._host = self._device.allocate_host(size)
        return self._host[:size]

    def free(self) -> None:
        if self.address:
            self._device.free(self.address)
            self.address = 0
        if self._host.nbytes:
            self._device.free_host(self._host)
            self._host = np.empty(0, np.uint8)


class _Context:
    """An execution context with stream and buffers, for one call at a time."""

    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        self._device = loaded.device
        self._context = loaded.engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"{loaded.name}: no execution context{told(loaded.listener)}; if memory is short, "
                "give fewer contexts"
            )
        self.stream = self._device.stream()
        specs = (*loaded.inputs, *loaded.outputs)
        self._buffers = {spec.name: _Buffer(self._device) for spec in specs}

    def run(
        self, inputs: dict[str, NDArray[Any]], marks: list[float] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Compute; with `marks`, wait after each part and add the time [s] at which it ended."""
        # other contexts may log at the same time: then a message has too little or too much
        self._loaded.listener.errors.clear()
        try:
            results = self._queue(inputs, marks)
        finally:
            # also after a fault: whatever was queued uses the buffers
            self.stream.synchronise()
        self._mark(marks)
        # copies: the buffers are written again by the next call
        return {name: array.copy() for name, array in results.items()}

    def _mark(self, marks: list[float] | None) -> None:
        if marks is not None:
            self.stream.synchronise()
            marks.append(time.perf_counter())

    def _queue(
        self, inputs: dict[str, NDArray[Any]], marks: list[float] | None
    ) -> dict[str, NDArray[Any]]:
        """Queue copies and computation; arrays that hold the outputs once that is done."""
        loaded, context, stream = self._loaded, self._context, self.stream
        for spec in loaded.inputs:
            array = inputs[spec.name]
            if None in spec.shape:
                loaded.check_profile(spec.name, array.shape)
            self._must(context.set_input_shape(spec.name, tuple(array.shape)), "set_input_shape")
            host = self._bind(spec.name, array.nbytes)
            np.copyto(host.view(array.dtype).reshape(array.shape), array)
            self._device.copy_to_device(self._buffers[spec.name].address, host, stream)
        missing = context.infer_shapes()
        self._must(not missing, f"infer_shapes (unknown: {', '.join(missing)})")
        results = {}
        for spec in loaded.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            if any(size < 0 for size in shape):
                raise EngineError(
                    f"{loaded.name}: output '{spec.name}': its size depends on the data, got "
                    f"{shape}; such networks are not supported"
                )
            host = self._bind(spec.name, _size(shape, spec.dtype))
            results[spec.name] = host.view(spec.dtype).reshape(shape)
        self._mark(marks)
        self._must(context.execute_async_v3(stream.handle), "execute_async_v3")
        self._mark(marks)
        for name, array in results.items():
            host = array.reshape(-1).view(np.uint8)
            self._device.copy_to_host(host, self._buffers[name].address, stream)
        return results

    def _bind(self, name: str, size: int) -> Bytes:
        """Give a tensor its memory; the page-locked side of it."""
        buffer = self._buffers[name]
        host = buffer.resize(max(1, size))[:size]
        self._must(self._context.set_tensor_address(name, buffer.address), "set_tensor_address")
        return host

    def _must(self, succeeded: Any, what: str) -> None:
        if not succeeded:
            raise EngineError(f"{self._loaded.name}: {what} failed{told(self._loaded.listener)}")

    def free(self) -> None:
        for buffer in self._buffers.values():
            buffer.free()
        self._device.free_stream(self.stream)
        self._context = None


def _size(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


class TensorRtBackend:
    """An engine that is loaded; see `backend.Backend`."""

    def __init__(self, loaded: _Loaded, name: str, precision: str, contexts: int) -> None:
        self.name = name
        self.device = str(loaded.device.facts)
        self.precision = precision
        self.inputs = loaded.inputs
        self.outputs = loaded.outputs
        self._loaded: _Loaded | None = loaded
        self._engine = loaded.name
        self._device = loaded.device
        made: list[_Context] = []
        try:
            for _ in range(contexts):
                made.append(_Context(loaded))
        except BaseException:
            for slot in made:
                slot.free()
            raise
        self._slots = Slots(loaded.name, made)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute all outputs; see `backend.Backend.run`."""
        feed = check_inputs(self._engine, self.inputs, inputs)
        with self._slots.take() as slot, self._device.current():
            return slot.run(feed)

    def run_timed(self, inputs: Arrays) -> tuple[dict[str, NDArray[Any]], tuple[float, ...]]:
        """As `run`, with the times [ms] of copying there, of computing and of copying back."""
        feed = check_inputs(self._engine, self.inputs, inputs)
        with self._slots.take() as slot, self._device.current():
            marks = [time.perf_counter()]
            outputs = slot.run(feed, marks)
        return outputs, tuple(1e3 * (b - a) for a, b in itertools.pairwise(marks))

    def close(self) -> None:
        """Free contexts, buffers and engine; see `backend.Backend.close`."""
        slots = self._slots.close()
        if not slots:
            return
        with self._device.current():
            for slot in slots:
                slot.free()
            slots.clear()
            self._loaded = None
        self._device.close()
