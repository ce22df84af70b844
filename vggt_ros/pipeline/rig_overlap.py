"""How much of each camera's view another camera sees."""

from __future__ import annotations

import math

import numpy as np

from vggt_ros.pipeline.view_selection import depth_range, view_grid, visible
from vggt_ros.types import AlignedScene


def rig_overlap(scene: AlignedScene) -> float:
    """Part of the pixels of a view that another view sees, median over the cameras, 0 to 1.

    Pixels are looked up at six depths between the nearest and the farthest points of the scene
    in the view, or, without points, 1.5 to 60 times the distance of the cameras. What stands in
    the way is not regarded. NaN for fewer than two cameras.
    """
    models = {name: scene.cameras[name].without_distortion() for name in scene.map_from_camera}
    poses = scene.map_from_camera
    if len(poses) < 2:
        return math.nan
    shares = []
    for name, pose in poses.items():
        others = [other for other in poses if other != name]
        centres = np.array([poses[other].translation for other in others])
        distance = float(np.linalg.norm(centres - pose.translation, axis=1).min())
        near, far = depth_range(
            models[name], pose.inverse(), scene.points_in_map, max(distance, 1e-6)
        )
        points = pose.apply(view_grid(models[name], near, far))
        seen = np.zeros(len(points), bool)
        for other in others:
            seen |= visible(models[other], poses[other].inverse().apply(points))
        shares.append(float(seen.mean()))
    return float(np.median(shares))
