"""Depth alignment: from what a network or stereo says to depth in map units.

The model follows the kind of the prediction, or `align.model`, and is never exchanged for another
within one camera's history (`camera_fits.AlignModel`):

* disparity: 1/z = scale * d + shift
* relative depth: z = scale * d + shift
* metric depth: z = scale * d
* triangulated: z = d, only checked
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.config import AlignConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3
from vggt_ros.mapping.kernels_fit import apply_affine
from vggt_ros.pipeline.align_samples import Samples, collect, fit_samples
from vggt_ros.pipeline.camera_agreement import agrees, contradictions
from vggt_ros.pipeline.camera_fits import (
    AlignModel,
    CameraFit,
    fits_of,
    model_for,
    read_calibration,
    state_of,
    write_calibration,
)
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction, Float32

JUMP_CHI_SQUARE = 11.8
"""99.7 % of chi square with two degrees of freedom."""

_LEAST_HELD_PIXELS = 30
"""Pixels that must confirm a held fit."""

Job = tuple[DepthPrediction, Float32 | None, Rigid3]
"""A prediction, the depth of the map in the same camera, and the camera's pose."""


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A depth map, and the filtered fit to keep if the other cameras do not object."""

    depth_map: DepthMap
    fit: CameraFit | None = None


class DepthAligner:
    """Fits each camera's predictions to the map and filters the fits over time.

    A new fit moves the camera's filtered one by its share of the common information, but at least
    by the fraction `smoothing`. If it lies outside the common covariance and the smoothed fit
    explains the present pixels worse, the scale did jump and the new fit replaces the filtered
    one. A fit that fails its checks, or that the other cameras of the set contradict, is replaced
    by the held one if the present pixels confirm that; otherwise the prediction is rejected.

    Args:
        config: `align.*`.
    """

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self._fits: dict[str, CameraFit] = {}

    def align(
        self, prediction: DepthPrediction, reference: Float32 | None, map_from_camera: Rigid3
    ) -> DepthMap:
        """Turn one prediction into depth in map units, see `align_set`."""
        return self.align_set([(prediction, reference, map_from_camera)])[0]

    def align_set(self, jobs: Sequence[Job]) -> list[DepthMap]:
        """Turn the predictions of one set into depth in map units.

        Args:
            jobs: for each camera the prediction; (H, W) depth of the map in the same camera
                [map units], NaN empty, from `Map.render` or `reference_from_points`, or None
                while there is no map; the camera's pose, handed on.

        Returns:
            The depth maps in the same order. `alignment.accepted` says whether one may be used,
            `alignment.reason` why not, or what is special about it ("held", "jump", "no
            reference"). The depth of a rejected prediction is all NaN, except that triangulated
            depth stays as it is.

        Raises:
            AlignmentError: shapes that do not agree.
            ConfigError: `align.model` is unknown.
        """
        for prediction, reference, _ in jobs:
            _check_shapes(prediction, reference)
        outcomes = [self._align(*job) for job in jobs]
        if self.config.max_disagreement > 0:
            outcomes = self._agreed(jobs, outcomes)
        for outcome in outcomes:
            if outcome.fit is not None:
                self._fits[outcome.depth_map.camera] = outcome.fit
        return [outcome.depth_map for outcome in outcomes]

    @property
    def known(self) -> int:
        """Cameras with a fit."""
        return len(self._fits)

    def reset(self) -> None:
        """Forget all fits, as after a new bootstrap."""
        self._fits.clear()

    def state(self) -> dict[str, Any]:
        """The filtered fits as JSON values, see `camera_fits.state_of`."""
        return state_of(self._fits)

    def load_state(self, state: Any) -> None:
        """Take over what `state` returned, see `camera_fits.fits_of`.

        Raises:
            ConfigError: impossible entries; the present fits stay.
        """
        self._fits = fits_of(state, self.config.model)

    def save(self, path: str | Path) -> None:
        """Write the filtered fits as `per_camera_calib` JSON, whole or not at all.

        Raises:
            ExportError: the file cannot be written.
        """
        write_calibration(path, self._fits)

    def load(self, path: str | Path) -> None:
        """Take over the fits of a file.

        Raises:
            ConfigError: missing, no JSON or impossible entries; the present fits stay.
        """
        self._fits = read_calibration(path, self.config.model)

    def _align(
        self, prediction: DepthPrediction, reference: Float32 | None, pose: Rigid3
    ) -> _Outcome:
        if prediction.kind is DepthKind.TRIANGULATED:
            checked = self._check(prediction, reference)
            return _Outcome(_depth_map(prediction, prediction.values, pose, checked))
        alignment, fit = self._fit(prediction, reference)
        return _Outcome(_fitted_map(prediction, pose, alignment), fit)

    def _check(self, prediction: DepthPrediction, reference: Float32 | None) -> DepthAlignment:
        """Compare triangulated depth with the map.

        What moved or is new differs rightly, so only the median counts.
        """
        if not np.isfinite(prediction.values).any():
            return _alignment(prediction, reason="no depth: no texture that another camera sees")
        if reference is None:
            return _alignment(prediction, reason="no reference", accepted=True)
        samples = collect(prediction, reference, None)
        if len(samples) < self.config.min_pixels:
            reason = (
                f"not checked: {len(samples)} pixels of the map, {self.config.min_pixels} needed"
            )
            return _alignment(prediction, compared=len(samples), reason=reason, accepted=True)
        as_it_is = CameraFit(prediction.kind, AlignModel.SCALE, 0.0, 0.0, np.zeros((2, 2)))
        errors = samples.errors(as_it_is, all_pixels=True)
        residual = float(np.median(errors))
        accepted = residual <= self.config.max_residual
        return _alignment(
            prediction,
            inliers=self._inliers(errors),
            residual=residual,
            compared=len(samples),
            reason="" if accepted else self._too_large(residual),
            accepted=accepted,
        )

    def _fit(
        self, prediction: DepthPrediction, reference: Float32 | None
    ) -> tuple[DepthAlignment, CameraFit | None]:
        """The alignment of one camera, and the new filtered fit if there is one."""
        config = self.config
        model = model_for(prediction.kind, config.model)
        if reference is None:
            return _alignment(prediction, model=model, reason="no reference"), None
        samples = collect(prediction, reference, model)
        if len(samples) < config.min_pixels:
            reason = f"{len(samples)} pixels to compare, {config.min_pixels} needed"
            return self._hold(prediction, samples, reason), None
        fit, inliers = fit_samples(samples, prediction.kind, config)
        if fit is None:
            return self._hold(prediction, samples, "no fit with a positive scale"), None
        residual = samples.residual(fit)
        if inliers < config.min_inlier_fraction:
            reason = f"{inliers:.0%} inliers, {config.min_inlier_fraction:.0%} needed"
            return self._hold(prediction, samples, reason), None
        if residual > config.max_residual:
            return self._hold(prediction, samples, self._too_large(residual)), None
        chosen, reason = self._filter(prediction.camera, fit, residual, samples)
        alignment = _alignment(
            prediction,
            chosen,
            inliers=inliers,
            residual=samples.residual(chosen),
            compared=len(samples),
            reason=reason,
            accepted=True,
        )
        return alignment, chosen

    def _filter(
        self, camera: str, fit: CameraFit, residual: float, samples: Samples
    ) -> tuple[CameraFit, str]:
        """The filtered fit after a good new one, and what happened."""
        held = self._fits.get(camera)
        if held is None or not held.is_like(fit) or self.config.smoothing >= 1:
            return fit, ""
        together = held.covariance + fit.covariance + 1e-12 * np.eye(2)
        gain = max(self.config.smoothing, float(held.covariance[0, 0] / together[0, 0]))
        step = np.array([fit.log_scale - held.log_scale, fit.shift - held.shift])
        smoothed = replace(
            fit,
            log_scale=held.log_scale + gain * step[0],
            shift=held.shift + gain * step[1],
            covariance=(1 - gain) ** 2 * held.covariance + gain**2 * fit.covariance,
        )
        if fit.model is AlignModel.SCALE:
            distance = step[0] ** 2 / together[0, 0]
        else:
            distance = float(step @ np.linalg.solve(together, step))
        if distance <= JUMP_CHI_SQUARE:
            return smoothed, ""
        if samples.residual(smoothed) <= 1.1 * residual + 0.001:
            return smoothed, ""
        return fit, f"jump: scale {held.scale:.4g} -> {fit.scale:.4g}"

    def _hold(self, prediction: DepthPrediction, samples: Samples, reason: str) -> DepthAlignment:
        """Use the camera's held fit if the present pixels confirm it."""
        held = self._fits.get(prediction.camera)
        if (
            held is None
            or held.kind is not prediction.kind
            or held.model is not samples.model
            or len(samples) < _LEAST_HELD_PIXELS
        ):
            return _alignment(
                prediction, model=samples.model, compared=len(samples), reason=reason
            )
        errors = samples.errors(held, all_pixels=True)
        residual, inliers = float(np.median(errors)), self._inliers(errors)
        is_confirmed = (
            residual <= self.config.max_residual and inliers >= self.config.min_inlier_fraction
        )
        return _alignment(
            prediction,
            held,
            inliers=inliers,
            residual=residual,
            compared=len(samples),
            reason=f"held: {reason}" if is_confirmed else reason,
            accepted=is_confirmed,
        )

    def _agreed(self, jobs: Sequence[Job], outcomes: list[_Outcome]) -> list[_Outcome]:
        """Hold or reject the cameras that contradict the others of the set.

        Triangulated depth is left out: the stereo has compared its views pixel by pixel.
        """
        largest = self.config.max_disagreement
        fitted = {
            k: o.depth_map
            for k, o in enumerate(outcomes)
            if o.depth_map.alignment.accepted
            and o.depth_map.alignment.kind is not DepthKind.TRIANGULATED
        }
        wrong = contradictions(list(fitted.values()), largest) if len(fitted) > 1 else {}
        trusted = [d for d in fitted.values() if d.camera not in wrong]
        out = list(outcomes)
        for k, depth_map in fitted.items():
            if depth_map.camera in wrong:
                reason = _contradiction(wrong[depth_map.camera])
                out[k] = self._without_contradiction(jobs[k], depth_map, reason, trusted)
        return out

    def _without_contradiction(
        self, job: Job, depth_map: DepthMap, reason: str, trusted: Sequence[DepthMap]
    ) -> _Outcome:
        """With the fit held from before, if the other cameras and the map agree with that."""
        prediction, reference, pose = job
        refused = replace(depth_map.alignment, accepted=False, reason=reason)
        if reference is not None and not depth_map.alignment.reason.startswith("held"):
            model = model_for(prediction.kind, self.config.model)
            samples = collect(prediction, reference, model)
            held = _fitted_map(prediction, pose, self._hold(prediction, samples, reason))
            if held.alignment.accepted and agrees(held, trusted, self.config.max_disagreement):
                return _Outcome(held)
        return _Outcome(_fitted_map(prediction, pose, refused))

    def _inliers(self, errors: Float32) -> float:
        return float((errors < self.config.inlier_threshold).mean())

    def _too_large(self, residual: float) -> str:
        return (
            f"median error {residual:.1%} against the map, {self.config.max_residual:.1%} allowed"
        )


def apply_fit(
    values: ArrayLike,
    kind: DepthKind,
    scale: float,
    shift: float,
    model: AlignModel | None = None,
) -> Float32:
    """Depth (H, W) of predicted values; NaN where it would not be positive and finite.

    Args:
        model: None: the one that the kind calls for.
    """
    model = model or model_for(kind)
    depth: Float32 = apply_affine(
        np.ascontiguousarray(values, np.float32),
        scale,
        shift,
        model.fits_inverse_depth(kind),
        model.inverts_prediction(kind),
    )
    return depth


def _contradiction(differences: Mapping[str, float]) -> str:
    """Reason of a camera that lies nearer or farther than what others see."""
    parts = [
        f"{other} ({abs(d):.1%} {'farther' if d > 0 else 'nearer'})"
        for other, d in sorted(differences.items())
    ]
    return f"contradicts {', '.join(parts)}"


def _alignment(
    prediction: DepthPrediction,
    fit: CameraFit | None = None,
    *,
    model: AlignModel | None = None,
    inliers: float = 0.0,
    residual: float = math.nan,
    compared: int = 0,
    reason: str = "",
    accepted: bool = False,
) -> DepthAlignment:
    model = fit.model if fit is not None else model
    return DepthAlignment(
        prediction.camera,
        prediction.kind,
        fit.scale if fit is not None else 1.0,
        fit.shift if fit is not None else 0.0,
        inliers,
        residual,
        compared,
        accepted,
        reason,
        model.value if model is not None else "",
    )


def _fitted_map(prediction: DepthPrediction, pose: Rigid3, alignment: DepthAlignment) -> DepthMap:
    """The depth of an accepted fit, all NaN of a rejected one."""
    if alignment.accepted:
        depth = apply_fit(
            prediction.values,
            prediction.kind,
            alignment.scale,
            alignment.shift,
            AlignModel(alignment.model),
        )
    else:
        depth = np.full(prediction.values.shape, np.nan, np.float32)
    return _depth_map(prediction, depth, pose, alignment)


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
