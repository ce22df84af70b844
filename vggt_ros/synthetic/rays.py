"""The viewing rays of a camera, distortion included."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel

Array = NDArray[np.float64]

_MAX_RESIDUAL_PX = 1e-5
"""A pixel whose inverse does not project back to within this has no ray."""


@functools.lru_cache(maxsize=32)
def pixel_rays(model: CameraModel) -> tuple[Array, Array, Array]:
    """Rays through the pixel centres and how they change from pixel to pixel.

    Returns:
        (H, W, 2) of x and y at z = 1, NaN where the distortion has no inverse; the same, as
        differences per pixel to the right, and per pixel downwards. Read-only.
    """
    u, v = np.meshgrid(np.arange(model.width, dtype=np.float64), np.arange(model.height))
    xy = unproject_pixels(model, np.stack([u, v], axis=-1))
    steps = []
    for axis in (1, 0):
        ideal = np.array([1 / model.fx, 0.0] if axis == 1 else [0.0, 1 / model.fy])
        step = np.gradient(xy, axis=axis) if xy.shape[axis] > 1 else np.full_like(xy, np.nan)
        # Beside a pixel without a ray, or in a single row: the step of the ideal camera.
        steps.append(np.where(np.isfinite(step).all(axis=-1, keepdims=True), step, ideal))
    for array in (xy, *steps):
        array.flags.writeable = False
    return xy, steps[0], steps[1]


def unproject_pixels(model: CameraModel, pixels: NDArray[np.floating]) -> Array:
    """Pixels (..., 2) of the distorted image to x, y (..., 2) at z = 1.

    The inverse of `CameraModel.project`: Newton's method with a numerical Jacobian, which needs
    no formula of its own for each model. NaN where it does not converge.
    """
    pixels = np.asarray(pixels, np.float64)
    focal, centre = np.array([model.fx, model.fy]), np.array([model.cx, model.cy])
    xy = (pixels - centre) / focal
    if not model.is_distorted:
        return np.asarray(xy)
    if model.distortion_model == "equidistant":
        # Start from the plain equidistant lens, else Newton overshoots at wide angles.
        theta = np.linalg.norm(xy, axis=-1, keepdims=True)
        safe = np.maximum(theta, 1e-12)
        xy = xy * np.tan(np.minimum(safe, 1.5)) / safe
    step = 1e-6
    with np.errstate(all="ignore"):
        for _ in range(30):
            here = _project(model, xy)
            error = pixels - here
            if np.nanmax(np.abs(error)) < 1e-9:
                break
            right = (_project(model, xy + [step, 0]) - here) / step
            down = (_project(model, xy + [0, step]) - here) / step
            determinant = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
            dx = (error[..., 0] * down[..., 1] - error[..., 1] * down[..., 0]) / determinant
            dy = (right[..., 0] * error[..., 1] - right[..., 1] * error[..., 0]) / determinant
            xy = xy + np.stack([dx, dy], axis=-1)
        residual = np.abs(_project(model, xy) - pixels).max(axis=-1)
    xy[~(residual < _MAX_RESIDUAL_PX)] = np.nan
    return np.asarray(xy)


def _project(model: CameraModel, xy: Array) -> Array:
    return model.project(np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1))
