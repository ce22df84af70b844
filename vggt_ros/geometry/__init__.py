"""Rigid and similarity transforms, cameras and robust estimation; numpy only."""

from vggt_ros.geometry.camera import CameraModel
from vggt_ros.geometry.rigid3 import Rigid3
from vggt_ros.geometry.sim3 import Sim3

__all__ = ["CameraModel", "Rigid3", "Sim3"]
