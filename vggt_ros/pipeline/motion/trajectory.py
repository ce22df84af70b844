"""Where a moving rig has been, from images alone: windows of keyframes in one graph.

Frame sets that have moved enough become keyframes. Every window of them goes through the
bootstrapper; consecutive windows share keyframes and so join. Where a keyframe shows a place of
long ago, a window of both times closes the loop.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from vggt_ros.config import TrajectoryConfig
from vggt_ros.errors import AlignmentError, EngineError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.motion.graph import Key, ScalePrior, SceneGraph
from vggt_ros.pipeline.motion.keyframes import KeyframeChooser
from vggt_ros.pipeline.motion.places import compare
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.types import FrameSet, UnscaledScene

_LOG = logging.getLogger(__name__)


ScaleOfScene = Callable[[UnscaledScene], ScalePrior | None]


@dataclass(frozen=True, eq=False)
class WindowResult:
    """What one window added."""

    scene: UnscaledScene
    number: int
    """Of the scene in the graph."""
    keyframes: tuple[FrameSet, ...]
    """Those that no earlier window held."""
    loops: int
    """Loops that were closed after it."""
    members: tuple[FrameSet, ...] = ()
    """All sets of the window, undistorted."""


class TrajectoryEstimator:
    """Frame sets in, `map_from_camera` of every keyframe out; `map` is the first window's scene.

    Args:
        bootstrapper: finds the cameras of a window; asked for windows of several sets.
        config: sizes of windows, what makes a keyframe and a loop.
        scale_of: metres per unit of a window, where something in it knows.
    """

    def __init__(
        self,
        bootstrapper: Bootstrapper,
        config: TrajectoryConfig,
        scale_of: ScaleOfScene | None = None,
    ) -> None:
        self.graph = SceneGraph()
        self.keyframes: list[FrameSet] = []
        self.dropped: Counter[str] = Counter()
        self._bootstrapper = bootstrapper
        self._config = config
        self._scale_of = scale_of
        self._chooser = KeyframeChooser(config)
        self._places = self._chooser.places
        self._solved = 0
        """Keyframes that are in windows."""
        self._looped: set[tuple[int, int]] = set()
        self._models: dict[str, CameraModel] = {}
        """Of the cameras whose intrinsics the first window has found."""
        self._undistorter = Undistorter()

    def add(self, frame_set: FrameSet) -> WindowResult | None:
        """Take one frame set; a result where it completed a window.

        Raises:
            AlignmentError: the window that it completed could not be registered or joined. Its
                newer half is forgotten; what follows is tried with later keyframes.
            EngineError: the bootstrapper's network failed; the same holds.
        """
        frame_set = self._undistorted(frame_set)
        if not self._chooser.take(frame_set):
            self.dropped["too little motion"] += 1
            return None
        self.keyframes.append(frame_set)
        if len(self.keyframes) - self._first() < self._wanted():
            return None
        return self._solve_window()

    def finish(self) -> WindowResult | None:
        """Use the keyframes that wait for a window to fill; None where there are none."""
        waiting = len(self.keyframes) - self._solved
        if not waiting or len(self.keyframes) < 2:
            return None
        return self._solve_window()

    def poses(self) -> dict[Key, Rigid3]:
        """`map_from_camera` of every view of a keyframe, by camera and stamp of its set."""
        return self.graph.poses()

    def _size(self) -> int:
        """Sets in a window."""
        cameras = max(len(self.keyframes[-1].frames), 1)
        return max(-(-self._config.window_views // cameras), 2)

    def _wanted(self) -> int:
        """Sets of the next window: more where it has to find the intrinsics."""
        frames = self.keyframes[-1].frames
        if all(frame.model is not None for frame in frames):
            return self._size()
        return max(-(-self._config.calibration_views // max(len(frames), 1)), self._size())

    def _overlap(self) -> int:
        cameras = max(len(self.keyframes[-1].frames), 1)
        return max(-(-self._config.shared_views // cameras), 1)

    def _first(self) -> int:
        """Of the keyframes of the next window."""
        return max(self._solved - self._overlap(), 0)

    def _solve_window(self) -> WindowResult:
        first = self._first()
        members = self.keyframes[first:]
        try:
            scene = self._held(self._bootstrapper.bootstrap(members))
            prior = self._scale_of(scene) if self._scale_of else None
            number = self.graph.add(scene, prior)
        except (AlignmentError, EngineError):
            del self.keyframes[self._solved :], self._places[self._solved :]
            self.dropped["window failed"] += 1
            raise
        added = tuple(self.keyframes[self._solved :])
        before, self._solved = self._solved, len(self.keyframes)
        loops = self._close_loops(before)
        self.graph.solve()
        return WindowResult(scene, number, added, loops, tuple(self.keyframes[first:]))

    def _held(self, scene: UnscaledScene) -> UnscaledScene:
        """Hold the intrinsics that a window has found; from now on images are undistorted."""
        for view in scene.views:
            self._models.setdefault(view.camera, view.model)
        self.keyframes = [self._undistorted(frame_set) for frame_set in self.keyframes]
        views = [replace(v, model=v.model.without_distortion()) for v in scene.views]
        return replace(scene, views=tuple(views))

    def _undistorted(self, frame_set: FrameSet) -> FrameSet:
        if all(f.model is not None or f.camera not in self._models for f in frame_set.frames):
            return frame_set
        frames = [
            undistorted_frame(frame, self._models[frame.camera], self._undistorter)
            if frame.model is None and frame.camera in self._models
            else frame
            for frame in frame_set.frames
        ]
        return replace(frame_set, frames=tuple(frames))

    def _close_loops(self, first_new: int) -> int:
        """Look for old places among the new keyframes; one window for each best pair."""
        config = self._config
        latest = first_new - self._size()  # what the last windows hold is joined already
        found = []
        for new in range(first_new, len(self.keyframes)):
            for old in range(max(latest, 0)):
                matches = compare(self._places[new], self._places[old]).matches
                if matches >= config.min_loop_matches:
                    found.append((matches, old, new))
        closed = 0
        for _, old, new in sorted(found, reverse=True):
            if closed >= config.max_loops or self._is_looped(old, new):
                continue
            self._looped.add((old, new))
            closed += self._close_loop(old, new)
        return closed

    def _is_looped(self, old: int, new: int) -> bool:
        near = max(self._size() // 2, 1)
        return any(abs(old - a) < near and abs(new - b) < near for a, b in self._looped)

    def _close_loop(self, old: int, new: int) -> bool:
        """Bootstrap the keyframes around both times together."""
        half = max(self._size() // 2, 1)
        chosen = sorted({*self._around(old, half), *self._around(new, half)})
        try:
            scene = self._bootstrapper.bootstrap([self.keyframes[k] for k in chosen])
            old_stamps = {self.keyframes[k].stamp_ns for k in self._around(old, half)}
            new_stamps = {self.keyframes[k].stamp_ns for k in self._around(new, half)}
            stamps = [view.stamp_ns for view in scene.views]
            least = min(sum(s in old_stamps for s in stamps), sum(s in new_stamps for s in stamps))
            if least < 2:
                raise AlignmentError("loop: the two times do not register together")
            self.graph.add(scene)
        except AlignmentError as error:
            self.dropped["loop failed"] += 1
            _LOG.debug("loop between keyframes %d and %d not closed: %s", old, new, error)
            return False
        _LOG.info("loop closed between keyframes %d and %d", old, new)
        return True

    def _around(self, centre: int, count: int) -> range:
        """`count` keyframes around one, inside the solved ones."""
        first = min(max(centre - count // 2, 0), max(self._solved - count, 0))
        return range(first, min(first + count, self._solved))
