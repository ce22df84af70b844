"""Depth alignment: from what a network or stereo says to depth in map units.

The model follows the kind of the prediction and is never exchanged for another:

* disparity: 1/z = scale * d + shift
* relative depth: z = scale * d + shift
* metric depth: z = scale * d
* triangulated: z = d, only checked
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.config import AlignConfig
from vggt_ros.errors import AlignmentError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.kernels_fit import (
    apply_affine,
    collect_samples,
    fit_affine,
    relative_errors,
)
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction, Float32, Float64

MAX_SLOPE = 3.7
"""Tangent of the flattest incidence that is compared (75 degrees)."""

FAR_FACTOR = 5.0
"""Pixels farther than this many times the median depth are not compared: there disparity says
nothing and the map is worst."""

CORRELATED_PIXELS = 100.0
"""Pixels whose errors go together; the covariance of a fit is enlarged by this factor."""

JUMP_CHI_SQUARE = 11.8
"""99.7 % of chi square with two degrees of freedom."""

_RESIDUAL_SAMPLES = 4096
_LEAST_HELD_PIXELS = 30
"""Pixels that must confirm a held fit."""


@dataclass(frozen=True, eq=False)
class CameraFit:
    """The filtered fit of one camera: log scale and shift with their covariance (2, 2)."""

    kind: DepthKind
    log_scale: float
    shift: float
    covariance: Float64

    @property
    def scale(self) -> float:
        """The factor of the model."""
        return math.exp(self.log_scale)


class DepthAligner:
    """Fits each camera's predictions to the map and filters the fits over time.

    A new fit moves the camera's filtered one by the fraction `smoothing`. If it lies outside the
    common covariance and the smoothed fit explains the present pixels worse, the scale did jump
    and the new fit replaces the filtered one. A fit that fails its checks is replaced by the held
    one if the present pixels confirm that; otherwise the prediction is rejected.

    Args:
        config: `align.*`.
    """

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self._fits: dict[str, CameraFit] = {}

    def align(
        self, prediction: DepthPrediction, reference: Float32 | None, map_from_camera: Rigid3
    ) -> DepthMap:
        """Turn one prediction into depth in map units.

        Args:
            prediction: of one camera.
            reference: (H, W) depth of the map in the same camera [map units], NaN empty: from
                `Map.render` or `reference_from_points`. None: there is no map yet.
            map_from_camera: pose, handed on.

        Returns:
            The depth map. `alignment.accepted` says whether it may be used, `alignment.reason`
            why not, or what is special about it ("held", "jump", "no reference"). The depth of a
            rejected prediction is all NaN, except that triangulated depth stays as it is.

        Raises:
            AlignmentError: shapes that do not agree.
        """
        _check_shapes(prediction, reference)
        if prediction.kind is DepthKind.TRIANGULATED:
            return _depth_map(
                prediction, prediction.values, map_from_camera, self._check(prediction, reference)
            )
        alignment = self._fit(prediction, reference)
        depth = (
            apply_fit(prediction.values, prediction.kind, alignment.scale, alignment.shift)
            if alignment.accepted
            else np.full(prediction.values.shape, np.nan, np.float32)
        )
        return _depth_map(prediction, depth, map_from_camera, alignment)

    def reset(self) -> None:
        """Forget all fits, as after a new bootstrap."""
        self._fits.clear()

    def state(self) -> dict[str, Any]:
        """The filtered fits as `per_camera_calib` JSON: {camera: [scale, shift], "_meta": ...}."""
        state: dict[str, Any] = {
            camera: [fit.scale, fit.shift] for camera, fit in self._fits.items()
        }
        state["_meta"] = {
            camera: {"kind": fit.kind.value, "covariance": fit.covariance.tolist()}
            for camera, fit in self._fits.items()
        }
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned; without "_meta" the fits are disparity fits.

        Raises:
            ConfigError: an entry that is not [scale > 0, shift] or an impossible covariance;
                the present fits stay.
        """
        meta = state.get("_meta", {}) if isinstance(state, dict) else None
        if not isinstance(meta, dict):
            raise ConfigError(
                "alignment state: expected {camera: [scale, shift], '_meta': {camera: {...}}}, "
                f"got {type(state).__name__} with _meta {type(meta).__name__}"
            )
        fits = {
            str(camera): _camera_fit(str(camera), entry, meta.get(camera, {}))
            for camera, entry in state.items()
            if camera != "_meta"
        }
        self._fits = fits

    def _check(self, prediction: DepthPrediction, reference: Float32 | None) -> DepthAlignment:
        """Compare triangulated depth with the map.

        What moved or is new differs rightly, so only the median counts.
        """
        if not np.isfinite(prediction.values).any():
            return _alignment(prediction, reason="no depth: no texture that another camera sees")
        if reference is None:
            return _alignment(prediction, reason="no reference", accepted=True)
        zs, ds = self._samples(prediction, reference)[2:0:-1]
        if len(zs) < self.config.min_pixels:
            reason = f"not checked: {len(zs)} pixels of the map, {self.config.min_pixels} needed"
            return _alignment(prediction, compared=len(zs), reason=reason, accepted=True)
        errors = np.abs(ds / zs - 1)
        residual = float(np.median(errors))
        inliers = float((errors < self.config.inlier_threshold).mean())
        accepted = residual <= self.config.max_residual
        reason = "" if accepted else self._too_large(residual)
        return _alignment(
            prediction, 1.0, 0.0, inliers, residual, len(zs), reason=reason, accepted=accepted
        )

    def _fit(self, prediction: DepthPrediction, reference: Float32 | None) -> DepthAlignment:
        config, kind = self.config, prediction.kind
        if reference is None:
            return _alignment(prediction, reason="no reference")
        ys, ds, zs = self._samples(prediction, reference)
        if len(ys) < config.min_pixels:
            reason = f"{len(ys)} pixels to compare, {config.min_pixels} needed"
            return self._hold(prediction, ds, zs, reason)
        fit, inliers = self._fit_samples(ys, ds, kind)
        if fit is None:
            return self._hold(prediction, ds, zs, "no fit with a positive scale")
        residual = _residual(ds, zs, kind, fit)
        if inliers < config.min_inlier_fraction:
            reason = f"{inliers:.0%} inliers, {config.min_inlier_fraction:.0%} needed"
            return self._hold(prediction, ds, zs, reason)
        if residual > config.max_residual:
            return self._hold(prediction, ds, zs, self._too_large(residual))
        chosen, reason = self._filter(prediction.camera, fit, residual, ds, zs)
        self._fits[prediction.camera] = chosen
        return _alignment(
            prediction,
            chosen.scale,
            chosen.shift,
            inliers,
            _residual(ds, zs, kind, chosen),
            len(ds),
            reason=reason,
            accepted=True,
        )

    def _samples(
        self, prediction: DepthPrediction, reference: Float32
    ) -> tuple[Float32, Float32, Float32]:
        """(reference as the model takes it, prediction, reference depth) of good pixels."""
        reference = np.ascontiguousarray(reference, np.float32)
        thinned = reference.reshape(-1)[:: max(1, reference.size // 4096) | 1]
        known = thinned[np.isfinite(thinned) & (thinned > 0)]
        far = FAR_FACTOR * float(np.median(known)) if len(known) else math.inf
        jump = max(0.02, MAX_SLOPE / min(prediction.model.fx, prediction.model.fy))
        ys, ds, zs = collect_samples(
            np.ascontiguousarray(prediction.values, np.float32),
            reference,
            prediction.kind is DepthKind.DISPARITY,
            np.float32(jump),
            np.float32(far),
        )
        return ys, ds, zs

    def _fit_samples(
        self, ys: Float32, ds: Float32, kind: DepthKind
    ) -> tuple[CameraFit | None, float]:
        has_shift = kind is not DepthKind.METRIC_DEPTH
        a, b, inliers, _, variance_a, variance_b, covariance_ab, found = fit_affine(
            ys, ds, self.config.inlier_threshold, self.config.seed, has_shift
        )
        if not found:
            return None, 0.0
        # From d = a*y + b to y = s*d + t: s = 1/a, t = -b/a.
        shift = -b / a
        jacobian = np.array([[-1.0, 0.0], [-shift, -1.0 / a]])
        covariance = np.array([[variance_a, covariance_ab], [covariance_ab, variance_b]])
        covariance = CORRELATED_PIXELS * jacobian @ covariance @ jacobian.T
        return CameraFit(kind, -math.log(a), shift, covariance), float(inliers)

    def _filter(
        self, camera: str, fit: CameraFit, residual: float, ds: Float32, zs: Float32
    ) -> tuple[CameraFit, str]:
        """The filtered fit after a good new one, and what happened."""
        held, gain = self._fits.get(camera), self.config.smoothing
        if held is None or held.kind is not fit.kind or gain >= 1:
            return fit, ""
        step = np.array([fit.log_scale - held.log_scale, fit.shift - held.shift])
        smoothed = CameraFit(
            fit.kind,
            held.log_scale + gain * step[0],
            held.shift + gain * step[1],
            (1 - gain) ** 2 * held.covariance + gain**2 * fit.covariance,
        )
        together = held.covariance + fit.covariance + 1e-12 * np.eye(2)
        if fit.kind is DepthKind.METRIC_DEPTH:
            distance = step[0] ** 2 / together[0, 0]
        else:
            distance = float(step @ np.linalg.solve(together, step))
        if distance <= JUMP_CHI_SQUARE:
            return smoothed, ""
        if _residual(ds, zs, fit.kind, smoothed) <= 1.1 * residual + 0.001:
            return smoothed, ""
        return fit, f"jump: scale {held.scale:.4g} -> {fit.scale:.4g}"

    def _hold(
        self, prediction: DepthPrediction, ds: Float32, zs: Float32, reason: str
    ) -> DepthAlignment:
        """Use the camera's held fit if the present pixels confirm it."""
        held = self._fits.get(prediction.camera)
        if held is None or held.kind is not prediction.kind or len(ds) < _LEAST_HELD_PIXELS:
            return _alignment(prediction, compared=len(ds), reason=reason)
        errors = _errors(ds, zs, held.kind, held)
        residual = float(np.median(errors))
        inliers = float((errors < self.config.inlier_threshold).mean())
        is_confirmed = (
            residual <= self.config.max_residual and inliers >= self.config.min_inlier_fraction
        )
        return _alignment(
            prediction,
            held.scale,
            held.shift,
            inliers,
            residual,
            len(ds),
            reason=f"held: {reason}" if is_confirmed else reason,
            accepted=is_confirmed,
        )

    def _too_large(self, residual: float) -> str:
        return (
            f"median error {residual:.1%} against the map, {self.config.max_residual:.1%} allowed"
        )


def apply_fit(values: ArrayLike, kind: DepthKind, scale: float, shift: float) -> Float32:
    """Depth (H, W) of predicted values; NaN where it would not be positive and finite."""
    d = np.ascontiguousarray(values, np.float32)
    depth: Float32 = apply_affine(d, scale, shift, kind is DepthKind.DISPARITY)
    return depth


def reference_from_points(
    points_in_map: ArrayLike, model: CameraModel, map_from_camera: Rigid3
) -> Float32:
    """Sparse reference depth from the points of a bootstrap, for the time before the map.

    Args:
        points_in_map: (M, 3); points that are not finite are left out.
        model: pinhole camera.
        map_from_camera: its pose.

    Returns:
        (H, W) depth of the nearest point in each pixel, NaN elsewhere.

    Raises:
        AlignmentError: points of another shape.
    """
    points = np.asarray(points_in_map, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise AlignmentError(f"reference points: expected shape (M, 3), got {points.shape}")
    in_camera = map_from_camera.inverse().apply(points[np.isfinite(points).all(axis=1)])
    in_camera = in_camera[in_camera[:, 2] > 0]
    uv = np.rint(model.project(in_camera))
    inside = (uv >= 0).all(axis=1) & (uv[:, 0] < model.width) & (uv[:, 1] < model.height)
    columns, lines = uv[inside].astype(np.int64).T
    depth = np.full(model.height * model.width, np.inf, np.float32)
    np.minimum.at(depth, lines * model.width + columns, in_camera[inside, 2].astype(np.float32))
    depth[np.isinf(depth)] = np.nan
    return depth.reshape(model.height, model.width)


def _errors(ds: Float32, zs: Float32, kind: DepthKind, fit: CameraFit) -> Float32:
    """Relative depth errors of an even subset of the samples; infinite where there is no depth."""
    errors: Float32 = relative_errors(
        ds, zs, fit.scale, fit.shift, kind is DepthKind.DISPARITY, _RESIDUAL_SAMPLES
    )
    return errors


def _residual(ds: Float32, zs: Float32, kind: DepthKind, fit: CameraFit) -> float:
    return float(np.median(_errors(ds, zs, kind, fit)))


def _alignment(
    prediction: DepthPrediction,
    scale: float = 1.0,
    shift: float = 0.0,
    inliers: float = 0.0,
    residual: float = math.nan,
    compared: int = 0,
    *,
    reason: str = "",
    accepted: bool = False,
) -> DepthAlignment:
    return DepthAlignment(
        prediction.camera,
        prediction.kind,
        scale,
        shift,
        inliers,
        residual,
        compared,
        accepted,
        reason,
    )


def _depth_map(
    prediction: DepthPrediction, depth: Float32, pose: Rigid3, alignment: DepthAlignment
) -> DepthMap:
    is_measured: NDArray[np.bool_] = np.isfinite(depth) & (depth > 0)
    return DepthMap(
        prediction.camera,
        prediction.stamp_ns,
        np.where(is_measured, depth, np.float32(np.nan)),
        np.where(is_measured, prediction.confidence, np.float32(0)),
        prediction.rgb,
        prediction.model,
        pose,
        alignment,
    )


def _check_shapes(prediction: DepthPrediction, reference: Float32 | None) -> None:
    shape = (prediction.model.height, prediction.model.width)
    arrays = {"values": prediction.values, "confidence": prediction.confidence}
    if reference is not None:
        arrays["reference"] = reference
    for name, array in arrays.items():
        if array.shape != shape:
            raise AlignmentError(
                f"depth of camera '{prediction.camera}': expected {name} of shape {shape} as its "
                f"model, got {array.shape}; render or resize it at the size of the prediction"
            )


def _camera_fit(camera: str, entry: Any, meta: Any) -> CameraFit:
    where = f"alignment state of camera '{camera}'"
    try:
        scale, shift = (float(value) for value in entry)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected [scale, shift], got {entry!r}") from error
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        raise ConfigError(f"{where}: expected a scale > 0 and a finite shift, got {entry!r}")
    try:
        kind = DepthKind(meta.get("kind", DepthKind.DISPARITY.value))
        covariance = np.array(meta.get("covariance", np.eye(2)), np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected _meta with kind and covariance: {error}") from error
    if covariance.shape != (2, 2) or not np.isfinite(covariance).all():
        raise ConfigError(f"{where}: expected a finite covariance (2, 2), got {covariance}")
    return CameraFit(kind, math.log(scale), shift, covariance)
