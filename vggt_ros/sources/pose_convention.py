"""Do given poses fit the images, and if not, are they of another convention?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.sources.overlap import MIN_MATCHES, find_features, match_features
from vggt_ros.types import Frame, FrameSet

_LOG = logging.getLogger(__name__)

_FITS_PX = 4.0
"""Distance from the epipolar line [px at 1000 px width] of a match that fits the poses."""
_GOOD_SHARE = 0.4
"""So many of all matches, wrong ones included, fit right poses; chance alone gives 2 to 10 %."""
_CLEARLY = 1.5
"""Another convention must fit so much better to be named."""
_MAX_PAIRS = 12
_MIN_BASELINE = 1e-6
_OPENGL = Rigid3(np.diag([1.0, -1.0, -1.0]), np.zeros(3))

CONVENTIONS = {
    "given": "camera to world, x right, y down, z forward",
    "inverted": "world to camera: give the inverse of each matrix",
    "opengl": "camera to world with y up and z back (OpenGL, Blender, nerfstudio): turn the "
    "second and third column around",
    "inverted opengl": "world to camera with y up and z back (OpenGL): give the inverse of each "
    "matrix with its second and third column turned around",
}


@dataclass(frozen=True)
class ConventionCheck:
    """Share of the matches that each convention explains, over all pairs."""

    matches: int
    shares: Mapping[str, float]

    @property
    def best(self) -> str:
        """The convention that explains most."""
        return max(self.shares, key=lambda name: self.shares[name])


def check_pose_convention(
    frames: FrameSet, world_from_camera: Mapping[str, Rigid3], origin: str
) -> ConventionCheck | None:
    """Compare given poses with matches between the images of one set.

    The distance of matched features from their epipolar lines depends on the poses, but not on
    the unit of length.

    Args:
        frames: undistorted images with their models.
        world_from_camera: the poses as given.
        origin: the file, for messages.

    Returns:
        The shares; None where too few features match to tell.

    Raises:
        CalibrationError: the poses do not fit, but those of another convention do; it is named.
    """
    known = [f for f in frames.frames if f.model is not None and f.camera in world_from_camera]
    features = {frame.camera: _features(frame) for frame in known}
    inliers = dict.fromkeys(CONVENTIONS, 0)
    total = pairs = 0
    for a, b in combinations(known, 2):
        if pairs == _MAX_PAIRS:
            break
        matched = match_features(features[a.camera][1], features[b.camera][1])
        if len(matched) < MIN_MATCHES:
            continue
        first = features[a.camera][0][matched[:, 0]]
        second = features[b.camera][0][matched[:, 1]]
        poses = world_from_camera[a.camera], world_from_camera[b.camera]
        distances = {}
        for name, relative in _relatives(*poses).items():
            distance = _distances(first, second, a, b, relative)
            if distance is not None:
                distances[name] = distance
        if len(distances) < len(CONVENTIONS):
            continue  # two cameras in one place
        pairs, total = pairs + 1, total + len(matched)
        for name, distance in distances.items():
            inliers[name] += int(np.count_nonzero(distance < _FITS_PX))
    if total < MIN_MATCHES:
        _LOG.info("poses %s: too few matches between the images to check them", origin)
        return None
    check = ConventionCheck(total, {name: n / total for name, n in inliers.items()})
    given, best = check.shares["given"], check.shares[check.best]
    if best >= _GOOD_SHARE and best > _CLEARLY * given:
        raise CalibrationError(
            f"poses {origin}: expected camera to world (x right, y down, z forward), which only "
            f"{100 * given:.0f} % of {total} matches between the images fit; {100 * best:.0f} % "
            f"fit if they are {CONVENTIONS[check.best]}"
        )
    if given < _GOOD_SHARE:
        _LOG.warning(
            "poses %s: only %.0f %% of %d matches between the images fit them; they may be of "
            "another time or inexact, or the intrinsics wrong",
            origin,
            100 * given,
            total,
        )
    return check


def _relatives(a: Rigid3, b: Rigid3) -> dict[str, Rigid3]:
    """`b_from_a` if the two given poses were of each convention."""
    return {
        "given": b.inverse() @ a,
        "inverted": b @ a.inverse(),
        "opengl": (b @ _OPENGL).inverse() @ a @ _OPENGL,
        "inverted opengl": (b.inverse() @ _OPENGL).inverse() @ a.inverse() @ _OPENGL,
    }


def _features(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Positions [px of the frame] and descriptors."""
    found = find_features(frame.rgb)
    points = found.points.astype(np.float64)
    return (points + 0.5) / found.scale - 0.5, found.descriptors


def _distances(
    first: NDArray[np.float64], second: NDArray[np.float64], a: Frame, b: Frame, b_from_a: Rigid3
) -> NDArray[np.float64] | None:
    """Sampson distance [px at 1000 px width] of matches; None where the centres are one."""
    t = b_from_a.translation
    if np.linalg.norm(t) < _MIN_BASELINE or a.model is None or b.model is None:
        return None
    t = t / np.linalg.norm(t)
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    essential = cross @ b_from_a.rotation
    x, y = _rays(first, a.model), _rays(second, b.model)
    line_b, line_a = x @ essential.T, y @ essential
    residual = np.abs((y * line_b).sum(axis=1))
    # Distances at z = 1 become pixels by the focal length.
    norm = np.sqrt((line_b[:, :2] ** 2).sum(axis=1) + (line_a[:, :2] ** 2).sum(axis=1))
    focal = 0.5 * (a.model.fx * 1000 / a.model.width + b.model.fx * 1000 / b.model.width)
    return np.asarray(residual / np.maximum(norm, 1e-12) * focal)


def _rays(pixels: NDArray[np.float64], model: CameraModel) -> NDArray[np.float64]:
    xy = (pixels - [model.cx, model.cy]) / [model.fx, model.fy]
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
