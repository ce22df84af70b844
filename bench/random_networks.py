"""Networks of published sizes with random weights: as fast as the real ones, and free to have."""

from __future__ import annotations

from typing import Any


def depth_anything_small() -> Any:
    """Depth Anything V2 Small, 24.8 million parameters; needs torch and transformers."""
    import torch
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
    )

    from vggt_ros.models.depth_anything import DepthAnythingNetwork
    from vggt_ros.types import DepthKind

    torch.manual_seed(0)
    # the config.json of depth-anything/Depth-Anything-V2-Small-hf
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=518,
            patch_size=14,
            out_indices=[3, 6, 9, 12],
            apply_layernorm=True,
            reshape_hidden_states=False,
        ),
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_in_index=-1,
        head_hidden_size=32,
    )
    network = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        # the last layer is a ReLU on a ReLU: positive weights keep it from answering all zeros
        network.head.conv3.weight.abs_()
    return DepthAnythingNetwork(network, DepthKind.DISPARITY, "none").eval().requires_grad_(False)


def vggt(config: Any, device: str = "cpu", seed: int = 0) -> Any:
    """A VGGT as a training run would start it: layer scales of 0.01 keep its numbers tame."""
    import torch

    from vggt_ros.models.vggt import Vggt

    torch.manual_seed(seed)
    with torch.device(device):
        network = Vggt(config)
    return network.to(device).eval().requires_grad_(False)


def varied(network: Any, seed: int = 0) -> Any:
    """Weights that make every part matter, so that an error anywhere shows; for small networks."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")):
            parameter.copy_(1.0 + 0.2 * noise)
        elif parameter.ndim > 1 and not name.endswith(("token", "tokens", "embed")):
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.2 * noise)
    return network
