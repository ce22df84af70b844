"""A graph run once in ONNX Runtime on the CPU: for parity and calibration, not for robots."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.engine.memory import GIB, require_memory
from vggt_ros.engine.model_files import load_proto, require_file
from vggt_ros.errors import EngineError

_ARENA = 1.35
"""ONNX Runtime's memory over what is alive at once."""
_PACKED = 1.2
"""And over the weights. Measured with VGGT-1B at 2 x 252 x 252: 5.4 GiB in all, estimated 5.5; 4.3
are weights."""


def estimate_run_memory(path: str | Path) -> float:
    """Bytes that one run of a graph needs: its weights, and the most that is alive at once.

    Half precision counts as float32: the CPU computes in it.
    """
    graph = load_proto(path).graph
    weights = sum(_bytes(t.dims, t.data_type) for t in graph.initializer)
    sizes = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        tensor = info.type.tensor_type
        # a free dimension counts as one
        dims = [max(d.dim_value, 1) for d in tensor.shape.dim]
        sizes[info.name] = _bytes(dims, tensor.elem_type)
    last = {name: k for k, node in enumerate(graph.node) for name in (*node.input, *node.output)}
    ends: dict[int, float] = {}
    for name, k in last.items():
        ends[k] = ends.get(k, 0.0) + sizes.get(name, 0.0)
    alive = peak = sum(sizes.get(i.name, 0.0) for i in graph.input)
    for k, node in enumerate(graph.node):
        alive += sum(sizes.get(name, 0.0) for name in node.output)
        peak = max(peak, alive)
        alive -= ends.get(k, 0.0)
    return _PACKED * weights + _ARENA * peak + 0.3 * GIB


def _bytes(dims: Sequence[int], kind: int) -> float:
    import onnx

    if kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        kind = onnx.TensorProto.FLOAT
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize if kind else 4
    return float(math.prod(dims)) * itemsize


class OnnxSession:
    """A graph, loaded.

    Args:
        path: of the graph.
        threads: 0 takes all cores.
        optimise: False runs the nodes as they stand, so that roundings are not optimised away.

    Raises:
        EngineError: no onnxruntime, too little memory, or a graph that it refuses.
    """

    def __init__(self, path: str | Path, threads: int = 0, optimise: bool = True) -> None:
        path = require_file(path)
        if importlib.util.find_spec("onnxruntime") is None:
            raise EngineError(
                "a run of the graph needs onnxruntime, which is not installed; install the extra: "
                "pip install 'vggt_ros[export]'"
            )
        require_memory(
            estimate_run_memory(path),
            f"run of {path.name}",
            "skip the comparison, use fewer or smaller views, or run on a larger machine",
        )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # threads that wait by spinning slow each other down on a busy machine
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own exceptions have no common base
            first = str(error).strip().splitlines()[0]
            raise EngineError(f"{path}: ONNX Runtime refuses the graph: {first}") from error
        self.inputs = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        self.outputs = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name, all in float32 where they are floats."""
        found = self._session.run(None, dict(feeds))
        return dict(zip(self.outputs, found, strict=True))
