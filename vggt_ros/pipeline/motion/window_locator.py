"""`motion: estimate`, and `tf` with odometry that drifts: the path from windows of images.

Windows of keyframes go through the bootstrapper and are joined in a graph (`trajectory`). Where
the rig is known it gives each window its metre; where odometry says how the rig moved that does
too, and holds the path together where a window fails.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.motion.graph import ScalePrior
from vggt_ros.pipeline.motion.located import NO_TRANSFORM, Located, map_from_rig_by_cameras
from vggt_ros.pipeline.motion.posed_windows import PosedBootstrapper
from vggt_ros.pipeline.motion.poses import PathFit, fit_path, mean_pose
from vggt_ros.pipeline.motion.trajectory import TrajectoryEstimator, WindowResult
from vggt_ros.pipeline.motion.window_scale import window_scale
from vggt_ros.pipeline.scale_fusion import check_metric
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    FrameSet,
    ScaleEstimate,
    UnscaledScene,
)

_LOG = logging.getLogger(__name__)

_KEPT_IMAGES = 0.25
"""Of `map.budget_mb`: images, features and dense depth of old keyframes, for loops."""


class WindowLocator:
    """`Locator` that finds the path from the images.

    Args:
        config: all parameters.
        rig: what is known of it.
        bootstrapper: finds the cameras of a window; None: odometry and the rig give them, and
            are fitted to the images.
        uses_world: sets must say where odometry saw the rig (`FrameSet.world_from_rig`); `map`
            begins as that frame.
    """

    def __init__(
        self,
        config: Config,
        rig: Rig | None,
        bootstrapper: Bootstrapper | None,
        uses_world: bool,
    ) -> None:
        self._config = config
        self._rig = rig
        self._bootstrapper = bootstrapper
        self._uses_world = uses_world
        self.dropped: Counter[str] = Counter()
        self._begin()

    def _begin(self) -> None:
        self.scene: AlignedScene | None = None
        self.loops = 0
        self._first_scale: ScaleEstimate | None = None
        """What the first window knew of its metre."""
        self._last_scale: ScaleEstimate | None = None
        """What the newest one that knew it did."""
        self._map_from_graph = Sim3.identity()
        self._rig_from_camera: dict[str, Rigid3] = {}
        self._world_from_rig: dict[int, Rigid3] = {}
        """Of the keyframes."""
        self._path: list[tuple[int, Rigid3]] | None = []
        """None: to be made from the graph."""
        posed = PosedBootstrapper(
            self._config, self._known_places, True, self._config.scale.odometry_sigma
        )
        given = PosedBootstrapper(self._config, self._known_places, False)
        self._estimator = TrajectoryEstimator(
            self._bootstrapper or posed,
            self._config.trajectory,
            self._scale_of,
            self._bootstrapper or SfmBootstrapper(self._config.sfm),
            given if self._uses_world else None,
            _KEPT_IMAGES * self._config.map.budget_mb * 1e6,
        )

    def _known_places(self) -> dict[str, Rigid3]:
        """`rig_from_camera`, as found or as given."""
        given = self._rig.poses if self._rig is not None else {}
        return self._rig_from_camera or given

    def reset(self) -> None:
        """Forget the path."""
        self._begin()

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig; the path goes on as it is."""
        self._rig = rig

    def locate(self, frame_set: FrameSet) -> list[Located]:
        """Take one set; something where it completed a window.

        Raises:
            AlignmentError: the window could not be registered or joined.
            EngineError: the bootstrapper's network failed.
        """
        if self._uses_world:
            if frame_set.world_from_rig is None:
                self.dropped[NO_TRANSFORM] += 1
                return []
            self._world_from_rig[frame_set.stamp_ns] = frame_set.world_from_rig
        located = self._taken(lambda: self._estimator.add(frame_set))
        if not self._estimator.is_newest_keyframe(frame_set.stamp_ns):
            self._world_from_rig.pop(frame_set.stamp_ns, None)
        return located

    def finish(self) -> list[Located]:
        """Use the keyframes that wait for a window to fill."""
        return self._taken(self._estimator.finish)

    @property
    def keyframes(self) -> int:
        """Keyframes with a place."""
        return len(self.path)

    @property
    def memory_bytes(self) -> int:
        """Of what is kept of keyframes."""
        return self._estimator.memory_bytes

    @property
    def path(self) -> list[tuple[int, Rigid3]]:
        """Stamp and `map_from_rig` of the keyframes, corrected."""
        if self._path is None:
            self._path = self._made_path()
        return self._path

    def _made_path(self) -> list[tuple[int, Rigid3]]:
        if self.scene is None:
            return []
        sets: dict[int, dict[str, Rigid3]] = {}
        for (camera, stamp), pose in self._estimator.poses().items():
            sets.setdefault(stamp, {})[camera] = self._map_from_graph.apply_to_pose(pose)
        found = []
        for stamp, poses in sorted(sets.items()):
            map_from_rig = map_from_rig_by_cameras(poses, self._rig_from_camera)
            if map_from_rig is not None:
                found.append((stamp, map_from_rig))
        return found

    @property
    def map_from_world(self) -> Rigid3 | None:
        """`map` from the frame of the odometry, by the newest keyframe.

        None while the map has no metre: the odometry's places are in metres, and no rigid
        transform turns them into another unit.
        """
        path = self.path
        is_metric = self.scene is not None and self.scene.scale.is_metric
        if not self._uses_world or not is_metric or not path:
            return None
        stamp, map_from_rig = path[-1]
        return map_from_rig @ self._world_from_rig[stamp].inverse()

    @property
    def models(self) -> dict[str, CameraModel]:
        """Intrinsics of the cameras that came without."""
        return self._estimator.models

    @property
    def rig_from_camera(self) -> dict[str, Rigid3]:
        """As given or found."""
        return self._rig_from_camera

    def map_from_rig_by_others(self, frame_set: FrameSet) -> Rigid3 | None:
        """Where the odometry says the rig was, corrected."""
        map_from_world = self.map_from_world
        if map_from_world is None or frame_set.world_from_rig is None:
            return None
        return map_from_world @ frame_set.world_from_rig

    def undistorted(self, frame_set: FrameSet) -> FrameSet:
        """A set with models; cameras that have none are left out."""
        return self._estimator.undistorted(frame_set)

    def map_from_window(self, number: int) -> Sim3:
        """Where a window lies now."""
        return self._map_from_graph @ self._estimator.graph.map_from_scene[number]

    def _taken(self, work: Callable[[], list[WindowResult]]) -> list[Located]:
        before = Counter(self._estimator.dropped)
        try:
            results = work()
        finally:
            self.dropped.update(self._estimator.dropped - before)
        self._path = None if results else self._path
        for result in results:
            if self.scene is None or result.afresh:
                try:
                    self._place_first(result.scene)
                except AlignmentError:
                    self._begin()
                    raise
            self.loops = result.loops + (0 if result.afresh else self.loops)
        self._become_metric()
        return [self._located(result) for result in results]

    def _become_metric(self) -> None:
        """Take over the metre that a later window knows where the first knew none."""
        scene, scale = self.scene, self._last_scale
        if scene is None or scene.scale.is_metric or scale is None:
            return
        graph_scale = self._map_from_graph.scale
        before = self._map_from_graph
        self._map_from_graph = Sim3(1.0, before.rotation, before.translation / graph_scale)
        self._path = None
        value = self._estimator.graph.map_from_scene[0].scale
        scale = replace(scale, value=value, sigma=scale.sigma * value / scale.value)
        map_from_scene = self.map_from_window(0)
        self.scene = replace(_moved(scene, map_from_scene), scale=scale, up_source=scene.up_source)
        given = self._rig.poses if self._rig is not None else {}
        self._rig_from_camera = {
            name: pose if name in given else Rigid3(pose.rotation, pose.translation / graph_scale)
            for name, pose in self._rig_from_camera.items()
        }
        _LOG.info("motion: the map has become metric, scale %s", scale)

    def _located(self, result: WindowResult) -> Located:
        scene, map_from_window = result.scene, self.map_from_window(result.number)
        assert self.scene is not None  # for the type checker: the first window set it
        return Located(
            result.members,
            frozenset(s.stamp_ns for s in result.keyframes),
            {
                (v.camera, v.stamp_ns): map_from_window.apply_to_pose(v.scene_from_camera)
                for v in scene.views
            },
            map_from_window.apply(scene.points.reshape(-1, 3)),
            scene.colours,
            self.scene.scale,
            result.number,
            map_from_window,
            scene,
            result.afresh,
        )

    def _place_first(self, unscaled: UnscaledScene) -> None:
        """Put the first window into the map, and learn the rig from it."""
        graph = self._estimator.graph
        config, first = self._config.scale, self._first_scale
        if first is not None:
            value = graph.map_from_scene[0].scale
            sigma = first.sigma * value / first.value
            first = replace(first, value=value, sigma=sigma)
            config = replace(
                config, source="parameter", metres_per_unit=value, metres_per_unit_sigma=sigma
            )
        elif config.source in ("rig", "odometry", "depth_camera", "metric_model"):
            raise AlignmentError(
                f"scale.source {config.source}: the first window of a moving rig has no metre "
                "from it; give it, move farther, or choose another scale.source"
            )
        scene = align_scene(unscaled, self._rig, config)
        if first is not None:
            scene = replace(scene, scale=first)
        check_metric(scene.scale, config)
        if self._uses_world and not scene.scale.is_metric and config.source != "none":
            raise AlignmentError(
                "motion tf: the first window has no metre: the odometry moved too little, or "
                "otherwise than the images; drive farther, or check frame.odom"
            )
        map_from_scene = scene.map_from_scene
        if self._uses_world:
            map_from_scene = self._world_fit(unscaled).with_scale(scene.scale.value)
            scene = _moved(scene, map_from_scene)
        self._map_from_graph = map_from_scene @ graph.map_from_scene[0].inverse()
        self._rig_from_camera = self._places_on_rig(unscaled, map_from_scene)
        newest = max(view.stamp_ns for view in unscaled.views)
        poses = {
            view.camera: map_from_scene.apply_to_pose(view.scene_from_camera)
            for view in unscaled.views
            if view.stamp_ns == newest
        }
        models = self._estimator.models
        self.scene = replace(
            scene,
            cameras={name: models.get(name, model) for name, model in scene.cameras.items()},
            map_from_rig=map_from_rig_by_cameras(poses, self._rig_from_camera),
        )

    def _places_on_rig(self, unscaled: UnscaledScene, map_from_scene: Sim3) -> dict[str, Rigid3]:
        """`rig_from_camera` [map units]: as given, the others as the window saw them.

        Where none is given the rig's frame is the optical frame of the first camera.
        """
        known = dict(self._rig.poses) if self._rig is not None else {}
        if not known:
            known = {unscaled.views[0].camera: Rigid3.identity()}
        sets: dict[int, dict[str, Rigid3]] = {}
        for view in unscaled.views:
            pose = map_from_scene.apply_to_pose(view.scene_from_camera)
            sets.setdefault(view.stamp_ns, {})[view.camera] = pose
        seen: dict[str, list[Rigid3]] = {}
        for poses in sets.values():
            map_from_rig = map_from_rig_by_cameras(poses, known)
            if map_from_rig is None:
                continue
            for name, pose in poses.items():
                if name not in known:
                    seen.setdefault(name, []).append(map_from_rig.inverse() @ pose)
        return known | {name: mean_pose(poses) for name, poses in seen.items()}

    def _scale_of(self, scene: UnscaledScene, members: Sequence[FrameSet]) -> ScalePrior | None:
        """The metre of a window, of all that know it."""
        scale = window_scale(
            scene, members, self._rig, self._places_or_first(scene), self._config.scale
        )
        if not self._estimator.graph.scenes:
            self._first_scale = scale
        self._last_scale = scale or self._last_scale
        if scale is None:
            return None
        return ScalePrior(scale.value, max(scale.sigma / scale.value, 1e-6))

    def _places_or_first(self, scene: UnscaledScene) -> dict[str, Rigid3]:
        """`rig_from_camera`; where nobody knows any the first camera is the rig."""
        return self._known_places() or {scene.views[0].camera: Rigid3.identity()}

    def _world_fit(self, scene: UnscaledScene) -> PathFit:
        """Where a window lies in the frame of the odometry."""
        known = self._places_or_first(scene)
        found: list[Rigid3] = []
        given: list[Rigid3] = []
        for view in scene.views:
            world_from_rig = self._world_from_rig.get(view.stamp_ns)
            if view.camera in known and world_from_rig is not None:
                found.append(view.scene_from_camera)
                given.append(world_from_rig @ known[view.camera])
        if len(found) < 2:
            raise AlignmentError(
                "scale from odometry: expected two registered images of cameras whose place on "
                f"the rig is known, got {len(found)}; give rig_from_camera (rig_file or TF)"
            )
        return fit_path(found, given, self._config.scale.odometry_sigma)


def _moved(scene: AlignedScene, map_from_scene: Sim3) -> AlignedScene:
    """The same scene in another map frame."""
    change = map_from_scene @ scene.map_from_scene.inverse()
    rig = scene.map_from_rig
    return replace(
        scene,
        map_from_rig=change.apply_to_pose(rig) if rig is not None else None,
        map_from_camera={
            name: change.apply_to_pose(pose) for name, pose in scene.map_from_camera.items()
        },
        points_in_map=change.apply(scene.points_in_map.reshape(-1, 3)),
        map_from_scene=map_from_scene,
        up_source="tf",
    )
