"""Run every kernel once on two tiny images, so that the first real set does not wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from vggt_ros.config import Config, MapConfig, ScaleConfig, SelfFilterConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import (
    AlignedScene,
    DepthKind,
    DepthPrediction,
    Frame,
    FrameSet,
    UnscaledScene,
    View,
)

_CAMERAS = ("left", "right")
_MODEL = CameraModel(96, 64, 80.0, 80.0, 47.5, 31.5)
_BASELINE, _DEPTH = 0.2, 2.0
_DISPARITY_PX = round(_MODEL.fx * _BASELINE / _DEPTH)
_POSES = {
    name: Rigid3(np.eye(3), np.array([k * _BASELINE, 0.0, 0.0])) for k, name in enumerate(_CAMERAS)
}


class PlaneBootstrapper:
    """Knows the answer: two cameras side by side before a textured plane.

    Args:
        dense: give depth and not only points.
    """

    name = "warm-up"
    sets_needed = 1

    def __init__(self, dense: bool = False) -> None:
        self._dense = dense

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """The two views and points on the plane."""
        views = tuple(View(name, 0, _MODEL, _POSES[name]) for name in _CAMERAS)
        if self._dense:
            depth = np.full((_MODEL.height, _MODEL.width), _DEPTH, np.float32)
            views = tuple(
                replace(
                    view,
                    depth=depth,
                    confidence=np.ones_like(depth),
                    depth_model=_MODEL,
                    rgb=frame_sets[-1].frame(view.camera).rgb,
                )
                for view in views
            )
        x, y = np.meshgrid(np.linspace(-0.9, 0.9, 12), np.linspace(-0.7, 0.7, 9))
        points = np.stack([x, y, np.full_like(x, _DEPTH)], axis=-1).reshape(-1, 3)
        colours = np.full(points.shape, 128, np.uint8)
        return UnscaledScene(views, points, colours, (), self.name)


class PlaneDisparity:
    """What a network gives: disparity."""

    name = "warm-up"

    def set_config(self, config: Config) -> None:
        """Nothing to take over."""

    def prepare(self, scene: AlignedScene) -> None:
        """Nothing to prepare."""

    def estimate(self, frame_set: FrameSet) -> list[DepthPrediction]:
        """A slope: what fits nothing is refused, but every kernel has run."""
        shape = (_MODEL.height, _MODEL.width)
        values = np.broadcast_to(np.linspace(0.9, 1.1, shape[1], dtype=np.float32), shape)
        sure = np.ones(shape, np.float32)
        return [
            DepthPrediction(f.camera, 0, DepthKind.DISPARITY, values, sure, _MODEL, f.rgb)
            for f in frame_set.frames
        ]


def plane_frame_set() -> FrameSet:
    """The plane as the two cameras see it: the same texture, shifted by the disparity."""
    random = np.random.default_rng(0)
    size = (_MODEL.height, _MODEL.width + _DISPARITY_PX, 3)
    texture = cv2.GaussianBlur(random.integers(0, 256, size, dtype=np.uint8), (0, 0), 1.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    frames = []
    for k, name in enumerate(_CAMERAS):
        left = k * _DISPARITY_PX
        rgb = np.ascontiguousarray(texture[:, left : left + _MODEL.width])
        frames.append(Frame(name, 0, rgb, _MODEL))
    return FrameSet(0, tuple(frames))


def warm_up_stages(config: Config) -> tuple[PlaneBootstrapper, PlaneDisparity | None]:
    """Stages that make a pipeline run the kernels that `config` will need; None: its own."""
    if config.depth == "plane_sweep":
        return PlaneBootstrapper(), None
    return PlaneBootstrapper(dense=True), PlaneDisparity()


def warm_up_config(config: Config) -> Config:
    """The user's configuration with nothing that could refuse the tiny scene.

    Of the map only what decides which kernels run is the user's; a budget for a small map, fine
    voxels or a short range would leave the scene out.
    """
    chosen = config.map
    scratch = MapConfig(kind=chosen.kind, tsdf_device=chosen.tsdf_device, carve=chosen.carve)
    return replace(
        config,
        cameras=list(_CAMERAS),
        motion="static",
        scale=ScaleConfig(source="none"),
        camera={},
        self_filter=SelfFilterConfig(),
        map=scratch,
    )
