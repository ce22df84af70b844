"""How far a result is from the truth: cameras, trajectories and clouds."""

from vggt_ros.evaluation.cameras import Align, CameraErrors, align_poses, evaluate_cameras
from vggt_ros.evaluation.clouds import CloudErrors, evaluate_cloud
from vggt_ros.evaluation.nearest import NearestNeighbours
from vggt_ros.evaluation.trajectories import TrajectoryErrors, evaluate_trajectory

__all__ = [
    "Align",
    "CameraErrors",
    "CloudErrors",
    "NearestNeighbours",
    "TrajectoryErrors",
    "align_poses",
    "evaluate_cameras",
    "evaluate_cloud",
    "evaluate_trajectory",
]
