"""What networks would say of a synthetic scene if they were always right.

For tests of what comes after a network: the answers are put in its place, through the same
encoding, with a unit and a frame of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.inference.depth_anything import fit_into, input_size
from vggt_ros.inference.vggt import encode_cameras
from vggt_ros.inference.vggt_input import prepare
from vggt_ros.synthetic.world import World
from vggt_ros.types import Float32

UNKNOWN_DEPTH_M = 10.0
"""Depth where no surface is seen; a network knows no holes."""


@dataclass(frozen=True, eq=False)
class VggtAnswer:
    """Outputs of VGGT for one set, without a batch dimension, and the shape of its input."""

    pose_enc: Float32
    """(S, 9)"""
    depth: Float32
    """(S, H, W, 1) [scene units]"""
    depth_conf: Float32
    """(S, H, W)"""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.depth.shape[1], self.depth.shape[2]


def vggt_answer(
    world: World,
    models: Sequence[CameraModel],
    map_from_camera: Sequence[Rigid3],
    image_px: int,
    metres_per_unit: float = 1.0,
    mode: Literal["crop", "pad"] = "crop",
) -> VggtAnswer:
    """Poses, fields of view and depth as VGGT encodes them; its frame is the first camera.

    Args:
        world: at time 0.
        models: pinhole cameras with the principal point in the middle, for VGGT knows no other.
        map_from_camera: their poses.
        image_px: width of the input, a multiple of 14.
        metres_per_unit: the unit of length of the answer.
        mode: of the preprocessing.
    """
    blank = [np.zeros((m.height, m.width, 3), np.uint8) for m in models]
    network_input = prepare(blank, mode, image_px)
    width, height = network_input.size
    cameras = [
        place.input_camera(model, width, height)
        for place, model in zip(network_input.placements, models, strict=True)
    ]
    first = map_from_camera[0].inverse()
    scene_from_camera = []
    for pose in map_from_camera:
        metric = first @ pose
        scene_from_camera.append(Rigid3(metric.rotation, metric.translation / metres_per_unit))
    depths = []
    for camera, pose in zip(cameras, map_from_camera, strict=True):
        depth = world.render(camera, pose, supersample=1).depth
        depths.append(np.where(np.isfinite(depth), depth, UNKNOWN_DEPTH_M) / metres_per_unit)
    depth = np.stack(depths).astype(np.float32)
    sure = 1.0 + 10.0 / (1.0 + depth)  # nearer is surer
    return VggtAnswer(
        encode_cameras(scene_from_camera, cameras), depth[..., None], sure.astype(np.float32)
    )


def disparity_answer(
    world: World,
    models: Sequence[CameraModel],
    map_from_camera: Sequence[Rigid3],
    image_px: int,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Float32:
    """Disparity d (N, H, W) with 1/z = scale * d + shift, as Depth Anything gives it.

    Args:
        world: at time 0.
        models: of one size each, whose aspect becomes that of the input.
        map_from_camera: their poses.
        image_px: shorter side of the input, a multiple of 14.
        scale: of the disparity [1/m].
        shift: of the disparity [1/m].
    """
    disparities = []
    for model, pose in zip(models, map_from_camera, strict=True):
        whole = input_size(*model.size, image_px)
        fit = fit_into(model.size, whole)
        assert (fit.width, fit.height) == whole  # free sizes have no bars
        depth = world.render(model.resized(*whole), pose, supersample=1).depth
        known = np.where(np.isfinite(depth), depth, UNKNOWN_DEPTH_M)
        disparities.append((1.0 / known - shift) / scale)
    return np.stack(disparities).astype(np.float32)
