"""Are the cameras still where the rig file or TF says? Residuals with sigma, camera by camera.

Each camera is compared with where the others expect it: a similarity per frame set, all of one
scale, is fitted to the other cameras by generalised least squares with the covariance of the
reconstruction, and what the camera is off by, in centre and rotation, comes out of the same fit
with its covariance. Who is off by more than its sigmas explain is taken out, the worst first, so
that the healthy ones are judged by healthy ones only.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.config import CheckRigConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_from_vector, rotation_vector, skew
from vggt_ros.pipeline.rig_fit import Bounds, fit_rig, sightings_of
from vggt_ros.pipeline.rig_likelihood import (
    COVARIANCE_INFLATION,
    RIG_NOISE,
    ROTATION_NOISE_RAD,
    Sighting,
)
from vggt_ros.rig import Rig
from vggt_ros.types import Float64, UnscaledScene

_BOUNDS = Bounds(math.radians(5.0), 0.2)
"""Of the first, robust fit: farther cameras take no part in it."""

_LEAST_SIGMA = 1e-4
"""Of the noise where the reconstruction knows none, over the rig's size and in radians."""

_UNSEEN = 1e-9
"""Directions of relatively smaller variance are none: the fit has not determined them."""

_ALONE = 0.5
"""Part of `check_rig.significance` that a centre or a turn must have for itself."""

_ALL_GROUPS = 6
"""Of more cameras not every group is tried."""


class Level(enum.IntEnum):
    """As in RigResidual.msg."""

    OK = 0
    WARN = 1
    ERROR = 2
    UNKNOWN = 3


@dataclass(frozen=True, eq=False)
class CameraCheck:
    """One camera against its place on the rig; NaN and None where it could not be compared."""

    name: str
    level: Level
    centre_m: float
    centre_sigma_m: float
    rotation_rad: float
    rotation_sigma_rad: float
    rig_from_camera: Rigid3 | None
    """The place found [m]."""
    detail: str


@dataclass(frozen=True, eq=False)
class RigCheck:
    """All cameras, in the order of the rig."""

    cameras: tuple[CameraCheck, ...]
    message: str

    @property
    def level(self) -> Level:
        """The worst of the cameras that could be compared; UNKNOWN where none could."""
        known = [c.level for c in self.cameras if c.level is not Level.UNKNOWN]
        return max(known, default=Level.UNKNOWN)

    @property
    def bumped(self) -> tuple[str, ...]:
        """Cameras that are not where the rig says."""
        return tuple(c.name for c in self.cameras if c.level in (Level.WARN, Level.ERROR))


def check_rig(scene: UnscaledScene, rig: Rig, config: CheckRigConfig) -> RigCheck:
    """Compare the cameras of a reconstruction with their places on the rig.

    The scale is that of the rig itself, so two cameras tell only turns and the direction from one
    to the other, and of two nobody knows which was bumped: both are named then.

    Args:
        scene: one frame set or several of a rig that is rigid [scene units].
        rig: the places given [m].
        config: thresholds.

    Returns:
        Residuals with sigmas; `rig_from_camera` as found.

    Raises:
        AlignmentError: fewer than two cameras can be compared, with the reason.
    """
    sightings = sightings_of(scene, rig.poses)
    check_places(rig, {s.camera for s in sightings}, scene.failed)
    fit = fit_rig(sightings, _BOUNDS, scene.pose_covariance, 1.0)
    if fit.no_scale:
        raise AlignmentError(f"check_rig: the cameras cannot be compared: {fit.no_scale}")
    problem = _Problem(sightings, rig.size_m, scene.pose_covariance, fit.rig_from_scene)
    healthy = _healthy(problem, config)
    found = {name: problem.offset(name, healthy - {name}) for name in problem.cameras}
    undecided = len(problem.cameras) == 2
    return _summary(rig, scene, found, config, undecided)


def check_places(rig: Rig, cameras: Collection[str], failed: Sequence[str] = ()) -> None:
    """See that there is something to compare.

    Args:
        rig: the places given.
        cameras: that were found, or may be.
        failed: those that were not.

    Raises:
        AlignmentError: fewer than two of them have a place.
    """
    both = [name for name in rig.poses if name in cameras]
    if len(both) < 2:
        raise AlignmentError(
            "check_rig: expected two or more cameras that have a place on the rig and are "
            f"registered, got {', '.join(both) or 'none'}; the rig (rig file or TF) gives the "
            f"places of {', '.join(rig.poses) or 'none'}; not registered: "
            f"{', '.join(failed) or 'none'}"
        )


@dataclass(frozen=True, eq=False)
class Offset:
    """What turns and moves a camera from its place to where it is found.

    `shift` (3,) [m] and `turn` (3,) [rad] along the axes of the rig, `covariance` (6, 6).
    """

    shift: Float64
    turn: Float64
    covariance: Float64

    @property
    def centre_m(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self.shift))

    @property
    def rotation_rad(self) -> float:
        """Angle of the turn."""
        return float(np.linalg.norm(self.turn))

    @property
    def centre_sigma_m(self) -> float:
        """Standard deviation along the shift."""
        return _along(self.shift, self.covariance[:3, :3])

    @property
    def rotation_sigma_rad(self) -> float:
        """Standard deviation about the axis of the turn."""
        return _along(self.turn, self.covariance[3:, 3:])

    def surprise(self, significance: float) -> float:
        """Mahalanobis' distance over that of so many sigmas of one number.

        In the directions that the images show: two cameras do not tell how far apart they are.
        Quantile of chi square by Wilson and Hilferty, "The distribution of chi-square", 1931.
        """
        units = np.sqrt(np.maximum(np.diag(self.covariance), 1e-300))
        values, axes = np.linalg.eigh(self.covariance / np.outer(units, units))
        seen = values > _UNSEEN * values[-1]
        parts = axes[:, seen].T @ (np.concatenate([self.shift, self.turn]) / units)
        distance = math.sqrt(float((parts**2 / values[seen]).sum()))
        spread = 2 / (9 * int(np.count_nonzero(seen)))
        quantile = np.count_nonzero(seen) * (1 - spread + significance * math.sqrt(spread)) ** 3
        return distance / math.sqrt(float(quantile))

    def moved(self, rig_from_camera: Rigid3) -> Rigid3:
        """The place found, of a camera whose place is given."""
        rotation = rotation_from_vector(self.turn) @ rig_from_camera.rotation
        return Rigid3(nearest_rotation(rotation), rig_from_camera.translation + self.shift)


class _Problem:
    """Residuals of all sightings at a fitted similarity, and their full covariance.

    Per sighting three numbers of the centre [m] and three of the rotation [rad], along the axes
    of the rig: found minus given.
    """

    def __init__(
        self,
        sightings: Sequence[Sighting],
        size_m: float,
        pose_covariance: Float64 | None,
        rig_from_scene: dict[int, Sim3],
    ) -> None:
        self.cameras = tuple(dict.fromkeys(s.camera for s in sightings))
        self._owner = np.array([self.cameras.index(s.camera) for s in sightings])
        sets = sorted({s.frame_set for s in sightings})
        count = len(sightings)
        self._residuals = np.zeros(6 * count)
        self._jacobian = np.zeros((6 * count, 1 + 6 * len(sets)))
        by_pose = np.zeros((6 * count, 6 * count))
        for k, s in enumerate(sightings):
            transform = rig_from_scene[s.frame_set]
            pose = transform.apply_to_pose(s.scene_from_camera)
            turned = transform.scale * transform.rotation @ s.scene_from_camera.translation
            at, first = 6 * k, 1 + 6 * sets.index(s.frame_set)
            self._residuals[at : at + 3] = pose.translation - s.rig_from_camera.translation
            self._residuals[at + 3 : at + 6] = rotation_vector(
                pose.rotation @ s.rig_from_camera.rotation.T
            )
            # scale; turn and shift of the set
            self._jacobian[at : at + 3, 0] = turned
            self._jacobian[at : at + 3, first : first + 3] = -skew(turned)
            self._jacobian[at : at + 3, first + 3 : first + 6] = np.eye(3)
            self._jacobian[at + 3 : at + 6, first : first + 3] = np.eye(3)
            # `pose_covariance`: centres in scene; turns t with camera_from_scene' = exp(t) ...
            by_pose[at : at + 3, at : at + 3] = transform.scale * transform.rotation
            by_pose[at + 3 : at + 6, at + 3 : at + 6] = -pose.rotation
        rows = np.ravel([range(6 * s.view, 6 * s.view + 6) for s in sightings])
        noise = np.zeros((6 * count, 6 * count))
        if pose_covariance is not None:
            noise = by_pose @ pose_covariance[np.ix_(rows, rows)] @ by_pose.T
            noise *= COVARIANCE_INFLATION**2
        floor = np.tile([(_LEAST_SIGMA * size_m) ** 2] * 3 + [_LEAST_SIGMA**2] * 3, count)
        self._covariance = noise + np.diag(floor)
        # one calibration error of a camera is the same in all sets
        same = self._owner[:, None] == self._owner[None, :]
        calibration = np.diag([(RIG_NOISE * size_m) ** 2] * 3 + [ROTATION_NOISE_RAD**2] * 3)
        self._calibration = np.kron(same, calibration)

    def offset(self, name: str, reference: set[str]) -> Offset:
        """What a camera is off by against the reference cameras, which it is not one of."""
        own = self.cameras.index(name)
        used = np.array([o == own or self.cameras[o] in reference for o in self._owner])
        rows = np.flatnonzero(np.repeat(used, 6))
        of_camera = np.kron((self._owner == own)[:, None], np.eye(6))
        jacobian = np.hstack([self._jacobian, of_camera])[rows]
        covariance = self._covariance[np.ix_(rows, rows)].copy()
        known = np.repeat(self._owner != own, 6)
        trusted = self._calibration * np.outer(known, known)  # of its own it is asked
        covariance += trusted[np.ix_(rows, rows)]
        # sets in which no reference camera is seen say nothing: their columns depend on others
        root = np.linalg.cholesky(covariance)
        whitened = np.linalg.solve(root, jacobian)
        units = np.maximum(np.linalg.norm(whitened, axis=0), 1e-300)
        inverse = np.linalg.pinv(whitened / units, rcond=1e-10) / units[:, None]
        solution = inverse @ np.linalg.solve(root, self._residuals[rows])
        spread = inverse @ inverse.T
        return Offset(solution[-6:-3], solution[-3:], spread[-6:, -6:])


def _healthy(problem: _Problem, config: CheckRigConfig) -> set[str]:
    """The largest group of cameras that agree with each other.

    One that is bumped makes all that are compared with it look bumped, and the worst of them is
    no safe guess: so groups are tried, all of few cameras, and of many those that leave out one
    more of the best one so far.
    """
    best = frozenset(problem.cameras)
    for size in range(len(best), 1, -1):
        pool = problem.cameras if len(problem.cameras) <= _ALL_GROUPS else tuple(sorted(best))
        groups = [frozenset(group) for group in itertools.combinations(pool, size)]
        worst = {
            group: max(_excess(problem.offset(n, set(group - {n})), config) for n in group)
            for group in groups
        }
        best = min(groups, key=lambda group: worst[group])
        if worst[best] < 1:
            break
    return set(best)


def _excess(offset: Offset, config: CheckRigConfig) -> float:
    """Above 1 the offset is more than its sigma and the lower thresholds explain."""
    return min(
        offset.surprise(config.significance),
        _over(offset, config.warn_centre_m, config.warn_rotation_deg, config.significance),
    )


def _over(offset: Offset, centre_m: float, rotation_deg: float, significance: float) -> float:
    """How far over a threshold that it also exceeds by half the significance for itself.

    Without the latter a shift that the images hardly see would count for a turn that they see.
    """
    return max(
        min(
            value / max(limit, 1e-9),
            value / max(_ALONE * significance * sigma, 1e-12),
        )
        for value, sigma, limit in (
            (offset.centre_m, offset.centre_sigma_m, centre_m),
            (offset.rotation_rad, offset.rotation_sigma_rad, math.radians(rotation_deg)),
        )
    )


def _level(offset: Offset, config: CheckRigConfig) -> Level:
    if _excess(offset, config) < 1:
        return Level.OK
    is_error = (
        _over(offset, config.error_centre_m, config.error_rotation_deg, config.significance) >= 1
    )
    return Level.ERROR if is_error else Level.WARN


def _summary(
    rig: Rig,
    scene: UnscaledScene,
    found: dict[str, Offset],
    config: CheckRigConfig,
    undecided: bool,
) -> RigCheck:
    checks = []
    worst = max((_level(offset, config) for offset in found.values()), default=Level.OK)
    for camera in rig.cameras:
        name, given = camera.name, camera.rig_from_camera
        if name not in found or given is None:
            why = "it has no place on the rig" if given is None else "it was not registered"
            if given is not None and name not in scene.failed:
                why = "it has sent no image"
            checks.append(
                CameraCheck(
                    name, Level.UNKNOWN, math.nan, math.nan, math.nan, math.nan, None,
                    f"not compared: {why}",
                )
            )  # fmt: skip
            continue
        offset = found[name]
        level = worst if undecided else _level(offset, config)
        checks.append(
            CameraCheck(
                name,
                level,
                offset.centre_m,
                offset.centre_sigma_m,
                offset.rotation_rad,
                offset.rotation_sigma_rad,
                offset.moved(given),
                _detail(offset, level),
            )
        )
    return RigCheck(tuple(checks), _message(checks, undecided))


def _detail(offset: Offset, level: Level) -> str:
    figures = (
        f"{1e3 * offset.centre_m:.1f} +- {1e3 * offset.centre_sigma_m:.1f} mm and "
        f"{math.degrees(offset.rotation_rad):.2f} +- "
        f"{math.degrees(offset.rotation_sigma_rad):.2f} degrees from its place"
    )
    return figures if level is Level.OK else f"not where the rig says: {figures}"


def _message(checks: Sequence[CameraCheck], undecided: bool) -> str:
    wrong = [c for c in checks if c.level in (Level.WARN, Level.ERROR)]
    unknown = [c.name for c in checks if c.level is Level.UNKNOWN]
    compared = len(checks) - len(unknown)
    rest = f"; not compared: {', '.join(unknown)}" if unknown else ""
    if not wrong:
        return f"{compared} cameras are where the rig says{rest}"
    told = "; ".join(f"'{c.name}': {c.detail}" for c in wrong)
    if undecided:
        told += "; of two cameras nobody can tell which one has moved"
    return f"{told}{rest}; calibrate anew, or take the places that this check can write"


def _along(vector: Float64, covariance: Float64) -> float:
    length = float(np.linalg.norm(vector))
    if length == 0:
        return math.sqrt(float(np.trace(covariance)) / 3)
    unit = vector / length
    return math.sqrt(max(float(unit @ covariance @ unit), 0.0))
