"""Refuse a run in ONNX Runtime on the CPU that the system would kill in the middle."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vggt_ros.inference.backend import choose_backend

SMALL_BYTES = 100 * 2**20
"""Smaller graphs are not looked at: their weights and what they compute fit anywhere."""


def check_memory(engine: Path, backend: str, device: str) -> None:
    """Compare what a graph needs with what there is, where `onnx` is installed to tell.

    Raises:
        EngineError: too little; the message has both figures.
    """
    if choose_backend(engine, backend) != "onnxruntime" or device.startswith("cuda"):
        return
    if not engine.is_file() or importlib.util.find_spec("onnx_ir") is None:
        return
    from vggt_ros.engine.memory import require_memory
    from vggt_ros.engine.model_files import size_of_model
    from vggt_ros.engine.run_onnx import estimate_run_memory

    if size_of_model(engine) < SMALL_BYTES:
        return
    require_memory(
        estimate_run_memory(engine),
        engine.name,
        "take OpenVINO (--backend openvino), a GPU, or fewer or smaller views",
    )
