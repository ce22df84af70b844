"""Images in the form that Open3D integrates."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_planes import UNKNOWN_COSINE, is_steep, normal_at


@njit(cache=True, nogil=True, error_model="numpy")
def integrable(depth, confidence, rgb, far, planes, intrinsics, least_cosine):
    """Depth that may be integrated and colours of 0 to 1.

    Inputs:
        depth, confidence, rgb: (H, W), (H, W), (H, W, 3) uint8.
        far: greatest depth.
        planes: from `tile_planes`, or of size 0 to take any incidence.
        intrinsics: fx fy cx cy.
        least_cosine: of the angle between ray and normal.

    Returns:
        (H, W, 1) float32, 0 where there is nothing to integrate; (H, W, 3) float32; (3,) pixels
        that are invalid, too far and too flat.
    """
    height, width = depth.shape
    out = np.empty((height, width, 1), np.float32)
    colour = np.empty((height, width, 3), np.float32)
    counts, scale = np.zeros(3, np.int64), np.float32(1 / 255)
    flat_rgb, flat_colour = rgb.reshape(-1), colour.reshape(-1)
    flat_depth, flat_confidence = depth.reshape(-1), confidence.reshape(-1)
    flat_out = out.reshape(-1)
    for i in range(flat_rgb.size):
        flat_colour[i] = np.float32(flat_rgb[i]) * scale
    invalid, beyond, zero = 0, 0, np.float32(0)
    infinity = np.float32(np.inf)
    for i in range(flat_depth.size):
        d = flat_depth[i]
        is_depth = (d > zero) & (d < infinity) & (flat_confidence[i] > zero)
        is_near = is_depth & (d < far)  # as Open3D
        flat_out[i] = d if is_near else zero
        invalid += not is_depth
        beyond += is_depth & (not is_near)
    counts[0], counts[1] = invalid, beyond
    if planes.size == 0:
        return out, colour, counts
    fx, fy, cx, cy = intrinsics
    for v in range(height):
        ry = (np.float32(v) - cy) / fy
        for u in range(width):
            d = out[v, u, 0]
            if d == zero:
                continue
            rx = (np.float32(u) - cx) / fx
            cosine = normal_at(planes, u, v, rx, ry, d, rx, ry, np.float32(1))[3]
            if cosine < least_cosine or (
                cosine == np.float32(UNKNOWN_COSINE)
                and is_steep(depth, u, v, fx, fy, least_cosine)
            ):
                out[v, u, 0] = zero
                counts[2] += 1
    return out, colour, counts
