"""One entry of a calibration file: a K of some resolution, or a pose."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.geometry.rigid3 import nearest_rotation
from vggt_ros.pipeline.decode import fit_model

_LOG = logging.getLogger(__name__)

_MAX_ROTATION_ERROR = 1e-3
"""Largest element of R R^T - I that rounding to float32 or to four digits explains."""
_SURE_OFF_CENTRE = 0.08
"""A principal point no farther from the centre than this part of the size is of this size."""
_MAX_OFF_CENTRE = 0.25
"""Farther than this it cannot be of this size (of lenses that are shifted on purpose: 0.2)."""
_RATIOS = (1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2, 3, 4, 6, 8)
"""Images are reduced by such factors (2160, 1440, 1080, 720, 540, 480, 360 lines and halves)."""
_RATIO_TOLERANCE = 0.06
"""Principal points lie up to some percent from the centre."""
_MAX_DIGITS_SKEW = 1e-6


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """K (3, 3) [px], its image size where the file says it, and the distortion."""

    matrix: NDArray[np.float64]
    size: tuple[int, int] | None = None
    distortion_model: str = "none"
    distortion: tuple[float, ...] = ()


def intrinsics_from(entry: Any, where: str) -> Intrinsics:
    """Check K, (3, 3) or (4, 4), or a mapping with `matrix` and perhaps `size`, `distortion`.

    Raises:
        CalibrationError: another shape, NaN, skew, or focal lengths that are not positive.
    """
    size, model = None, "none"
    coefficients: tuple[float, ...] = ()
    if isinstance(entry, dict):
        size = _size(entry, where)
        distortion = entry.get("distortion") or {}
        if not isinstance(distortion, dict):
            distortion = {"coefficients": distortion}
        coefficients = tuple(float(c) for c in distortion.get("coefficients") or ())
        model = str(distortion.get("model") or ("plumb_bob" if coefficients else "none"))
        if "matrix" not in entry:
            raise CalibrationError(f"{where}: expected 'matrix', got {', '.join(map(str, entry))}")
        entry = entry["matrix"]
    k = _matrix(entry, where)
    if k.shape not in ((3, 3), (4, 4)):
        raise CalibrationError(f"{where}: expected K of shape (3, 3), got {k.shape}")
    k = k[:3, :3]
    fx, skew, _, fy = k[0, 0], k[0, 1], k[0, 2], k[1, 1]
    if fx <= 0 or fy <= 0 or not np.allclose([k[1, 0], *k[2]], [0, 0, 0, 1], atol=1e-9):
        hint = "; it looks like a pose" if np.allclose(np.diag(k), 1, atol=1) else ""
        raise CalibrationError(
            f"{where}: expected K = [fx 0 cx; 0 fy cy; 0 0 1] with fx, fy > 0, got "
            f"{k.tolist()}{hint}"
        )
    if abs(skew) > _MAX_DIGITS_SKEW * fx:
        raise CalibrationError(f"{where}: K has skew {skew:g} px, which is not supported")
    try:  # a plausible size, to check the distortion
        CameraModel(2, 2, fx, fy, 0.5, 0.5, model, coefficients)
    except ValueError as error:
        raise CalibrationError(f"{where}: {error}") from error
    return Intrinsics(k, size, model, coefficients)


def model_at(intrinsics: Intrinsics, size: tuple[int, int], camera: str) -> CameraModel:
    """The model of a camera whose images have the native `size` [px].

    Where the file says no size, K belongs to the native one, unless its principal point tells
    that it was made at another; then it is scaled by the plain factor that fits and this is said.

    Raises:
        CalibrationError: of another aspect, or at a resolution that cannot be told.
    """
    calibrated = intrinsics.size or _size_of(intrinsics.matrix, size, camera)
    fx, fy, cx, cy = intrinsics.matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    model = CameraModel(
        *calibrated, fx, fy, cx, cy, intrinsics.distortion_model, intrinsics.distortion
    )
    if calibrated == size:
        return model
    fitted = fit_model(model, size, camera)
    _LOG.warning(
        "camera '%s': intrinsics are of %dx%d%s; scaled to the images' %dx%d",
        camera,
        *calibrated,
        "" if intrinsics.size else " by their principal point (state `size` in the file)",
        *size,
    )
    return fitted


def pose_from(entry: Any, where: str) -> Rigid3:
    """`world_from_camera` from (3, 3) [rotation alone], (3, 4) or (4, 4).

    Raises:
        CalibrationError: another shape, NaN, no rotation, or a last row that is not 0 0 0 1.
    """
    matrix = _matrix(entry, where)
    if matrix.shape not in ((3, 3), (3, 4), (4, 4)):
        raise CalibrationError(f"{where}: expected a pose of shape (4, 4), got {matrix.shape}")
    if matrix.shape == (4, 4) and not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        hint = "; it is transposed" if np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=1e-6) else ""
        raise CalibrationError(
            f"{where}: expected a last row of 0 0 0 1, got {matrix[3].tolist()}{hint}"
        )
    rotation = matrix[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > _MAX_ROTATION_ERROR:
        raise CalibrationError(
            f"{where}: expected a rotation, but R R^T differs from 1 by {error:.3g}; scale and "
            f"shear must be taken out"
        )
    if np.linalg.det(rotation) < 0:
        raise CalibrationError(
            f"{where}: R is a reflection (determinant -1); an axis is flipped: cameras are "
            f"x right, y down, z forward"
        )
    translation = matrix[:3, 3] if matrix.shape[1] == 4 else np.zeros(3)
    return Rigid3(nearest_rotation(rotation), translation)


def _size(entry: dict[str, Any], where: str) -> tuple[int, int] | None:
    size = entry.get("size")
    if size is None and "width" in entry and "height" in entry:
        size = [entry["width"], entry["height"]]
    if size is None:
        return None
    try:
        width, height = (int(v) for v in size)
    except (TypeError, ValueError):
        width = height = 0
    if width < 1 or height < 1:
        raise CalibrationError(f"{where}: expected size [width, height] > 0, got {size!r}")
    return width, height


def _size_of(k: NDArray[np.float64], size: tuple[int, int], camera: str) -> tuple[int, int]:
    """The size at which K was made, seen from where its principal point lies."""
    (width, height), cx, cy = size, k[0, 2], k[1, 2]
    x, y = (2 * cx + 1) / width, (2 * cy + 1) / height
    off_centre = max(abs(x - 1), abs(y - 1)) / 2
    if off_centre < _SURE_OFF_CENTRE:
        return size
    for ratio in _RATIOS:
        if abs(x / ratio - 1) < _RATIO_TOLERANCE and abs(y / ratio - 1) < _RATIO_TOLERANCE:
            return round(width * ratio), round(height * ratio)
    if off_centre < _MAX_OFF_CENTRE:
        return size
    raise CalibrationError(
        f"camera '{camera}': the principal point ({cx:.1f}, {cy:.1f}) px is far from the centre "
        f"of the {width}x{height} images; intrinsics of another resolution or of a crop: state "
        f'"size": [width, height] beside "matrix" in the file'
    )


def _matrix(entry: Any, where: str) -> NDArray[np.float64]:
    try:
        matrix = np.asarray(entry, np.float64)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{where}: expected a matrix of numbers, got {entry!r}") from error
    if not np.isfinite(matrix).all():
        raise CalibrationError(f"{where}: has NaN or infinity: {matrix.tolist()}")
    return matrix
