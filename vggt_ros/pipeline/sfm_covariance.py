"""How sure a bundle adjustment is of its cameras; numpy only.

The covariance of camera poses depends on what is held fixed. Here it is the points: the covariance
is that of the poses after the scene has been laid on its points as well as a similarity can. So
the length of a baseline is uncertain against the size of the scene, which is what a scale taken
from that baseline is worth. (Free network adjustment: Triggs et al., "Bundle adjustment: a modern
synthesis", 1999, section 9.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.types import Float64

_PRINCIPAL_POINT = 0.01
"""Prior standard deviation of an unknown principal point over the focal length."""

_DISTORTION = 0.1
"""Prior standard deviation of an unknown k1."""

_SELF_CALIBRATION = 3.0
"""Poses with estimated intrinsics are this much less certain than their covariance says: on eight
sets of four images of 88 degrees the scale was off by up to 6 %, where it said 0.7 to 1 %."""

_MAX_POINTS = 4000
"""More points are thinned out and the information of the rest is multiplied accordingly."""


@dataclass(frozen=True, eq=False)
class Observations:
    """What a bundle adjustment was made of.

    `camera_from_scene` (V, 3, 4), `points` (M, 3) in scene; per view `rows` (n,) into points,
    `pixels` (n, 2) [px], `errors` (n, 2) [px]; `intrinsics` (V, 2): mean focal length [px] and
    k1; `groups` (V,): views of one number share unknown intrinsics, -1: they are known. An
    unknown principal point counts as uncertain whether it was refined or not.
    """

    camera_from_scene: Float64
    points: Float64
    rows: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]
    errors: Sequence[Float64]
    intrinsics: Float64
    groups: Sequence[int]


def pose_covariance(observations: Observations) -> Float64 | None:
    """Covariance (6V, 6V) of the poses with the points held as a whole.

    Per view three numbers of the centre [scene units] along the axes of the scene and three of
    the rotation [rad] about the axes of the camera. The noise of the pixels is that of the
    residuals.

    Returns:
        None where there are fewer observations than unknowns.
    """
    o = _thinned(observations)
    if o is None:
        return None
    observations, factor = o
    points, views = observations.points, len(observations.camera_from_scene)
    groups = sorted({g for g in observations.groups if g >= 0})
    unknowns = 6 * views + 4 * len(groups)
    u = np.zeros((unknowns, unknowns))
    v = np.zeros((unknowns, len(points), 3))
    w = np.zeros((len(points), 3, 3))
    size = _scene_size(points)
    for k in range(views):
        rows = observations.rows[k]
        pose_part, intrinsic_part, point_part = _jacobians(observations, k)
        at = list(range(6 * k, 6 * k + 6))
        jacobian = pose_part
        if observations.groups[k] >= 0:
            first = 6 * views + 4 * groups.index(observations.groups[k])
            at += range(first, first + 4)
            jacobian = np.concatenate([pose_part, intrinsic_part], axis=2)
        u[np.ix_(np.array(at), np.array(at))] += np.einsum("nij,nik->jk", jacobian, jacobian)
        v[np.ix_(np.array(at), rows)] += np.einsum("nij,nik->jnk", jacobian, point_part)
        w[rows] += np.einsum("nij,nik->njk", point_part, point_part)
    count = 2 * sum(len(rows) for rows in observations.rows)
    freedom = count - unknowns - 3 * len(points) + 7
    if freedom < 1:
        return None
    variance = _pixel_variance(observations) / factor
    if groups:
        variance *= _SELF_CALIBRATION**2
    focals = [observations.intrinsics[observations.groups.index(g), 0] for g in groups]
    for k, focal in enumerate(focals):
        first = 6 * views + 4 * k
        sigmas = np.array([focal, _DISTORTION, *[_PRINCIPAL_POINT * focal] * 2])
        u[range(first, first + 4), range(first, first + 4)] += variance / sigmas**2
    variance = _pixel_variance(observations) / factor
    if groups:
        variance *= _SELF_CALIBRATION**2
    focals = [observations.intrinsics[observations.groups.index(g), 0] for g in groups]
    for k, focal in enumerate(focals):
        first = 6 * views + 4 * k
        sigmas = np.array([focal, _DISTORTION, *[_PRINCIPAL_POINT * focal] * 2])
        u[range(first, first + 4), range(first, first + 4)] += variance / sigmas**2
    w += 1e-12 * np.trace(w, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    inverse = np.linalg.inv(w)
    vw = np.einsum("amj,mjk->amk", v, inverse)
    schur = u - vw.reshape(unknowns, -1) @ v.reshape(unknowns, -1).T
    # Unknowns of like size; then the similarities, which no image sees, are held.
    units = np.ones(unknowns)
    units[: 6 * views] = np.tile([size] * 3 + [1.0] * 3, views)
    units[6 * views :] = np.ravel([[focal, 1.0, focal, focal] for focal in focals])
    unseen = np.zeros((unknowns, 7))
    unseen[: 6 * views] = _similarity_of_views(observations)
    unseen = np.linalg.qr(unseen / units[:, None])[0]
    schur *= np.outer(units, units)
    held = schur + np.trace(schur) / unknowns * unseen @ unseen.T
    generalised = np.linalg.inv(held) * np.outer(units, units)
    on_poses, on_points = _held_by_points(observations)
    right = np.zeros((unknowns, 6 * views))
    right[: 6 * views] = on_poses.T
    reduced = right - np.einsum("amk,cmk->ac", vw, on_points)
    point_term = np.einsum("amj,mjk,bmk->ab", on_points, inverse, on_points)
    covariance = variance * (reduced.T @ generalised @ reduced + point_term)
    return np.asarray(0.5 * (covariance + covariance.T))


def _jacobians(o: Observations, k: int) -> tuple[Float64, Float64, Float64]:
    """Of pixels by centre and rotation (n, 2, 6), by f, k1, cx and cy (n, 2, 4), by points."""
    rotation, translation = o.camera_from_scene[k, :, :3], o.camera_from_scene[k, :, 3]
    x, y, z = (o.points[o.rows[k]] @ rotation.T + translation).T
    f, k1 = o.intrinsics[k]
    a, b = x / z, y / z
    r2 = a * a + b * b
    d = 1 + k1 * r2
    one, zero = np.ones_like(a), np.zeros_like(a)
    by_ab = f * np.stack(
        [
            np.stack([d + 2 * k1 * a * a, 2 * k1 * a * b], axis=1),
            np.stack([2 * k1 * a * b, d + 2 * k1 * b * b], axis=1),
        ],
        axis=1,
    )
    ab_by_camera = np.stack(
        [np.stack([one, zero, -a], axis=1), np.stack([zero, one, -b], axis=1)], axis=1
    )
    by_camera = by_ab @ (ab_by_camera / z[:, None, None])
    # A small turn t of the camera's axes moves a point by t x point.
    cross = np.stack(
        [
            np.stack([zero, z, -y], axis=1),
            np.stack([-z, zero, x], axis=1),
            np.stack([y, -x, zero], axis=1),
        ],
        axis=1,
    )
    by_point = by_camera @ rotation
    by_pose = np.concatenate([-by_point, by_camera @ cross], axis=2)
    by_intrinsics = np.stack(
        [
            np.stack([d * a, f * r2 * a, one, zero], axis=1),
            np.stack([d * b, f * r2 * b, zero, one], axis=1),
        ],
        axis=1,
    )
    return by_pose, by_intrinsics, by_point


def _held_by_points(o: Observations) -> tuple[Float64, Float64]:
    """The linear map from changes of poses and points to changes of the poses on held points.

    Returns:
        (6V, 6V) on the poses, (6V, M, 3) on the points.
    """
    views = len(o.camera_from_scene)
    rotations = o.camera_from_scene[:, :, :3]
    centres = -np.einsum("vji,vj->vi", rotations, o.camera_from_scene[:, :, 3])
    middle = np.median(o.points, axis=0)
    on_points = _similarity_basis(o.points - middle)
    # The place of a point is uncertain by the square of its distance.
    weights = 1.0 / _distances(o.points, centres) ** 4
    normal = np.einsum("m,mik,mil->kl", weights, on_points, on_points)
    fit = np.linalg.solve(
        normal, np.einsum("m,mik->kmi", weights, on_points).reshape(7, -1)
    ).reshape(7, -1, 3)
    return np.eye(6 * views), -np.einsum("ak,kmi->ami", _similarity_of_views(o), fit)


def _similarity_of_views(o: Observations) -> Float64:
    """Motion (6V, 7) of the poses by shift, turn and growth about the middle of the points."""
    rotations = o.camera_from_scene[:, :, :3]
    centres = -np.einsum("vji,vj->vi", rotations, o.camera_from_scene[:, :, 3])
    on_centres = _similarity_basis(centres - np.median(o.points, axis=0))
    on_views = np.zeros((6 * len(rotations), 7))
    for k, rotation in enumerate(rotations):
        on_views[6 * k : 6 * k + 3] = on_centres[k]
        # The scene turned by t turns the camera's axes, seen from the camera, by -R t.
        on_views[6 * k + 3 : 6 * k + 6, 3:6] = -rotation
    return on_views


def _similarity_basis(points: Float64) -> Float64:
    """Motion (N, 3, 7) of points by shift, turn and growth."""
    basis = np.zeros((len(points), 3, 7))
    basis[:, :, :3] = np.eye(3)
    x, y, z = points.T
    basis[:, 0, 4], basis[:, 0, 5] = z, -y
    basis[:, 1, 3], basis[:, 1, 5] = -z, x
    basis[:, 2, 3], basis[:, 2, 4] = y, -x
    basis[:, :, 6] = points
    return basis


def _distances(points: Float64, centres: Float64) -> Float64:
    """Of the points from the middle of the cameras; bounded, so that no few points decide."""
    distances = np.linalg.norm(points - centres.mean(axis=0), axis=1)
    return np.asarray(np.maximum(distances, 0.5 * np.median(distances)))


def _scene_size(points: Float64) -> float:
    return float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1))) or 1.0


def _pixel_variance(o: Observations) -> float:
    """Variance of one pixel coordinate; bundle adjustment has made the residuals smaller."""
    errors = np.concatenate([np.ravel(e) for e in o.errors])
    unknowns = 6 * len(o.camera_from_scene) + 3 * len(o.points)
    shrink = max(len(errors) - unknowns, 1) / len(errors)
    return float(np.mean(errors**2)) / shrink


def _thinned(o: Observations) -> tuple[Observations, float] | None:
    """At most `_MAX_POINTS` points, and the part of them that is kept."""
    if not len(o.points):
        return None
    step = -(-len(o.points) // _MAX_POINTS)
    if step == 1:
        return o, 1.0
    place = np.full(len(o.points), -1, np.int64)
    chosen = np.arange(0, len(o.points), step)
    place[chosen] = np.arange(len(chosen))
    rows, errors = [], []
    for row, error in zip(o.rows, o.errors, strict=True):
        kept = place[row] >= 0
        rows.append(place[row][kept])
        errors.append(error[kept])
    thinned = Observations(
        o.camera_from_scene, o.points[chosen], rows, errors, o.intrinsics, o.groups
    )
    return thinned, len(o.points) / len(chosen)
