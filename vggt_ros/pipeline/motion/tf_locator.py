"""`motion: tf`: others say where the rig is at every stamp, and are right.

What is not known of the rig (intrinsics, places of cameras) is found once by the bootstrapper from
a window of sets that moved, and put onto the given path. After that every window of keyframes has
its poses; features between its views are triangulated with them for the range of depth.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.motion.keyframes import KeyframeChooser
from vggt_ros.pipeline.motion.located import NO_TRANSFORM, Key, Located
from vggt_ros.pipeline.motion.posed_windows import PosedBootstrapper
from vggt_ros.pipeline.motion.poses import fit_path, mean_pose
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    Float64,
    FrameSet,
    Image,
    ScaleEstimate,
    ScaleSource,
    UnscaledScene,
)

_LOG = logging.getLogger(__name__)

TOO_LITTLE_MOTION = "too little motion"


class TfLocator:
    """`Locator` for a rig whose path is given; `map` is the frame in which it is.

    Args:
        config: all parameters.
        rig: what is known of it.
        bootstrapper: finds what is not known of the rig.
    """

    def __init__(self, config: Config, rig: Rig | None, bootstrapper: Bootstrapper | None) -> None:
        self._config = config
        self._rig = rig
        self._bootstrapper = bootstrapper
        self._undistorter = Undistorter()
        self.dropped: Counter[str] = Counter()
        self.loops = 0
        self._begin()

    def _begin(self) -> None:
        self.scene: AlignedScene | None = None
        self._chooser = KeyframeChooser(self._config.trajectory)
        self._waiting: list[FrameSet] = []
        self._path: list[tuple[int, Rigid3]] = []
        self._models: dict[str, CameraModel] = {}
        self._rig_from_camera: dict[str, Rigid3] = {}
        self._scale = ScaleEstimate(1.0, self._config.scale.odometry_sigma, ScaleSource.ODOMETRY)
        self._points: Float64 = np.zeros((0, 3))
        self._colours: Image = np.zeros((0, 3), np.uint8)
        self._windows = 0

    def reset(self) -> None:
        """Forget the path and what was found of the rig."""
        self._begin()

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig for the next calibration."""
        self._rig = rig

    @property
    def keyframes(self) -> int:
        """Keyframes with a place."""
        return len(self._path)

    @property
    def memory_bytes(self) -> int:
        """Of the images of sets that wait, or are shared with the next window."""
        return sum(frame.rgb.nbytes for s in self._waiting for frame in s.frames)

    @property
    def path(self) -> list[tuple[int, Rigid3]]:
        """Stamp and `map_from_rig` of the keyframes."""
        return list(self._path)

    @property
    def map_from_world(self) -> Rigid3 | None:
        """The given path is that of the map."""
        return Rigid3.identity()

    @property
    def models(self) -> dict[str, CameraModel]:
        """Intrinsics as given or found."""
        return self._models

    @property
    def rig_from_camera(self) -> dict[str, Rigid3]:
        """As given or found."""
        return self._rig_from_camera

    def map_from_rig_by_others(self, frame_set: FrameSet) -> Rigid3 | None:
        """Where the rig was at a set."""
        return frame_set.world_from_rig

    def undistorted(self, frame_set: FrameSet) -> FrameSet:
        """A set with models; cameras that have none are left out."""
        return self._calibrated(frame_set)

    def map_from_window(self, number: int) -> Sim3:
        """Windows stay where they were put."""
        return Sim3.identity()

    def locate(self, frame_set: FrameSet) -> list[Located]:
        """Take one set; something where it completed a window, or can be mapped alone.

        Raises:
            AlignmentError: what is not known of the rig could not be found.
        """
        if frame_set.world_from_rig is None:
            self.dropped[NO_TRANSFORM] += 1
            return []
        if not self._chooser.take(frame_set):
            if self.scene is not None and len(frame_set.frames) > 1:
                return [self._window([self._calibrated(frame_set)], set(), {})]
            self.dropped[TOO_LITTLE_MOTION] += 1
            return []
        self._waiting.append(frame_set)
        return [self._work()] if len(self._waiting) >= self._wanted() else []

    def finish(self) -> list[Located]:
        """Use the keyframes that still wait."""
        shared = self._overlap() if self._windows else 0
        if len(self._waiting) <= shared or sum(len(s.frames) for s in self._waiting) < 2:
            return []
        return [self._work()]

    def _work(self) -> Located:
        if self.scene is None:
            try:
                self._calibrate()
            except AlignmentError:
                self._waiting = []
                raise
        members = [self._calibrated(frame_set) for frame_set in self._waiting]
        shared = self._overlap() if self._windows else 0
        old = {s.stamp_ns for s in members[:shared]}
        poses = self._triangulate(members)
        self._waiting = self._waiting[-self._overlap() :]
        self._windows += 1
        for frame_set in members[shared:]:
            assert frame_set.world_from_rig is not None  # for the type checker: as above
            self._path.append((frame_set.stamp_ns, frame_set.world_from_rig))
        return self._window(members, old, poses)

    def _wanted(self) -> int:
        cameras = max(len(self._waiting[-1].frames), 1)
        views = self._config.trajectory.window_views
        if self.scene is None and self._unknown():
            views = max(self._config.trajectory.calibration_views, views)
        return max(-(-views // cameras), 2)

    def _overlap(self) -> int:
        cameras = max(len(self._waiting[-1].frames), 1)
        return max(-(-self._config.trajectory.shared_views // cameras), 1)

    def _unknown(self) -> list[str]:
        """Cameras of which the place or the intrinsics are not known."""
        given = dict(self._rig.poses) if self._rig is not None else {}
        known = set(self._rig.models) if self._rig is not None else set()
        return [
            frame.camera
            for frame in self._waiting[-1].frames
            if frame.camera not in given or (frame.model is None and frame.camera not in known)
        ]

    def _window(
        self, members: Sequence[FrameSet], old: set[int], found: dict[Key, Rigid3]
    ) -> Located:
        poses = dict(found)
        for frame_set in members:
            world_from_rig = frame_set.world_from_rig
            assert world_from_rig is not None  # for the type checker: `locate` has looked
            for frame in frame_set.frames:
                if frame.camera in self._rig_from_camera:
                    pose = world_from_rig @ self._rig_from_camera[frame.camera]
                    poses.setdefault((frame.camera, frame_set.stamp_ns), pose)
        return Located(
            tuple(members),
            frozenset(s.stamp_ns for s in members) - old,
            poses,
            self._points,
            self._colours,
            self._scale,
            self._windows,
            Sim3.identity(),
        )

    def _calibrated(self, frame_set: FrameSet) -> FrameSet:
        frames = []
        for frame in frame_set.frames:
            if frame.model is None:
                if frame.camera not in self._models:
                    continue
                frame = undistorted_frame(frame, self._models[frame.camera], self._undistorter)
            frames.append(frame)
        return replace(frame_set, frames=tuple(frames))

    def _calibrate(self) -> None:
        """Find what is not known of the rig."""
        unknown = self._unknown()
        rig = self._rig
        self._models = dict(rig.models) if rig is not None else {}
        self._rig_from_camera = dict(rig.poses) if rig is not None else {}
        failed: tuple[str, ...] = ()
        if unknown:
            if self._bootstrapper is None:
                raise AlignmentError(
                    f"motion tf: nothing says where {', '.join(unknown)} sit on the rig or what "
                    "their intrinsics are; give them (rig_file, TF, CameraInfo), or choose "
                    "bootstrap: sfm"
                )
            unscaled = self._bootstrapper.bootstrap(self._waiting)
            self._learn(unscaled)
            failed = unscaled.failed
        newest = self._waiting[-1]
        assert newest.world_from_rig is not None  # for the type checker: `locate` has looked
        for frame in (frame for s in self._waiting for frame in s.frames):
            if frame.model is not None:
                self._models[frame.camera] = frame.model
        known = [name for name in self._rig_from_camera if name in self._models]
        self.scene = AlignedScene(
            {name: self._models[name] for name in known},
            {name: newest.world_from_rig @ self._rig_from_camera[name] for name in known},
            self._points,
            self._colours,
            self._scale,
            Sim3.identity(),
            {},
            "tf",
            failed,
            self._bootstrapper.name if unknown and self._bootstrapper else "rig",
            newest.world_from_rig,
        )

    def _learn(self, scene: UnscaledScene) -> None:
        """Intrinsics, scale and places on the rig from a window that moved along the path."""
        for view in scene.views:
            self._models.setdefault(view.camera, view.model)
        world = {s.stamp_ns: s.world_from_rig for s in self._waiting}
        anchors = dict(self._rig_from_camera)
        if not anchors:
            first = scene.views[0].camera
            _LOG.warning(
                "motion tf: nothing says where camera '%s' sits on the rig; taken for the rig's "
                "own frame",
                first,
            )
            anchors = {first: Rigid3.identity()}
        found, given = [], []
        for view in scene.views:
            world_from_rig = world[view.stamp_ns]
            if view.camera in anchors and world_from_rig is not None:
                found.append(view.scene_from_camera)
                given.append(world_from_rig @ anchors[view.camera])
        if len(found) < 2:
            raise AlignmentError(
                "motion tf: expected at least two registered images of cameras whose place on "
                f"the rig is known ({', '.join(anchors)}), got {len(found)}"
            )
        fit = fit_path(found, given, self._config.scale.odometry_sigma)
        value = fit.world_from_scene.scale
        self._scale = ScaleEstimate(value, value * fit.sigma, ScaleSource.ODOMETRY)
        seen: dict[str, list[Rigid3]] = {}
        for view in scene.views:
            world_from_rig = world[view.stamp_ns]
            if view.camera in anchors or world_from_rig is None:
                continue
            pose = fit.world_from_scene.apply_to_pose(view.scene_from_camera)
            seen.setdefault(view.camera, []).append(world_from_rig.inverse() @ pose)
        self._rig_from_camera = anchors | {n: mean_pose(poses) for n, poses in seen.items()}

    def _triangulate(self, members: Sequence[FrameSet]) -> dict[Key, Rigid3]:
        """Find points between the views of a window by their given poses.

        Returns:
            `map_from_camera`: as given, or with `rig.refine` fitted to the images.
        """
        refine = self._config.rig.refine
        finder = PosedBootstrapper(self._config, lambda: self._rig_from_camera, refine)
        scene = finder.bootstrap(members)
        first = members[0].world_from_rig
        assert first is not None  # for the type checker: `locate` has looked
        self._points, self._colours = first.apply(scene.points), scene.colours
        return {(v.camera, v.stamp_ns): first @ v.scene_from_camera for v in scene.views}
