"""`motion: estimate`, and `tf` with odometry that drifts: the path from windows of images.

Windows of keyframes go through the bootstrapper and are joined in a graph (`trajectory`). Where
the rig is known it gives each window its metre; where odometry says how the rig moved that does
too, and holds the path together where a window fails.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError, EngineError
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.motion.graph import ScalePrior
from vggt_ros.pipeline.motion.located import Located, rig_from_cameras
from vggt_ros.pipeline.motion.poses import PathFit, fit_path, mean_pose
from vggt_ros.pipeline.motion.trajectory import TrajectoryEstimator, WindowResult
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
    UnscaledScene,
)

_LOG = logging.getLogger(__name__)

NO_TRANSFORM = "no transform"
"""Why a set is dropped of which nobody said where the rig was."""


@dataclass(frozen=True, eq=False)
class _Metre:
    """What says how long a unit of a window is."""

    prior: ScalePrior
    source: ScaleSource


class WindowLocator:
    """`Locator` that finds the path from the images.

    Args:
        config: all parameters.
        rig: what is known of it.
        bootstrapper: finds the cameras of a window.
        uses_world: sets must say where odometry saw the rig (`FrameSet.world_from_rig`); `map`
            begins as that frame.
    """

    def __init__(
        self, config: Config, rig: Rig | None, bootstrapper: Bootstrapper, uses_world: bool
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
        self._metres: dict[int, _Metre] = {}
        self._map_from_graph = Sim3.identity()
        self._rig_from_camera: dict[str, Rigid3] = {}
        self._world_from_rig: dict[int, Rigid3] = {}
        self._estimator = TrajectoryEstimator(
            self._bootstrapper, self._config.trajectory, self._scale_of
        )

    def reset(self) -> None:
        """Forget the path."""
        self._begin()

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig; the path goes on as it is."""
        self._rig = rig

    def locate(self, frame_set: FrameSet) -> Located | None:
        """Take one set; something where it completed a window.

        Raises:
            AlignmentError: the window could not be registered or joined.
            EngineError: the bootstrapper's network failed.
        """
        if self._uses_world:
            if frame_set.world_from_rig is None:
                self.dropped[NO_TRANSFORM] += 1
                return None
            self._world_from_rig[frame_set.stamp_ns] = frame_set.world_from_rig
        return self._taken(lambda: self._estimator.add(frame_set))

    def finish(self) -> Located | None:
        """Use the keyframes that wait for a window to fill."""
        return self._taken(self._estimator.finish)

    @property
    def keyframes(self) -> int:
        """Keyframes with a place."""
        return len({stamp for _, stamp in self._estimator.poses()})

    @property
    def path(self) -> list[tuple[int, Rigid3]]:
        """Stamp and `map_from_rig` of the keyframes, corrected."""
        if self.scene is None:
            return []
        sets: dict[int, dict[str, Rigid3]] = {}
        for (camera, stamp), pose in self._estimator.poses().items():
            sets.setdefault(stamp, {})[camera] = self._map_from_graph.apply_to_pose(pose)
        found = []
        for stamp, poses in sorted(sets.items()):
            map_from_rig = rig_from_cameras(poses, self._rig_from_camera)
            if map_from_rig is not None:
                found.append((stamp, map_from_rig))
        return found

    @property
    def map_from_world(self) -> Rigid3 | None:
        """`map` from the frame of the odometry, by the newest keyframe."""
        path = self.path
        if not self._uses_world or not path:
            return None
        stamp, map_from_rig = path[-1]
        return map_from_rig @ self._world_from_rig[stamp].inverse()

    def map_from_window(self, number: int) -> Sim3:
        """Where a window lies now."""
        return self._map_from_graph @ self._estimator.graph.map_from_scene[number]

    def _taken(self, work: Callable[[], WindowResult | None]) -> Located | None:
        before = dict(self._estimator.dropped)
        try:
            result = work()
        finally:
            self.dropped.update(self._estimator.dropped - Counter(before))
        if result is None:
            return None
        if self.scene is None:
            try:
                self._place_first(result.scene)
            except (AlignmentError, EngineError):
                self._begin()
                raise
        self.loops += result.loops
        return self._located(result)

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
        )

    def _place_first(self, unscaled: UnscaledScene) -> None:
        """Put the first window into the map, and learn the rig from it."""
        metre = self._metres.get(0)
        config = self._config.scale
        if metre is not None and metre.source is ScaleSource.ODOMETRY:
            config = replace(
                config,
                source="parameter",
                metres_per_unit=metre.prior.metres_per_unit,
                metres_per_unit_sigma=metre.prior.sigma * metre.prior.metres_per_unit,
            )
        scene = align_scene(unscaled, self._rig, config)
        if metre is not None:
            value = metre.prior.metres_per_unit
            scale = ScaleEstimate(value, value * metre.prior.sigma, metre.source)
            scene = replace(scene, scale=scale)
        if self._config.scale.require_metric and not scene.scale.is_metric:
            raise AlignmentError(
                "scale: scale.require_metric is set, but nothing gives the scale; give "
                "rig_from_camera of two cameras (rig_file or TF), odometry or "
                "scale.metres_per_unit"
            )
        map_from_scene = scene.map_from_scene
        if self._uses_world:
            map_from_scene = self._world_fit(unscaled).world_from_scene
            scene = _moved(scene, map_from_scene)
        graph = self._estimator.graph
        self._map_from_graph = map_from_scene @ graph.map_from_scene[0].inverse()
        self._rig_from_camera = self._places_on_rig(unscaled, map_from_scene)
        newest = max(view.stamp_ns for view in unscaled.views)
        poses = {
            view.camera: map_from_scene.apply_to_pose(view.scene_from_camera)
            for view in unscaled.views
            if view.stamp_ns == newest
        }
        self.scene = replace(scene, map_from_rig=rig_from_cameras(poses, self._rig_from_camera))

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
            map_from_rig = rig_from_cameras(poses, known)
            if map_from_rig is None:
                continue
            for name, pose in poses.items():
                if name not in known:
                    seen.setdefault(name, []).append(map_from_rig.inverse() @ pose)
        return known | {name: mean_pose(poses) for name, poses in seen.items()}

    def _scale_of(self, scene: UnscaledScene) -> ScalePrior | None:
        """The metre of a window, of all that know it."""
        metre = self._metre(scene)
        number = len(self._estimator.graph.scenes)
        if metre is None:
            self._metres.pop(number, None)
            return None
        self._metres[number] = metre
        return metre.prior

    def _metre(self, scene: UnscaledScene) -> _Metre | None:
        found = []
        source = self._config.scale.source
        rig = self._rig
        if rig is not None and len(rig.poses) > 1 and source in ("auto", "rig"):
            scale = align_scene(scene, rig, replace(self._config.scale, source="auto")).scale
            if scale.source is ScaleSource.RIG:
                prior = ScalePrior(scale.value, max(scale.sigma / scale.value, 1e-6))
                found.append(_Metre(prior, ScaleSource.RIG))
        if self._uses_world and source in ("auto", "odometry"):
            try:
                fit = self._world_fit(scene)
            except AlignmentError as error:
                _LOG.debug("no scale from odometry: %s", error)
            else:
                prior = ScalePrior(fit.world_from_scene.scale, fit.sigma)
                found.append(_Metre(prior, ScaleSource.ODOMETRY))
        return _together(found)

    def _world_fit(self, scene: UnscaledScene) -> PathFit:
        """Where a window lies in the frame of the odometry."""
        known = self._rig_from_camera or (self._rig.poses if self._rig is not None else {})
        known = known or {scene.views[0].camera: Rigid3.identity()}
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
        return fit_path(found, given, self._config.trajectory.odometry_sigma)


def _together(metres: list[_Metre]) -> _Metre | None:
    """The mean of logarithms, by their variances; named after the surest."""
    if not metres:
        return None
    weights = np.array([m.prior.sigma**-2.0 for m in metres])
    logs = np.array([math.log(m.prior.metres_per_unit) for m in metres])
    value = math.exp(float(weights @ logs / weights.sum()))
    surest = metres[int(np.argmax(weights))]
    return _Metre(ScalePrior(value, float(weights.sum() ** -0.5)), surest.source)


def _moved(scene: AlignedScene, map_from_scene: Sim3) -> AlignedScene:
    """The same scene in another map frame."""
    change = map_from_scene @ scene.map_from_scene.inverse()
    return replace(
        scene,
        map_from_camera={
            name: change.apply_to_pose(pose) for name, pose in scene.map_from_camera.items()
        },
        points_in_map=change.apply(scene.points_in_map.reshape(-1, 3)),
        map_from_scene=map_from_scene,
        up_source="tf",
    )
