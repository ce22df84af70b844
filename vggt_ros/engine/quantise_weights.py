"""Quantisation modes: weights of a torch network replaced by what their codes stand for.

Only the weights of `nn.Linear` inside transformer blocks are touched: 96 % of VGGT-1B. Neither
exporter nor TensorRT knows the layers of bitsandbytes or torch's dynamic int8, so the graph gets
the dequantised values in float32: its answers are those of the quantised network, its size is
that of the original. The report says so.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vggt_ros.engine.codebooks import (
    FP4,
    NF4,
    dequantise_blockwise,
    dequantise_int8,
    quantise_blockwise,
    quantise_int8,
)
from vggt_ros.engine.names import check_quant_mode
from vggt_ros.errors import EngineError
from vggt_ros.types import Float32

_logger = logging.getLogger(__name__)

_BLOCKS = (".blocks.", "_blocks.", ".trunk.")
"""In the names of what is inside a transformer block."""


@dataclass(frozen=True)
class WeightQuantisation:
    """What became of the weights."""

    requested: str
    effective: str
    description: str
    layers: int = 0
    parameters: int = 0
    """Weights that were quantised."""
    rel_l2: float = 0.0
    """Norm of the change over the norm of the weights, of all layers together."""


def _int8(weight: Float32) -> Float32:
    return dequantise_int8(*quantise_int8(weight))


def _blockwise(codebook: Float32) -> Callable[[Float32], Float32]:
    return lambda weight: dequantise_blockwise(*quantise_blockwise(weight, codebook), codebook)


_NATIVE: dict[str, tuple[Callable[[Float32], Float32], str]] = {
    "torch-int8-dynamic": (_int8, "int8 per output channel"),
    "bitsandbytes-8bit": (_int8, "int8 per output channel"),
    "bitsandbytes-nf4": (_blockwise(NF4), "NF4 in blocks of 64"),
    "bitsandbytes-fp4": (_blockwise(FP4), "FP4 in blocks of 64"),
}


def quantise_weights(
    network: nn.Module, mode: str, allow_fallback: bool = False
) -> WeightQuantisation:
    """Quantise the weights of a network in place.

    Args:
        network: on the CPU, in float32.
        mode: one of `names.QUANT_MODES`.
        allow_fallback: leave the weights as they are where the mode is not possible here;
            requested and effective mode then differ.

    Raises:
        EngineError: unknown mode, or one that is not possible here.
    """
    check_quant_mode(mode)
    if mode == "none":
        return WeightQuantisation(mode, mode, "none")
    if mode.startswith("modelopt-"):
        problem = _modelopt_problem()
        if problem and not allow_fallback:
            raise EngineError(
                f"quant mode {mode}: {problem}; use --quant-mode none with --precision fp8, or "
                "--allow-fallback"
            )
        if problem:
            _logger.warning(
                "quant mode %s: %s; the weights stay as they are, as --allow-fallback allows",
                mode, problem,
            )  # fmt: skip
            return WeightQuantisation(mode, "none", f"none: {problem}")
        quantise, what = _modelopt(mode, "cuda"), f"{mode} by nvidia-modelopt"
    else:
        quantise, what = _NATIVE[mode]
    layers = parameters = 0
    before = change = 0.0
    for _, layer in quantised_layers(network):
        weight = layer.weight.detach().numpy()
        found = quantise(weight)
        before += float(np.square(weight, dtype=np.float64).sum())
        change += float(np.square(found - weight, dtype=np.float64).sum())
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(found))
        layers += 1
        parameters += weight.size
    rel_l2 = float(np.sqrt(change / before)) if before else 0.0
    description = f"weights of {layers} linear layers: {what}, exported dequantised in float32"
    _logger.info("%s: %s; the weights change by %.2g (l2)", mode, description, rel_l2)
    return WeightQuantisation(mode, mode, description, layers, parameters, rel_l2)


def quantised_layers(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers that are quantised: those of the transformer blocks."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and any(part in name for part in _BLOCKS):
            yield name, module


def _modelopt_problem() -> str:
    """Why modelopt's modes are not possible here; empty if they are."""
    missing = []
    if importlib.util.find_spec("modelopt") is None:
        missing.append("nvidia-modelopt is not installed (pip install nvidia-modelopt)")
    if not torch.cuda.is_available():
        missing.append("there is no CUDA device")
    return " and ".join(missing)


def _modelopt(mode: str, device: str) -> Callable[[Float32], Float32]:
    """Weights through modelopt's quantisers, one layer at a time.

    The layers of the network stay torch's own, which the exporter knows; activations are
    quantised by `--precision`.
    """
    import modelopt.torch.quantization as mtq

    configs = {"modelopt-fp8": mtq.FP8_DEFAULT_CFG, "modelopt-nvfp4": mtq.NVFP4_DEFAULT_CFG}

    def quantise(weight: Float32) -> Float32:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=device)
        layer.weight = nn.Parameter(torch.from_numpy(weight).to(device), requires_grad=False)
        holder = nn.Sequential(layer)
        mtq.quantize(holder, copy.deepcopy(configs[mode]), forward_loop=None)
        mtq.disable_quantizer(holder, "*input_quantizer")
        mtq.fold_weight(holder)
        folded = next(v for k, v in holder.state_dict().items() if k.endswith("weight"))
        found: Float32 = folded.float().cpu().numpy()
        return found

    return quantise
