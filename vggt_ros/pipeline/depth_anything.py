"""The `depth_anything` estimator: depth of each image alone, by one network."""

from __future__ import annotations

import logging

import cv2
import numpy as np

from vggt_ros.config import Config, DepthAnythingConfig
from vggt_ros.errors import CalibrationError, ConfigError, EngineError
from vggt_ros.inference.depth_anything import PATCH, DepthAnythingPool
from vggt_ros.pipeline.engines import EngineSlot
from vggt_ros.pipeline.stages import EngineInUse
from vggt_ros.types import AlignedScene, DepthKind, DepthPrediction, Frame, FrameSet

_LOG = logging.getLogger(__name__)


class DepthAnything:
    """`DepthEstimator` that needs no overlap; its depth is fitted to the map (`align_depth`).

    Args:
        config: `depth_anything.*`.
        cameras: how many images come at a time, for the warm-up.
    """

    name = "depth_anything"

    def __init__(self, config: DepthAnythingConfig, cameras: int = 1) -> None:
        if config.image_px % PATCH:
            raise ConfigError(
                f"depth_anything.image_px: expected a multiple of {PATCH}, got "
                f"{config.image_px}; {round(config.image_px / PATCH) * PATCH} is the nearest"
            )
        self._config = config
        self._cameras = max(cameras, 1)
        self._slot = EngineSlot("depth_anything", "depth_anything", config, config.contexts)
        self._pool: DepthAnythingPool | None = None
        self._registered: frozenset[str] = frozenset()

    @property
    def engine(self) -> EngineInUse | None:
        """What runs, or ran last; None before it is open."""
        return self._slot.in_use

    @property
    def kind(self) -> DepthKind | None:
        """What its numbers mean; None until it is open."""
        return self._pool.kind if self._pool is not None else None

    def open(self) -> None:
        """Load, check and warm up the engine.

        Raises:
            ConfigError: no engine is named.
            EngineError: it cannot be used.
        """
        self._opened()

    def close(self) -> None:
        """Free the engine; it is loaded again when it is needed."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._slot.close()

    def set_config(self, config: Config) -> None:
        """Nothing of it may change while mapping."""

    def prepare(self, scene: AlignedScene) -> None:
        """Take over which cameras are registered, and see that the engine is there."""
        self._registered = frozenset(scene.map_from_camera)
        self._opened()

    def estimate(self, frame_set: FrameSet) -> list[DepthPrediction]:
        """Depth, in the engine's own unit, of all registered frames.

        Raises:
            CalibrationError: a frame has no camera model, or a distorted one.
            EngineError: the engine failed.
        """
        frames = [f for f in frame_set.frames if f.camera in self._registered]
        sizes = [self._size(frame) for frame in frames]
        if not frames:
            return []
        pool = self._opened()
        depths = pool.infer([frame.rgb for frame in frames], sizes)
        predictions = []
        for frame, size, depth in zip(frames, sizes, depths, strict=True):
            assert frame.model is not None  # _size has refused it
            rgb = frame.rgb
            if size != frame.model.size:
                rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
            predictions.append(
                DepthPrediction(
                    frame.camera,
                    frame.stamp_ns,
                    pool.kind,
                    depth.values,
                    depth.confidence,
                    frame.model.resized(*size),
                    rgb,
                )
            )
        return predictions

    def _size(self, frame: Frame) -> tuple[int, int]:
        """(width, height) of the prediction."""
        model = frame.model
        if model is None or model.is_distorted or frame.rgb.shape[1::-1] != model.size:
            got = "no model" if model is None else f"{model.distortion_model} {model.size}"
            raise CalibrationError(
                f"depth_anything: expected an undistorted frame with its model from "
                f"{frame.camera}, got {got} for an image of {frame.rgb.shape[1::-1]}"
            )
        width = min(self._config.width or model.width, model.width)
        return width, max(1, round(model.height * width / model.width))

    def _opened(self) -> DepthAnythingPool:
        if self._pool is None:
            engine = self._slot.open()
            try:
                pool = DepthAnythingPool(engine, self._config.image_px, self._config.contexts)
                if pool.kind is DepthKind.TRIANGULATED:
                    raise EngineError(
                        f"{engine.path}: depth_kind triangulated is for stereo, not for a "
                        "network of single images; make the engine anew: vggt-ros engine export"
                    )
                pool.warm_up(self._cameras)
            except BaseException:
                self._slot.close()
                raise
            self._pool = pool
        return self._pool
