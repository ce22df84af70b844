"""How one scene lies in another that shares views with it: a robust Sim(3) of shared points.

Two scenes that hold the same image know the same surfaces. Where both have depth for it, every
pixel is a pair of points; where they are sparse, points that fall on the same pixel of a shared
image are. Points carry scale far better than the few centres of the shared views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Sim3
from vggt_ros.geometry.robust import fit_similarity
from vggt_ros.types import Float32, Float64, UnscaledScene, View

Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

_SAME_PIXEL_PX = 1.0
"""Points of two scenes nearer than this in a shared image are the same; SIFT structure from
motion reprojects to 0.3-0.5 px."""
_DENSE_SAMPLES = 2000
"""Pixels that a shared view with depth gives."""
_DENSE_CONFIDENCE = 0.5
_INLIER = 0.03
"""Of the distance from the camera: farther apart is another point. Between windows of twelve
hand-held views 70-95 % of the pairs were within it."""
_LEAST_PAIRS = 30
_LEAST_INLIERS = 0.4
_TRIES = 500
_AXIS = 3.0
"""Of the size of a window's path."""
_SAMPLE = 4
_REFITS = 10


@dataclass(frozen=True, eq=False)
class Join:
    """Where scene `b` lies in scene `a`."""

    a_from_b: Sim3
    points_in_a: Float64
    """(N, 3) inliers, in the unit of a."""
    points_in_b: Float64
    """(N, 3) the same points, in the unit of b."""
    distances_in_a: Float64
    """(N,) of each point from the shared view that saw it: errors grow with it."""
    shared_views: int
    inlier_fraction: float


def join_scenes(a: UnscaledScene, b: UnscaledScene, seed: int = 0) -> Join:
    """Find where scene `b` lies in scene `a`, from the views that both hold.

    Raises:
        AlignmentError: no shared view, too few shared points, or no similarity that most of
            them agree on; the message counts.
    """
    shared = list(_shared_views(a, b))
    if not shared:
        raise AlignmentError("join: expected scenes that share views, got none in common")
    in_a, in_b, distances = _shared_points(a, b, shared)
    if len(in_a) < _LEAST_PAIRS:
        raise AlignmentError(
            f"join: expected at least {_LEAST_PAIRS} points that both scenes see, got "
            f"{len(in_a)} in {len(shared)} shared views; let windows overlap more"
        )
    a_from_b, inlier = _robust_similarity(in_b, in_a, _INLIER * distances, seed)
    fraction = float(inlier.mean())
    if fraction < _LEAST_INLIERS:
        raise AlignmentError(
            f"join: expected at least {100 * _LEAST_INLIERS:.0f} % of {len(in_a)} shared points "
            f"to agree on one similarity, got {100 * fraction:.0f} %"
        )
    return Join(a_from_b, in_a[inlier], in_b[inlier], distances[inlier], len(shared), fraction)


def sure_depth(view: View) -> Float32 | None:
    """The depth of a view with NaN where joins would not use it for want of confidence."""
    if view.depth is None or view.confidence is None:
        return view.depth
    return np.where(view.confidence >= _DENSE_CONFIDENCE, view.depth, np.float32(np.nan))


def join_poses(a: UnscaledScene, b: UnscaledScene, a_per_b: float) -> Join:
    """Find where scene `b` lies in scene `a` by the poses of shared views.

    Weaker than points, and the only way where there are none: each shared view gives six points
    on its axes, `_AXIS` away.

    Args:
        a, b: scenes.
        a_per_b: units of `a` in one of `b`.

    Raises:
        AlignmentError: no view is shared.
    """
    shared = list(_shared_views(a, b))
    if not shared:
        raise AlignmentError("join: expected scenes that share views, got none in common")
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    size = _AXIS * max(_size_of(a), a_per_b * _size_of(b), np.finfo(float).tiny)
    in_a = np.concatenate([u.scene_from_camera.apply(size * axes) for u, _ in shared])
    in_b = np.concatenate([v.scene_from_camera.apply(size / a_per_b * axes) for _, v in shared])
    fitted = fit_similarity(in_b, in_a)
    return Join(fitted, in_a, in_b, np.full(len(in_a), size), len(shared), 1.0)


def _size_of(scene: UnscaledScene) -> float:
    """Largest distance of a camera from the first."""
    centres = np.array([view.scene_from_camera.translation for view in scene.views])
    return float(np.linalg.norm(centres - centres[0], axis=1).max())


def _shared_views(a: UnscaledScene, b: UnscaledScene) -> Iterator[tuple[View, View]]:
    of_b = {(view.camera, view.stamp_ns): view for view in b.views}
    for view in a.views:
        if (view.camera, view.stamp_ns) in of_b:
            yield view, of_b[view.camera, view.stamp_ns]


def _shared_points(
    a: UnscaledScene, b: UnscaledScene, shared: list[tuple[View, View]]
) -> tuple[Float64, Float64, Float64]:
    """Points in a, the same in b, and their distances in a."""
    dense = [_dense_pairs(u, v) for u, v in shared if u.depth is not None and v.depth is not None]
    if dense:
        in_a, in_b, distances = (np.concatenate(part) for part in zip(*dense, strict=True))
        return in_a, in_b, distances
    rows = [_sparse_pairs(a, u, b, v) for u, v in shared]
    pairs = np.concatenate([row[0] for row in rows])
    depths = np.concatenate([row[1] for row in rows])
    found, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    # By chance two points fall on one pixel of one view, hardly on those of two.
    keep = counts >= min(2, len(shared))
    return a.points[found[keep, 0]], b.points[found[keep, 1]], depths[first[keep]]


def _dense_pairs(u: View, v: View) -> tuple[Float64, Float64, Float64]:
    """Evenly thinned pixels where both scenes have sure depth of a shared view."""
    assert u.depth is not None  # for the type checker: the caller has looked
    assert v.depth is not None
    model = u.depth_model or u.model
    if v.depth.shape != u.depth.shape:
        raise AlignmentError(
            f"join: camera '{u.camera}': expected depth of one size in both scenes, got "
            f"{u.depth.shape} and {v.depth.shape}"
        )
    sure = np.isfinite(u.depth) & np.isfinite(v.depth)
    for confidence in (u.confidence, v.confidence):
        if confidence is not None:
            sure &= confidence >= _DENSE_CONFIDENCE
    chosen = np.flatnonzero(sure)
    chosen = chosen[:: max(len(chosen) // _DENSE_SAMPLES, 1)]
    in_u = model.unproject(u.depth).reshape(-1, 3)[chosen]
    in_v = (v.depth_model or v.model).unproject(v.depth).reshape(-1, 3)[chosen]
    return u.scene_from_camera.apply(in_u), v.scene_from_camera.apply(in_v), in_u[:, 2]


def _sparse_pairs(a: UnscaledScene, u: View, b: UnscaledScene, v: View) -> tuple[Indices, Float64]:
    """Rows (K, 2) of points of a and b that fall on the same pixel, and their depth in a."""
    rows_a, pixels_a, depth_a = _seen(a.points, u)
    rows_b, pixels_b, _ = _seen(b.points, v)
    nearest, distance = _nearest_pixels(pixels_a, pixels_b, u.model)
    back, _ = _nearest_pixels(pixels_b, pixels_a, u.model)
    chosen = np.flatnonzero(distance <= _SAME_PIXEL_PX)
    chosen = chosen[back[nearest[chosen]] == chosen]
    return np.stack([rows_a[chosen], rows_b[nearest[chosen]]], axis=1), depth_a[chosen]


def _seen(points: Float64, view: View) -> tuple[Indices, Float64, Float64]:
    """Rows of the points inside the image, their pixels (K, 2) and depths (K,)."""
    in_camera = view.scene_from_camera.inverse().apply(points)
    rows = np.flatnonzero(in_camera[:, 2] > 0)
    pixels = view.model.project(in_camera[rows])
    inside = ((pixels > -0.5) & (pixels < np.array(view.model.size) - 0.5)).all(axis=1)
    rows = rows[inside]
    return rows, pixels[inside], in_camera[rows, 2]


def _nearest_pixels(
    pixels: Float64, others: Float64, model: CameraModel
) -> tuple[Indices, Float64]:
    """Index into `others` of the nearest, looked for in the 3x3 pixels around; and how far."""
    table = np.full((model.height + 2, model.width + 2), -1, np.int64)
    cells = np.rint(others).astype(np.int64) + 1
    table[cells[:, 1], cells[:, 0]] = np.arange(len(others))
    index = np.zeros(len(pixels), np.int64)
    best = np.full(len(pixels), np.inf)
    own = np.rint(pixels).astype(np.int64) + 1
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            rows = np.clip(own[:, 1] + dy, 0, model.height + 1)
            columns = np.clip(own[:, 0] + dx, 0, model.width + 1)
            found = table[rows, columns]
            there = np.flatnonzero(found >= 0)
            distance = np.linalg.norm(others[found[there]] - pixels[there], axis=1)
            closer = there[distance < best[there]]
            best[there] = np.minimum(best[there], distance)
            index[closer] = found[closer]
    return index, best


def _robust_similarity(
    source: Float64, target: Float64, thresholds: Float64, seed: int
) -> tuple[Sim3, Mask]:
    """RANSAC, then least squares on the inliers, each weighted by its threshold."""
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(source), (_TRIES, _SAMPLE))
    best = np.zeros(len(source), bool)
    for matrix in _similarities(source[chosen], target[chosen]):
        difference = source @ matrix[:, :3].T + matrix[:, 3] - target
        inlier = (difference**2).sum(axis=1) < thresholds**2
        if np.count_nonzero(inlier) > np.count_nonzero(best):
            best = inlier
    if np.count_nonzero(best) < _SAMPLE:
        return Sim3.identity(), np.zeros(len(source), bool)
    for _ in range(_REFITS):
        fitted = fit_similarity(source[best], target[best], thresholds[best] ** -2)
        inlier = np.linalg.norm(fitted.apply(source) - target, axis=1) < thresholds
        if (inlier == best).all() or np.count_nonzero(inlier) < _SAMPLE:
            break
        best = inlier
    return fitted, best


def _similarities(source: Float64, target: Float64) -> Float64:
    """Umeyama's fit of many small samples (T, K, 3) at once: scale * rotation | translation.

    Samples that coincide or lie on a line give something that nothing agrees with.
    """
    mean_s, mean_t = source.mean(axis=1, keepdims=True), target.mean(axis=1, keepdims=True)
    s, t = source - mean_s, target - mean_t
    u, singular, vt = np.linalg.svd(np.swapaxes(t, 1, 2) @ s)
    sign = np.ones((len(source), 3))
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    variance = np.maximum((s**2).sum(axis=(1, 2)), np.finfo(float).tiny)
    scale = ((singular * sign).sum(axis=1) / variance)[:, None, None]
    turned = scale * rotation
    translation = np.swapaxes(mean_t, 1, 2) - turned @ np.swapaxes(mean_s, 1, 2)
    return np.concatenate([turned, translation], axis=2)
