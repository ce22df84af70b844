"""Which views help to find the depth of a view, and between which depths to look."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel, Rigid3

logger = logging.getLogger(__name__)

MIN_POINTS = 20
"""Fewer scene points in a view say too little about its depths."""
MIN_OVERLAP = 0.05
"""Smallest part of a view that a source must share."""
FULL_ANGLE_RAD = np.deg2rad(8.0)
"""Rays that meet at this angle or more are as good as it gets; below, precision falls."""
WIDE_ANGLE_RAD = np.deg2rad(30.0)
"""From here on patches look ever more different; at twice this angle they do not match."""
MIN_ANGLE_RAD = np.deg2rad(0.3)
"""Views whose rays meet at less (same place, only turned) give no depth."""


def depth_range(
    model: CameraModel,
    camera_from_map: Rigid3,
    points_in_map: NDArray[np.float64],
    spacing: float,
    min_depth: float = 0.0,
    max_depth: float = 0.0,
) -> tuple[float, float]:
    """Nearest and farthest depth [map units] at which to look for surfaces.

    The 2nd and 98th percentile of the scene points in the view, widened by half on either side:
    sparse points miss the nearest and farthest surfaces, and some are wrong. Without
    `MIN_POINTS`, 1.5 to 60 times the distance to the next camera: disparities of 2/3 to 1/60 of
    the focal length.

    Args:
        spacing: distance to the nearest other camera [map units].
        min_depth, max_depth: if > 0, used as they are.
    """
    in_camera = camera_from_map.apply(np.asarray(points_in_map, np.float64).reshape(-1, 3))
    z = in_camera[visible(model, in_camera), 2]
    if len(z) >= MIN_POINTS:
        low, high = np.percentile(z, [2.0, 98.0])
        near, far = float(low) / 1.5, float(high) * 1.5
    else:
        near, far = 1.5 * spacing, 60.0 * spacing
    near, far = min_depth or near, max_depth or far
    if near >= far:  # only one of the two was given, and it lies beyond the other
        near, far = (near, 10.0 * near) if min_depth else (far / 10.0, far)
    return near, far


def rank_sources(
    reference: str,
    models: Mapping[str, CameraModel],
    map_from_camera: Mapping[str, Rigid3],
    points_in_map: NDArray[np.float64],
    near: float,
    far: float,
) -> list[str]:
    """Other cameras from the most to the least helpful; those that do not overlap are left out.

    Score: mean over points of the reference view of (source sees it) x (weight of the angle
    between the rays). The points are the scene's, or a grid over pixels and inverse depth where
    the scene has fewer than `MIN_POINTS` in the view.
    """
    model, pose = models[reference], map_from_camera[reference]
    in_camera = pose.inverse().apply(points_in_map.reshape(-1, 3))
    z = in_camera[:, 2]
    in_camera = in_camera[visible(model, in_camera) & (z > near) & (z < far)]
    if len(in_camera) < MIN_POINTS:
        in_camera = view_grid(model, near, far)
    points = pose.apply(in_camera[:: max(1, len(in_camera) // 1000)])
    scores = {}
    for name, other in map_from_camera.items():
        if name == reference or name not in models:
            continue
        seen = visible(models[name], other.inverse().apply(points))
        angles = _angles(points, pose.translation, other.translation)
        overlap = float(seen.mean())
        typical = float(np.median(angles[seen])) if seen.any() else 0.0
        weight = np.minimum(angles / FULL_ANGLE_RAD, 1.0) * np.clip(
            2.0 - angles / WIDE_ANGLE_RAD, 0.0, 1.0
        )
        score = float((seen * weight).mean())
        if overlap < MIN_OVERLAP or typical < MIN_ANGLE_RAD or score <= 0:
            logger.debug(
                "%s is no source for %s: %.0f %% overlap, rays meet at %.2f degrees",
                name,
                reference,
                100 * overlap,
                np.rad2deg(typical),
            )
            continue
        scores[name] = score
    order = list(scores)
    return sorted(order, key=lambda name: (-scores[name], order.index(name)))


def inverse_depth_planes(
    model: CameraModel,
    source_models: Sequence[CameraModel],
    source_from_reference: Sequence[Rigid3],
    near: float,
    far: float,
    most: int,
    fewest: int = 8,
) -> NDArray[np.float64]:
    """Inverse depths, rising, uniform: neighbours differ by at most a pixel in any source.

    The step is that of the widest source (90th percentile over the pixels that it sees); more
    than `most` planes are never made, and then the step is larger than a pixel.
    """
    q0, q1 = 1.0 / far, 1.0 / near
    grid = view_grid(model, near, far)
    step = (q1 - q0) / (fewest - 1)
    small = 1e-3 * (q1 - q0)
    for other, pose in zip(source_models, source_from_reference, strict=True):
        here = pose.apply(grid)
        seen = visible(other, here)
        if not seen.any():
            continue
        q = 1.0 / grid[seen, 2]
        moved = pose.apply(grid[seen] * (q / (q + small))[:, None])
        shift = np.linalg.norm(other.project(moved) - other.project(here[seen]), axis=1) / small
        shift = shift[np.isfinite(shift)]
        if shift.size:
            step = min(step, 1.0 / max(float(np.percentile(shift, 90.0)), 1e-12))
    count = int(np.clip(np.ceil((q1 - q0) / step) + 1, fewest, most))
    return np.linspace(q0, q1, count)


def visible(model: CameraModel, points_in_camera: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the points (..., 3) lie before the camera and inside its image."""
    pixels = model.project(points_in_camera)
    with np.errstate(invalid="ignore"):
        inside = (pixels >= 0) & (pixels <= np.array([model.width - 1, model.height - 1]))
    return np.asarray(inside.all(axis=-1) & (points_in_camera[..., 2] > 0))


def view_grid(model: CameraModel, near: float, far: float) -> NDArray[np.float64]:
    """Points (M, 3) in the camera: 12 x 9 pixels at six depths, uniform in inverse depth."""
    x = (np.linspace(0, model.width - 1, 12) - model.cx) / model.fx
    y = (np.linspace(0, model.height - 1, 9) - model.cy) / model.fy
    z = 1.0 / np.linspace(1.0 / far, 1.0 / near, 6)
    gz, gy, gx = np.meshgrid(z, y, x, indexing="ij")
    return np.stack([gx * gz, gy * gz, gz], axis=-1).reshape(-1, 3)


def _angles(
    points: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Angle [rad] at each point between the rays to two centres."""
    u, v = a - points, b - points
    cosine = (u * v).sum(axis=1) / np.maximum(
        np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1), 1e-12
    )
    return np.asarray(np.arccos(np.clip(cosine, -1.0, 1.0)))
