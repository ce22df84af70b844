"""What a prediction is fitted to, and which of its pixels go into the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vggt_ros.config import Config
from vggt_ros.geometry import Rigid3
from vggt_ros.mapping.interface import Map
from vggt_ros.pipeline.reference_depth import reference_from_points
from vggt_ros.types import DepthKind, DepthMap, DepthPrediction, Float32, Float64


def reference_depth(
    map_: Map,
    prediction: DepthPrediction,
    map_from_camera: Rigid3,
    points_in_map: Float64,
    min_pixels: int,
) -> Float32 | None:
    """Depth of the map as the camera of a prediction sees it, or of the scene's points.

    The points also serve a camera that the map does not show, for it was silent or refused
    so far: nothing of it would ever reach the map. Stereo needs no reference.
    """
    rendered = None
    if map_.size:
        rendered = map_.render(prediction.model, map_from_camera).depth
        is_stereo = prediction.kind is DepthKind.TRIANGULATED
        if is_stereo or np.isfinite(rendered).sum() >= min_pixels:
            return rendered
    if len(points_in_map):
        return reference_from_points(points_in_map, prediction.model, map_from_camera)
    return rendered


def depth_of_sure_pixels(depth_map: DepthMap, config: Config) -> DepthMap:
    """Stereo as it is fused: without the pixels that are good enough to be looked at only."""
    if depth_map.alignment.kind is not DepthKind.TRIANGULATED:
        return depth_map
    is_sure = depth_map.confidence >= config.plane_sweep.map_confidence
    return replace(depth_map, depth=np.where(is_sure, depth_map.depth, np.float32(np.nan)))
