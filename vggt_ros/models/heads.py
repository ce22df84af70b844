"""The heads of VGGT: cameras by refinement, depth and points by a DPT (arXiv 2103.13413)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggt_ros.models.layers import Block, Mlp
from vggt_ros.models.vggt_config import DPT_LAST_CHANNELS, POSE_SIZE, VggtConfig, patch_grid

_PLACE_WEIGHT = 0.1
"""Factor of the position embedding in the dense heads."""
_PLACE_BASE = 100.0
"""Ratio of its shortest to its longest wavelength."""


class CameraHead(nn.Module):
    """Camera tokens to poses, refined a few times with its own last answer as the condition."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        dim = 2 * config.dim
        self.iterations = config.camera_iterations
        self.trunk = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio) for _ in range(config.camera_depth)
        )
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(dim, dim // 2, POSE_SIZE)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Poses after each refinement; the last is the answer.

        Args:
            tokens: (B, S, P, 2 C) of the last pair; only the camera token is read.

        Returns:
            (B, S, 9) float32 each: translation and quaternion xyzw of camera-from-world, then
            vertical and horizontal field of view [rad], not below 0.
        """
        camera = self.token_norm(tokens[:, :, 0].to(self.token_norm.weight.dtype))
        steady = self.adaln_norm(camera)
        pose = self.empty_pose_tokens.expand(camera.shape[0], camera.shape[1], -1)
        total: Tensor | None = None
        answers = []
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
            x = (camera + gate * (steady * (1 + scale) + shift)).unsqueeze(1)
            for block in self.trunk:
                x = block(x)
            step = self.pose_branch(self.trunk_norm(x.squeeze(1)))
            total = step if total is None else total + step
            pose = total
            answer = total.float()
            answers.append(torch.cat([answer[..., :7], F.relu(answer[..., 7:])], dim=-1))
        return answers


class ResidualUnit(nn.Module):
    """Two convolutions around a bypass."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The bypass carries relu(x), not x: the network was trained with ReLUs in place."""
        x = F.relu(x)
        return cast(Tensor, x + self.conv2(F.relu(self.conv1(x))))


class Fusion(nn.Module):
    """Adds a finer level to a coarser one and scales the sum up."""

    def __init__(self, features: int, coarsest: bool) -> None:
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(N, F, h, w) to (N, F, *size)."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return cast(Tensor, self.out_conv(_resize(self.resConfUnit2(x), size)))


class Scratch(nn.Module):
    """The convolutions of the decoder; the name is that of the checkpoint."""

    def __init__(self, channels: Sequence[int], features: int, out: int) -> None:
        super().__init__()
        for level, width in enumerate(channels, start=1):
            entry = nn.Conv2d(width, features, 3, padding=1, bias=False)
            self.add_module(f"layer{level}_rn", entry)
            self.add_module(f"refinenet{level}", Fusion(features, coarsest=level == 4))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, DPT_LAST_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(DPT_LAST_CHANNELS, out, 1),
        )

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Four levels, finest first, to features / 2 channels at 8 times the patch grid."""
        rows, columns = grid
        sizes = [(8 * rows, 8 * columns), (4 * rows, 4 * columns), (2 * rows, 2 * columns), grid]
        x: Tensor | None = None
        for level in (4, 3, 2, 1):
            entered = self.get_submodule(f"layer{level}_rn")(levels[level - 1])
            fuse = self.get_submodule(f"refinenet{level}")
            size = sizes[level - 1]
            x = fuse(entered, None, size) if x is None else fuse(x, entered, size)
        return cast(Tensor, self.output_conv1(x))


class DenseHead(nn.Module):
    """Tapped tokens to values and confidence per pixel."""

    def __init__(self, config: VggtConfig, values: int) -> None:
        super().__init__()
        self.patch_start = config.patch_start
        channels = config.dpt_channels
        self.norm = nn.LayerNorm(2 * config.dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * config.dim, c, 1) for c in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, 2, 1),
            ]
        )
        self.scratch = Scratch(channels, config.dpt_features, values + 1)
        self._widths = (*channels, config.dpt_features // 2)
        for level in range(len(self._widths)):
            self.register_buffer(f"baked_place_{level}_x", None, persistent=False)
            self.register_buffer(f"baked_place_{level}_y", None, persistent=False)

    def bake(self, height: int, width: int) -> None:
        """Keep the position embeddings of one image size; see `Vggt.bake`."""
        grid = patch_grid(height, width)
        for level, channels in enumerate(self._widths):
            size = (height, width) if level == len(self._widths) - 1 else grid
            place = place_embedding(channels, size, width / height, self.norm.weight.device)
            for axis, table in zip("xy", place, strict=True):
                setattr(self, f"baked_place_{level}_{axis}", table)

    def _add_place(self, x: Tensor, level: int, aspect: float) -> Tensor:
        along_x = getattr(self, f"baked_place_{level}_x")
        along_y = getattr(self, f"baked_place_{level}_y")
        if along_x is None:
            size = (x.shape[-2], x.shape[-1])
            along_x, along_y = place_embedding(x.shape[1], size, aspect, x.device)
        return cast(Tensor, x + along_x.to(x.dtype) + along_y.to(x.dtype))

    def forward(self, taps: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Raw values and confidence logits.

        Returns:
            (B, S, H, W, values) and (B, S, H, W), float32, before their activations.
        """
        grid = patch_grid(height, width)
        aspect = width / height
        batch, views = taps[0].shape[:2]
        levels = []
        for level, tap in enumerate(taps):
            patches = tap[:, :, self.patch_start :].to(self.norm.weight.dtype)
            x = self.norm(patches).flatten(0, 1).transpose(1, 2).unflatten(2, grid)
            x = self._add_place(self.projects[level](x), level, aspect)
            levels.append(self.resize_layers[level](x))
        x = _resize(self.scratch(levels, grid), (height, width))
        x = self.scratch.output_conv2(self._add_place(x, len(taps), aspect))
        x = x.float().permute(0, 2, 3, 1)
        x = x.reshape(batch, views, height, width, x.shape[3])
        return x[..., :-1], x[..., -1]


def place_embedding(
    channels: int, size: tuple[int, int], aspect: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Sines and cosines of where a pixel is in the image, already weighted.

    The image is centred on the origin and its diagonal has length 2. The first half of the
    channels holds x, the second y, so that a row and a column of numbers say it all.

    Args:
        channels: of the feature map, a multiple of 4.
        size: rows and columns of the feature map.
        aspect: width over height of the image.
        device: where to make them.

    Returns:
        (1, channels, 1, columns) and (1, channels, rows, 1) float32, to be added both.
    """
    rows, columns = size
    diagonal = (aspect**2 + 1.0) ** 0.5
    along_x = _place_axis(channels, columns, aspect / diagonal, device)
    along_y = _place_axis(channels, rows, 1.0 / diagonal, device)
    nothing_x, nothing_y = torch.zeros_like(along_x), torch.zeros_like(along_y)
    return (
        torch.cat([along_x, nothing_x])[None, :, None, :],
        torch.cat([nothing_y, along_y])[None, :, :, None],
    )


def _place_axis(channels: int, count: int, span: float, device: torch.device) -> Tensor:
    """(channels / 2, count) of `count` pixel centres over -span to span."""
    waves = channels // 4
    step = torch.arange(count, device=device, dtype=torch.float32)
    position = (2.0 * step + (1.0 - count)) * (span / count)
    exponent = torch.arange(waves, device=device, dtype=torch.float32) / waves
    angle = (1.0 / _PLACE_BASE**exponent)[:, None] * position
    return _PLACE_WEIGHT * torch.cat([angle.sin(), angle.cos()])


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
