"""VGGT from a checkpoint to an ONNX graph of one size."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.engine.checkpoints import resolve_checkpoint, told_name
from vggt_ros.engine.memory import GIB, require_memory
from vggt_ros.engine.model_files import sha256_of_file
from vggt_ros.engine.names import Stem, check_quant_mode, onnx_path
from vggt_ros.engine.opset import DEFAULT_OPSET, effective_opset
from vggt_ros.engine.torch_export import (
    ExportReport,
    export_module,
    make_report,
    require_torch,
)
from vggt_ros.errors import EngineError
from vggt_ros.models.vggt_config import VggtConfig, patch_grid

if TYPE_CHECKING:
    from vggt_ros.models.vggt import Vggt

INPUT = "images"
"""(num_cams, 3, H, W) float32 RGB in [0, 1], without a batch axis; normalisation is inside."""
MAX_CAMS = 64
_OVERHEAD_BYTES = 1.2 * GIB
"""torch, the exporter and the graph, without weights: measured 0.9 GiB with the tiny network."""
_COPIES = 1.15
"""Memory over bytes of weights: measured 5.0 GiB for 4.4 GiB at 8 x 518 x 518, which includes a
transposed copy of one tensor while it is written."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VggtExport:
    """What to export; defaults are those of the documented command."""

    num_cams: int = 8
    height: int = 518
    width: int = 518
    opset: int = DEFAULT_OPSET
    pcd_only: bool = False
    """Only cameras and depth: the point head goes."""
    model_name: str = "facebook/VGGT-1B"
    """A file, a folder or a Hugging Face repository; read where no checkpoint is given."""
    quant_mode: str = "none"
    """Of the weights; see `quantise_weights`."""
    allow_fallback: bool = False
    """Export without quantisation, and say so, where the quantisation is not possible."""
    random_weights: bool = False
    """A fixture for tests and timing: its depth means nothing."""
    seed: int = 0
    """Of the random weights."""
    tiny: bool = False
    """With random weights: `VggtConfig.tiny`, 1.5 million parameters."""

    @property
    def stem(self) -> Stem:
        """Of the files."""
        return Stem(self.num_cams, self.height, self.width, self.pcd_only)


def export_vggt(
    checkpoint: str | Path | None, out: str | Path, options: VggtExport | None = None
) -> ExportReport:
    """Export VGGT for a fixed number of views of a fixed size.

    Outputs: `pose_enc` (1, N, 9), `depth` (1, N, H, W, 1), `depth_conf` (1, N, H, W) and, unless
    `pcd_only`, `world_points` (1, N, H, W, 3) and `world_points_conf` (1, N, H, W); meanings as
    in `models.vggt.Vggt`.

    Args:
        checkpoint: file or folder with the weights; None takes `options.model_name`.
        out: the file to write (`*.onnx`), or the folder for `<stem>.onnx`.
        options: size, heads, quantisation.

    Raises:
        EngineError: wrong options, no or wrong weights, no torch, too little memory.
        ExportError: the file cannot be written.
    """
    options = options or VggtExport()
    _check(checkpoint, options)
    opset = effective_opset(options.opset)
    require_torch()
    started = time.perf_counter()
    out = Path(out)
    path = out if out.suffix == ".onnx" else onnx_path(out, options.stem)

    import torch

    from vggt_ros.engine.quantise_weights import quantise_weights
    from vggt_ros.models.vggt import count_parameters

    network, file, digest = _network(checkpoint, options)
    quantised = quantise_weights(network, options.quant_mode, options.allow_fallback)
    network.bake(options.height, options.width)
    # names alone: a graph goes to other machines, where the paths of this one mean nothing
    model_name = "random weights" if options.random_weights else told_name(options.model_name)
    facts = {
        "family": "vggt",
        "model_name": model_name,
        "checkpoint": Path(file).name,
        "checkpoint_sha256": digest,
        "quant_mode_requested": options.quant_mode,
        "quant_mode_effective": quantised.effective,
        "quantisation": quantised.description,
        "precision_requested": "fp32",
        "precision_effective": "fp32",
        "normalisation": "zero_to_one",
    }
    graph = export_module(
        _without_batch(network),
        torch.zeros(options.stem.shape),
        path,
        input_name=INPUT,
        output_names=network.output_names,
        opset=opset,
        facts=facts,
    )
    return make_report(
        graph,
        path,
        started,
        parameters=count_parameters(network),
        model_name=model_name,
        checkpoint=file,
        checkpoint_sha256=digest,
        quant_mode_requested=options.quant_mode,
        quant_mode_effective=quantised.effective,
        quantisation=quantised.description,
    )


def estimate_memory(parameters: int) -> float:
    """Bytes that an export of a network needs.

    It does not depend on the size of the images: the exporter follows shapes, not numbers.
    """
    return 4.0 * parameters * _COPIES + _OVERHEAD_BYTES


def _check(checkpoint: str | Path | None, options: VggtExport) -> None:
    try:
        patch_grid(options.height, options.width)
    except ValueError as error:
        raise EngineError(str(error)) from None
    if not 1 <= options.num_cams <= MAX_CAMS:
        raise EngineError(f"num_cams: expected 1 to {MAX_CAMS}, got {options.num_cams}")
    check_quant_mode(options.quant_mode)
    if options.random_weights and checkpoint is not None:
        raise EngineError("random weights: expected no checkpoint beside them; leave one out")
    if options.tiny and not options.random_weights:
        raise EngineError(
            "tiny: expected random weights with it; the size of a checkpoint is in the checkpoint"
        )


def _network(checkpoint: str | Path | None, options: VggtExport) -> tuple[Vggt, str, str]:
    """The network with its weights, and where they are from."""
    from vggt_ros.models.checkpoint import checkpoint_config, find_checkpoint, load_vggt

    if options.random_weights:
        from vggt_ros.engine.random_weights import random_vggt

        config = _heads(VggtConfig.tiny() if options.tiny else VggtConfig.vggt_1b(), options)
        _require(config)
        _logger.warning("random weights, seed %d: depth and poses mean nothing", options.seed)
        return random_vggt(config, options.seed), f"random, seed {options.seed}", ""
    given = checkpoint if checkpoint is not None else resolve_checkpoint(options.model_name)
    file = find_checkpoint(given)
    config = _heads(checkpoint_config(file) or VggtConfig.vggt_1b(), options)
    _require(config)
    network, _ = load_vggt(file, config)
    return network, str(file), sha256_of_file(file)


def _heads(config: VggtConfig, options: VggtExport) -> VggtConfig:
    if options.pcd_only:
        return config.only("camera", "depth")
    return config


def _require(config: VggtConfig) -> None:
    import torch

    from vggt_ros.models.vggt import Vggt, count_parameters

    with torch.device("meta"):
        parameters = count_parameters(Vggt(config))
    require_memory(
        estimate_memory(parameters),
        f"export of {parameters / 1e6:.0f} million parameters",
        "close other programs, or export with --pcd-only or on a larger machine: the ONNX file "
        "can be copied",
    )


def _without_batch(network: Vggt):  # type: ignore[no-untyped-def]
    import torch

    class WithoutBatch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vggt = network

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs: tuple[torch.Tensor, ...] = self.vggt(images[None])
            return outputs

    return WithoutBatch()
