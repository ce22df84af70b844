"""OpenVINO on the processor: `.onnx` and `.xml` files, in float32 or what the processor has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import Arrays, BackendOptions, TensorSpec
from vggt_ros.inference.devices import (
    check_file_precision,
    check_precision,
    cpu_has_bf16,
    cpu_name,
    cuda_index,
)
from vggt_ros.inference.tensors import Slots, check_inputs, first_line

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def open_file(path: Path, options: BackendOptions) -> OpenVinoBackend:
    """Compile a network for the processor.

    Precision `auto` is float32: OpenVINO's own choice is bfloat16 wherever the processor has it,
    which is another network than the file. Quantised layers run in int8 and are reported so.

    Raises:
        EngineError: no openvino, a device that is not the CPU, a precision without instructions
            for it, or a file that does not load.
    """
    openvino = _import_openvino()
    engine = f"openvino: {path.name}"
    if options.device != "auto" and cuda_index(options.device) is not None:
        raise EngineError(
            f"backend openvino: expected device cpu, got {options.device}; it has no NVIDIA "
            "GPUs: take the back end onnxruntime, torch or tensorrt for them"
        )
    check_precision(options.precision)
    precision = "fp32" if options.precision == "auto" else options.precision
    contexts = options.contexts
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY" if contexts == 1 else "THROUGHPUT",
        "NUM_STREAMS": str(contexts),
    }
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = str(options.threads)
    core = openvino.Core()
    _check_processor(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    try:
        model = core.read_model(str(path))
        is_quantised = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        compiled = core.compile_model(model, "CPU", settings)
        requests = [compiled.create_infer_request() for _ in range(contexts)]
        effective = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError as error:
        raise EngineError(f"{engine}: it does not load: {_reason(error)}") from error
    if effective != _HINTS[precision]:
        raise EngineError(
            f"{engine}: expected precision {precision}, OpenVINO chose {effective} on this "
            f"processor ({cpu_name()}); give fp32"
        )
    if is_quantised:
        check_file_precision(engine, options.precision, "int8")
        precision = "int8"
    return OpenVinoBackend(engine, compiled, requests, precision)


class OpenVinoBackend:
    """A compiled network with as many requests as calls go on at once; see `backend.Backend`."""

    name = "openvino"
    device = "cpu"

    def __init__(self, engine: str, compiled: Any, requests: list[Any], precision: str) -> None:
        self.precision = precision
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self._engine = engine
        self._slots = Slots(engine, requests)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute all outputs; see `backend.Backend.run`."""
        checked = check_inputs(self._engine, self.inputs, inputs)
        feed = {k: checked[spec.name] for k, spec in enumerate(self.inputs)}
        with self._slots.take() as request:
            try:
                results = request.infer(feed, share_inputs=True)
                # copies: the request writes into the same memory the next time
                return {spec.name: np.array(results[k]) for k, spec in enumerate(self.outputs)}
            except RuntimeError as error:
                raise EngineError(f"{self._engine}: {_reason(error)}") from error

    def close(self) -> None:
        """Drop the requests; see `backend.Backend.close`."""
        self._slots.close()


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f"backend openvino: OpenVINO is not installed ({first_line(error)}); "
            "pip install 'vggt_ros[openvino]'"
        ) from error
    return openvino


def _check_processor(precision: str, capabilities: list[str]) -> None:
    """Refuse what the processor could only emulate, or OpenVINO would change in silence."""
    if precision == "bf16" and not (cpu_has_bf16() and "BF16" in capabilities):
        raise EngineError(
            f"backend openvino: precision bf16 needs a processor with AMX or AVX512-BF16, this "
            f"one ({cpu_name()}) has neither; give fp32"
        )
    if precision == "fp16" and "FP16" not in capabilities:
        raise EngineError(
            f"backend openvino: precision fp16 needs a processor with AVX512-FP16 or AMX-FP16, "
            f"this one ({cpu_name()}) computes in {', '.join(capabilities)}; give fp32"
        )


def _spec(port: Any) -> TensorSpec:
    shape = tuple(
        None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
    )
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    return TensorSpec(_name(port), shape, dtype)


def _name(port: Any) -> str:
    """The name that the file gives it.

    A tensor also has the names of those that a removed no-op (a cast to its own type) made of it,
    and `get_any_name` takes any. Inputs are named as their node, outputs as theirs less a suffix.
    """
    name = str(port.get_node().get_friendly_name()).removesuffix("/sink_port_0")
    names = port.get_names()
    return name if name in names or not names else sorted(names)[0]


def _reason(error: RuntimeError) -> str:
    """OpenVINO's messages begin with lines of its own source files; the last says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[-1]
