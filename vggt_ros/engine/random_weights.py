"""Weights that mean nothing but behave like weights: for tests, timing and golden inputs."""

from __future__ import annotations

import torch

from vggt_ros.models.vggt import Vggt
from vggt_ros.models.vggt_config import VggtConfig


def random_vggt(config: VggtConfig, seed: int = 0) -> Vggt:
    """Build a network whose signals neither die out nor overflow in 72 blocks.

    Matrices have the variance 1 / inputs; norms and layer scales are about one half, so that
    every block matters. The same seed gives the same weights.
    """
    with torch.device("meta"):
        network = Vggt(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in network.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")):
            values.mul_(0.1).add_(0.5)
        elif values.ndim > 1 and not name.endswith(("token", "tokens", "embed")):
            values.mul_(values[0].numel() ** -0.5)
        else:
            values.mul_(0.1)
        weights[name] = values
    network.load_state_dict(weights, strict=True, assign=True)
    return network
