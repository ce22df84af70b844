"""Depth of one view: the best plane of every pixel, made exact by aligning the images.

Depth is held as inverse depth q. `unit` is the step of q between two planes, which moves a match
by about a pixel in the source that moves most.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline import depth_refinement_kernels as refinement
from vggt_ros.pipeline import plane_sweep_kernels as kernels
from vggt_ros.types import Float32

# Found by trial on `indoor_sequence` and the synthetic room; all are flat optima.
SWEEP_RADIUS_PX = 2
REFINE_RADIUS_PX, FINE_RADIUS_PX = 4, 6
SMOOTH_RADIUS_PX = 2
COARSE_TURNS, FINE_TURNS = 1, 2
MIN_NOISE_GREY = 0.7
"""Grey levels are rounded, and JPEG hides noise."""
UNSEEN_COST = 90
"""Cost of planes on which no source sees the pixel: a worse match (correlation below 0.65) is not
preferred to being out of view, and the pixel becomes a hole."""
P1, P2 = 25.0, 250.0
"""Semi-global penalties for costs of 0 to 254 per path."""
EDGE_GREY = 12.0
"""Grey-level step at which P2 falls to half."""

Stack = tuple[Float32, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Grey levels of all sources, flat; where each begins; widths; heights."""


@dataclass(frozen=True, eq=False)
class Level:
    """A view and its sources at one size; mean and variance are those of the refined windows."""

    grey: Float32
    mean: Float32
    variance: Float32
    radius: int
    stack: Stack
    transforms: NDArray[np.float64]


def search(level: Level, planes: NDArray[np.float64], noise: float) -> tuple[Float32, Float32]:
    """The best plane of every pixel: inverse depth and margin, (H, W) each."""
    homographies = np.repeat(level.transforms[:, None, :9], len(planes), axis=1)
    homographies[:, :, 2::3] += level.transforms[:, None, 9:] * planes[None, :, None]
    mean, variance = window(level.grey, SWEEP_RADIUS_PX)
    inverse_std = 1 / np.sqrt(variance + np.float32(noise))
    cost = kernels.planes_last(
        kernels.sweep(
            level.grey, mean, inverse_std, *level.stack, homographies, SWEEP_RADIUS_PX, noise
        ),
        np.uint8(UNSEEN_COST),
    )
    total = kernels.semi_global(cost, _edge_factor(level.grey), P1, P2)
    index, margin = kernels.winner(total)
    unit = planes[1] - planes[0]
    q = cv2.medianBlur((planes[0] + index * unit).astype(np.float32), 3)
    return refinement.smooth(q, np.zeros_like(q), float(unit), SMOOTH_RADIUS_PX), margin


def align(
    level: Level,
    q: Float32,
    unit: float,
    noise: float,
    limits: tuple[float, float],
    turns: int,
) -> tuple[Float32, Float32, Float32]:
    """Steps of image alignment; inverse depth, information [1/unit^2] and correlation."""
    low, high = np.float32(limits[0]), np.float32(limits[1])
    information = score = np.zeros_like(q)
    for turn in range(turns):
        if turn:
            q = refinement.smooth(q, information, unit, SMOOTH_RADIUS_PX)
        step, information, score = refinement.align_depth(
            level.grey, level.mean, level.variance, *level.stack, level.transforms, q, unit,
            level.radius, noise,
        )  # fmt: skip
        q = np.clip(q + step * np.float32(unit), low, high)
    return q, information, score


def enlarged(q: Float32, size: tuple[int, int], unit: float) -> Float32:
    """Inverse depth at a larger size, without new depths between two surfaces."""
    linear = cv2.resize(q, size, interpolation=cv2.INTER_LINEAR)
    nearest = cv2.resize(q, size, interpolation=cv2.INTER_NEAREST)
    return np.where(np.abs(linear - nearest) > unit, nearest, linear)


def stacked(images: list[Float32]) -> Stack:
    """Images of any sizes one after the other."""
    sizes = np.array([image.size for image in images], np.int64)
    return (
        np.concatenate([image.ravel() for image in images]),
        np.cumsum(sizes) - sizes,
        np.array([image.shape[1] for image in images], np.int64),
        np.array([image.shape[0] for image in images], np.int64),
    )


def pixels_from_pixels(
    model: CameraModel, other: CameraModel, other_from_camera: Rigid3
) -> NDArray[np.float64]:
    """(12,): `other pixel (homogeneous) = M [x y 1] + q t` with q the inverse depth."""
    m = other.matrix @ other_from_camera.rotation @ np.linalg.inv(model.matrix)
    return np.concatenate([m.ravel(), other.matrix @ other_from_camera.translation])


def window(grey: Float32, radius: int) -> tuple[Float32, Float32]:
    """Mean and variance of (2 radius + 1)^2 windows, mirrored at the border."""
    size = (2 * radius + 1, 2 * radius + 1)
    mean = cv2.boxFilter(grey, -1, size, borderType=cv2.BORDER_REFLECT_101)
    square = cv2.sqrBoxFilter(grey, -1, size, borderType=cv2.BORDER_REFLECT_101)
    variance = np.maximum(square - mean * mean, 0)
    return np.asarray(mean, np.float32), np.asarray(variance, np.float32)


def noise_sigma(grey: Float32) -> float:
    """Standard deviation of the noise (Immerkaer 1996, median instead of mean)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(grey, -1, kernel))[1:-1, 1:-1]
    return float(np.median(response)) * 1.4826 / 6.0 if response.size else 0.0


def _edge_factor(grey: Float32) -> Float32:
    """(H, W) in (0, 1]: low where the grey level changes, there depth may jump."""
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=0.25)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=0.25)
    return np.asarray(EDGE_GREY / (EDGE_GREY + np.abs(dx) + np.abs(dy)), np.float32)
