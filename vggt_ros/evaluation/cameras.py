"""Errors of camera poses against known ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_angle

Align = Literal["none", "se3", "sim3"]
"""What is taken out before comparing: nothing, a rigid motion, or a motion and a scale."""

ROTATION_WEIGHT = 1e-3
"""Weight of a camera's orientation against its centre when two rigs are turned onto each other.

Centres are measured in units of their spread. With a small weight they decide wherever they
say something, which keeps the centre errors at their minimum; around the line of two or of
collinear cameras they say nothing, and the orientations decide. Centres that leave the line by
3 % of the spread (the root of the weight) count as much as the orientations.
"""


@dataclass(frozen=True)
class CameraErrors:
    """Errors of poses; angles in degrees, lengths in the unit of the truth [m]."""

    cameras: tuple[str, ...]
    """The cameras that were compared."""
    missing: tuple[str, ...]
    """In the truth, but not found."""
    align: Align
    pairwise_rotation_median_deg: float
    """Over all pairs of cameras, of the rotation between the two: needs no alignment."""
    pairwise_rotation_max_deg: float
    rotation_median_deg: float
    """After the alignment, as all that follow."""
    rotation_max_deg: float
    centre_rmse: float
    centre_median: float
    centre_max: float
    scale: float
    """Of the best similarity, truth over found, whatever `align` is; NaN for one camera."""
    scale_error: float
    """How much larger than the truth the found rig is: 0.01 is one per cent too large."""
    rig_size: float
    """Largest distance between two true centres."""
    truth_from_found: Sim3
    """The alignment that was applied."""
    rotation_deg: dict[str, float] = field(default_factory=dict)
    centre: dict[str, float] = field(default_factory=dict)

    @property
    def centre_rmse_fraction(self) -> float:
        """Centre error as a fraction of the rig's size; NaN where it has none."""
        return self.centre_rmse / self.rig_size if self.rig_size > 0 else math.nan


def evaluate_cameras(
    found: Mapping[str, Rigid3], truth: Mapping[str, Rigid3], align: Align = "sim3"
) -> CameraErrors:
    """Compare camera poses by name.

    Args:
        found: `found_from_camera` in any frame, in its unit of length.
        truth: `truth_from_camera` [m].
        align: what may differ between the two frames.

    Raises:
        AlignmentError: no camera in common, or too few or coincident ones for a scale.
    """
    names = [name for name in truth if name in found]
    if not names:
        raise AlignmentError(
            f"evaluation: no camera in common: found {_names(found)}, truth {_names(truth)}"
        )
    a, b = [found[name] for name in names], [truth[name] for name in names]
    truth_from_found = align_poses(a, b, align)
    scale = math.nan
    if _spread(a) > 0 and _spread(b) > 0:
        scale = align_poses(a, b, "sim3").scale
    aligned = [truth_from_found.apply_to_pose(pose) for pose in a]
    rotation = np.array([_angle_deg(x, y) for x, y in zip(aligned, b, strict=True)])
    centre = np.linalg.norm(_centres(aligned) - _centres(b), axis=1)
    pairwise = pairwise_rotation_errors_deg(a, b)
    distances = np.linalg.norm(_centres(b)[:, None] - _centres(b)[None], axis=2)
    return CameraErrors(
        cameras=tuple(names),
        missing=tuple(name for name in truth if name not in found),
        align=align,
        pairwise_rotation_median_deg=float(np.median(pairwise)) if len(pairwise) else math.nan,
        pairwise_rotation_max_deg=float(pairwise.max()) if len(pairwise) else math.nan,
        rotation_median_deg=float(np.median(rotation)),
        rotation_max_deg=float(rotation.max()),
        centre_rmse=float(np.sqrt((centre**2).mean())),
        centre_median=float(np.median(centre)),
        centre_max=float(centre.max()),
        scale=scale,
        scale_error=1.0 / scale - 1.0,
        rig_size=float(distances.max()),
        truth_from_found=truth_from_found,
        rotation_deg=dict(zip(names, rotation.tolist(), strict=True)),
        centre=dict(zip(names, centre.tolist(), strict=True)),
    )


def align_poses(found: Sequence[Rigid3], truth: Sequence[Rigid3], align: Align) -> Sim3:
    """The transform `truth_from_found` that fits paired poses best.

    Orientation: least squares over the centres (Umeyama 1991) and, weakly, over the axes of
    the cameras (`ROTATION_WEIGHT`), so that two cameras and cameras on a line suffice. Scale and
    translation: least squares over the centres.

    Raises:
        AlignmentError: no poses, or for `sim3` fewer than two distinct centres.
    """
    if not found or len(found) != len(truth):
        raise AlignmentError(
            f"alignment: expected as many found as true poses, at least one, got {len(found)} "
            f"and {len(truth)}"
        )
    if align == "none":
        return Sim3.identity()
    centres_a, centres_b = _centres(found), _centres(truth)
    mean_a, mean_b = centres_a.mean(axis=0), centres_b.mean(axis=0)
    a, b = centres_a - mean_a, centres_b - mean_b
    spread_a, spread_b = _spread(found), _spread(truth)
    turns = [y.rotation @ x.rotation.T for x, y in zip(found, truth, strict=True)]
    moment = ROTATION_WEIGHT * np.mean(turns, axis=0)
    if spread_a > 0 and spread_b > 0:
        moment = moment + (b / spread_b).T @ (a / spread_a) / len(a)
    elif align == "sim3":
        which = "found" if spread_a == 0 else "true"
        raise AlignmentError(
            f"alignment: a scale needs two cameras at different places, got {len(found)} whose "
            f"{which} centres coincide; align with se3 instead"
        )
    rotation = nearest_rotation(moment)
    scale = 1.0
    if align == "sim3":
        scale = float((b * (a @ rotation.T)).sum()) / float((a**2).sum())
        if scale <= 0:
            raise AlignmentError(
                "alignment: the found centres do not resemble the true ones: the best scale "
                f"is {scale:.3g}; are the cameras named alike in both?"
            )
    return Sim3(scale, rotation, mean_b - scale * rotation @ mean_a)


def pairwise_rotation_errors_deg(
    found: Sequence[Rigid3], truth: Sequence[Rigid3]
) -> NDArray[np.float64]:
    """Errors [deg] of the rotation between two cameras, (N (N - 1) / 2,)."""
    turns = [y.rotation @ x.rotation.T for x, y in zip(found, truth, strict=True)]
    errors = [
        math.degrees(rotation_angle(turns[i].T @ turns[j]))
        for i in range(len(turns))
        for j in range(i + 1, len(turns))
    ]
    return np.array(errors)


def _centres(poses: Sequence[Rigid3]) -> NDArray[np.float64]:
    return np.array([pose.translation for pose in poses])


def _spread(poses: Sequence[Rigid3]) -> float:
    """Root mean square distance of the centres from their mean; 0 where they coincide."""
    centres = _centres(poses)
    spread = float(np.sqrt(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).mean()))
    return spread if spread > 1e-12 * float(np.abs(centres).max()) else 0.0


def _angle_deg(a: Rigid3, b: Rigid3) -> float:
    return math.degrees(rotation_angle(a.rotation.T @ b.rotation))


def _names(poses: Mapping[str, Rigid3]) -> str:
    names = list(poses)
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "none"
