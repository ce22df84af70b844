"""Images in the form that Open3D integrates."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def integrable(depth, confidence, rgb, far):
    """Depth that may be integrated and colours of 0 to 1.

    Inputs:
        depth, confidence, rgb: (H, W), (H, W), (H, W, 3) uint8.
        far: greatest depth.

    Returns:
        (H, W, 1) float32, 0 where there is nothing to integrate; (H, W, 3) float32; how many
        pixels there are.
    """
    height, width = depth.shape
    out = np.empty((height, width, 1), np.float32)
    colour = np.empty((height, width, 3), np.float32)
    count, scale = 0, np.float32(1 / 255)
    flat_rgb, flat_colour = rgb.reshape(-1), colour.reshape(-1)
    flat_depth, flat_confidence = depth.reshape(-1), confidence.reshape(-1)
    flat_out = out.reshape(-1)
    for i in range(flat_rgb.size):
        flat_colour[i] = np.float32(flat_rgb[i]) * scale
    for i in range(flat_depth.size):
        d = flat_depth[i]
        is_known = (d > np.float32(0)) & (d <= far) & (flat_confidence[i] > np.float32(0))
        flat_out[i] = d if is_known else np.float32(0)
        count += is_known
    return out, colour, count
