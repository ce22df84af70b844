"""The `vggt` bootstrapper: cameras and dense depth by one network, checked by the images."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from vggt_ros.config import VggtConfig
from vggt_ros.errors import AlignmentError, ConfigError, EngineError
from vggt_ros.inference import bicubic
from vggt_ros.inference.engine_store import Engine
from vggt_ros.inference.vggt import decode, dense_points
from vggt_ros.inference.vggt_input import PATCH, VggtInput, prepare
from vggt_ros.pipeline.engines import EngineSlot
from vggt_ros.pipeline.stages import EngineInUse
from vggt_ros.pipeline.view_overlap import keep_overlapping
from vggt_ros.types import Frame, FrameSet, UnscaledScene, View

_LOG = logging.getLogger(__name__)

_WANTED = ("pose_enc", "depth", "depth_conf")
"""Outputs that are read."""


class VggtBootstrapper:
    """Asks VGGT for poses and depth of all views at once.

    Views keep the order of the sets and of the cameras in them; the first is the network's
    reference. Intrinsics of frames win over predicted ones. Views whose depth and looks no other
    view confirms are left out.

    Args:
        config: `vggt.*`.
        cameras: names of all cameras, where they are known: an engine for another number of
            views is then refused when it is opened.
    """

    name = "vggt"

    def __init__(self, config: VggtConfig, cameras: Sequence[str] = ()) -> None:
        if config.image_px % PATCH:
            raise ConfigError(
                f"vggt.image_px: expected a multiple of {PATCH}, got {config.image_px}; "
                f"{round(config.image_px / PATCH) * PATCH} is the nearest"
            )
        self.sets_needed = config.sets
        self._config = config
        self._cameras = tuple(cameras)
        self._slot = EngineSlot("vggt", "vggt", config)

    @property
    def engine(self) -> EngineInUse | None:
        """What runs, or ran last; None before it is open."""
        return self._slot.in_use

    def open(self) -> None:
        """Load and check the engine; its first run is not that of the first images.

        Raises:
            ConfigError: no engine is named.
            EngineError: it cannot be used, or not for so many cameras.
        """
        if self._slot.is_open:
            return
        engine = self._slot.open()
        try:
            layout = _Layout(engine)
            if self._cameras:
                layout.check_views(len(self._cameras) * self.sets_needed, EngineError)
            bicubic.warm_up()
            if engine.report is None:  # verifying has run it already
                engine.backend.run({layout.name: layout.blank(len(self._cameras) or 1)})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the engine; it is loaded again when it is needed."""
        self._slot.close()

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """Dense views of all sets, in their order.

        Raises:
            AlignmentError: too few views overlap; the message has the figures.
            EngineError: the engine failed, or does not answer as VGGT does.
        """
        frames = [(s.stamp_ns, frame) for s in frame_sets for frame in s.frames]
        if not frames:
            raise AlignmentError("bootstrap vggt: expected frames, got none")
        engine = self._slot.open()
        layout = _Layout(engine)
        layout.check_views(len(frames), AlignmentError)
        network_input = self._input(frames, layout)
        images = network_input.images if layout.views_first else network_input.images[None]
        start = time.monotonic()
        answer = engine.backend.run({layout.name: images.astype(layout.dtype, copy=False)})
        seconds = time.monotonic() - start
        try:
            pose_enc, depth, depth_conf = (answer[name] for name in _WANTED)
            scene = decode(pose_enc, depth, depth_conf, network_input, frames)
        except ValueError as error:
            raise EngineError(
                f"vggt.engine: {engine.path}: does not answer as VGGT does: {error}; export it "
                "anew: vggt-ros engine export"
            ) from error
        checked = keep_overlapping(scene, self._config.min_overlap, self._config.min_views)
        for name in checked.failed:
            _LOG.warning("VGGT: %s left out: no other view confirms it", name)
        _LOG.info("VGGT: %d of %d views in %.2f s", len(checked.views), len(frames), seconds)
        points, colours = dense_points(checked.views)
        views = tuple(self._sure(view) for view in checked.views)
        statistics = {**checked.statistics, "points": float(len(points))}
        return dataclasses.replace(
            checked, views=views, points=points, colours=colours, statistics=statistics
        )

    def _input(self, frames: Sequence[tuple[int, Frame]], layout: _Layout) -> VggtInput:
        mode = cast(Literal["crop", "pad"], self._config.preprocess)
        images = [frame.rgb for _, frame in frames]
        try:
            return prepare(images, mode, self._config.image_px, layout.size)
        except ValueError as error:
            raise AlignmentError(f"bootstrap vggt: {error}") from error

    def _sure(self, view: View) -> View:
        """The view without the depth of its least sure pixels."""
        if view.depth is None or view.confidence is None:
            return view
        keep = view.confidence >= self._config.min_confidence
        return dataclasses.replace(view, depth=np.where(keep, view.depth, np.float32(np.nan)))


class _Layout:
    """What an engine wants as its input: (S, 3, H, W) or (1, S, 3, H, W), free sizes None.

    Raises:
        EngineError: it is not an engine of VGGT that gives depth and cameras.
    """

    def __init__(self, engine: Engine) -> None:
        backend = engine.backend
        missing = [n for n in _WANTED if n not in [output.name for output in backend.outputs]]
        shape = backend.inputs[0].shape if len(backend.inputs) == 1 else ()
        if missing or len(shape) not in (4, 5) or shape[-3] not in (3, None):
            raise EngineError(
                f"vggt.engine: {engine.path}: expected one input (S, 3, H, W) or (1, S, 3, H, W) "
                f"and outputs {', '.join(_WANTED)}, got {[i.shape for i in backend.inputs]} and "
                f"{', '.join(output.name for output in backend.outputs)}; export it anew: "
                "vggt-ros engine export"
            )
        self.name = backend.inputs[0].name
        self.dtype = np.dtype(backend.inputs[0].dtype)
        self.views_first = len(shape) == 4
        self.views = shape[-4]
        height, width = shape[-2], shape[-1]
        if (height or PATCH) % PATCH or (width or PATCH) % PATCH:
            raise EngineError(
                f"vggt.engine: {engine.path}: expected height and width to be multiples of "
                f"{PATCH}, got {height}x{width}; export it anew: vggt-ros engine export"
            )
        self.size = (height, width) if height and width else None
        self._path = engine.path

    def check_views(self, count: int, kind: type[AlignmentError] | type[EngineError]) -> None:
        """Raise an error of this kind where the engine does not take so many views."""
        if self.views not in (None, count):
            raise kind(
                f"vggt.engine: {self._path}: is for {self.views} views, got {count} (cameras "
                f"times vggt.sets); choose cameras and vggt.sets so that they are {self.views}, "
                f"or export it for {count}: vggt-ros engine export --num-cams {count}"
            )

    def blank(self, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """A grey input for the first run."""
        height, width = self.size or (2 * PATCH, 2 * PATCH)
        shape = (self.views or count, 3, height, width)
        return np.full(shape if self.views_first else (1, *shape), 0.5, self.dtype)
