"""What is known of each camera's scale and shift, and the file that keeps it.

The file is JSON and readable by others as `{"<camera>": [scale, shift]}`; what only this package
knows (model, kind of prediction, covariance) stands beside it under "_meta".
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import ConfigError, nearest
from vggt_ros.export.files import write_json
from vggt_ros.types import DepthKind, Float64

META = "_meta"
"""Key beside the cameras; no camera can have this name in the file."""


class AlignModel(str, enum.Enum):
    """How depth z follows from a prediction.

    With v = z the prediction as depth (1 / value for disparities), w = 1 / v.
    """

    SCALE = "scale"
    """z = v / s for disparities (1/z = s*w), z = s*v for depths."""
    SCALE_SHIFT = "scale_shift"
    """z = s*v + t."""
    INVDEPTH_SCALE_SHIFT = "invdepth_scale_shift"
    """1/z = s*w + t."""

    def fits_inverse_depth(self, kind: DepthKind) -> bool:
        """Whether s and t give 1/z; else they give z."""
        if self is AlignModel.SCALE:
            return kind is DepthKind.DISPARITY
        return self is AlignModel.INVDEPTH_SCALE_SHIFT

    def inverts_prediction(self, kind: DepthKind) -> bool:
        """Whether the model takes 1/value of a prediction of this kind."""
        return self.fits_inverse_depth(kind) is not (kind is DepthKind.DISPARITY)


_BY_KIND = {
    DepthKind.DISPARITY: AlignModel.INVDEPTH_SCALE_SHIFT,
    DepthKind.RELATIVE_DEPTH: AlignModel.SCALE_SHIFT,
    DepthKind.METRIC_DEPTH: AlignModel.SCALE,
}
_KIND_OF_MODEL = {model: kind for kind, model in _BY_KIND.items()}


def model_for(kind: DepthKind, asked: str = "auto") -> AlignModel:
    """The model of `align.model` for predictions of a kind; auto: what the kind calls for.

    Raises:
        ConfigError: an unknown model, or triangulated depth, which is never fitted.
    """
    if kind is DepthKind.TRIANGULATED:
        raise ConfigError("alignment model: triangulated depth is checked, not fitted")
    if asked == "auto":
        return _BY_KIND[kind]
    try:
        return AlignModel(asked)
    except ValueError:
        names = ["auto", *(m.value for m in AlignModel)]
        raise ConfigError(
            f"align.model: expected one of {', '.join(names)}, got '{asked}'"
            f"{nearest(asked, names)}"
        ) from None


@dataclass(frozen=True, eq=False)
class CameraFit:
    """The filtered fit of one camera: log scale and shift with their covariance (2, 2)."""

    kind: DepthKind
    model: AlignModel
    log_scale: float
    shift: float
    covariance: Float64

    @property
    def scale(self) -> float:
        """The factor of the model."""
        return math.exp(self.log_scale)

    def is_like(self, other: CameraFit) -> bool:
        """Whether both are of the same kind and model; others are never mixed."""
        return self.kind is other.kind and self.model is other.model


def state_of(fits: Mapping[str, CameraFit]) -> dict[str, Any]:
    """The fits as JSON values: {camera: [scale, shift], "_meta": {camera: {...}}}."""
    state: dict[str, Any] = {camera: [fit.scale, fit.shift] for camera, fit in fits.items()}
    state[META] = {
        camera: {
            "model": fit.model.value,
            "kind": fit.kind.value,
            "covariance": fit.covariance.tolist(),
        }
        for camera, fit in fits.items()
    }
    return state


def fits_of(state: Any, asked: str = "auto") -> dict[str, CameraFit]:
    """The inverse of `state_of`; "_meta", all of it or parts, may be missing.

    Args:
        state: of `state_of`, or plain {camera: [scale, shift]}.
        asked: `align.model`, for cameras whose model is not told; auto is then inverse depth.

    Raises:
        ConfigError: an entry that is not [scale > 0, shift], an unknown model or kind, an
            impossible covariance.
    """
    if not isinstance(state, dict) or not isinstance(state.get(META, {}), dict):
        got = type(state).__name__
        if isinstance(state, dict):
            got = f"'{META}' of type {type(state[META]).__name__}"
        raise ConfigError(
            f"alignment state: expected {{camera: [scale, shift], '{META}': {{camera: ...}}}}, "
            f"got {got}"
        )
    meta = state.get(META, {})
    return {
        str(camera): _camera_fit(str(camera), entry, meta.get(camera, {}), asked)
        for camera, entry in state.items()
        if camera != META
    }


def write_calibration(path: str | Path, fits: Mapping[str, CameraFit]) -> None:
    """Write the fits as JSON, whole or not at all.

    Raises:
        ExportError: the file cannot be written.
    """
    write_json(path, state_of(fits))


def read_calibration(path: str | Path, asked: str = "auto") -> dict[str, CameraFit]:
    """Read what `write_calibration` or another program wrote, see `fits_of`.

    Raises:
        ConfigError: the file is missing, no JSON, or has impossible entries.
    """
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot read the calibration of the cameras: {error}"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: expected JSON {{camera: [scale, shift]}}, got {error}; mend or delete it"
        ) from error
    try:
        return fits_of(state, asked)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _camera_fit(camera: str, entry: Any, meta: Any, asked: str) -> CameraFit:
    where = f"alignment state of camera '{camera}'"
    try:
        scale, shift = (float(value) for value in entry)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected [scale, shift], got {entry!r}") from error
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        raise ConfigError(f"{where}: expected a scale > 0 and a finite shift, got {entry!r}")
    try:
        model, kind = _model_and_kind(meta, asked)
        covariance = np.array(meta.get("covariance", np.eye(2)), np.float64)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: expected {META} with model, kind and covariance: {error}"
        ) from error
    if covariance.shape != (2, 2) or not np.isfinite(covariance).all():
        raise ConfigError(f"{where}: expected a finite covariance (2, 2), got {covariance}")
    if not (np.allclose(covariance, covariance.T) and np.linalg.eigvalsh(covariance)[0] > -1e-9):
        raise ConfigError(f"{where}: expected a symmetric covariance >= 0, got {covariance}")
    return CameraFit(kind, model, math.log(scale), shift, covariance)


def _model_and_kind(meta: Any, asked: str) -> tuple[AlignModel, DepthKind]:
    kind = DepthKind(meta["kind"]) if "kind" in meta else None
    if "model" in meta:
        model = AlignModel(meta["model"])
    elif asked != "auto":
        model = AlignModel(asked)
    else:
        model = _BY_KIND[kind] if kind else AlignModel.INVDEPTH_SCALE_SHIFT
    return model, kind or _KIND_OF_MODEL[model]
