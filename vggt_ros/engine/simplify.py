"""Simplification by onnxslim or onnxsim, where it pays and does not run out of memory."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.engine.check import check_model
from vggt_ros.engine.memory import GIB, available_memory
from vggt_ros.engine.model_files import DATA_SUFFIX, atomic_model, require_file, size_of_model
from vggt_ros.errors import EngineError, VggtRosError

if TYPE_CHECKING:
    import onnx

LIMIT_BYTES = 2**31
"""Larger graphs are left as they are unless forced: protobuf ends here, and the exporter has
folded constants already, so that little is left to gain."""
_GROWTH = 1.1
"""A result that is larger than this, against the original, is no simplification."""
_SKIPPED = ["FusionGemm", "FusionGemmMul", "FusionGemmAdd"]
"""onnxslim's rewriting of MatMul + Add to Reshape, Gemm, Reshape. It folds layer scales into
copies of weights that the camera head shares between its refinements (the tiny network grows by
80 %), and breaks the chains that TensorRT looks for in transformers."""
_COPIES = 4.0
"""Memory over size of the graph: both simplifiers keep several copies (measured on onnxslim)."""

_logger = logging.getLogger(__name__)


def simplify(
    onnx_in: str | Path,
    onnx_out: str | Path,
    *,
    enabled: bool = True,
    force: bool | None = None,
) -> str:
    """Simplify a graph.

    A failure is a warning: the graph of before is as right as it was.

    Args:
        onnx_in: the graph.
        onnx_out: written only where the simplification succeeded and its result is valid.
        enabled: False is `--no-simplify`.
        force: `FORCE_SIMPLIFY`: True does it at any size, False never, None by size.

    Returns:
        "onnxslim" or "onnxsim", whichever did it; empty: go on with `onnx_in`.
    """
    path = require_file(onnx_in)
    if not enabled or force is False:
        _logger.info("%s: not simplified, as asked", path)
        return ""
    tool = next((t for t in ("onnxslim", "onnxsim") if importlib.util.find_spec(t)), "")
    if not tool:
        _logger.warning("%s: not simplified: neither onnxslim nor onnxsim is installed", path)
        return ""
    size = size_of_model(path)
    if size > LIMIT_BYTES and force is None:
        _logger.info(
            "%s: not simplified: %.1f GiB; FORCE_SIMPLIFY=1 does it all the same", path, size / GIB
        )
        return ""
    if size * _COPIES > available_memory():
        _logger.warning(
            "%s: not simplified: needs about %.1f GiB of memory, %.1f GiB are available",
            path, size * _COPIES / GIB, available_memory() / GIB,
        )  # fmt: skip
        return ""
    try:
        with atomic_model(onnx_out) as temporary:
            _save(_run(tool, path), temporary, size)
            check_model(temporary)
            found = size_of_model(temporary)
            if found > size * _GROWTH:
                raise EngineError(f"it grew from {size} to {found} bytes")
    except VggtRosError as error:
        _logger.warning(
            "%s: simplification by %s failed (%s); going on without", path, tool, error
        )
        return ""
    except Exception as error:  # other people's optimisers raise whatever they like
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _logger.warning(
            "%s: simplification by %s failed (%s); going on without", path, tool, first
        )
        return ""
    return tool


def _run(tool: str, path: Path) -> onnx.ModelProto:
    import onnx

    simplifier: Any = importlib.import_module(tool)
    if tool == "onnxslim":
        model = simplifier.slim(str(path), skip_fusion_patterns=_SKIPPED)
    else:
        model, same = simplifier.simplify(onnx.load(path))
        if not same:
            raise ValueError("the simplified graph gives other outputs")
    if model is None:
        raise ValueError("no graph came back")
    found: onnx.ModelProto = model
    return found


def _save(model: onnx.ModelProto, path: Path, size: int) -> None:
    import onnx

    onnx.save(
        model,
        path,
        save_as_external_data=size > LIMIT_BYTES // 2,
        location=path.name + DATA_SUFFIX,
    )
