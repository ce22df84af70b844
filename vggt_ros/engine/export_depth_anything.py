"""Depth Anything V2 from `transformers` to an ONNX graph."""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.engine.checkpoints import resolve_folder, told_name
from vggt_ros.engine.memory import require_memory
from vggt_ros.engine.model_files import sha256_of_file
from vggt_ros.engine.opset import DEFAULT_OPSET, effective_opset
from vggt_ros.engine.torch_export import (
    ExportReport,
    export_module,
    make_report,
    require_torch,
)
from vggt_ros.errors import EngineError
from vggt_ros.models.vggt_config import patch_grid

if TYPE_CHECKING:
    import torch

INPUT = "images"
"""(B, 3, H, W) float32 RGB, ImageNet-normalised."""
OUTPUT = "depth"
"""(B, H, W) float32; what it means is the model's `depth_kind`."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DepthAnythingExport:
    """What to export."""

    batch: int | None = None
    """Images at once; None leaves it free."""
    height: int = 252
    width: int = 252
    """Multiples of 14; 518 is the training size, 252 four times as fast."""
    opset: int = DEFAULT_OPSET

    @property
    def stem(self) -> str:
        """Of the files."""
        batch = "B" if self.batch is None else str(self.batch)
        return f"depth_anything-{batch}x3x{self.height}x{self.width}"


def export_depth_anything(
    model: str | Path, out: str | Path, options: DepthAnythingExport | None = None
) -> ExportReport:
    """Export a Depth Anything model for one image size.

    Args:
        model: folder with `config.json` and weights, or a repository of the Hugging Face hub.
        out: the file to write (`*.onnx`), or the folder for it.
        options: size and batch.

    Raises:
        EngineError: wrong options, no or wrong model, no torch or transformers, too little memory.
        ExportError: the file cannot be written.
    """
    options = options or DepthAnythingExport()
    try:
        patch_grid(options.height, options.width)
    except ValueError as error:
        raise EngineError(str(error).replace("VGGT", "Depth Anything")) from None
    if options.batch is not None and options.batch < 1:
        raise EngineError(f"batch: expected at least 1, or none for any, got {options.batch}")
    opset = effective_opset(options.opset)
    require_torch()
    started = time.perf_counter()
    folder = resolve_folder(str(model))
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise EngineError(f"{folder}: expected {' or '.join(_WEIGHTS)} in it, found neither")
    require_memory(
        2.5 * weights.stat().st_size + 2**30, f"export of {folder.name}", "close other programs"
    )
    network = _load(folder)
    out = Path(out)
    path = out if out.suffix == ".onnx" else out / f"{options.stem}.onnx"

    import torch

    bake = getattr(network, "bake", None)
    if bake is not None:
        bake(options.height, options.width)
    digest = sha256_of_file(weights)
    facts = {
        "family": "depth_anything",
        "model_name": told_name(str(model)),
        "checkpoint": weights.name,
        "checkpoint_sha256": digest,
        "precision_requested": "fp32",
        "precision_effective": "fp32",
        "normalisation": "imagenet",
    }
    kind = getattr(network, "kind", None)
    if kind is not None:
        facts["depth_kind"] = getattr(kind, "value", kind)
    if hasattr(network, "licence"):
        facts["licence"] = str(network.licence)
    # an example of one image would make the exporter take the batch for the constant 1
    example = torch.zeros(options.batch or 2, 3, options.height, options.width)
    graph = export_module(
        network,
        example,
        path,
        input_name=INPUT,
        output_names=[OUTPUT],
        opset=opset,
        facts=facts,
        dynamic_batch=options.batch is None,
    )
    return make_report(
        graph,
        path,
        started,
        parameters=sum(p.numel() for p in network.parameters()),
        model_name=told_name(str(model)),
        checkpoint=str(weights),
        checkpoint_sha256=digest,
    )


def _load(folder: Path) -> torch.nn.Module:
    try:
        module = importlib.import_module("vggt_ros.models.depth_anything")
    except ImportError as error:
        raise EngineError(
            f"Depth Anything needs {error.name}, which is not installed; install the extra: pip "
            "install 'vggt_ros[export]'"
        ) from error
    network: torch.nn.Module = module.load_depth_anything(folder)
    # as they are stored, some would be float16
    return network.float().eval().requires_grad_(False)
