"""The pipeline: frame sets in, a map out. No ROS, no threads, no files."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError
from vggt_ros.mapping.interface import FuseStatistics, Map
from vggt_ros.mapping.make_map import make_map
from vggt_ros.pipeline.align_depth import DepthAligner, reference_from_points
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.bootstrap import make_bootstrapper
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.depth import make_depth_estimator
from vggt_ros.pipeline.stages import Bootstrapper, DepthEstimator
from vggt_ros.pipeline.timings import Timings
from vggt_ros.pipeline.warm_up import PlaneBootstrapper, plane_frame_set, warm_up_config
from vggt_ros.rig import Rig
from vggt_ros.types import AlignedScene, DepthMap, DepthPrediction, Float32, FrameSet, PointCloud

log = logging.getLogger(__name__)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keep what the stages log of the warm-up's cameras from people."""
    stages = logging.getLogger("vggt_ros.pipeline")
    level = stages.level
    stages.setLevel(logging.WARNING)
    try:
        yield
    finally:
        stages.setLevel(level)


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
        self._given_bootstrapper = bootstrapper
        self._bootstrapper: Bootstrapper | None = bootstrapper
        self._collected: list[FrameSet] = []
        self._failed_at_ns: int | None = None
        self._undistorter = Undistorter()

    @property
    def bootstrapper(self) -> Bootstrapper:
        """Made when first needed, because the rig may become known late (CameraInfo, TF)."""
        if self._bootstrapper is None:
            self._bootstrapper = make_bootstrapper(self.config, self.rig)
        return self._bootstrapper

    def prepare(self) -> None:
        """Compile and load every kernel now (tens of seconds the first time on a machine)."""
        with _unheard():
            self._run_every_kernel()

    def _run_every_kernel(self) -> None:
        scratch = MappingPipeline(warm_up_config(self.config), bootstrapper=PlaneBootstrapper())
        for _ in range(2):  # the second set meets a map
            scratch.step(plane_frame_set())
        scratch.cloud()

    def set_config(self, config: Config) -> None:
        """Take over the parameters that may change while mapping (`runtime` in `config.py`)."""
        self.config = config
        self.map.config = config.map
        self.aligner.config = config.align
        self.depth_estimator.set_config(config)

    def set_rig(self, rig: Rig | None) -> None:
        """Take what is known of the rig for the next bootstrap."""
        self.rig = rig
        self._bootstrapper = self._given_bootstrapper

    def reset(self) -> None:
        """Forget the scene and the map; the next sets bootstrap again."""
        self.scene = None
        self.map.clear()
        self.aligner = DepthAligner(self.config.align)
        self.state = PipelineState.COLLECTING
        self.failure = ""
        self._collected.clear()
        self._failed_at_ns = None

    def step(self, frame_set: FrameSet) -> StepResult:
        """Map one frame set.

        Raises:
            AlignmentError: the bootstrap failed. The set is counted as dropped, and sets of
                the next `sfm.retry_period_s` are not tried.
        """
        self.sets_received += 1
        bootstrapped = False
        if self.scene is None:
            bootstrapped = self._bootstrap(frame_set)
            if not bootstrapped:
                return StepResult(frame_set.stamp_ns)
        assert self.scene is not None  # for the type checker: _bootstrap has set it

        with self.timings.measure("undistort"):
            calibrated = self._calibrated(frame_set, self.scene)
        with self.timings.measure("depth"):
            predictions = self.depth_estimator.estimate(calibrated)
        with self.timings.measure("align"):
            depth_maps = tuple(self._align(p, self.scene) for p in predictions)
        with self.timings.measure("fuse"):
            accepted = [d for d in depth_maps if d.alignment.accepted]
            fused = self.map.fuse(accepted, bootstrapped)
        if accepted:
            self.sets_used += 1
        else:
            self.dropped["no depth accepted"] += 1
        return StepResult(frame_set.stamp_ns, bootstrapped, depth_maps, fused)

    def cloud(self, voxel_m: float = 0.0, max_points: int = 0) -> PointCloud:
        """A copy of the map as it is to be shown and exported."""
        settings = self.config.map
        cloud = self.map.cloud(settings.min_hits, settings.min_confidence, voxel_m, max_points)
        metric = self.scene is not None and self.scene.scale.is_metric
        return replace(cloud, frame=self.config.frame.map, is_metric=metric)

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
                scene = align_scene(unscaled, self.rig, self.config.scale)
            if self.config.scale.require_metric and not scene.scale.is_metric:
                raise AlignmentError(
                    "scale: scale.require_metric is set, but nothing gives the scale; give "
                    "rig_from_camera of two cameras (rig_file or TF) or scale.metres_per_unit"
                )
        except AlignmentError as error:
            self.state = PipelineState.FAILED
            self.failure = str(error)
            self.dropped["bootstrap failed"] += 1
            self._failed_at_ns = frame_set.stamp_ns
            raise
        with self.timings.measure("prepare depth"):
            self.depth_estimator.prepare(scene)
        self.scene = scene
        self.state = PipelineState.MAPPING
        self.failure = ""
        log.info(
            "bootstrapped with %s: %d cameras, scale %s",
            scene.bootstrapper,
            len(scene.map_from_camera),
            scene.scale,
        )
        return True

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

    def _align(self, prediction: DepthPrediction, scene: AlignedScene) -> DepthMap:
        map_from_camera = scene.map_from_camera[prediction.camera]
        reference: Float32 | None = None
        if self.map.size:
            reference = self.map.render(prediction.model, map_from_camera).depth
        elif len(scene.points_in_map):
            reference = reference_from_points(
                scene.points_in_map, prediction.model, map_from_camera
            )
        return self.aligner.align(prediction, reference, map_from_camera)

    def report(self) -> dict[str, Any]:
        """The content of `report.json`: nothing that differs between two runs on the same data."""
        scene = self.scene
        cloud = self.cloud()
        metric = scene is not None and scene.scale.is_metric
        bounds = None
        if len(cloud):
            bounds = [
                np.round(cloud.points.min(axis=0).astype(float), 4).tolist(),
                np.round(cloud.points.max(axis=0).astype(float), 4).tolist(),
            ]
        return {
            "state": self.state.value,
            "failure": self.failure,
            "unit": "m" if metric else "unscaled",
            "cameras": self._camera_report(),
            "scale": self._scale_report(),
            "up_source": scene.up_source if scene else "none",
            "sets": {
                "received": self.sets_received,
                "used": self.sets_used,
                "dropped": dict(sorted(self.dropped.items())),
            },
            "map": {
                "points": len(cloud),
                "bounds": bounds,
                "bounds_m": bounds if metric else None,
            },
            "bootstrapper": scene.bootstrapper if scene else self.config.bootstrap,
            "depth_estimator": self.depth_estimator.name,
        }

    def _camera_report(self) -> dict[str, Any]:
        scene = self.scene
        if scene is None:
            return {}
        cameras: dict[str, Any] = {}
        for name, pose in scene.map_from_camera.items():
            model = scene.cameras[name]
            entry: dict[str, Any] = {
                "registered": True,
                "map_from_camera": pose.matrix.tolist(),
                "size": [model.width, model.height],
                "intrinsics": [model.fx, model.fy, model.cx, model.cy],
            }
            if model.is_distorted:
                entry["distortion"] = {
                    "model": model.distortion_model,
                    "coefficients": list(model.distortion),
                }
            residual = scene.residuals.get(name)
            if residual is not None:
                entry["rig_residual"] = {
                    # NaN, which JSON has not, where there is no scale to compare centres with
                    "centre": residual.centre if math.isfinite(residual.centre) else None,
                    "rotation_rad": residual.rotation_rad,
                    "inlier": residual.inlier,
                }
            cameras[name] = entry
        for name in (*scene.failed, *self.config.cameras):  # or it was not in the sets
            unknown = {"registered": False, "map_from_camera": None, "intrinsics": None}
            cameras.setdefault(name, unknown)
        return cameras

    def _scale_report(self) -> dict[str, Any]:
        if self.scene is None or not self.scene.scale.is_metric:
            # no sigma: JSON has no infinity, and no number would be honest
            return {"value": None, "sigma": None, "source": "none"}
        scale = self.scene.scale
        sigma = scale.sigma if math.isfinite(scale.sigma) else None
        return {"value": scale.value, "sigma": sigma, "source": scale.source.value}
