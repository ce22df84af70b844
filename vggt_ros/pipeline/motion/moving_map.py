"""Mapping with a rig that moves: what a locator finds goes through depth, alignment and fusion."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from vggt_ros.config import Config
from vggt_ros.errors import VggtRosError
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.mapping.interface import FuseStatistics, Map
from vggt_ros.pipeline.align_depth import DepthAligner
from vggt_ros.pipeline.align_scene import dense_depth_maps
from vggt_ros.pipeline.fitting_depth import depth_of_sure_pixels, reference_depth
from vggt_ros.pipeline.motion.kept_depth import KeptDepth
from vggt_ros.pipeline.motion.located import (
    Located,
    Locator,
    PseudoRig,
    as_rig,
    map_from_rig_by_cameras,
)
from vggt_ros.pipeline.motion.poses import path_length
from vggt_ros.pipeline.motion.tracking import Tracker
from vggt_ros.pipeline.quiet import quiet
from vggt_ros.pipeline.scale_drift import ScaleDrift
from vggt_ros.pipeline.self_filter import SelfFilter
from vggt_ros.pipeline.stages import DepthEstimator
from vggt_ros.pipeline.timings import Timings
from vggt_ros.rig import Rig
from vggt_ros.types import AlignedScene, DepthMap, DepthPrediction, FrameSet, ScaleEstimate

_LOG = logging.getLogger(__name__)

_LEAST_KEPT = 0.25
"""Of `map.budget_mb`: what kept depth may hold however full the map is. A corrected map is made of
what is kept alone, so it must never be nothing."""


class Stages(Protocol):
    """What is asked of the pipeline: its stages, as they are at the moment."""

    config: Config
    map: Map
    depth_estimator: DepthEstimator
    aligner: DepthAligner
    timings: Timings
    self_filter: SelfFilter
    rig: Rig | None
    scene: AlignedScene | None
    drift_of_scale: ScaleDrift


@dataclass(frozen=True, eq=False)
class Moved:
    """What a set led to; nothing while it waits for others."""

    began: bool = False
    """The first window was found."""
    depth_maps: tuple[DepthMap, ...] = ()
    fused: FuseStatistics = field(default_factory=FuseStatistics)
    used: int = 0
    """Sets whose depth went into the map."""
    failure: str = ""
    """Why a window was left out; the map stays."""


class MovingMap:
    """Runs the stages on what a `Locator` finds, and corrects the map when the path is.

    Args:
        stages: the pipeline.
        locator: says where the cameras were.
    """

    def __init__(self, stages: Stages, locator: Locator) -> None:
        self._stages = stages
        self._locator = locator
        self._kept = KeptDepth(stages.config.map.budget_mb)
        self._tracker = Tracker()
        self._dropped: Counter[str] = Counter()
        self._scale: ScaleEstimate | None = None
        """The metre that `drift_of_scale` is counted from."""
        self.corrections = 0
        """How often the map was made anew because the path had changed."""

    @property
    def locator(self) -> Locator:
        """Path, keyframes, loops."""
        return self._locator

    @property
    def scene(self) -> AlignedScene | None:
        """The rig as the first window found it."""
        return self._locator.scene

    def map_from_rig(self, frame_set: FrameSet) -> Rigid3 | None:
        """Where the rig was at a set: as a keyframe, by others, or by what it sees of the map."""
        locator = self._locator
        if locator.scene is None:
            return None
        path = locator.path
        if path and path[-1][0] == frame_set.stamp_ns:
            return path[-1][1]
        by_others = locator.map_from_rig_by_others(frame_set)
        if by_others is not None or self._stages.config.motion != "estimate":
            return by_others
        with self._stages.timings.measure("track"):
            return self._tracker.locate(locator.undistorted(frame_set), locator.rig_from_camera)

    @property
    def memory_bytes(self) -> int:
        """Of kept depth, and of the images and features of keyframes."""
        return self._kept.memory_bytes + self._locator.memory_bytes

    def kept_views(self, most: int) -> list[DepthMap]:
        """Depth maps of keyframes as they lie now, evenly over the path."""
        return self._kept.views(most)

    def reset(self) -> None:
        """Forget the path."""
        self._locator.reset()
        self._kept.clear()
        self._tracker.clear()
        self._scale = None
        self.corrections = 0

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig."""
        self._locator.set_rig(rig)

    def take_drops(self) -> Counter[str]:
        """Sets that led to nothing since the last question, by reason."""
        dropped, self._dropped = self._dropped, Counter()
        return dropped

    def step(self, frame_set: FrameSet) -> Moved:
        """Take one set.

        Raises:
            AlignmentError: the first window could not be registered.
            EngineError: a network failed in it.
            ConfigError: it has no room in `map.budget_mb`.
        """
        return self._run(lambda: self._locator.locate(frame_set))

    def finish(self) -> Moved:
        """Use the sets that still wait for others; raises as `step`."""
        return self._run(self._locator.finish)

    def report(self) -> dict[str, Any]:
        """For `report.json`."""
        path = self._locator.path
        return {
            "keyframes": self._locator.keyframes,
            "path_length": round(path_length(path), 4),
            "loops": self._locator.loops,
            "corrections": self.corrections,
        }

    def _run(self, work: Callable[[], list[Located]]) -> Moved:
        locator, stages = self._locator, self._stages
        begins = locator.scene is None
        was_empty = stages.scene is None and stages.map.size == 0
        fits = stages.aligner.state() if begins else {}
        before = Counter(locator.dropped)
        try:
            with self._stages.timings.measure("bootstrap"):
                located = work()
            moved = Moved()
            for window in located:
                moved = _together(moved, self._map(window, begins or window.afresh))
            self._correct()
        except VggtRosError as error:
            if begins:
                self.reset()
                if was_empty:  # what it fused before it failed lies in a frame that is no more
                    stages.map.clear()
                stages.aligner.load_state(fits)
                raise
            _LOG.warning("%s", error)
            return Moved(failure=str(error))
        finally:
            self._dropped += Counter(locator.dropped) - before
        return moved

    def _map(self, located: Located, begins: bool) -> Moved:
        stages, rig = self._stages, as_rig(located)
        if located.afresh:
            stages.map.clear()
            stages.aligner.reset()
            self._kept.clear()
            self._tracker.clear()
        scene = self._locator.scene
        if scene is not None and scene.scale is not self._scale:
            stages.drift_of_scale.reset()
            self._scale = scene.scale
        unheard = quiet("vggt_ros.pipeline.plane_sweep", logging.ERROR)  # internal names
        with stages.timings.measure("prepare depth"), unheard:
            stages.depth_estimator.prepare(rig.scene)
        self._seed(located, rig, begins)
        with stages.timings.measure("depth"):
            predictions = stages.depth_estimator.estimate(rig.frame_set)
        seen: list[DepthMap] = []
        total = FuseStatistics()
        used = 0
        for frame_set in located.frame_sets:
            if frame_set.stamp_ns not in located.new:
                continue
            of_set = [p for p in predictions if rig.keys[p.camera][1] == frame_set.stamp_ns]
            with stages.timings.measure("align"):
                depth_maps = self._aligned(of_set, rig)
                stages.drift_of_scale.observe(frame_set, depth_maps)
            accepted = [
                depth_of_sure_pixels(d, stages.config) for d in depth_maps if d.alignment.accepted
            ]
            with stages.timings.measure("fuse"):
                total = _sum(total, self._fuse(accepted, located, begins))
            if accepted:
                used += 1
            else:
                self._dropped["no depth accepted"] += 1
            seen += depth_maps
        return Moved(begins, tuple(seen), total, used)

    def _aligned(
        self, predictions: Sequence[DepthPrediction], rig: PseudoRig
    ) -> tuple[DepthMap, ...]:
        """The predictions of one instant, under the names of their cameras."""
        stages, jobs = self._stages, []
        for prediction in predictions:
            pose = rig.scene.map_from_camera[prediction.camera]
            reference = reference_depth(
                stages.map,
                prediction,
                pose,
                rig.scene.points_in_map,
                stages.config.align.min_pixels,
            )
            camera = rig.keys[prediction.camera][0]
            jobs.append((self._masked(replace(prediction, camera=camera)), reference, pose))
        return stages.self_filter.outside_box(
            stages.aligner.align_set(jobs), self._map_from_rig_at(predictions, rig)
        )

    def _masked(self, prediction: DepthPrediction) -> DepthPrediction:
        scene, stages = self._locator.scene, self._stages
        if scene is None:
            return prediction
        # a camera that the first window lacked is not in the scene
        found = {prediction.camera: prediction.model} | self._locator.models
        scene = replace(scene, cameras=found | scene.cameras)
        return stages.self_filter.masked([prediction], scene, stages.rig)[0]

    def _map_from_rig_at(
        self, predictions: Sequence[DepthPrediction], rig: PseudoRig
    ) -> Rigid3 | None:
        """Where the rig was when these were seen; None where no camera's place on it is known."""
        if not predictions or not self._stages.config.self_filter.enabled:
            return None
        stamp_ns = rig.keys[predictions[0].camera][1]
        poses = {
            camera: rig.scene.map_from_camera[name]
            for name, (camera, stamp) in rig.keys.items()
            if stamp == stamp_ns
        }
        return map_from_rig_by_cameras(poses, self._locator.rig_from_camera)

    def _seed(self, located: Located, rig: PseudoRig, begins: bool) -> None:
        """Begin with the depth of a dense bootstrap, which later depth is fitted to."""
        if located.unscaled is None:
            return
        views = tuple(v for v in located.unscaled.views if v.stamp_ns in located.new)
        unscaled = replace(located.unscaled, views=views)
        aligned = replace(rig.scene, map_from_scene=located.map_from_window)
        depth_maps = dense_depth_maps(unscaled, aligned)
        if depth_maps and self._locator.scene is not None:
            scene = self._locator.scene
            found = {d.camera: d.model for d in depth_maps} | self._locator.models
            depth_maps = self._stages.self_filter.masked_maps(
                depth_maps, replace(scene, cameras=found | scene.cameras), self._stages.rig
            )
        if depth_maps:
            with self._stages.timings.measure("seed"):
                self._fuse(depth_maps, located, begins)

    def _fuse(
        self, depth_maps: Sequence[DepthMap], located: Located, begins: bool
    ) -> FuseStatistics:
        stages = self._stages
        statistics = stages.map.fuse(depth_maps, begins)
        budget_bytes = stages.config.map.budget_mb * 1e6
        left = budget_bytes - stages.map.memory_bytes - self._locator.memory_bytes
        self._kept.budget_bytes = max(left, _LEAST_KEPT * budget_bytes)
        for depth_map in depth_maps:
            self._kept.add(depth_map, located.number, located.map_from_window, begins)
            if stages.config.motion == "estimate":
                self._tracker.learn(depth_map)
        return statistics

    def _correct(self) -> None:
        """Make the map anew where the path has changed by more than it can bear."""
        limit = self._stages.config.trajectory.correct_voxels * self._stages.config.map.voxel_m
        where: Callable[[int], Sim3] = self._locator.map_from_window
        largest = self._kept.largest_move(where)
        if largest <= limit:
            return
        with self._stages.timings.measure("correct"):
            self._kept.fuse_again(self._stages.map, where)
            self._tracker.clear()
            for depth_map in self._kept.newest(Tracker.KEPT, where):
                self._tracker.learn(depth_map)
        self.corrections += 1
        _LOG.info("motion: the map was made anew: parts of it moved by up to %.3g", largest)


def _together(a: Moved, b: Moved) -> Moved:
    return Moved(
        a.began or b.began, a.depth_maps + b.depth_maps, _sum(a.fused, b.fused), a.used + b.used
    )


def _sum(a: FuseStatistics, b: FuseStatistics) -> FuseStatistics:
    return FuseStatistics(
        a.added + b.added, a.updated + b.updated, a.carved + b.carved, a.evicted + b.evicted
    )
