"""Where a moving rig has been, from images alone: windows of keyframes in one graph.

Frame sets that have moved enough become keyframes. Every window of them goes through the
bootstrapper; consecutive windows share keyframes and so join. Where a keyframe shows a place of
long ago, a window of both times closes the loop.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.config import TrajectoryConfig
from vggt_ros.errors import AlignmentError, EngineError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.motion.graph import Key, ScalePrior, SceneGraph
from vggt_ros.pipeline.motion.intrinsics import Intrinsics
from vggt_ros.pipeline.motion.kept_images import KeptImages
from vggt_ros.pipeline.motion.keyframes import KeyframeChooser
from vggt_ros.pipeline.motion.places import Place, compare
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.types import FrameSet, UnscaledScene

_LOG = logging.getLogger(__name__)


_RECENT_WINDOWS = 3
"""Images of so many windows are kept as they came, older ones as JPEGs."""

ScaleOfScene = Callable[[UnscaledScene, Sequence[FrameSet]], ScalePrior | None]


@dataclass(frozen=True, eq=False)
class WindowResult:
    """What one window added."""

    scene: UnscaledScene
    number: int
    """Of the scene in the graph."""
    keyframes: tuple[FrameSet, ...]
    """Those that no earlier window held, undistorted."""
    loops: int
    """Loops that were closed after it."""
    members: tuple[FrameSet, ...]
    """All sets of the window, undistorted."""
    afresh: bool = False
    """What went before holds no more: the intrinsics were found anew, and this is the first
    window with them."""


class TrajectoryEstimator:
    """Frame sets in, `map_from_camera` of every keyframe out; `map` is the first window's scene.

    Args:
        bootstrapper: finds the cameras of a window; asked for windows of several sets.
        config: sizes of windows, what makes a keyframe and a loop.
        scale_of: metres per unit of a window, where something in it knows.
        loop_bootstrapper: finds the cameras of two times together, and unknown intrinsics; the
            same where None.
        odometry: says where the cameras of a window were that could not be found.
        kept_bytes: what images, features and dense depth of old keyframes may take up; beyond
            it every second of the older half is forgotten. Their places stay.
    """

    def __init__(
        self,
        bootstrapper: Bootstrapper,
        config: TrajectoryConfig,
        scale_of: ScaleOfScene | None = None,
        loop_bootstrapper: Bootstrapper | None = None,
        odometry: Bootstrapper | None = None,
        kept_bytes: float = math.inf,
    ) -> None:
        self.graph = SceneGraph()
        self.keyframes = KeptImages(_RECENT_WINDOWS * config.window_views)
        """As they came."""
        self.dropped: Counter[str] = Counter()
        self._bootstrapper = bootstrapper
        self._loop_bootstrapper = loop_bootstrapper or bootstrapper
        self._odometry = odometry
        self._config = config
        self._scale_of = scale_of
        self._chooser = KeyframeChooser(config)
        self._places: list[Place] = []
        """Of the keyframes."""
        self._kept_bytes = kept_bytes
        self._is_thinned = False
        self._intrinsics = Intrinsics(self._loop_bootstrapper, config.calibration_views)
        self._solved = 0
        """Keyframes that are in windows."""
        self._looped: set[tuple[int, int]] = set()
        self._is_lost = False
        """The last window failed."""
        self._begins_again = False
        """The next window replaces all before."""

    def add(self, frame_set: FrameSet) -> list[WindowResult]:
        """Take one frame set; results where it completed a window.

        Several at a time where the intrinsics are unknown: they are found first, and sometimes
        again, with all windows after that.

        Raises:
            AlignmentError: the window that it completed could not be registered or joined. Its
                newer half is forgotten; what follows is tried with later keyframes.
            EngineError: the bootstrapper's network failed; the same holds.
        """
        if not self._chooser.take(frame_set):
            self.dropped["too little motion"] += 1
            return []
        assert self._chooser.newest is not None  # for the type checker: it took the set
        self.keyframes.append(frame_set)
        self._places.append(self._chooser.newest)
        results = self._solve_all(at_end=False)
        self._thin()
        return results

    def finish(self) -> list[WindowResult]:
        """Use the keyframes that wait for a window to fill; raises as `add`."""
        return self._solve_all(at_end=True) if len(self.keyframes) > 1 else []

    def poses(self) -> dict[Key, Rigid3]:
        """`map_from_camera` of every view of a keyframe, by camera and stamp of its set."""
        return self.graph.poses()

    @property
    def models(self) -> dict[str, CameraModel]:
        """Intrinsics, with distortion, of the cameras that came without."""
        return self._intrinsics.models

    def is_newest_keyframe(self, stamp_ns: int) -> bool:
        """Whether the set of this stamp is the newest keyframe."""
        return len(self.keyframes) > 0 and self.keyframes[-1].stamp_ns == stamp_ns

    def undistorted(self, frame_set: FrameSet) -> FrameSet:
        """A set with models, as the windows are; cameras that have none are left out."""
        return self._intrinsics.undistorted(frame_set)

    @property
    def memory_bytes(self) -> int:
        """Of images and features of the keyframes, and of the scenes of the windows."""
        features = sum(place.memory_bytes for place in self._places)
        return self.keyframes.memory_bytes + features + self.graph.memory_bytes

    def _thin(self) -> None:
        """Forget images, features and depth of old keyframes where they have become too many."""
        while True:
            features = sum(place.memory_bytes for place in self._places)
            kept = self.keyframes.compressed_bytes + features + self.graph.depth_bytes
            if kept <= self._kept_bytes or self.keyframes.compressed > self._solved:
                return
            forgotten = self.keyframes.thin()
            if not forgotten:
                return
            for number in reversed(forgotten):
                del self._places[number]
            self._solved -= len(forgotten)
            before = np.array(forgotten)
            self._looped = {
                (a - int((before < a).sum()), b - int((before < b).sum())) for a, b in self._looped
            }
            self.graph.forget_depth(set(self.keyframes.stamps))
            self._is_thinned = True
            _LOG.info("motion: the images of %d keyframes are kept", len(self.keyframes))

    def _size(self) -> int:
        """Sets in a window."""
        cameras = max(len(self.keyframes[-1].frames), 1)
        return max(-(-self._config.window_views // cameras), 2)

    def _overlap(self) -> int:
        cameras = max(len(self.keyframes[-1].frames), 1)
        return max(-(-self._config.shared_views // cameras), 1)

    def _solve_all(self, at_end: bool) -> list[WindowResult]:
        """All windows that are full, at the end the last one too."""
        self._calibrate(at_end)
        results: list[WindowResult] = []
        if not self._intrinsics.are_known(self.keyframes[-1]):
            return results
        while len(self.keyframes) > self._solved:
            shared = min(self._overlap(), self._solved)
            last = self._solved - shared + self._size()
            waiting = len(self.keyframes) - self._solved
            if last > len(self.keyframes) and not (at_end and waiting + shared > 1):
                break
            last = min(last, len(self.keyframes))
            try:
                found = self._solve_window(self._anchors(shared, last), last)
            except (AlignmentError, EngineError) as error:
                self.dropped["window failed"] += 1
                self._forget(self._solved, last)
                self._is_lost = True
                if not results:
                    raise
                _LOG.warning("motion: a window is left out: %s", error)
                continue
            self._is_lost = False
            results.append(replace(found, afresh=self._begins_again))
            self._begins_again = False
        return results

    def _calibrate(self, at_end: bool) -> None:
        """Find unknown intrinsics; where they have changed everything begins again."""
        newest = self.keyframes[-1]
        if not self._intrinsics.are_due(newest, len(self.keyframes), at_end):
            return
        if self._is_thinned and self._intrinsics.models:
            return  # not every window could be found again
        try:
            changed = self._intrinsics.find(self.keyframes)
        except (AlignmentError, EngineError) as error:
            if not self._intrinsics.models:
                self.dropped["window failed"] += 1
                self._forget(0, len(self.keyframes))
                raise
            _LOG.warning("motion: the intrinsics stay as they are: %s", error)
            return
        if changed:
            self._begins_again |= bool(self.graph.scenes)
            self.graph = SceneGraph()
            self._solved = 0
            self._looped.clear()

    def _anchors(self, count: int, last: int) -> list[int]:
        """Keyframes that the next window shares: the newest with a place.

        After a window that failed the camera may be anywhere: those that look most like one of
        the new keyframes.

        Raises:
            AlignmentError: none looks like any of them.
        """
        if not self._is_lost or not self._solved:
            return list(range(self._solved - count, self._solved))
        pairs = [(new, old) for new in range(self._solved, last) for old in range(self._solved)]
        alike = [compare(self._places[new], self._places[old]).matches for new, old in pairs]
        best = int(np.argmax(alike))
        if alike[best] < self._config.min_loop_matches:
            if self._odometry is not None:
                return list(range(self._solved - count, self._solved))
            raise AlignmentError(
                f"motion: lost: the newest {last - self._solved} keyframes look like none of the "
                f"{self._solved} with a place; go back to where the map is, or reset"
            )
        return list(self._around(pairs[best][1], count))

    def _forget(self, first: int, last: int) -> None:
        self.keyframes.forget(first, last)
        del self._places[first:last]
        self._chooser.newest = self._places[-1] if self._places else None

    def _solve_window(self, anchors: list[int], last: int) -> WindowResult:
        members = self._sets([*anchors, *range(self._solved, last)])
        scene, number = self._added(members)
        added = tuple(members[len(anchors) :])
        before, self._solved = self._solved, last
        loops = self._close_loops(before)
        self.graph.solve()
        return WindowResult(scene, number, added, loops, tuple(members))

    def _sets(self, chosen: Sequence[int]) -> list[FrameSet]:
        """Keyframes, undistorted."""
        return [self._intrinsics.undistorted(self.keyframes[k]) for k in chosen]

    def _added(self, members: Sequence[FrameSet]) -> tuple[UnscaledScene, int]:
        """The scene of a window and its number; by odometry where the images do not tell."""
        try:
            scene = self._bootstrapper.bootstrap(members)
            prior = self._prior(scene, members)
            return scene, self.graph.add(scene, prior, self._odometry is not None)
        except AlignmentError as error:
            if self._odometry is None or not self.graph.scenes:
                raise
            _LOG.warning("motion: a window goes by odometry alone: %s", error)
        self.dropped["window by odometry"] += 1
        scene = self._odometry.bootstrap(members)
        return scene, self.graph.add(scene, self._prior(scene, members), by_poses=True)

    def _prior(self, scene: UnscaledScene, members: Sequence[FrameSet]) -> ScalePrior | None:
        return self._scale_of(scene, members) if self._scale_of else None

    def _close_loops(self, first_new: int) -> int:
        """Look for old places among the new keyframes; one window for each best pair."""
        config = self._config
        # what the last windows hold is joined already, and what is near in time needs no loop
        latest = first_new - max(self._size(), config.window_views)
        found = []
        for new in range(first_new, self._solved):
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
        near = max(self._size() // 2, 2)
        return any(abs(old - a) < near and abs(new - b) < near for a, b in self._looped)

    def _close_loop(self, old: int, new: int) -> bool:
        """Bootstrap the keyframes around both times together."""
        half = max(self._size() // 2, 2)
        chosen = sorted({*self._around(old, half), *self._around(new, half)})
        try:
            scene = self._loop_bootstrapper.bootstrap(self._sets(chosen))
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
