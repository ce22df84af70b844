"""What every map asks of a camera and of a depth map before it takes them."""

from __future__ import annotations

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel
from vggt_ros.types import DepthMap


def check_pinhole(model: CameraModel, where: str) -> None:
    """CalibrationError if the camera has a distortion; `where` begins the message."""
    if model.is_distorted:
        raise CalibrationError(
            f"{where}: expected a camera without distortion, got {model.distortion_model} "
            f"{model.distortion}; undistort the image and use model.without_distortion()"
        )


def check_depth_map(depth_map: DepthMap) -> None:
    """CalibrationError unless depth, confidence (H, W) and rgb (H, W, 3) fit a pinhole camera."""
    model = depth_map.model
    where = f"fuse: camera '{depth_map.camera}'"
    check_pinhole(model, where)
    shape = (model.height, model.width)
    for name, array, expected in (
        ("depth", depth_map.depth, shape),
        ("confidence", depth_map.confidence, shape),
        ("rgb", depth_map.rgb, (*shape, 3)),
    ):
        if array.shape != expected:
            raise CalibrationError(
                f"{where}: expected {name} of shape {expected} for its model, "
                f"got {array.shape}; resize the image or the model (CameraModel.resized)"
            )
