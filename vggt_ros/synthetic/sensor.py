"""What a real camera adds to a perfect picture: exposure, vignetting, blur and noise."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.synthetic.tone import to_grey, to_linear
from vggt_ros.types import Float32, Image


@dataclass(frozen=True)
class SensorModel:
    """A small global-shutter camera indoors.

    Gains, vignetting and blur differ from camera to camera within the given spreads; which they
    are follows from seed and camera name alone.
    """

    full_well_electrons: float = 8000.0
    """Photo-electrons of a white pixel; shot noise is their square root (0.6 grey levels
    near white in the gamma-encoded image, as machine vision cameras at moderate gain)."""
    read_noise_electrons: float = 12.0
    exposure_spread: float = 0.06
    """Standard deviation of the relative exposure."""
    white_balance_spread: float = 0.015
    vignetting: float = 0.22
    """Loss of light in the corners."""
    blur_px: float = 0.45
    """Standard deviation of the lens blur."""
    exposure_jitter: float = 0.004
    """Standard deviation of the exposure from frame to frame."""
    seed: int = 0


def apply_sensor(rgb: Image, camera: str, index: int, sensor: SensorModel | None = None) -> Image:
    """The image as camera `camera` would have taken it as its frame number `index`.

    Args:
        rgb: (H, W, 3), free of noise, gamma encoded.
        camera: its name fixes gain, colour and blur.
        index: with the name it fixes the noise.
        sensor: None for the defaults.

    Returns:
        (H, W, 3); the same for the same arguments.
    """
    sensor = sensor or SensorModel()
    name = zlib.crc32(camera.encode())
    traits = np.random.default_rng([sensor.seed, name])
    exposure = float(np.exp(sensor.exposure_spread * traits.standard_normal()))
    balance = np.exp(sensor.white_balance_spread * traits.standard_normal(3))
    blur = sensor.blur_px * float(traits.uniform(0.8, 1.2))
    random = np.random.Generator(np.random.SFC64([sensor.seed, name, index]))
    exposure *= float(np.exp(sensor.exposure_jitter * random.standard_normal()))
    linear = to_linear(rgb)
    if blur > 0:
        linear = np.asarray(cv2.GaussianBlur(linear, (0, 0), blur), np.float32)
    gain = _vignette(rgb.shape[0], rgb.shape[1], sensor.vignetting)[..., None]
    linear = linear * (gain * (exposure * balance).astype(np.float32))
    electrons = np.clip(linear, 0, None) * np.float32(sensor.full_well_electrons)
    sigma = np.sqrt(electrons + np.float32(sensor.read_noise_electrons**2))
    electrons += sigma * random.standard_normal(rgb.shape, dtype=np.float32)
    return to_grey(electrons / np.float32(sensor.full_well_electrons))


@functools.lru_cache(maxsize=8)
def _vignette(height: int, width: int, loss: float) -> Float32:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius2 = ((x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2) / (
        ((width - 1) / 2) ** 2 + ((height - 1) / 2) ** 2 + 1e-6
    )
    return np.asarray(1 - np.float32(loss) * radius2, np.float32)
