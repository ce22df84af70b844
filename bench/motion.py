"""Where one hand-held camera was, from its images alone, against the recorded poses."""

from __future__ import annotations

import time

import numpy as np

from bench.figures import Figure, at_least, at_most
from bench.indoor_sequence import (
    CALIBRATION,
    colours_as_stored,
    depths_as_stored,
    load,
    register_depth,
)
from vggt_ros.config import SfmConfig, TrajectoryConfig
from vggt_ros.evaluation.trajectories import evaluate_trajectory
from vggt_ros.export.trajectory import StampedPose
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_angle
from vggt_ros.pipeline.motion.graph import ScalePrior
from vggt_ros.pipeline.motion.trajectory import TrajectoryEstimator
from vggt_ros.pipeline.scale_depth import depth_of_sets, scale_of_depth
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.types import Float64, Frame, FrameSet, ScaleEstimate

_STEP_NS = 10**9


def figures() -> list[Figure]:
    """All 60 frames are keyframes; the images are as stored, intrinsics are not given."""
    sets = _sets()
    estimator = TrajectoryEstimator(
        SfmBootstrapper(SfmConfig()), TrajectoryConfig(min_displacement=0.0)
    )
    begin = time.process_time()
    loops = 0
    for frame_set in sets:
        loops = _loops(estimator.add(frame_set), loops)
    loops = _loops(estimator.finish(), loops)
    seconds = time.process_time() - begin
    truth = [StampedPose(k * _STEP_NS, f.map_from_camera) for k, f in enumerate(load("given"))]
    found = _path(estimator)
    errors = evaluate_trajectory(found, truth, "sim3")
    focal = estimator.graph.scenes[0].views[0].model.fx
    _scale_by_depth(estimator, sets)
    metric = evaluate_trajectory(_path(estimator), truth, "se3")
    return [
        at_least("frames with a pose", float(len(found)), "", 60),
        at_most("ATE RMSE after Sim(3)", 100 * errors.ate_rmse, "cm", 4),
        at_most(
            "rotation, median, after the best common rotation", _turn_deg(found, truth), "deg", 2.5
        ),
        Figure(
            "rotation, median, after the Sim(3) of the centres alone (path: 0.8 x 0.4 x 0.5 m)",
            errors.rotation_median_deg,
            "deg",
        ),
        at_most(
            "ATE RMSE without alignment of scale: depth images", 100 * metric.ate_rmse, "cm", 6
        ),
        Figure(
            f"focal length that was found (calibrated: {CALIBRATION.focal_px:.0f})", focal, "px"
        ),
        Figure("loops closed", float(loops), ""),
        Figure("calibrations, bootstraps, joins and loops: CPU time", seconds, "s"),
    ]


def _sets() -> list[FrameSet]:
    sets = []
    for k, (rgb, depth) in enumerate(zip(colours_as_stored(), depths_as_stored(), strict=True)):
        stamp = k * _STEP_NS
        metres = register_depth(depth, CALIBRATION.depth_from_colour, CALIBRATION.model)
        sets.append(FrameSet(stamp, (Frame("cam", stamp, rgb, depth_m=metres),)))
    return sets


def _loops(windows, before: int) -> int:  # type: ignore[no-untyped-def]
    """Loops closed so far; those before the intrinsics were found anew do not count."""
    for window in windows:
        before = window.loops + (0 if window.afresh else before)
    return before


def _path(estimator: TrajectoryEstimator) -> list[StampedPose]:
    return [StampedPose(stamp, pose) for (_, stamp), pose in estimator.poses().items()]


def _turn_deg(found: list[StampedPose], truth: list[StampedPose]) -> float:
    turns: list[Float64] = [
        truth[p.stamp_ns // _STEP_NS].map_from_body.rotation @ p.map_from_body.rotation.T
        for p in found
    ]
    common = nearest_rotation(np.sum(turns, axis=0))
    return float(np.degrees(np.median([rotation_angle(common.T @ turn) for turn in turns])))


def _scale_by_depth(estimator: TrajectoryEstimator, sets: list[FrameSet]) -> None:
    """Give every window the metre of the recorded depth images, and solve the graph again."""
    depth_of = depth_of_sets([estimator.undistorted(frame_set) for frame_set in sets])
    graph = estimator.graph
    for k, scene in enumerate(graph.scenes):
        scale = scale_of_depth(scene, depth_of, undistorted=True)
        if isinstance(scale, ScaleEstimate):
            graph.priors[k] = ScalePrior(scale.value, scale.sigma / scale.value)
    graph.solve()
