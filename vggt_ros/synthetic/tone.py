"""Between grey values and linear light: a plain power law, as table look-ups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.types import Float32, Image

GAMMA = 2.2
"""Grey values are linear light to the power of 1 / GAMMA."""

DECODE: NDArray[np.float32] = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)
"""Linear light (0-1) of each grey value."""

ENCODE: NDArray[np.uint8] = np.rint(255.0 * (np.arange(4096) / 4095.0) ** (2 / GAMMA)).astype(
    np.uint8
)
"""Grey value, indexed by 4095 * sqrt(linear light): the root spreads the dark values evenly."""


def to_linear(rgb: Image) -> Float32:
    """Linear light (0-1) of grey values."""
    return np.asarray(DECODE[rgb])


def to_grey(linear: Float32) -> Image:
    """Grey values of linear light, clipped to 0-1."""
    return np.asarray(ENCODE[(np.sqrt(np.clip(linear, 0, 1)) * 4095 + 0.5).astype(np.int32)])
