"""Cameras and depth maps in the form that the kernels take."""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping import kernels_view
from vggt_ros.mapping.checked_input import check_depth_map
from vggt_ros.types import DepthMap, Float32


class SurfelView:
    """One checked depth map.

    Raises:
        CalibrationError: shapes that do not agree or a distorted camera.
    """

    def __init__(self, depth_map: DepthMap) -> None:
        model = depth_map.model
        check_depth_map(depth_map)
        self.model = model
        self.map_from_camera = depth_map.map_from_camera
        self.depth = np.ascontiguousarray(depth_map.depth, np.float32)
        self.confidence = np.ascontiguousarray(depth_map.confidence, np.float32)
        self.rgb = np.ascontiguousarray(depth_map.rgb, np.uint8)
        self.intrinsics = intrinsics_of(model)
        self.measured = kernels_view.count_measured(self.depth, self.confidence)
        """Pixels that may become surfels."""


def intrinsics_of(model: CameraModel) -> Float32:
    """Focal lengths and principal point [px]."""
    return np.array([model.fx, model.fy, model.cx, model.cy], np.float32)


def rotation_translation(transform: Rigid3) -> tuple[Float32, Float32]:
    """Both parts of a transform, (3, 3) and (3,)."""
    return transform.rotation.astype(np.float32), transform.translation.astype(np.float32)
