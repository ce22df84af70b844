"""Layers that backbone, aggregator and camera head share.

Tokens are (B, S, P, C) throughout: batch, views, tokens of a view, channels. Attention is either
within a view or across all views of a batch element; nothing else tells the two apart. There is
no state but parameters and buffers, so that both ONNX exporters can follow.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of `rotation_table`."""


def rotation_table(
    rows: int, columns: int, special: int, head_dim: int, base: float, device: torch.device
) -> Tensor:
    """Cosines and sines of the two-dimensional rotary embedding of one view.

    The first half of a head's channels turns with the row, the second with the column; patch
    (0, 0) is at position (1, 1) and the special tokens before the patches are at (0, 0).
    RoFormer, arXiv 2104.09864, with the two-axis form of arXiv 2306.15632.

    Returns:
        (2, special + rows * columns, 1, 2, head_dim / 4) float32: cosine and sine, token, head,
        axis, frequency.
    """
    frequencies = head_dim // 4
    exponent = torch.arange(frequencies, device=device, dtype=torch.float32) / frequencies
    speed = 1.0 / base**exponent
    row = torch.arange(1, rows + 1, device=device).repeat_interleave(columns)
    column = torch.arange(1, columns + 1, device=device).repeat(rows)
    position = F.pad(torch.stack([row, column], dim=1), (0, 0, special, 0))
    angle = position.to(torch.float32)[:, None, :, None] * speed
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the channels of queries or keys (B, S, P, heads, head_dim)."""
    cosine, sine = (part.to(x.dtype) for part in rotation)
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.stack(turned, dim=-2).flatten(-3)


class LayerScale(nn.Module):
    """One factor per channel (arXiv 2103.17239)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension."""
        return x * self.gamma


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., out)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class Attention(nn.Module):
    """Self-attention of tokens (B, S, P, C), within each view or across all of them."""

    def __init__(self, dim: int, heads: int, normalise: bool, across_views: bool) -> None:
        super().__init__()
        self.heads = heads
        self.across_views = across_views
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if normalise else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if normalise else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """(B, S, P, C) to the same."""
        batch, views, tokens, dim = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, dim // self.heads)).unbind(3)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = (self._sequences(part) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, views, tokens, dim)))

    def _sequences(self, x: Tensor) -> Tensor:
        """(B, S, P, heads, d) to (sequences, heads, length, d)."""
        joined = x.flatten(1, 2) if self.across_views else x.flatten(0, 1)
        return joined.transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block with layer scale.

    Args:
        dim: channels.
        heads: of the attention.
        mlp_ratio: hidden channels over `dim`.
        scale: what the layer scales start from; 1 in DINOv2, 0.01 elsewhere.
        eps: of the layer norms; 1e-6 in DINOv2, 1e-5 elsewhere.
        normalise: layer norm on queries and keys.
        across_views: attention over all views together.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: int,
        *,
        scale: float = 0.01,
        eps: float = 1e-5,
        normalise: bool = False,
        across_views: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, normalise, across_views)
        self.ls1 = LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_ratio * dim, dim)
        self.ls2 = LayerScale(dim, scale)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """(B, S, P, C) to the same."""
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return cast(Tensor, x + self.ls2(self.mlp(self.norm2(x))))
