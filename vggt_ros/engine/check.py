"""Is it a valid graph?"""

from __future__ import annotations

from pathlib import Path

from vggt_ros.engine.model_files import data_files, import_onnx_ir, require_file
from vggt_ros.errors import EngineError


def check_model(path: str | Path) -> None:
    """Check a graph with ONNX's own checker, by path, so that any size of weights is fine.

    Also that the files with the weights are there and long enough, which the checker leaves out.

    Raises:
        EngineError: what is wrong, in one line.
    """
    path = require_file(path)
    import_onnx_ir()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        data_files(path)
        onnx.checker.check_model(str(path), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        DecodeError,
        RuntimeError,
    ) as error:
        lines = str(error).strip().splitlines()
        first = lines[0] if lines else type(error).__name__
        raise EngineError(f"{path}: not a valid ONNX graph: {first}; export it again") from error
