"""What every source but the rig and the parameter says of the scale of one bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vggt_ros.config import ScaleConfig
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.scale_depth import depth_of_sets, scale_of_depth
from vggt_ros.pipeline.scale_fusion import Evidence, NoScale
from vggt_ros.pipeline.scale_odometry import scale_from_odometry
from vggt_ros.pipeline.stages import DepthEstimator, EngineUser
from vggt_ros.rig import Rig
from vggt_ros.types import (
    AlignedScene,
    DepthKind,
    Float32,
    FrameSet,
    ScaleSource,
    UnscaledScene,
)

Calibrated = Callable[[FrameSet, AlignedScene], FrameSet]
"""Undistorts the frames of a set with the intrinsics of a scene."""


def scale_evidence(
    scene: UnscaledScene,
    frame_sets: Sequence[FrameSet],
    rig: Rig | None,
    config: ScaleConfig,
    estimator: DepthEstimator,
    calibrated: Calibrated,
) -> list[Evidence]:
    """Depth cameras, odometry and a network of metric depth, as far as they are wanted.

    Args:
        scene: of the bootstrap.
        frame_sets: that it was made of, with depth images and places of the rig where known.
        rig: places of the cameras, which odometry needs.
        config: `scale.*`.
        estimator: gives depth between bootstraps; asked where its depth is metric.
        calibrated: see `Calibrated`.

    Raises:
        EngineError: the network failed.
    """
    evidence: list[Evidence] = []
    if config.source in ("auto", "depth_camera"):
        depth_of = depth_of_sets(frame_sets)
        evidence.append(scale_of_depth(scene, depth_of, config.depth_camera_sigma))
    if config.source in ("auto", "odometry"):
        evidence.append(_of_odometry(scene, frame_sets, rig, config))
    if config.source in ("auto", "metric_model"):
        evidence.append(_of_model(scene, frame_sets[-1], config, estimator, calibrated))
    return evidence


def _of_odometry(
    scene: UnscaledScene, frame_sets: Sequence[FrameSet], rig: Rig | None, config: ScaleConfig
) -> Evidence:
    places = {s.stamp_ns: s.world_from_rig for s in frame_sets if s.world_from_rig is not None}
    if not places:
        return NoScale(ScaleSource.ODOMETRY, "no place of the rig came with the frame sets")
    on_rig = rig.poses if rig is not None else {}
    return scale_from_odometry(scene, places, on_rig, config.odometry_sigma)


def _of_model(
    scene: UnscaledScene,
    frame_set: FrameSet,
    config: ScaleConfig,
    estimator: DepthEstimator,
    calibrated: Calibrated,
) -> Evidence:
    """The newest set's depth by the network, against the scene."""
    source = ScaleSource.METRIC_MODEL
    if isinstance(estimator, EngineUser):
        estimator.open()  # only then it is known what its numbers mean
    if getattr(estimator, "kind", None) is not DepthKind.METRIC_DEPTH:
        return NoScale(source, f"depth by {estimator.name} is not metric by itself")
    unscaled = align_scene(scene, None, replace(config, source="none"))
    estimator.prepare(unscaled)
    depth_of: dict[tuple[str, int], Float32] = {
        (prediction.camera, frame_set.stamp_ns): prediction.values
        for prediction in estimator.estimate(calibrated(frame_set, unscaled))
        if prediction.kind is DepthKind.METRIC_DEPTH
    }
    return scale_of_depth(scene, depth_of, config.metric_model_sigma, source, undistorted=True)
