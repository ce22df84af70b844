"""Sizes of VGGT, and what they cost. No torch here: back ends read this too."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATCH = 14
"""Side of a patch [px]; images are multiples of it."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POSE_SIZE = 9
"""Numbers per camera: translation 3, quaternion xyzw 4, field of view 2."""
DPT_LAST_CHANNELS = 32
"""Channels before the last convolution of a dense head."""


@dataclass(frozen=True)
class VggtConfig:
    """Shape of a VGGT. Field names are written into checkpoints: never rename one.

    Raises:
        ValueError: sizes that do not fit together; the message names them.
    """

    dim: int = 1024
    """Width of a token."""
    heads: int = 16
    mlp_ratio: int = 4
    backbone_depth: int = 24
    """Blocks of the DINOv2 image backbone."""
    backbone_grid: int = 37
    """Side of the square grid of patches that the position embedding is stored for."""
    registers: int = 4
    """Register tokens, of the backbone and of the aggregator."""
    pairs: int = 24
    """Pairs of a block within frames and a block across them."""
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    """Pairs whose output the heads read; the last must be the last pair."""
    rope_base: float = 100.0
    camera_depth: int = 4
    camera_iterations: int = 4
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    camera_head: bool = True
    depth_head: bool = True
    point_head: bool = True

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 4:
            raise ValueError(
                f"VggtConfig: expected dim / heads to be a multiple of 4 (two axes of rotary "
                f"embedding), got {self.dim} / {self.heads}"
            )
        if sorted(set(self.taps)) != list(self.taps) or self.taps[0] < 0:
            raise ValueError(f"VggtConfig: expected increasing taps, got {self.taps}")
        if len(self.taps) != 4 or self.taps[-1] != self.pairs - 1:
            raise ValueError(
                f"VggtConfig: expected 4 taps of which the last is pair {self.pairs - 1}, got "
                f"{self.taps}"
            )
        widths = (*self.dpt_channels, self.dpt_features // 2)
        if len(self.dpt_channels) != 4 or any(width % 4 for width in widths):
            raise ValueError(
                "VggtConfig: expected 4 dpt_channels and half of dpt_features, all multiples of "
                f"4, got {self.dpt_channels} and {self.dpt_features}"
            )
        if not (self.camera_head or self.depth_head or self.point_head):
            raise ValueError("VggtConfig: expected at least one head, got none")

    @staticmethod
    def vggt_1b() -> VggtConfig:
        """`facebook/VGGT-1B`, without its track head."""
        return VggtConfig()

    @staticmethod
    def tiny() -> VggtConfig:
        """1.5 million parameters with every part of the large one, for tests."""
        return VggtConfig(
            dim=64,
            heads=4,
            backbone_depth=2,
            backbone_grid=5,
            pairs=4,
            taps=(0, 1, 2, 3),
            camera_depth=2,
            dpt_features=32,
            dpt_channels=(16, 32, 48, 48),
        )

    def only(self, *heads: str) -> VggtConfig:
        """The same network with only these heads, of "camera", "depth" and "point"."""
        unknown = set(heads) - {"camera", "depth", "point"}
        if unknown:
            raise ValueError(f"heads: expected camera, depth, point, got {sorted(unknown)}")
        return dataclasses.replace(
            self,
            camera_head="camera" in heads,
            depth_head="depth" in heads,
            point_head="point" in heads,
        )

    @property
    def patch_start(self) -> int:
        """Index of the first patch among a frame's tokens: one camera token, the registers."""
        return 1 + self.registers

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `Vggt.forward` returns, in order."""
        names: list[str] = []
        if self.camera_head:
            names += ["pose_enc"]
        if self.depth_head:
            names += ["depth", "depth_conf"]
        if self.point_head:
            names += ["world_points", "world_points_conf"]
        return tuple(names)

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_mapping(fields: Mapping[str, Any]) -> VggtConfig:
        """From the fields of `to_json`.

        Raises:
            ValueError: a field that does not exist or has another type, or values that do not
                fit together.
        """
        known = {field.name: type(field.default) for field in dataclasses.fields(VggtConfig)}
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"VggtConfig: unknown fields {unknown}; known are {sorted(known)}")
        values: dict[str, Any] = {}
        for name, value in fields.items():
            values[name] = tuple(value) if isinstance(value, list) else value
            if type(values[name]) is not known[name]:
                raise ValueError(
                    f"VggtConfig: expected {name} to be {known[name].__name__}, got {value!r}"
                )
        return VggtConfig(**values)


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        ValueError: a side that is not a positive multiple of 14.
    """
    if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
        raise ValueError(
            f"VGGT: expected height and width to be multiples of {PATCH}, got height {height} "
            f"and width {width}; the nearest are {_nearest(height)} and {_nearest(width)}"
        )
    return height // PATCH, width // PATCH


def _nearest(side: int) -> int:
    return max(round(side / PATCH), 1) * PATCH


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one pass, by part; a multiply-add is two.

    Counted are matrix products and convolutions, as `torch.utils.flop_counter` does.
    """

    linear: float
    """Linear layers of the transformer and the patch embedding."""
    frame_attention: float
    """Attention within a frame: the backbone and the frame blocks."""
    global_attention: float
    camera: float
    dense: float
    """Depth and point head."""

    @property
    def total(self) -> float:
        """Their sum."""
        return (
            self.linear + self.frame_attention + self.global_attention + self.camera + self.dense
        )


def flops(config: VggtConfig, views: int, height: int, width: int) -> Flops:
    """What one pass over `views` images of height x width costs, by formula.

    Raises:
        ValueError: a size that is not a multiple of 14, or no view.
    """
    rows, columns = patch_grid(height, width)
    if views < 1:
        raise ValueError(f"views: expected at least 1, got {views}")
    patches, dim = rows * columns, config.dim
    tokens = patches + config.patch_start
    # the class token of the backbone takes the place of the camera token
    blocks = config.backbone_depth + 2 * config.pairs
    frame_blocks = config.backbone_depth + config.pairs
    per_token = (4 + 2 * config.mlp_ratio) * dim * dim
    linear = 2 * views * (blocks * tokens * per_token + patches * 3 * PATCH * PATCH * dim)
    frame = 4 * frame_blocks * views * tokens**2 * dim
    across = 4 * config.pairs * (views * tokens) ** 2 * dim
    camera = _camera_flops(config, views) if config.camera_head else 0
    outputs = [2] * config.depth_head + [4] * config.point_head
    dense = sum(_dense_flops(config, views, rows, columns, out) for out in outputs)
    return Flops(float(linear), float(frame), float(across), float(camera), float(dense))


def _camera_flops(config: VggtConfig, views: int) -> int:
    dim = 2 * config.dim
    block = views * (4 + 2 * config.mlp_ratio) * dim * dim + 2 * views * views * dim
    embed = views * (POSE_SIZE * dim + 3 * dim * dim)
    branch = views * (dim * dim // 2 + dim // 2 * POSE_SIZE)
    return 2 * config.camera_iterations * (config.camera_depth * block + embed + branch)


def _dense_flops(config: VggtConfig, views: int, rows: int, columns: int, out: int) -> int:
    channels, features = config.dpt_channels, config.dpt_features
    patches = rows * columns
    half = -(-rows // 2) * -(-columns // 2)
    sizes = (16 * patches, 4 * patches, patches, half)
    macs = 2 * config.dim * sum(channels) * patches
    # transposed convolutions do one product per input pixel, tap and pair of channels
    macs += 16 * channels[0] ** 2 * patches + 4 * channels[1] ** 2 * patches
    macs += 9 * channels[3] ** 2 * half
    for level, size in enumerate(sizes):
        units = 1 if level == 3 else 2
        macs += 9 * size * (channels[level] * features + units * 2 * features**2)
        # a level leaves at the size of the one before it; the first at twice its own
        macs += features**2 * (sizes[level - 1] if level else 4 * sizes[0])
    macs += 9 * features * (features // 2) * 4 * sizes[0]
    pixels = patches * PATCH * PATCH
    macs += pixels * (9 * (features // 2) * DPT_LAST_CHANNELS + DPT_LAST_CHANNELS * out)
    return 2 * views * macs
