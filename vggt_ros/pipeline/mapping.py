"""The pipeline: frame sets in, a map out. No ROS, no threads, no files."""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vggt_ros.config import Config
from vggt_ros.errors import VggtRosError
from vggt_ros.geometry import Rigid3
from vggt_ros.mapping.interface import FuseStatistics, Map
from vggt_ros.mapping.make_map import make_map
from vggt_ros.pipeline.align_depth import DepthAligner
from vggt_ros.pipeline.align_scene import align_scene, dense_depth_maps
from vggt_ros.pipeline.archive import SavedMap
from vggt_ros.pipeline.bootstrap import FROM_RIG, make_bootstrapper
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.depth import make_depth_estimator
from vggt_ros.pipeline.fitting_depth import depth_of_sure_pixels, reference_depth
from vggt_ros.pipeline.landmarks import Landmarks
from vggt_ros.pipeline.motion.make_locator import make_locator
from vggt_ros.pipeline.motion.moving_map import Moved, MovingMap
from vggt_ros.pipeline.quiet import quiet
from vggt_ros.pipeline.report import map_frame, map_report, scene_report
from vggt_ros.pipeline.scale_drift import ScaleDrift
from vggt_ros.pipeline.scale_fusion import check_metric
from vggt_ros.pipeline.scale_sources import scale_evidence
from vggt_ros.pipeline.self_filter import SelfFilter
from vggt_ros.pipeline.stages import Bootstrapper, DepthEstimator, EngineInUse, EngineUser
from vggt_ros.pipeline.timings import Timings
from vggt_ros.pipeline.warm_up import plane_frame_set, warm_up_config, warm_up_stages
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    DepthMap,
    DepthPrediction,
    Float32,
    Frame,
    FrameSet,
    PointCloud,
    UnscaledScene,
)

log = logging.getLogger(__name__)


class PipelineState(str, enum.Enum):
    """What the next frame set will meet."""

    COLLECTING = "collecting"
    """Waiting for frame sets to bootstrap from."""
    MAPPING = "mapping"
    FAILED = "failed"
    """The last bootstrap failed; it is tried again with later sets."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one set did. `depth_maps` holds the rejected ones too, see their `alignment`."""

    stamp_ns: int
    bootstrapped: bool = False
    depth_maps: tuple[DepthMap, ...] = ()
    fused: FuseStatistics = field(default_factory=FuseStatistics)
    map_from_rig: Rigid3 | None = None
    """Where a moving rig was at this stamp; None where that is not known, or it stands still."""


class MappingPipeline:
    """Bootstraps once, then keeps the map current with every frame set."""

    def __init__(
        self,
        config: Config,
        rig: Rig | None = None,
        bootstrapper: Bootstrapper | None = None,
        depth_estimator: DepthEstimator | None = None,
        map_: Map | None = None,
    ) -> None:
        self.config = config
        self.rig = rig
        self.map: Map = map_ if map_ is not None else make_map(config.map)
        self.depth_estimator = depth_estimator or make_depth_estimator(config)
        self.aligner = DepthAligner(config.align)
        self.timings = Timings()
        self.scene: AlignedScene | None = None
        self.state = PipelineState.COLLECTING
        self.failure = ""
        self.sets_received = 0
        self.sets_used = 0
        self.dropped: Counter[str] = Counter()
        if bootstrapper is None and config.bootstrap not in FROM_RIG:
            bootstrapper = make_bootstrapper(config, None)
        self._given_bootstrapper = bootstrapper
        self._bootstrapper: Bootstrapper | None = bootstrapper
        self._collected: list[FrameSet] = []
        self._failed_at_ns: int | None = None
        self._undistorter = Undistorter()
        self.last_views: tuple[tuple[Frame, Rigid3], ...] = ()
        """Undistorted images of the newest set and where they were taken, for archives."""
        self.landmarks: tuple[Landmarks, ...] = ()
        """Of the archive that was loaded, if one was."""
        self.extra: dict[str, bytes] = {}
        """Members of that archive that others keep there; they are saved again."""
        self.drift_of_scale = ScaleDrift()
        self.self_filter = SelfFilter(config)
        locator = make_locator(config, rig, bootstrapper)
        self._moving = MovingMap(self, locator) if locator is not None else None

    @property
    def scale_drift(self) -> float:
        """Relative change of the scale since the bootstrap, NaN where nothing shows it."""
        return self.drift_of_scale.value

    @property
    def memory_bytes(self) -> int:
        """Of the map, and of what a moving rig keeps to correct it and to close loops."""
        return self.map.memory_bytes + (self._moving.memory_bytes if self._moving else 0)

    @property
    def map_from_world(self) -> Rigid3 | None:
        """What turns the places that odometry gives into the map's; None without any."""
        return self._moving.locator.map_from_world if self._moving else None

    def path(self) -> list[tuple[int, Rigid3]]:
        """Stamp and `map_from_rig` of the keyframes of a moving rig, corrected."""
        return self._moving.locator.path if self._moving else []

    @property
    def keyframes(self) -> int:
        """Sets of a moving rig that have a place."""
        return self._moving.locator.keyframes if self._moving else 0

    @property
    def loops(self) -> int:
        """That a moving rig has closed."""
        return self._moving.locator.loops if self._moving else 0

    @property
    def bootstrapper(self) -> Bootstrapper:
        """One that takes the rig is made when first needed: that may become known late."""
        if self._bootstrapper is None:
            self._bootstrapper = make_bootstrapper(self.config, self.rig)
        return self._bootstrapper

    def prepare(self) -> None:
        """Open all engines, compile and load every kernel (tens of seconds the first time).

        Raises:
            ConfigError: an engine is chosen but not named.
            EngineError: an engine cannot be used; none stays open then.
        """
        try:
            self.open_engines()
            with quiet("vggt_ros.pipeline", logging.WARNING):  # of the warm-up's cameras
                self._run_every_kernel()
        except BaseException:
            self.close()
            raise

    def open_engines(self) -> None:
        """The part of `prepare` that may fail; what is not opened here is when it is needed."""
        for stage in self._engine_users().values():
            stage.open()

    def close(self) -> None:
        """Free the engines; scene and map stay."""
        for stage in self._engine_users().values():
            stage.close()

    @property
    def engines(self) -> dict[str, EngineInUse]:
        """The networks that run, or ran last, by stage: "bootstrap", "depth"."""
        found = {name: stage.engine for name, stage in self._engine_users().items()}
        return {name: engine for name, engine in found.items() if engine is not None}

    def _engine_users(self) -> dict[str, EngineUser]:
        stages: dict[str, object] = {
            "bootstrap": self._bootstrapper,
            "depth": self.depth_estimator,
        }
        return {name: stage for name, stage in stages.items() if isinstance(stage, EngineUser)}

    def _run_every_kernel(self) -> None:
        scratch = MappingPipeline(warm_up_config(self.config), None, *warm_up_stages(self.config))
        for _ in range(2):  # the second set meets a map
            scratch.step(plane_frame_set())
        scratch.cloud()

    def set_config(self, config: Config) -> None:
        """Take over the parameters that may change while mapping (`runtime` in `config/`)."""
        self.config = config
        self.map.config = config.map
        self.aligner.config = config.align
        self.depth_estimator.set_config(config)
        self.self_filter.config = config

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig for the next bootstrap."""
        self.rig = rig
        self._bootstrapper = self._given_bootstrapper
        if self._moving is not None:
            self._moving.set_rig(rig)

    def reset(self) -> None:
        """Forget the scene and the map; the next sets bootstrap again."""
        self.scene = None
        self.map.clear()
        self.aligner = DepthAligner(self.config.align)
        self.drift_of_scale.reset()
        self.state = PipelineState.COLLECTING
        self.failure = ""
        self._collected.clear()
        self._failed_at_ns = None
        self.last_views, self.landmarks, self.extra = (), (), {}
        if self._moving is not None:
            self._moving.reset()

    @property
    def corrections(self) -> int:
        """How often the map of a moving rig was made anew because its path had changed."""
        return self._moving.corrections if self._moving is not None else 0

    def kept_views(self, most: int) -> list[DepthMap]:
        """Depth maps of a moving rig's keyframes as they lie now, evenly over its path."""
        return self._moving.kept_views(most) if self._moving is not None else []

    def take_over(self, saved: SavedMap) -> None:
        """Go on with a loaded map in place of the present one, without a bootstrap.

        Raises:
            VggtRosError: the depth estimator cannot serve its cameras; nothing has changed.
        """
        aligner = DepthAligner(self.config.align)
        aligner.load_state(saved.alignment)
        try:
            self.depth_estimator.prepare(saved.scene)
        except VggtRosError:
            if self.scene is not None:
                self.depth_estimator.prepare(self.scene)
            raise
        self.reset()
        self.map, self.scene, self.aligner = saved.map, saved.scene, aligner
        self.map.config = self.config.map
        self.landmarks, self.extra = saved.landmarks, dict(saved.extra)
        self.state = PipelineState.MAPPING
        log.info(
            "goes on with the map of %s: %d cameras, %d points, scale %s",
            saved.path,
            len(saved.scene.map_from_camera),
            saved.map.size,
            saved.scene.scale,
        )

    def load_calibration(self) -> None:
        """Begin with each camera's scale and shift in `align.calibration_file`, if it exists.

        Raises:
            ConfigError: the file is no JSON or has impossible entries.
        """
        path = self.config.align.calibration_file
        if path and Path(path).exists():
            self.aligner.load(path)
            log.info("align: scale and shift of %d cameras from %s", self.aligner.known, path)

    def save_calibration(self) -> None:
        """Write `align.calibration_file`; nothing where none is named or nothing was fitted.

        Raises:
            ExportError: the file cannot be written.
        """
        path = self.config.align.calibration_file
        if path and self.aligner.known:
            self.aligner.save(path)
            log.info("align: scale and shift of %d cameras to %s", self.aligner.known, path)

    def step(self, frame_set: FrameSet) -> StepResult:
        """Map one frame set.

        Raises:
            AlignmentError: the bootstrap failed. The set is counted as dropped, and sets of
                the next `sfm.retry_period_s` are not tried.
            EngineError: a network failed; in the bootstrap the same holds.
            ConfigError: the set has no room in `map.budget_mb`; in the bootstrap the same holds.
        """
        self.sets_received += 1
        if self._moving is not None:
            moving = self._moving
            result = self._moved(frame_set.stamp_ns, lambda: moving.step(frame_set))
            return replace(result, map_from_rig=moving.map_from_rig(frame_set))
        bootstrapped = False
        if self.scene is None:
            bootstrapped = self._bootstrap(frame_set)
            if not bootstrapped:
                return StepResult(frame_set.stamp_ns)
        assert self.scene is not None  # for the type checker: _bootstrap has set it

        with self.timings.measure("undistort"):
            calibrated = self._calibrated(frame_set, self.scene)
        poses = self.scene.map_from_camera
        self.last_views = tuple((f, poses[f.camera]) for f in calibrated.frames)
        with self.timings.measure("depth"):
            predictions = self.self_filter.masked(
                self.depth_estimator.estimate(calibrated), self.scene, self.rig
            )
        with self.timings.measure("align"):
            depth_maps = self.self_filter.outside_box(
                self._align(predictions, self.scene), self.scene.map_from_rig
            )
            self.drift_of_scale.observe(calibrated, depth_maps)
        with self.timings.measure("fuse"):
            accepted = [d for d in depth_maps if d.alignment.accepted]
            fused = self.map.fuse(
                [depth_of_sure_pixels(d, self.config) for d in accepted], bootstrapped
            )
        if accepted:
            self.sets_used += 1
        else:
            self.dropped["no depth accepted"] += 1
        return StepResult(frame_set.stamp_ns, bootstrapped, depth_maps, fused)

    def finish(self) -> StepResult | None:
        """Map what a moving rig saw since its last window; for the end of a recording.

        Raises:
            AlignmentError: there was no map, and this made none.
        """
        return self._moved(0, self._moving.finish) if self._moving is not None else None

    def _moved(self, stamp_ns: int, work: Callable[[], Moved]) -> StepResult:
        """What a set of a moving rig led to."""
        moving = self._moving
        assert moving is not None  # for the type checker: the callers have looked
        try:
            moved = work()
        except VggtRosError as error:
            self.state = PipelineState.FAILED
            self.failure = str(error)
            self.dropped["bootstrap failed"] += 1
            raise
        finally:
            self.dropped += moving.take_drops()
        self.scene = moving.scene or self.scene  # a loaded one until the first window
        if self.scene is not None:
            self.state = PipelineState.MAPPING
            self.failure = moved.failure
        self.sets_used += moved.used
        return StepResult(stamp_ns, moved.began, moved.depth_maps, moved.fused)

    def cloud(self, voxel_m: float = 0.0, max_points: int = 0) -> PointCloud:
        """A copy of the map as it is to be shown and exported."""
        settings = self.config.map
        cloud = self.map.cloud(settings.min_hits, settings.min_confidence, voxel_m, max_points)
        metric = self.scene is not None and self.scene.scale.is_metric
        return replace(cloud, frame=map_frame(self.config.frame.map, self.scene), is_metric=metric)

    def _bootstrap(self, frame_set: FrameSet) -> bool:
        """Collect sets until there are enough, then find the scene; True when it is found."""
        if self._waits(frame_set.stamp_ns):
            self.dropped["waiting to try the bootstrap again"] += 1
            return False
        sets_needed = self.bootstrapper.sets_needed
        self._collected.append(frame_set)
        if len(self._collected) < sets_needed:
            self.dropped["collected for the bootstrap"] += 1
            return False
        sets, self._collected = self._collected, []
        try:
            with self.timings.measure("bootstrap"):
                unscaled = self.bootstrapper.bootstrap(sets)
                evidence = scale_evidence(
                    unscaled,
                    sets,
                    self.rig,
                    self.config.scale,
                    self.depth_estimator,
                    self._calibrated,
                )
                scene = align_scene(unscaled, self.rig, self.config.scale, evidence=evidence)
            check_metric(scene.scale, self.config.scale)
            with self.timings.measure("prepare depth"):
                self.depth_estimator.prepare(scene)
            self._seed(unscaled, scene)
        except VggtRosError as error:
            self.state = PipelineState.FAILED
            self.failure = str(error)
            self.dropped["bootstrap failed"] += 1
            self._failed_at_ns = frame_set.stamp_ns
            raise
        self.scene = scene
        self.drift_of_scale.reset()
        self.state = PipelineState.MAPPING
        self.failure = ""
        log.info(
            "bootstrapped with %s: %d cameras, scale %s",
            scene.bootstrapper,
            len(scene.map_from_camera),
            scene.scale,
        )
        return True

    def _seed(self, unscaled: UnscaledScene, scene: AlignedScene) -> None:
        """Begin the map with the depth of a dense bootstrap, which later depth is fitted to."""
        depth_maps = dense_depth_maps(unscaled, scene)
        if depth_maps:
            depth_maps = self.self_filter.unseen(depth_maps, scene, self.rig)
            with self.timings.measure("seed"):
                self.map.fuse(depth_maps, bootstrap=True)

    def _waits(self, stamp_ns: int) -> bool:
        """Whether the last failure is too recent; one in the future is of a clock set back."""
        if self._failed_at_ns is None:
            return False
        return 0 <= stamp_ns - self._failed_at_ns < self.config.sfm.retry_period_s * 1e9

    def _calibrated(self, frame_set: FrameSet, scene: AlignedScene) -> FrameSet:
        """Registered frames only, undistorted with the estimated model where none was given."""
        frames = []
        for frame in frame_set.frames:
            if frame.camera not in scene.map_from_camera:
                continue
            if frame.model is None:
                model = scene.cameras[frame.camera]
                frame = undistorted_frame(frame, model, self._undistorter)
            frames.append(frame)
        return FrameSet(frame_set.stamp_ns, tuple(frames))

    def _align(
        self, predictions: Sequence[DepthPrediction], scene: AlignedScene
    ) -> tuple[DepthMap, ...]:
        poses = scene.map_from_camera
        jobs = [(p, self._reference(p, scene), poses[p.camera]) for p in predictions]
        return tuple(self.aligner.align_set(jobs))

    def _reference(self, prediction: DepthPrediction, scene: AlignedScene) -> Float32 | None:
        pose, least = scene.map_from_camera[prediction.camera], self.config.align.min_pixels
        return reference_depth(self.map, prediction, pose, scene.points_in_map, least)

    def report(self) -> dict[str, Any]:
        """The content of `report.json`: nothing that differs between two runs on the same data."""
        return {
            "state": self.state.value,
            "failure": self.failure,
            **scene_report(self.scene, self.config.cameras),
            "scale_drift": self.scale_drift if math.isfinite(self.scale_drift) else None,
            "sets": {
                "received": self.sets_received,
                "used": self.sets_used,
                "dropped": dict(sorted(self.dropped.items())),
            },
            "map": map_report(self.cloud()),
            "motion": {
                "mode": self.config.motion,
                **(self._moving.report() if self._moving else {}),
            },
            "bootstrapper": self.scene.bootstrapper if self.scene else self.config.bootstrap,
            "depth_estimator": self.depth_estimator.name,
            "engines": {name: dataclasses.asdict(engine) for name, engine in self.engines.items()},
        }
