"""Robust estimation that several stages share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vggt_ros.geometry.rigid3 import Array, nearest_rotation
from vggt_ros.geometry.sim3 import Sim3

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def sigma_from_mad(residuals: ArrayLike) -> float:
    """Robust standard deviation of residuals around zero; NaN for none."""
    r = np.abs(np.asarray(residuals, np.float64))
    return float(MAD_TO_SIGMA * np.median(r)) if r.size else float("nan")


def fit_similarity(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None) -> Sim3:
    """Least-squares `target_from_source` of paired points (N, 3), N >= 3 not on a line.

    Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", PAMI 1991, with weights.

    Raises:
        ValueError: shapes differ, fewer than three points, or all source points coincide.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3 or len(a) < 3:
        raise ValueError(
            f"similarity fit: expected two (N, 3) arrays, N >= 3, got {a.shape}, {b.shape}"
        )
    w = np.ones(len(a)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    mean_a, mean_b = w @ a, w @ b
    a0, b0 = a - mean_a, b - mean_b
    variance = float(w @ (a0**2).sum(axis=1))
    if variance == 0:
        raise ValueError("similarity fit: all source points coincide")
    covariance = (b0 * w[:, None]).T @ a0
    rotation = nearest_rotation(covariance)
    scale = float((rotation * covariance).sum()) / variance
    return Sim3(scale, rotation, mean_b - scale * rotation @ mean_a)


def fit_rigid(source: ArrayLike, target: ArrayLike) -> Sim3:
    """Least-squares `target_from_source` with scale 1 of paired points (N, 3) (Kabsch)."""
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    similarity = fit_similarity(a, b)
    rotation: Array = similarity.rotation
    return Sim3(1.0, rotation, b.mean(axis=0) - rotation @ a.mean(axis=0))
