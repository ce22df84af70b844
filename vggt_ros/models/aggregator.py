"""The trunk of VGGT (arXiv 2503.11651): attention within frames and across them, in turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggt_ros.models.dinov2 import DinoV2
from vggt_ros.models.layers import Block, Rotation, rotation_table
from vggt_ros.models.vggt_config import IMAGENET_MEAN, IMAGENET_STD, VggtConfig, patch_grid


class Aggregator(nn.Module):
    """Images to the tokens that the heads read.

    The first view is the reference: it has camera and register tokens of its own, all others
    share a second set. The order of views therefore matters.
    """

    baked_rotation: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embed = DinoV2(config)
        self.frame_blocks = self._blocks(across_views=False)
        self.global_blocks = self._blocks(across_views=True)
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, config.registers, dim) * 1e-6)
        # on the CPU even where the parameters are made on `meta`: no checkpoint holds these
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            constant = torch.tensor(values, device="cpu").view(1, 1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.register_buffer("baked_rotation", None, persistent=False)

    def _blocks(self, across_views: bool) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            Block(
                config.dim,
                config.heads,
                config.mlp_ratio,
                normalise=True,
                across_views=across_views,
            )
            for _ in range(config.pairs)
        )

    def bake(self, height: int, width: int) -> None:
        """Keep the constants of one image size; see `Vggt.bake`."""
        self.patch_embed.bake(height, width)
        self.baked_rotation = self._rotation(height, width, self.camera_token.device)

    def _rotation(self, height: int, width: int, device: torch.device) -> Tensor:
        config = self.config
        rows, columns = patch_grid(height, width)
        head_dim = config.dim // config.heads
        return rotation_table(
            rows, columns, config.patch_start, head_dim, config.rope_base, device
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Run all pairs and keep the tapped ones.

        Args:
            images: (B, S, 3, H, W) RGB in [0, 1], any dtype.

        Returns:
            Of each tap (B, S, P, 2 C): what came out of the frame block and of the global block;
            the camera token is token 0, patches start at `config.patch_start`.
        """
        config = self.config
        height, width = images.shape[-2:]
        table = self.baked_rotation
        if table is None:
            table = self._rotation(height, width, images.device)
        rotation: Rotation = (table[0], table[1])
        normalised = (images.float() - self.mean.float()) / self.std.float()
        patches = self.patch_embed(normalised.to(self.camera_token.dtype))
        tokens = torch.cat([self._special_tokens(patches), patches], dim=2)
        taps = []
        for pair in range(config.pairs):
            within = self.frame_blocks[pair](tokens, rotation)
            tokens = self.global_blocks[pair](within, rotation)
            if pair in config.taps:
                taps.append(torch.cat([within, tokens], dim=-1))
        return taps

    def _special_tokens(self, patches: Tensor) -> Tensor:
        """(B, S, 1 + registers, C): the first set for view 0, the second for all others."""
        batch, views = patches.shape[:2]
        both = torch.cat([self.camera_token, self.register_token], dim=2)
        # a comparison instead of expanding to S - 1, which exporters cannot do for any S
        is_first = (torch.arange(views, device=patches.device) == 0)[None, :, None, None]
        special = torch.where(is_first, both[:, 0:1], both[:, 1:2])
        return special.expand(batch, -1, -1, -1)
