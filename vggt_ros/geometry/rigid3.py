"""Rigid transforms in three dimensions.

A transform is named by its direction, `target_from_source`, so that products chain:
`map_from_camera = map_from_rig @ rig_from_camera`. Quaternions are xyzw everywhere, as in ROS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_ORTHONORMAL_TOLERANCE = 1e-4
"""Largest deviation of R R^T from the identity that is taken for rounding of a text file."""


@dataclass(frozen=True, eq=False)
class Rigid3:
    """`target_from_source`: rotation (3, 3) and translation (3,), float64.

    The constructor accepts a rotation that is orthonormal up to the rounding of a text file
    and makes it exact; anything farther off is a `ValueError`.
    """

    rotation: Array
    translation: Array

    def __post_init__(self) -> None:
        rotation = np.array(self.rotation, np.float64)
        translation = np.array(self.translation, np.float64).reshape(-1)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise ValueError(
                f"rigid transform: expected rotation (3, 3) and translation (3,), got "
                f"{rotation.shape} and {translation.shape}"
            )
        if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
            raise ValueError("rigid transform: expected finite numbers, got NaN or infinity")
        deviation = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if deviation > _ORTHONORMAL_TOLERANCE or np.linalg.det(rotation) < 0:
            raise ValueError(
                f"rigid transform: expected a rotation, got a matrix with determinant "
                f"{np.linalg.det(rotation):.4g} and R R^T off by {deviation:.2g}"
            )
        if deviation > 1e-14:
            rotation = nearest_rotation(rotation)
        rotation.flags.writeable = False
        translation.flags.writeable = False
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @staticmethod
    def identity() -> Rigid3:
        """The transform that changes nothing."""
        return Rigid3(np.eye(3), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: ArrayLike) -> Rigid3:
        """From (4, 4) or (3, 4), last row 0 0 0 1 if given."""
        m = np.asarray(matrix, np.float64)
        if m.shape not in ((4, 4), (3, 4)):
            raise ValueError(f"rigid transform: expected shape (4, 4) or (3, 4), got {m.shape}")
        if m.shape == (4, 4) and not np.allclose(m[3], [0, 0, 0, 1]):
            raise ValueError(f"rigid transform: expected last row 0 0 0 1, got {m[3].tolist()}")
        return Rigid3(m[:3, :3], m[:3, 3])

    @staticmethod
    def from_quaternion(xyzw: ArrayLike, translation: ArrayLike) -> Rigid3:
        """From a quaternion xyzw of length 1 (within 1 %) and a translation."""
        return Rigid3(rotation_from_quaternion(xyzw), np.asarray(translation, np.float64))

    @staticmethod
    def from_rotation_vector(
        vector: ArrayLike, translation: ArrayLike = (0.0, 0.0, 0.0)
    ) -> Rigid3:
        """From an axis times angle [rad] and a translation."""
        return Rigid3(rotation_from_vector(vector), np.asarray(translation, np.float64))

    @property
    def matrix(self) -> Array:
        """(4, 4) float64."""
        m = np.eye(4)
        m[:3, :3] = self.rotation
        m[:3, 3] = self.translation
        return m

    @property
    def quaternion_xyzw(self) -> Array:
        """(4,), w >= 0."""
        return quaternion_from_rotation(self.rotation)

    @property
    def angle_rad(self) -> float:
        """Rotation angle in [0, pi]."""
        return rotation_angle(self.rotation)

    def inverse(self) -> Rigid3:
        """`source_from_target`."""
        return Rigid3(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Rigid3) -> Rigid3:
        """`a_from_b @ b_from_c` is `a_from_c`."""
        if not isinstance(other, Rigid3):
            return NotImplemented
        return Rigid3(
            nearest_rotation(self.rotation @ other.rotation),
            self.rotation @ other.translation + self.translation,
        )

    def apply(self, points: ArrayLike) -> Array:
        """Points (..., 3) in source to points (..., 3) in target, float64."""
        return np.asarray(np.asarray(points, np.float64) @ self.rotation.T + self.translation)


def nearest_rotation(matrix: ArrayLike) -> Array:
    """The rotation nearest to a (3, 3) matrix in the Frobenius norm (SVD, Umeyama 1991)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64))
    sign = np.sign(np.linalg.det(u @ vt))
    return np.asarray(u @ np.diag([1.0, 1.0, sign]) @ vt)


def rotation_angle(rotation: ArrayLike) -> float:
    """Angle of a rotation matrix in [0, pi] rad, exact near 0 and near pi."""
    r = np.asarray(rotation, np.float64)
    sine = 0.5 * math.sqrt(
        (r[2, 1] - r[1, 2]) ** 2 + (r[0, 2] - r[2, 0]) ** 2 + (r[1, 0] - r[0, 1]) ** 2
    )
    return math.atan2(sine, 0.5 * (float(np.trace(r)) - 1.0))


def rotation_from_vector(vector: ArrayLike) -> Array:
    """Rodrigues: axis times angle [rad] to (3, 3)."""
    v = np.asarray(vector, np.float64).reshape(3)
    angle = float(np.linalg.norm(v))
    cross = skew(v)
    if angle < 1e-8:  # second-order series; the next term is below 1e-24
        return np.asarray(np.eye(3) + cross + 0.5 * cross @ cross)
    a = math.sin(angle) / angle
    b = (1 - math.cos(angle)) / angle**2
    return np.asarray(np.eye(3) + a * cross + b * cross @ cross)


def skew(vector: ArrayLike) -> Array:
    """(3, 3) whose product with a vector is the cross product `vector x ...`."""
    x, y, z = np.asarray(vector, np.float64).reshape(3)
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_vector(rotation: ArrayLike) -> Array:
    """Axis times angle [rad] of a rotation below pi, (3,); undoes `rotation_from_vector`."""
    r = np.asarray(rotation, np.float64)
    axis = 0.5 * np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    sine = float(np.linalg.norm(axis))
    angle = math.atan2(sine, 0.5 * (float(np.trace(r)) - 1.0))
    return np.asarray(axis * (angle / sine if sine > 1e-12 else 1.0))


def rotation_from_quaternion(xyzw: ArrayLike) -> Array:
    """(3, 3) from a quaternion xyzw; a norm off by more than 1 % is a `ValueError`."""
    q = np.asarray(xyzw, np.float64).reshape(-1)
    if q.shape != (4,) or not np.isfinite(q).all():
        raise ValueError(f"quaternion xyzw: expected 4 finite numbers, got {q.tolist()}")
    norm = float(np.linalg.norm(q))
    if abs(norm - 1) > 0.01:
        raise ValueError(f"quaternion xyzw: expected length 1, got {norm:.4g} for {q.tolist()}")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: ArrayLike) -> Array:
    """Quaternion xyzw with w >= 0 of a (3, 3) rotation (Shepperd's method: largest pivot)."""
    r = np.asarray(rotation, np.float64)
    squares = np.array(
        [
            1 + r[0, 0] - r[1, 1] - r[2, 2],
            1 - r[0, 0] + r[1, 1] - r[2, 2],
            1 - r[0, 0] - r[1, 1] + r[2, 2],
            1 + r[0, 0] + r[1, 1] + r[2, 2],
        ]
    )
    k = int(np.argmax(squares))
    a, b, c = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    d, e, f = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
    rows = [[squares[0], d, e, a], [d, squares[1], f, b], [e, f, squares[2], c]]
    q = np.array([*rows, [a, b, c, squares[3]]][k])
    q /= np.linalg.norm(q)
    return q if q[3] >= 0 else -q


def interpolate(a: Rigid3, b: Rigid3, fraction: float) -> Rigid3:
    """Between two poses: the translation linear, the rotation at a constant rate (slerp).

    Args:
        a: where `fraction` is 0.
        b: where it is 1.
        fraction: in [0, 1].

    Raises:
        ValueError: a fraction outside of it; nothing is extrapolated.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"interpolate: expected a fraction in [0, 1], got {fraction}")
    if fraction in (0.0, 1.0):
        return b if fraction else a
    qa, qb = quaternion_from_rotation(a.rotation), quaternion_from_rotation(b.rotation)
    cosine = float(qa @ qb)
    if cosine < 0:  # the shorter way round
        qb, cosine = -qb, -cosine
    sine = float(np.linalg.norm(qb - cosine * qa))
    angle = math.atan2(sine, cosine)
    if sine < 1e-9:  # both weights tend to these; the next term is below 1e-18
        weights = 1 - fraction, fraction
    else:
        weights = math.sin((1 - fraction) * angle) / sine, math.sin(fraction * angle) / sine
    q = weights[0] * qa + weights[1] * qb
    translation = (1 - fraction) * a.translation + fraction * b.translation
    return Rigid3(rotation_from_quaternion(q / np.linalg.norm(q)), translation)
