"""Depth maps of one set as a coloured cloud, and which ones those are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_ros.types import DepthMap, PointCloud


def set_cloud(depth_maps: Sequence[DepthMap], frame: str, is_metric: bool) -> PointCloud:
    """Points of the accepted depth maps in `map`; pixels without depth are left out."""
    points, colours, confidence = [], [], []
    for depth_map in depth_maps:
        if not depth_map.alignment.accepted:
            continue
        valid = np.isfinite(depth_map.depth)
        points_in_camera = depth_map.model.rays()[valid] * depth_map.depth[valid][:, None]
        points.append(depth_map.map_from_camera.apply(points_in_camera).astype(np.float32))
        colours.append(depth_map.rgb[valid])
        confidence.append(depth_map.confidence[valid])
    if not points:
        return PointCloud(
            np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), None, None, frame, is_metric
        )
    return PointCloud(
        np.concatenate(points),
        np.concatenate(colours),
        None,
        np.concatenate(confidence).astype(np.float32),
        frame,
        is_metric,
    )


def newest_set(depth_maps: Sequence[DepthMap], skew_ns: int) -> tuple[list[DepthMap], int]:
    """The depth maps of the newest set, and its stamp [ns].

    A window of a moving rig brings several sets, each seen from another place; who clears free
    space from the sensor needs one set and its stamp.

    Args:
        depth_maps: at least one, in any order.
        skew_ns: stamps within a set differ by no more (`ingest.max_skew_ms`).
    """
    newest_ns = max(depth_map.stamp_ns for depth_map in depth_maps)
    newest = [d for d in depth_maps if newest_ns - d.stamp_ns <= skew_ns]
    stamps = sorted(d.stamp_ns for d in newest)
    return newest, stamps[(len(stamps) - 1) // 2]  # the lower median, as ingest stamps its sets
