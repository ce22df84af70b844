"""What `report.json` says of a scene and of a map, for people and for `evaluation`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vggt_ros.types import AlignedScene, PointCloud, unscaled_frame


def scene_report(scene: AlignedScene | None, cameras: Sequence[str]) -> dict[str, Any]:
    """Unit, cameras, scale and what made z point up.

    Args:
        scene: None before the bootstrap.
        cameras: all that there should be; those that no set held are reported too.
    """
    metric = scene is not None and scene.scale.is_metric
    return {
        "unit": "m" if metric else "unscaled",
        "cameras": _cameras(scene, cameras),
        "scale": _scale(scene),
        "up_source": scene.up_source if scene else "none",
    }


def map_frame(name: str, scene: AlignedScene | None) -> str:
    """The map's frame: `frame.map`, or `unscaled_frame` of it where lengths are not metres."""
    return name if scene is None or scene.scale.is_metric else unscaled_frame(name)


def map_report(cloud: PointCloud) -> dict[str, Any]:
    """Number and bounds of the points as they are exported."""
    bounds = None
    if len(cloud):
        bounds = [
            np.round(cloud.points.min(axis=0).astype(float), 4).tolist(),
            np.round(cloud.points.max(axis=0).astype(float), 4).tolist(),
        ]
    return {
        "points": len(cloud),
        "bounds": bounds,
        "bounds_m": bounds if cloud.is_metric else None,
    }


def _cameras(scene: AlignedScene | None, names: Sequence[str]) -> dict[str, Any]:
    if scene is None:
        return {}
    cameras: dict[str, Any] = {}
    for name, pose in scene.map_from_camera.items():
        model = scene.cameras[name]
        entry: dict[str, Any] = {
            "registered": True,
            "map_from_camera": pose.matrix.tolist(),
            "size": [model.width, model.height],
            "intrinsics": [model.fx, model.fy, model.cx, model.cy],
        }
        if model.is_distorted:
            entry["distortion"] = {
                "model": model.distortion_model,
                "coefficients": list(model.distortion),
            }
        residual = scene.residuals.get(name)
        if residual is not None:
            entry["rig_residual"] = {
                # NaN, which JSON has not, where there is no scale to compare centres with
                "centre": residual.centre if math.isfinite(residual.centre) else None,
                "rotation_rad": residual.rotation_rad,
                "inlier": residual.inlier,
            }
        cameras[name] = entry
    for name in (*scene.failed, *names):  # or it was not in the sets
        unknown = {"registered": False, "map_from_camera": None, "intrinsics": None}
        cameras.setdefault(name, unknown)
    return cameras


def _scale(scene: AlignedScene | None) -> dict[str, Any]:
    if scene is None or not scene.scale.is_metric:
        # no sigma: JSON has no infinity, and no number would be honest
        return {"value": None, "sigma": None, "source": "none"}
    scale = scene.scale
    sigma = scale.sigma if math.isfinite(scale.sigma) else None
    found = {"value": scale.value, "sigma": sigma, "source": scale.source_name}
    return found | ({"contradiction": scale.contradiction} if scale.contradiction else {})
