"""DINOv2 with registers (arXiv 2304.07193, 2309.16588), the image backbone of VGGT."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt_ros.models.layers import Block
from vggt_ros.models.vggt_config import PATCH, VggtConfig, patch_grid


class PatchEmbed(nn.Module):
    """One token per patch of 14 x 14 pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, patches, C), row by row."""
        return cast(Tensor, self.proj(images)).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """Images (B, S, 3, H, W), ImageNet-normalised, to normalised patch tokens (B, S, P, C)."""

    baked_pos_embed: Tensor | None

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        dim = config.dim
        self.grid = config.backbone_grid
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio, scale=1.0, eps=1e-6)
            for _ in range(config.backbone_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.register_buffer("baked_pos_embed", None, persistent=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.register_tokens, std=1e-6)

    def bake(self, height: int, width: int) -> None:
        """Keep the position embedding of one image size as a constant.

        The antialiased bicubic resize that makes it is in neither ONNX exporter nor TensorRT.
        """
        with torch.no_grad():
            place = self._resized_pos_embed(*patch_grid(height, width))
            self.baked_pos_embed = place.detach().clone()

    def _resized_pos_embed(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, C): the class token's, then the patches'."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        stored = self.pos_embed[:, 1:].float().unflatten(1, (self.grid, self.grid))
        resized = F.interpolate(
            stored.permute(0, 3, 1, 2), size=(rows, columns), mode="bicubic", antialias=True
        )
        patches = resized.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens; class and register tokens take part in attention and are dropped."""
        batch, views, _, height, width = images.shape
        place = self.baked_pos_embed
        if place is None:
            place = self._resized_pos_embed(*patch_grid(height, width))
        patches = self.patch_embed(images.flatten(0, 1)) + place[:, 1:]
        first = torch.cat([self.cls_token + place[:, :1], self.register_tokens], dim=1)
        x = torch.cat([first.expand(batch * views, -1, -1), patches], dim=1)
        # reshape and not unflatten, which the older exporter writes with the views of the example
        x = x.reshape(batch, views, x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x[:, :, first.shape[1] :]))
