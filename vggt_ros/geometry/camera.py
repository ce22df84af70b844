"""Camera models: pinhole with plumb_bob, rational_polynomial or equidistant distortion.

Pixel (0, 0) is the centre of the top-left pixel, as in ROS and OpenCV. Cameras are optical
frames: x right, y down, z forward.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.geometry.rigid3 import Array

COEFFICIENT_COUNTS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
"""Distortion models and how many coefficients each may have (OpenCV order)."""


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics [px] of one camera at one image size.

    Raises:
        ValueError: a size or focal length that is not positive, NaN, an unknown distortion
            model or a wrong number of coefficients.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = "none"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera: expected a size > 0, got {self.width}x{self.height}")
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not all(math.isfinite(v) for v in values):
            raise ValueError(f"camera: expected finite intrinsics, got {values}")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"camera: expected focal lengths > 0, got {self.fx}, {self.fy}")
        counts = COEFFICIENT_COUNTS.get(self.distortion_model)
        if counts is None:
            raise ValueError(
                f"camera: expected a distortion model of {', '.join(COEFFICIENT_COUNTS)}, "
                f"got '{self.distortion_model}'"
            )
        if len(self.distortion) not in counts:
            raise ValueError(
                f"camera: {self.distortion_model} takes {' or '.join(map(str, counts))} "
                f"coefficients, got {len(self.distortion)}"
            )

    @property
    def matrix(self) -> Array:
        """K, (3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @property
    def is_distorted(self) -> bool:
        """Rays are not straight from pixels; an equidistant lens without coefficients too."""
        return self.distortion_model == "equidistant" or any(c != 0.0 for c in self.distortion)

    @property
    def horizontal_fov_rad(self) -> float:
        """Angle between the outer edges of the image, without distortion."""
        left, right = (self.cx + 0.5) / self.fx, (self.width - 0.5 - self.cx) / self.fx
        return math.atan(left) + math.atan(right)

    def without_distortion(self) -> CameraModel:
        """The pinhole camera of the same K, to which `pipeline.ingest` undistorts."""
        return dataclasses.replace(self, distortion_model="none", distortion=())

    def resized(self, width: int, height: int) -> CameraModel:
        """The same camera for the image resized to width x height.

        Pixel centres are at whole numbers, so the edge is at -0.5: half a pixel is added
        before and taken off after scaling.
        """
        sx, sy = width / self.width, height / self.height
        return dataclasses.replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def project(self, points_in_camera: ArrayLike) -> Array:
        """Points (..., 3) in the camera frame to pixels (..., 2); NaN for z <= 0."""
        points = np.asarray(points_in_camera, np.float64)
        z = points[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = np.where((z > 0)[..., None], points[..., :2] / z[..., None], np.nan)
        if self.is_distorted:
            xy = _distort(xy, self.distortion_model, self.distortion)
        return np.asarray(xy * [self.fx, self.fy] + [self.cx, self.cy])

    def rays(self) -> NDArray[np.float32]:
        """(H, W, 3) of the points at z = 1 seen by each pixel of an undistorted camera.

        Raises:
            ValueError: the camera is distorted.
        """
        if self.is_distorted:
            raise ValueError("camera rays: undistort the image first (pipeline.ingest)")
        rays = np.ones((self.height, self.width, 3), np.float32)
        rays[..., 0] = (np.arange(self.width) - self.cx) / self.fx
        rays[..., 1] = ((np.arange(self.height) - self.cy) / self.fy)[:, None]
        return rays

    def unproject(self, depth: ArrayLike) -> Array:
        """Depth (H, W) along z to points (H, W, 3) in the camera frame; NaN stays NaN."""
        d = np.asarray(depth, np.float64)
        if d.shape != (self.height, self.width):
            raise ValueError(
                f"unproject: expected depth {(self.height, self.width)}, got {d.shape}"
            )
        return np.asarray(self.rays().astype(np.float64) * d[..., None])


def _distort(xy: Array, model: str, coefficients: tuple[float, ...]) -> Array:
    """Ideal to distorted coordinates at z = 1 (OpenCV calib3d: pinhole and fisheye models)."""
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    if model == "equidistant":
        k1, k2, k3, k4 = coefficients
        r = np.sqrt(r2)
        theta = np.arctan(r)
        t2 = theta * theta
        theta_d = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(r > 1e-12, theta_d / r, 1.0)
        return np.asarray(xy * factor[..., None])
    k = np.zeros(14)
    k[: len(coefficients)] = coefficients
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tilt_x, tilt_y = k
    if tilt_x or tilt_y:
        raise ValueError("camera: tilted sensors (coefficients 13 and 14) are not supported")
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    r4 = r2 * r2
    xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r4
    yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r4
    return np.stack([xd, yd], axis=-1)
