"""A graph run once in ONNX Runtime on the CPU: for parity and calibration, not for robots."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.engine.memory import GIB, require_memory
from vggt_ros.engine.model_files import load_graph, require_file
from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir as ir

_ARENA = 1.35
"""ONNX Runtime's memory over what is alive at once."""
_PACKED = 1.15
"""And over the weights. Measured with VGGT-1B at 2 x 252 x 252: 5.4 GiB in all, of which 4.3 GiB
are weights."""


def estimate_run_memory(path: str | Path) -> float:
    """Bytes that one run of a graph needs: its weights, and the most that is alive at once.

    Half precision counts as float32: the CPU computes in it.
    """
    model = load_graph(path)
    weights = sum(_bytes(value) for value in model.graph.initializers.values())
    last: dict[ir.Value, ir.Node] = {}
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and not value.is_initializer():
                last[value] = node
    alive = peak = 0.0
    ends: dict[ir.Node, float] = {}
    for value, node in last.items():
        ends[node] = ends.get(node, 0.0) + _bytes(value)
    for node in model.graph:
        alive += sum(_bytes(value) for value in node.outputs)
        peak = max(peak, alive)
        alive -= ends.get(node, 0.0)
    return _PACKED * weights + _ARENA * peak + 0.3 * GIB


def _bytes(value: ir.Value) -> float:
    sizes = [n if isinstance(n, int) else 1 for n in (value.shape or ())]
    itemsize = value.dtype.itemsize if value.dtype is not None else 4
    is_float = value.dtype is not None and value.dtype.name in ("FLOAT16", "BFLOAT16", "FLOAT")
    return math.prod(sizes) * (4.0 if is_float else float(itemsize))


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
