"""The pixels on which a prediction is compared with the map, and the fit to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.config import AlignConfig
from vggt_ros.mapping.kernels_fit import collect_samples, fit_affine, mark_edges, relative_errors
from vggt_ros.pipeline.camera_fits import AlignModel, CameraFit
from vggt_ros.types import DepthKind, DepthPrediction, Float32

MAX_SLOPE = 3.7
"""Tangent of the flattest incidence that is compared (75 degrees)."""

EDGE_MARGIN = 1 / 80
"""Part of the image's width around depth edges that is left out: predictions blur edges, and the
near side of a rendered edge is too wide. On `indoor_sequence` the rendered map is too near by
0.77 % (median) on edges, 0.3 % 2 to 4 px away and 0.15 % beyond 10 px (320 px wide)."""

LEAST_INNER = 0.2
"""In clutter, where fewer of the pixels are so far from edges, only the edges are left out."""

FAR_FACTOR = 5.0
"""Pixels farther than this many times the median depth are not compared: there disparity says
nothing and the map is worst."""

CORRELATED_PIXELS = 100.0
"""Pixels whose errors go together; the covariance of a fit is enlarged by this factor."""

RESIDUAL_SAMPLES = 2048
"""Pixels of which a median error is taken."""

LEAST_JUDGES = 20
"""Where fewer pixels took no part in the fit, all of them judge it."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Pixels fit to be compared, as the model takes them; `held_*` do not take part in the fit."""

    model: AlignModel | None
    inverse: bool
    ys: Float32
    ds: Float32
    held_ds: Float32
    held_zs: Float32

    def __len__(self) -> int:
        return len(self.ds) + len(self.held_ds)

    def errors(self, fit: CameraFit, *, all_pixels: bool = False) -> Float32:
        """Relative depth errors of an even subset; infinite where there is no depth."""
        ds, zs = self.held_ds, self.held_zs
        if all_pixels or len(ds) < LEAST_JUDGES:
            depths = 1 / self.ys if self.inverse else self.ys
            ds, zs = np.concatenate([self.ds, ds]), np.concatenate([depths, zs])
        errors: Float32 = relative_errors(
            ds, zs, fit.scale, fit.shift, self.inverse, RESIDUAL_SAMPLES
        )
        return errors

    def residual(self, fit: CameraFit) -> float:
        """Median relative depth error of the pixels that took no part in the fit."""
        return float(np.median(self.errors(fit)))


def collect(prediction: DepthPrediction, reference: Float32, model: AlignModel | None) -> Samples:
    """Pixels fit to be compared: away from edges, not far and not seen flatly.

    Args:
        prediction: of one camera.
        reference: (H, W) depth of the map in the same camera [map units], NaN empty.
        model: None: the values are depth already.
    """
    kind = prediction.kind
    inverse = model is not None and model.fits_inverse_depth(kind)
    inverts_values = model is not None and model.inverts_prediction(kind)
    reference = np.ascontiguousarray(reference, np.float32)
    thinned = reference.reshape(-1)[:: max(1, reference.size // 4096) | 1]
    known = thinned[np.isfinite(thinned) & (thinned > 0)]
    far = np.float32(FAR_FACTOR * float(np.median(known)) if len(known) else math.inf)
    jump = max(0.02, MAX_SLOPE / min(prediction.model.fx, prediction.model.fy))
    marked = mark_edges(reference, np.float32(jump))
    margin = max(1, round(EDGE_MARGIN * prediction.model.width))
    widened = cv2.dilate(marked, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    values = np.ascontiguousarray(prediction.values, np.float32)
    for mask in (np.asarray(widened, np.uint8), marked):
        ys, ds, held_ds, held_zs, valid = collect_samples(
            values, reference, mask, inverse, inverts_values, far
        )
        if len(ds) + len(held_ds) >= LEAST_INNER * valid:
            break
    return Samples(model, inverse, ys, ds, held_ds, held_zs)


def fit_samples(
    samples: Samples, kind: DepthKind, config: AlignConfig
) -> tuple[CameraFit | None, float]:
    """Scale and shift by RANSAC and Tukey's biweight, and the fraction of inliers.

    Returns:
        None and 0 where there is no fit with a positive scale.
    """
    model = samples.model
    assert model is not None  # for the type checker: only predictions with a model are fitted
    a, b, inliers, _, variance_a, variance_b, covariance_ab, found = fit_affine(
        samples.ys,
        samples.ds,
        config.inlier_threshold,
        config.seed,
        model is not AlignModel.SCALE,
    )
    if not found:
        return None, 0.0
    # From d = a*y + b to y = s*d + t: s = 1/a, t = -b/a.
    shift = -b / a
    jacobian = np.array([[-1.0, 0.0], [-shift, -1.0 / a]])
    covariance = np.array([[variance_a, covariance_ab], [covariance_ab, variance_b]])
    covariance = CORRELATED_PIXELS * jacobian @ covariance @ jacobian.T
    return CameraFit(kind, model, -math.log(a), shift, covariance), float(inliers)
