"""Where one hand-held camera was, from its images alone, against the recorded poses."""

from __future__ import annotations

import time

import numpy as np

from bench.figures import Figure, at_least, at_most
from bench.indoor_sequence import load
from vggt_ros.config import SfmConfig, TrajectoryConfig
from vggt_ros.evaluation.trajectories import evaluate_trajectory
from vggt_ros.export.trajectory import StampedPose
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_angle
from vggt_ros.pipeline.motion.trajectory import TrajectoryEstimator
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.types import Frame, FrameSet

_STEP_NS = 10**9


def figures() -> list[Figure]:
    """All 60 frames are keyframes; intrinsics as `bench.indoor_sequence` has calibrated them."""
    frames = load("given")
    config = TrajectoryConfig(min_displacement=0.0)
    estimator = TrajectoryEstimator(SfmBootstrapper(SfmConfig()), config)
    begin = time.process_time()
    loops = 0
    for k, frame in enumerate(frames):
        stamp = k * _STEP_NS
        result = estimator.add(FrameSet(stamp, (Frame("cam", stamp, frame.rgb, frame.model),)))
        loops += result.loops if result else 0
    last = estimator.finish()
    loops += last.loops if last else 0
    seconds = time.process_time() - begin
    truth = [StampedPose(k * _STEP_NS, f.map_from_camera) for k, f in enumerate(frames)]
    found = [StampedPose(stamp, pose) for (_, stamp), pose in estimator.poses().items()]
    errors = evaluate_trajectory(found, truth, "sim3")
    turns = [
        frames[p.stamp_ns // _STEP_NS].map_from_camera.rotation @ p.map_from_body.rotation.T
        for p in found
    ]
    common = nearest_rotation(np.sum(turns, axis=0))
    turn_deg = np.degrees(np.median([rotation_angle(common.T @ turn) for turn in turns]))
    return [
        at_least("frames with a pose", float(len(found)), "", 60),
        at_most("ATE RMSE after Sim(3)", 100 * errors.ate_rmse, "cm", 4),
        at_most("rotation, median, after the best common rotation", float(turn_deg), "deg", 2.5),
        Figure(
            "rotation, median, after the Sim(3) of the centres alone (path: 0.8 x 0.4 x 0.5 m)",
            errors.rotation_median_deg,
            "deg",
        ),
        Figure("loops closed", float(loops), ""),
        Figure("bootstraps, joins and loops: CPU time", seconds, "s"),
    ]
