"""Networks and what runs them."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.config.parameter import parameter

BACKENDS = ("auto", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
"""auto, and the names of `inference.backend`."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class EngineConfig:
    """What every stage that asks a network is told of its engine."""

    engine: str = parameter("", "engine or checkpoint, with its passport beside it")
    backend: str = parameter("auto", "what runs it; auto: what its name ends in", choices=BACKENDS)
    device: str = parameter("auto", "cpu, cuda:N; auto: what the back end is built for")
    precision: str = parameter(
        "auto",
        "to compute in, where the back end can choose (torch, openvino); auto: as it is stored",
        choices=PRECISIONS,
    )
    allow_unverified: bool = parameter(
        False, "do not check the engine against its passport; the status says so"
    )


@dataclass(frozen=True)
class VggtConfig(EngineConfig):
    """`vggt.*`: the bootstrapper that asks the network VGGT."""

    sets: int = parameter(1, "frame sets that are reconstructed together", low=1, high=100)
    preprocess: str = parameter(
        "crop",
        "crop: as wide as the input, what is too high is cut; pad: every pixel, with white bars",
        choices=("crop", "pad"),
    )
    image_px: int = parameter(
        518,
        "width of the input (pad: both sides), a multiple of 14; only for engines of free size",
        unit="px",
        low=28,
        high=2044,
    )
    min_views: int = parameter(2, "fewer views that overlap are a failure", low=1, high=1600)
    min_overlap: float = parameter(
        0.1,
        "least part of a view's pixels that must lie, at the same depth, in another view, or "
        "the view is left out",
        low=0.0,
        high=1.0,
    )
    min_confidence: float = parameter(
        0.1,
        "the least sure part of all pixels, which does not go into the map",
        low=0.0,
        high=0.99,
    )


@dataclass(frozen=True)
class DepthAnythingConfig(EngineConfig):
    """`depth_anything.*`: depth of single images by the network Depth Anything."""

    contexts: int = parameter(
        1, "batches that the engine computes at the same time", low=1, high=16
    )
    image_px: int = parameter(
        518,
        "shorter side of the input, a multiple of 14; only for engines of free size",
        unit="px",
        low=28,
        high=2044,
    )
    width: int = parameter(
        480, "depth is handed on at this width; 0: that of the images", unit="px", low=0, high=8192
    )
