"""VGGT (arXiv 2503.11651) for inference and export; keys and shapes are those of VGGT-1B."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggt_ros.models.aggregator import Aggregator
from vggt_ros.models.heads import CameraHead, DenseHead
from vggt_ros.models.vggt_config import VggtConfig, patch_grid


class Vggt(nn.Module):
    """Images of a scene to cameras, depth and points, in one pass.

    Outputs, in the order of `output_names`, all float32:

    * `pose_enc` (B, S, 9): translation, quaternion xyzw of camera-from-world in optical axes,
      then vertical and horizontal field of view [rad]; `inference.vggt` decodes it;
    * `depth` (B, S, H, W, 1) along z in arbitrary units, `depth_conf` (B, S, H, W) >= 1;
    * `world_points` (B, S, H, W, 3) near the frame of view 0, `world_points_conf` likewise.
    """

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        self.baked_size: tuple[int, int] | None = None
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config) if config.camera_head else None
        self.depth_head = DenseHead(config, values=1) if config.depth_head else None
        self.point_head = DenseHead(config, values=3) if config.point_head else None

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns, in order."""
        return self.config.output_names

    def bake(self, height: int, width: int) -> None:
        """Fix the image size, so that what depends on it alone becomes a constant.

        Wanted before an export, and a little faster. Call it after weights, device and dtype
        are in place: the position embedding is made of weights. Other sizes are refused then.

        Raises:
            ValueError: a side that is not a multiple of 14.
        """
        patch_grid(height, width)
        for part in (self.aggregator, self.depth_head, self.point_head):
            if part is not None:
                part.bake(height, width)
        self.baked_size = (height, width)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network.

        Args:
            images: (B, S, 3, H, W) RGB in [0, 1]; normalisation is inside. View 0 is the
                reference.

        Returns:
            The tensors named by `output_names`.

        Raises:
            ValueError: another shape, H or W not a multiple of 14, or not the baked size.
        """
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(
                f"VGGT: expected images (B, S, 3, H, W), got shape {tuple(images.shape)}"
            )
        height, width = int(images.shape[3]), int(images.shape[4])
        patch_grid(height, width)
        if self.baked_size not in (None, (height, width)):
            raise ValueError(
                f"VGGT: expected height and width {self.baked_size}, for which it was baked, "
                f"got {(height, width)}"
            )
        taps = self.aggregator(images)
        outputs: list[Tensor] = []
        if self.camera_head is not None:
            outputs.append(self.camera_head(taps[-1])[-1])
        if self.depth_head is not None:
            values, logits = self.depth_head(taps, height, width)
            outputs += [values.exp(), 1.0 + logits.exp()]
        if self.point_head is not None:
            values, logits = self.point_head(taps, height, width)
            # exp - 1 and not expm1, which ONNX does not have; it costs 6e-8 of a unit at most
            outputs += [values.sign() * (values.abs().exp() - 1.0), 1.0 + logits.exp()]
        return tuple(outputs)

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """`forward` without gradients, by name."""
        with torch.inference_mode():
            return dict(zip(self.output_names, self(images), strict=True))


def count_parameters(module: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(parameter.numel() for parameter in module.parameters())
