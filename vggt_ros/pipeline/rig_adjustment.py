"""Points, and on request better poses, for cameras whose places are known approximately.

Feature tracks are triangulated with the given poses. The adjustment then minimises

    sum rho(|reprojection error| / sigma_px) + sum |turn from the given one|^2 / sigma_rotation^2
                                             + sum |shift from the given one|^2 / sigma_centre^2

over poses and points, by Gauss-Newton with the points eliminated (Triggs et al., "Bundle
adjustment: a modern synthesis", 1999, section 6.1) and Cauchy weights. The priors hold what
images cannot tell: scale, place and heading of the whole rig, and the slide between a turn and
a shift of cameras that are close together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_from_vector, rotation_vector
from vggt_ros.types import Float64

Ints = NDArray[np.int64]

_ROBUST_SCALES_PX = (20.0, 10.0, 5.0, 3.0, 2.0, 2.0, 2.0, 2.0)
"""Scale of the Cauchy weights in each turn: poses may be off by a degree at first."""
_SIGMA_PX = 0.7
"""SIFT on real images; what is left after bundle adjustment is 0.4 to 0.9 px."""
_MAX_ERROR_PX = 4.0
_MIN_ANGLE_RAD = np.deg2rad(1.0)
"""Rays that are closer to parallel say nothing about the distance."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """K observations: `views` (K,), `tracks` (K,) in [0, count), `pixels` (K, 2)."""

    views: Ints
    tracks: Ints
    pixels: Float64
    count: int

    def selected(self, keep: NDArray[np.bool_]) -> Tracks:
        """Only some tracks, numbered anew; `keep` (count,)."""
        number = np.cumsum(keep) - 1
        rows = keep[self.tracks]
        return Tracks(
            self.views[rows], number[self.tracks[rows]], self.pixels[rows], int(keep.sum())
        )


def tracks_from_matches(
    keypoints: Sequence[Float64], matches: Mapping[tuple[int, int], Ints]
) -> Tracks:
    """Join pairwise matches to tracks; a track that meets a view twice is left out.

    Args:
        keypoints: per view pixels (n, 2).
        matches: per pair of views (i, j) rows (m, 2) into their keypoints.
    """
    first = np.concatenate([[0], np.cumsum([len(k) for k in keypoints])]).astype(np.int64)
    parent = np.arange(first[-1])

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for (i, j), rows in sorted(matches.items()):
        for a, b in rows:
            ra, rb = root(int(first[i] + a)), root(int(first[j] + b))
            parent[max(ra, rb)] = min(ra, rb)
    roots = np.array([root(k) for k in range(int(first[-1]))], np.int64)
    views = np.repeat(np.arange(len(keypoints)), [len(k) for k in keypoints])
    pixels = np.concatenate([np.zeros((0, 2)), *keypoints])
    size = np.bincount(roots, minlength=len(roots))
    rows = np.flatnonzero(size[roots] > 1)
    _, number = np.unique(roots[rows], return_inverse=True)
    count = int(number.max()) + 1 if len(rows) else 0
    tracks = Tracks(views[rows], number.astype(np.int64), pixels[rows], count)
    if not count:
        return tracks
    pairs = tracks.tracks * len(keypoints) + tracks.views
    _, inverse, times = np.unique(pairs, return_inverse=True, return_counts=True)
    keep = np.ones(count, bool)
    keep[tracks.tracks[times[inverse] > 1]] = False
    return tracks.selected(keep)


def triangulate(
    tracks: Tracks, models: Sequence[CameraModel], rig_from_camera: Sequence[Rigid3]
) -> Float64:
    """Points (count, 3) in rig nearest to their rays; NaN where the rays are near parallel."""
    origins, rays = _rays(tracks, models, rig_from_camera)
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    normal = np.zeros((tracks.count, 3, 3))
    right = np.zeros((tracks.count, 3))
    np.add.at(normal, tracks.tracks, across)
    np.add.at(right, tracks.tracks, np.einsum("nij,nj->ni", across, origins))
    # The smallest eigenvalue is the sum of squared sines to the best common direction.
    size = np.bincount(tracks.tracks, minlength=tracks.count)
    spread = np.linalg.eigvalsh(normal)[:, 0] / np.maximum(size, 1)
    good = spread > (0.5 * np.sin(_MIN_ANGLE_RAD)) ** 2
    points = np.full((tracks.count, 3), np.nan)
    points[good] = np.linalg.solve(normal[good], right[good][..., None])[..., 0]
    return points


def consistent(
    tracks: Tracks,
    points: Float64,
    models: Sequence[CameraModel],
    rig_from_camera: Sequence[Rigid3],
    max_error_px: float = _MAX_ERROR_PX,
) -> NDArray[np.bool_]:
    """Tracks (count,) whose point lies before all its cameras and projects near its pixels."""
    error, _ = _errors(tracks, points, models, rig_from_camera)
    worst = np.zeros(tracks.count)
    np.maximum.at(worst, tracks.tracks, np.nan_to_num(error, nan=np.inf))
    return worst <= max_error_px


def adjust(
    tracks: Tracks,
    models: Sequence[CameraModel],
    given: Sequence[Rigid3],
    rotation_sigma_rad: float,
    centre_sigma_m: float,
) -> list[Rigid3]:
    """The poses `rig_from_camera` that fit the images and stay within the sigmas of `given`."""
    poses = list(given)
    for scale_px in _ROBUST_SCALES_PX:
        points = triangulate(tracks, models, poses)
        usable = np.isfinite(points).all(axis=1)
        usable &= consistent(tracks, points, models, poses, 5 * scale_px)
        part = tracks.selected(usable)
        if not part.count:
            return poses
        step = _gauss_newton(
            part, points[usable], models, poses, given, scale_px,
            (rotation_sigma_rad, centre_sigma_m),
        )  # fmt: skip
        poses = [
            Rigid3(
                nearest_rotation(p.rotation @ rotation_from_vector(d[:3])), p.translation + d[3:]
            )
            for p, d in zip(poses, step, strict=True)
        ]
    return poses


def _gauss_newton(
    tracks: Tracks,
    points: Float64,
    models: Sequence[CameraModel],
    poses: Sequence[Rigid3],
    given: Sequence[Rigid3],
    scale_px: float,
    sigmas: tuple[float, float],
) -> Float64:
    """One step (V, 6): turn about the camera's axes [rad] and shift of its centre in rig [m]."""
    views = len(poses)
    _, residual = _errors(tracks, points, models, poses)
    weight = 1 / (1 + (residual**2).sum(axis=1) / scale_px**2) / _SIGMA_PX**2
    pose_part, point_part = _jacobians(tracks, points, models, poses)
    u = np.zeros((views, 6, 6))
    g = np.zeros((views, 6))
    v = np.zeros((tracks.count, 3, 3))
    h = np.zeros((tracks.count, 3))
    w = np.zeros((views, tracks.count, 6, 3))
    weighted = weight[:, None, None]
    np.add.at(u, tracks.views, np.einsum("nij,nik->njk", weighted * pose_part, pose_part))
    np.add.at(g, tracks.views, np.einsum("nij,ni->nj", weighted * pose_part, residual))
    np.add.at(v, tracks.tracks, np.einsum("nij,nik->njk", weighted * point_part, point_part))
    np.add.at(h, tracks.tracks, np.einsum("nij,ni->nj", weighted * point_part, residual))
    cross = np.einsum("nij,nik->njk", weighted * pose_part, point_part)
    np.add.at(w, (tracks.views, tracks.tracks), cross)
    prior = np.diag([1 / sigmas[0] ** 2] * 3 + [1 / sigmas[1] ** 2] * 3)
    for k, (pose, known) in enumerate(zip(poses, given, strict=True)):
        turn = rotation_vector(known.rotation.T @ pose.rotation)
        u[k] += prior
        g[k] += prior @ np.concatenate([turn, pose.translation - known.translation])
    v += 1e-9 * np.trace(v, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    inverse = np.linalg.inv(v)
    wv = np.einsum("amij,mjk->amik", w, inverse)
    schur = -np.einsum("amij,bmkj->aibk", wv, w)
    for k in range(views):
        schur[k, :, k] += u[k]
    right = g - np.einsum("amij,mj->ai", wv, h)
    step = -np.linalg.solve(schur.reshape(6 * views, -1), right.ravel())
    return np.asarray(step.reshape(views, 6))


def _jacobians(
    tracks: Tracks, points: Float64, models: Sequence[CameraModel], poses: Sequence[Rigid3]
) -> tuple[Float64, Float64]:
    """Of the projected pixels by the pose (K, 2, 6) and by the point (K, 2, 3)."""
    rotations = np.array([p.rotation for p in poses])[tracks.views]
    x = _in_camera(tracks, points, poses)
    focal = np.array([[m.fx, m.fy] for m in models])[tracks.views]
    z = x[:, 2]
    projection = np.zeros((len(x), 2, 3))
    projection[:, 0, 0] = focal[:, 0] / z
    projection[:, 1, 1] = focal[:, 1] / z
    projection[:, 0, 2] = -focal[:, 0] * x[:, 0] / z**2
    projection[:, 1, 2] = -focal[:, 1] * x[:, 1] / z**2
    turn = np.zeros((len(x), 3, 3))
    turn[:, 0, 1], turn[:, 0, 2], turn[:, 1, 2] = -x[:, 2], x[:, 1], -x[:, 0]
    turn -= turn.transpose(0, 2, 1)
    by_point = projection @ rotations.transpose(0, 2, 1)
    return np.concatenate([projection @ turn, -by_point], axis=2), by_point


def _errors(
    tracks: Tracks, points: Float64, models: Sequence[CameraModel], poses: Sequence[Rigid3]
) -> tuple[Float64, Float64]:
    """Lengths (K,) and components (K, 2) of projected minus seen; NaN behind the camera."""
    x = _in_camera(tracks, points, poses)
    intrinsics = np.array([[m.fx, m.fy, m.cx, m.cy] for m in models])[tracks.views]
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = np.where(x[:, 2:] > 0, x[:, :2] / x[:, 2:], np.nan)
    residual = intrinsics[:, :2] * xy + intrinsics[:, 2:] - tracks.pixels
    return np.linalg.norm(residual, axis=1), residual


def _in_camera(tracks: Tracks, points: Float64, poses: Sequence[Rigid3]) -> Float64:
    rotations = np.array([p.rotation for p in poses])[tracks.views]
    centres = np.array([p.translation for p in poses])[tracks.views]
    return np.asarray(np.einsum("nji,nj->ni", rotations, points[tracks.tracks] - centres))


def _rays(
    tracks: Tracks, models: Sequence[CameraModel], poses: Sequence[Rigid3]
) -> tuple[Float64, Float64]:
    """Origins and unit directions (K, 3) in rig."""
    intrinsics = np.array([[m.fx, m.fy, m.cx, m.cy] for m in models])[tracks.views]
    rays = np.ones((len(tracks.views), 3))
    rays[:, :2] = (tracks.pixels - intrinsics[:, 2:]) / intrinsics[:, :2]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    rotations = np.array([p.rotation for p in poses])[tracks.views]
    centres = np.array([p.translation for p in poses])[tracks.views]
    return centres, np.einsum("nij,nj->ni", rotations, rays)
