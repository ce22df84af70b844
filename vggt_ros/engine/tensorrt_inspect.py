"""What is inside a TensorRT engine, and on what GPU it was made."""

from __future__ import annotations

from collections.abc import Mapping

from vggt_ros.inference.cuda_memory import GpuFacts, open_cuda
from vggt_ros.inference.tensorrt_module import effective_precision, tensor_precisions

__all__ = [
    "GpuFacts",
    "effective_precision",
    "gpu_facts",
    "precision_line",
    "precision_warning",
    "report_precisions",
    "tensor_precisions",
]


def gpu_facts(index: int = 0) -> GpuFacts:
    """Name, compute capability, driver and memory of a GPU, for the passport.

    Raises:
        EngineError: no such GPU, or no CUDA interface.
    """
    device = open_cuda(index)
    facts = device.facts
    device.close()
    return facts


def precision_line(counts: Mapping[str, int]) -> str:
    """`[INFO] Engine tensor precisions: FP16:812, FP32:6`."""
    told = ", ".join(f"{name}:{count}" for name, count in counts.items())
    return f"[INFO] Engine tensor precisions: {told or 'unknown (built without details)'}"


def precision_warning(counts: Mapping[str, int], requested: str) -> str:
    """A warning where 8 or 4 bits were asked for and no tensor has them; else empty.

    Args:
        counts: of `tensor_precisions`.
        requested: fp32, fp16, bf16, int8, fp8, fp4, in any case.
    """
    wanted = requested.upper()
    if wanted not in ("FP8", "INT8", "FP4", "INT4") or counts.get(wanted):
        return ""
    return (
        f"[WARNING] {wanted} requested but engine contains no {wanted} tensors; TensorRT likely "
        "fell back to FP16/FP32: the ONNX file "
        f"has no quantised layers, or TensorRT fused them away. It computes in "
        f"{effective_precision(dict(counts)) or 'an unknown precision'}."
    )


def report_precisions(inspector_json: str, requested: str) -> list[str]:
    """The lines that a build or `vggt-ros engine inspect` prints about precision.

    Raises:
        EngineError: not the inspector's JSON.
    """
    counts = tensor_precisions(inspector_json)
    warning = precision_warning(counts, requested)
    return [precision_line(counts), *([warning] if warning else [])]
