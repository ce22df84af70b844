"""ONNX Runtime: `.onnx` files on the processor or on an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import Arrays, BackendOptions, TensorSpec
from vggt_ros.inference.devices import check_file_precision, cuda_index
from vggt_ros.inference.onnx_file import read_numbers
from vggt_ros.inference.tensors import Slots, check_inputs, first_line

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def open_file(path: Path, options: BackendOptions) -> OnnxRuntimeBackend:
    """Load an ONNX file.

    Raises:
        EngineError: no onnxruntime, no such device, another precision than the file's, or a file
            that does not load.
    """
    runtime = _import_onnxruntime()
    engine = f"onnxruntime: {path.name}"
    index = _choose_device(runtime, options.device)
    precision = read_numbers(path).precision
    check_file_precision(engine, options.precision, precision)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    if precision == "fp8":
        # its optimiser makes operators of fp8 that its CPU kernels do not have
        settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3  # its warnings are about the export, not about this run
    if index is None:
        providers: list[Any] = [_CPU]
    else:
        # TF32 keeps 10 bits of float32 and is on otherwise
        providers = [(_CUDA, {"device_id": index, "use_tf32": 0}), _CPU]
    try:
        # without enable_fallback=0 it prints a line and goes on with the CPU
        session = runtime.InferenceSession(
            str(path), settings, providers=providers, enable_fallback=0
        )
    # its exceptions have no common base but Exception
    except Exception as error:
        hint = "; export it in fp32 or fp16: few kernels take bf16" if precision == "bf16" else ""
        raise EngineError(f"{engine}: it does not load: {first_line(error)}{hint}") from error
    if index is not None and _CUDA not in session.get_providers():
        raise EngineError(
            f"{engine}: expected device cuda:{index}, but ONNX Runtime could not load its CUDA "
            f"provider and would run on the CPU; it needs an NVIDIA GPU with its driver, and CUDA "
            f"and cuDNN libraries of the versions that onnxruntime-gpu {runtime.__version__} asks "
            "for (pip install 'onnxruntime-gpu[cuda,cudnn]'), or give device cpu"
        )
    return OnnxRuntimeBackend(engine, session, index, precision, options.contexts)


class OnnxRuntimeBackend:
    """A session, which is safe to run from several threads; see `backend.Backend`."""

    name = "onnxruntime"

    def __init__(
        self, engine: str, session: Any, index: int | None, precision: str, contexts: int
    ) -> None:
        self.device = "cpu" if index is None else f"cuda:{index}"
        self.precision = precision
        self.inputs = tuple(_spec(engine, node) for node in session.get_inputs())
        self.outputs = tuple(_spec(engine, node) for node in session.get_outputs())
        self._engine = engine
        self._names = [spec.name for spec in self.outputs]
        self._slots = Slots(engine, [session] * contexts)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute all outputs; see `backend.Backend.run`."""
        feed = check_inputs(self._engine, self.inputs, inputs)
        with self._slots.take() as session:
            try:
                values = session.run(self._names, feed)
            # its exceptions have no common base but Exception
            except Exception as error:
                raise EngineError(f"{self._engine}: {first_line(error)}") from error
        return {n: np.asarray(v) for n, v in zip(self._names, values, strict=True)}

    def close(self) -> None:
        """Drop the session; see `backend.Backend.close`."""
        self._slots.close()


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"backend onnxruntime: ONNX Runtime is not installed ({first_line(error)}); "
            "pip install 'vggt_ros[onnxruntime]' (or onnxruntime-gpu for an NVIDIA GPU)"
        ) from error
    return onnxruntime


def _choose_device(runtime: Any, asked: str) -> int | None:
    """Index of the GPU, or None; `auto` is what this build of ONNX Runtime is made for."""
    there = runtime.get_available_providers()
    if asked == "auto":
        asked = "cuda:0" if _CUDA in there else "cpu"
    index = cuda_index(asked)
    if index is not None and _CUDA not in there:
        raise EngineError(
            f"backend onnxruntime: expected device {asked}, but onnxruntime "
            f"{runtime.__version__} is a build for {', '.join(there)}; pip install "
            "onnxruntime-gpu in its place, or give device cpu"
        )
    return index


def _spec(engine: str, node: Any) -> TensorSpec:
    if node.type not in _TYPES:
        raise EngineError(
            f"{engine}: tensor '{node.name}': expected one of {', '.join(_TYPES)}, got "
            f"{node.type}; export the engine with float32 inputs and outputs"
        )
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, shape, _TYPES[node.type])
