"""How likely the sightings of a rig's cameras are, and how sure that makes the scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_from_vector, rotation_vector, skew
from vggt_ros.types import CameraResidual, Float64

COVARIANCE_INFLATION = 3.0
"""The errors of a bundle adjustment are larger than its covariance says, because those of
neighbouring pixels are not independent and no lens is exactly its model. With this factor and
`RIG_NOISE` the scale from each pair of neighbours of eleven real photographs is within two sigma
of the truth."""

RIG_NOISE = 0.001
"""Prior standard deviation of a camera's calibrated centre over the size of the rig."""

ROTATION_NOISE_RAD = math.radians(0.05)
"""Prior standard deviation of a camera's calibrated rotation, per axis."""

_PRIOR_WEIGHT = 1.0
"""How many residuals the priors above count against the real ones."""

_LEAST_FREEDOM = 0.5
"""With less redundancy the residuals say nothing of the noise."""

_OUTLIER_FACTOR = 4.0
"""A camera this many predicted standard deviations off contradicts the others; times the square
of Student's factor, about the 0.9999 quantile of Fisher's distribution."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """One registered view of a camera whose place on the rig is known."""

    frame_set: int
    camera: str
    scene_from_camera: Rigid3
    rig_from_camera: Rigid3
    view: int
    """Row in the scene's views."""

    @property
    def rig_from_scene_rotation(self) -> Float64:
        """As this camera sees it, (3, 3)."""
        return np.asarray(self.rig_from_camera.rotation @ self.scene_from_camera.rotation.T)


def similarity_from_rotation(
    rotation: Float64, scale: float, sightings: Sequence[Sighting]
) -> Sim3:
    """`rig_from_scene` of a given rotation and scale that fits the centres best."""
    shifts = [
        s.rig_from_camera.translation - scale * rotation @ s.scene_from_camera.translation
        for s in sightings
    ]
    return Sim3(scale, rotation, np.mean(shifts, axis=0))


def place_set(sightings: Sequence[Sighting], number: int, scale: float) -> Sim3:
    """`rig_from_scene` of one set at a known scale: the camera that most others agree with."""
    members = [s for s in sightings if s.frame_set == number]
    candidates = [similarity_from_rotation(s.rig_from_scene_rotation, scale, [s]) for s in members]

    def disagreement(candidate: Sim3) -> float:
        found = camera_residuals(members, {number: candidate}).values()
        return float(np.median([r.centre + r.rotation_rad for r in found]))

    return min(candidates, key=disagreement)


def camera_residuals(
    sightings: Sequence[Sighting], transforms: Mapping[int, Sim3]
) -> dict[str, CameraResidual]:
    """Per camera the median over the sets."""
    values: dict[str, list[tuple[float, float]]] = {}
    for s in sightings:
        pose = transforms[s.frame_set].apply_to_pose(s.scene_from_camera)
        off = s.rig_from_camera.inverse() @ pose
        values.setdefault(s.camera, []).append(
            (float(np.linalg.norm(off.translation)), off.angle_rad)
        )
    medians = {name: np.median(np.array(v), axis=0) for name, v in values.items()}
    return {n: CameraResidual(float(m[0]), float(m[1]), True) for n, m in medians.items()}


class RigLikelihood:
    """Maximum likelihood on centres and rotations, whose variances are estimated as well.

    Gauss-Newton on the logarithm of the scale and, per set, a turn and a shift. The variances of
    centres and rotations are components estimated from their own residuals and redundancy
    (Foerstner, "Ein Verfahren zur Schaetzung von Varianz- und Kovarianzkomponenten", 1979),
    starting from the priors.
    """

    def __init__(
        self,
        sightings: Sequence[Sighting],
        size: float,
        pose_covariance: Float64 | None,
        start: Mapping[int, Sim3],
    ) -> None:
        self._sightings = sightings
        self._sets = sorted({s.frame_set for s in sightings})
        self._covariance = pose_covariance
        self.transforms = {number: start[number] for number in self._sets}
        self._rig_noise = RIG_NOISE * size
        self.scale = next(iter(self.transforms.values())).scale
        prior_c, prior_r = self._prior_sigmas()
        self.centre_sigma, self.rotation_sigma = prior_c, prior_r
        self._freedom = self._freedom_r = _PRIOR_WEIGHT
        for _ in range(10):
            before = self.centre_sigma, self.rotation_sigma
            self._solve()
            jacobian, residuals, _ = self._system()
            squares, redundancy = self._components(jacobian, residuals)
            self._freedom = _PRIOR_WEIGHT + redundancy[0]
            self.centre_sigma = math.sqrt(
                (_PRIOR_WEIGHT * prior_c**2 + squares[0]) / (_PRIOR_WEIGHT + redundancy[0])
            )
            self.rotation_sigma = math.sqrt(
                (_PRIOR_WEIGHT * prior_r**2 + squares[1]) / (_PRIOR_WEIGHT + redundancy[1])
            )
            self._freedom_r = _PRIOR_WEIGHT + redundancy[1]
            if np.allclose(before, (self.centre_sigma, self.rotation_sigma), rtol=0.01):
                break
        self._prior_c, self._prior_r = prior_c, prior_r
        self._centre_squares, self._centre_freedom = squares[0], redundancy[0]

    def sigma(self) -> float:
        """Standard deviation of the scale; two of them hold the truth in 95 % of cases.

        The covariance of the reconstruction and the noise of the rig are propagated through
        the fit. Where the residuals say that both are larger they are multiplied accordingly,
        and widened as Student's distribution asks where residuals are few.
        """
        jacobian, _, sigmas = self._system()
        gain = np.linalg.pinv(jacobian / sigmas[:, None])[0] / sigmas
        count = len(self._sightings)
        on_centres = gain[: 3 * count].reshape(count, 3)
        on_rotations = gain[3 * count :].reshape(count, 3)
        # One calibration error of a camera is the same in all sets.
        by_camera: dict[str, Float64] = {}
        for s, g, h in zip(self._sightings, on_centres, on_rotations, strict=True):
            by_camera[s.camera] = by_camera.get(s.camera, np.zeros(6)) + [*g, *h]
        of_centres = self._rig_noise**2 * sum(float(g[:3] @ g[:3]) for g in by_camera.values())
        of_rotations = ROTATION_NOISE_RAD**2 * sum(
            float(g[3:] @ g[3:]) for g in by_camera.values()
        )
        if self._covariance is not None:
            seen = np.zeros(len(self._covariance))
            for s, g, h in zip(self._sightings, on_centres, on_rotations, strict=True):
                rotation = self.transforms[s.frame_set].rotation
                seen[6 * s.view : 6 * s.view + 3] += self.scale * rotation.T @ g
                # The residual is what turns the camera found into the camera of the rig.
                seen[6 * s.view + 3 : 6 * s.view + 6] -= s.rig_from_camera.rotation.T @ h
            of_scene = float(seen @ self._covariance @ seen)
            of_centres += COVARIANCE_INFLATION**2 * max(of_scene, 0.0)
        # Without redundancy of the centres, a rig whose rotations are worse than assumed is taken
        # to be as much worse in its centres.
        rotation_factor = max(1.0, self.rotation_sigma / self._prior_r)
        factor = rotation_factor
        if self._centre_freedom > _LEAST_FREEDOM:
            seen_sigma = math.sqrt(self._centre_squares / self._centre_freedom)
            widened = seen_sigma * _student_factor(self._centre_freedom)
            factor = max(1.0, widened / self._prior_c)
        return self.scale * math.sqrt(of_centres * factor**2 + of_rotations * rotation_factor**2)

    def surprise(self, sightings: Sequence[Sighting]) -> float:
        """How far views of another camera are off, over what is still credible (median)."""
        jacobian, _, sigmas = self._system()
        inverse = np.linalg.pinv(jacobian / sigmas[:, None])
        spread = inverse @ inverse.T
        ratios = []
        for s in sightings:
            if s.frame_set not in self._sets:
                continue
            own, residuals, own_sigmas = self._system([s])
            covariance = own @ spread @ own.T + np.diag(own_sigmas**2)
            for part, freedom in ((slice(0, 3), self._freedom), (slice(3, 6), self._freedom_r)):
                r = residuals[part]
                mahalanobis = math.sqrt(float(r @ np.linalg.solve(covariance[part, part], r)) / 3)
                ratios.append(mahalanobis / (_OUTLIER_FACTOR * _student_factor(freedom) ** 2))
        pairs = np.array(ratios).reshape(-1, 2)
        return float(np.median(pairs.max(axis=1))) if len(pairs) else 0.0

    def with_all_sets(self, sightings: Sequence[Sighting]) -> dict[int, Sim3]:
        """The transforms, with those of sets in which no chosen camera is seen."""
        result = dict(self.transforms)
        for number in sorted({s.frame_set for s in sightings} - set(self._sets)):
            result[number] = place_set(sightings, number, self.scale)
        return result

    def _prior_sigmas(self) -> tuple[float, float]:
        """Of centres and rotations per axis, without what all views of a set have in common."""
        centre, rotation = self._rig_noise**2, ROTATION_NOISE_RAD**2
        if self._covariance is not None:
            inflation = COVARIANCE_INFLATION**2
            for number in self._sets:
                members = [s for s in self._sightings if s.frame_set == number]
                share = len(members) / len(self._sightings)
                c, r = self._relative_variances(members)
                centre += inflation * self.scale**2 * c * share
                rotation += inflation * r * share
        return math.sqrt(centre), math.sqrt(rotation)

    def _relative_variances(self, sightings: Sequence[Sighting]) -> tuple[float, float]:
        """Mean variance of centre and rotation axes around the views' mean; 0 for one view."""
        assert self._covariance is not None  # for the type checker
        count = len(sightings)
        if count < 2:
            return 0.0, 0.0
        at = np.ravel([range(6 * s.view, 6 * s.view + 6) for s in sightings])
        # Turns about the axes of the scene, so that a common turn is common.
        axes = np.zeros((6 * count, 6 * count))
        for k, s in enumerate(sightings):
            axes[6 * k : 6 * k + 3, 6 * k : 6 * k + 3] = np.eye(3)
            axes[6 * k + 3 : 6 * k + 6, 6 * k + 3 : 6 * k + 6] = s.scene_from_camera.rotation
        mean = np.kron(np.eye(count) - 1 / count, np.eye(6)) @ axes
        diagonal = np.diag(mean @ self._covariance[np.ix_(at, at)] @ mean.T).reshape(count, 6)
        diagonal = np.maximum(diagonal, 0.0) * count / (count - 1)
        return float(diagonal[:, :3].mean()), float(diagonal[:, 3:].mean())

    def _system(
        self, sightings: Sequence[Sighting] | None = None
    ) -> tuple[Float64, Float64, Float64]:
        """Jacobian (6n, 1 + 6 sets), residuals (6n,) and sigmas (6n,); centres come first."""
        sightings = self._sightings if sightings is None else sightings
        count = len(sightings)
        jacobian = np.zeros((6 * count, 1 + 6 * len(self._sets)))
        residuals = np.zeros(6 * count)
        for k, s in enumerate(sightings):
            transform = self.transforms[s.frame_set]
            turned = transform.scale * transform.rotation @ s.scene_from_camera.translation
            at, first = 3 * k, 1 + 6 * self._sets.index(s.frame_set)
            residuals[at : at + 3] = s.rig_from_camera.translation - turned - transform.translation
            jacobian[at : at + 3, 0] = turned
            jacobian[at : at + 3, first : first + 3] = -skew(turned)
            jacobian[at : at + 3, first + 3 : first + 6] = np.eye(3)
            at += 3 * count
            off = s.rig_from_scene_rotation @ transform.rotation.T
            residuals[at : at + 3] = rotation_vector(off)
            jacobian[at : at + 3, first : first + 3] = np.eye(3)
        sigmas = np.repeat([self.centre_sigma, self.rotation_sigma], 3 * count)
        return jacobian, residuals, sigmas

    def _solve(self) -> None:
        for _ in range(20):
            jacobian, residuals, sigmas = self._system()
            step = np.linalg.lstsq(jacobian / sigmas[:, None], residuals / sigmas, rcond=1e-12)[0]
            self.scale *= math.exp(float(np.clip(step[0], -1, 1)))
            for k, number in enumerate(self._sets):
                old = self.transforms[number]
                turn, shift = step[1 + 6 * k : 4 + 6 * k], step[4 + 6 * k : 7 + 6 * k]
                rotation = nearest_rotation(rotation_from_vector(turn) @ old.rotation)
                self.transforms[number] = Sim3(self.scale, rotation, old.translation + shift)
            if np.abs(step[0]) < 1e-12 and np.linalg.norm(step) < 1e-10:
                break

    def _components(
        self, jacobian: Float64, residuals: Float64
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Sum of squares and redundancy of the centres and of the rotations."""
        half = len(residuals) // 2
        sigmas = np.repeat([self.centre_sigma, self.rotation_sigma], half)
        weighted = jacobian / sigmas[:, None]
        hat = np.einsum("ij,ji->i", weighted, np.linalg.pinv(weighted))
        free = 1 - hat
        return (
            (float((residuals[:half] ** 2).sum()), float((residuals[half:] ** 2).sum())),
            (max(float(free[:half].sum()), 0.0), max(float(free[half:].sum()), 0.0)),
        )


def _student_factor(freedom: float) -> float:
    """How much wider than the normal is Student's 95 % interval (Cornish-Fisher series)."""
    z = 1.96
    terms = [
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    ]
    freedom = max(freedom, 1.0)
    return 1 + sum(t / freedom ** (k + 1) for k, t in enumerate(terms)) / z
