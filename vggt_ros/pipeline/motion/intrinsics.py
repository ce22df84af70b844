"""Unknown intrinsics of a camera that moves: found from views spread over its path, then held.

A dozen neighbouring hand-held views tell a focal length badly: single windows of
`indoor_sequence` gave 439 to 545 px where 525 is right, 24 neighbouring ones 474, and 15 spread
over the path 513 to 515. So the views are spread over all keyframes, and again over twice as many.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.types import FrameSet

_LOG = logging.getLogger(__name__)

_AGAIN = 2.0
"""Times as many keyframes as at the last calibration ask for another."""
_AGAIN_AT_END = 1.25
_CHANGE = 0.01
"""Of a focal length: less does not change the path."""


class Intrinsics:
    """Models of the cameras that came without.

    Args:
        bootstrapper: finds them.
        views: how many images it is given.
    """

    def __init__(self, bootstrapper: Bootstrapper, views: int) -> None:
        self.models: dict[str, CameraModel] = {}
        self._bootstrapper = bootstrapper
        self._views = views
        self._sets_then = 0
        self._undistorter = Undistorter()

    def are_known(self, frame_set: FrameSet) -> bool:
        """Whether any camera of a set, as it came, has a model."""
        return any(f.model is not None or f.camera in self.models for f in frame_set.frames)

    def are_due(self, frame_set: FrameSet, sets: int, at_end: bool) -> bool:
        """Whether they should be found now.

        Args:
            frame_set: one of the sets, as it came.
            sets: how many keyframes there are.
            at_end: no more will come.
        """
        if all(frame.model is not None for frame in frame_set.frames):
            return False
        if not self._sets_then:
            return at_end or sets >= self._wanted(frame_set)
        return sets >= (_AGAIN_AT_END if at_end else _AGAIN) * self._sets_then

    def find(self, sets: Sequence[FrameSet]) -> bool:
        """Find them from views spread over the path; True where any changed by enough to matter.

        Raises:
            AlignmentError: the views could not be registered together.
            EngineError: the bootstrapper's network failed.
        """
        count = min(self._wanted(sets[-1]), len(sets))
        chosen = np.unique(np.linspace(0, len(sets) - 1, count).round().astype(int))
        self._sets_then = len(sets)
        scene = self._bootstrapper.bootstrap([sets[k] for k in chosen])
        known = {f.camera for f in sets[-1].frames if f.model is not None}
        changed = False
        for name in scene.cameras:
            if name in known:
                continue
            model, before = scene.view(name).model, self.models.get(name)
            if before is None or abs(model.fx / before.fx - 1) > _CHANGE:
                changed = True
                self.models[name] = model
                _LOG.info("motion: %s: focal length %.1f px", name, model.fx)
        return changed

    def undistorted(self, frame_set: FrameSet) -> FrameSet:
        """A set with models; cameras that have none are left out."""
        if all(frame.model is not None for frame in frame_set.frames):
            return frame_set
        frames = []
        for frame in frame_set.frames:
            if frame.model is None:
                if frame.camera not in self.models:
                    continue
                frame = undistorted_frame(frame, self.models[frame.camera], self._undistorter)
            frames.append(frame)
        return replace(frame_set, frames=tuple(frames))

    def _wanted(self, frame_set: FrameSet) -> int:
        return max(-(-self._views // max(len(frame_set.frames), 1)), 2)
