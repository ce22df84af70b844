"""What a camera may see of the map: chunks in the view cone, projection, free space."""

from __future__ import annotations

import numpy as np
from numba import njit

MARGIN_VOXELS = 1.5
MARGIN_SIGMAS = 2.0
"""A surfel agrees with a measured depth within this many voxels plus this many of the depth's
standard deviations. If it lies farther in front it is seen through."""

LEAST_SIGMA = 0.01
MOST_SIGMA = 0.04
SIGMA_OF_DOUBT = 0.1
"""Relative standard deviation of a depth: 1 % at confidence 1 and 0.1 more per lost confidence,
up to 4 %. Confidence is the share of pixels within 5 % of the truth, and a normal distribution
with 70 % within 5 % has 4.8 %, one with 99 % has 1.9 %."""


@njit(cache=True, nogil=True, error_model="numpy")
def visible_chunks(bounds, chunks, rotation, translation, intrinsics, width, height, pad, far):
    """Chunks whose bounding sphere meets the view cone between the camera and `far`.

    Inputs:
        bounds: (chunks, 6) boxes in map.
        rotation, translation: `camera_from_map`, float32.
        intrinsics: fx fy cx cy, float32.
        pad: how far a surfel may have moved or reach out of its box [map units].
        far: 0 for no limit [map units].

    Returns:
        Indices of the chunks, ascending, int64.
    """
    found = np.empty(chunks, np.int64)
    count = 0
    fx, fy, cx, cy = intrinsics
    # Slopes of the four sides, half a pixel outside the centres of the outer pixels.
    left, right = (-0.5 - cx) / fx, (width - 0.5 - cx) / fx
    top, bottom = (-0.5 - cy) / fy, (height - 0.5 - cy) / fy
    norm_l, norm_r = np.sqrt(1 + left * left), np.sqrt(1 + right * right)
    norm_t, norm_b = np.sqrt(1 + top * top), np.sqrt(1 + bottom * bottom)
    for chunk in range(chunks):
        b = bounds[chunk]
        hx, hy, hz = 0.5 * (b[3] - b[0]), 0.5 * (b[4] - b[1]), 0.5 * (b[5] - b[2])
        mx, my, mz = 0.5 * (b[3] + b[0]), 0.5 * (b[4] + b[1]), 0.5 * (b[5] + b[2])
        reach = np.sqrt(hx * hx + hy * hy + hz * hz) + pad
        z = rotation[2, 0] * mx + rotation[2, 1] * my + rotation[2, 2] * mz + translation[2]
        if z < -reach or (far > 0 and z > far + reach):
            continue
        x = rotation[0, 0] * mx + rotation[0, 1] * my + rotation[0, 2] * mz + translation[0]
        y = rotation[1, 0] * mx + rotation[1, 1] * my + rotation[1, 2] * mz + translation[1]
        if x - left * z < -reach * norm_l or right * z - x < -reach * norm_r:
            continue
        if y - top * z < -reach * norm_t or bottom * z - y < -reach * norm_b:
            continue
        found[count] = chunk
        count += 1
    return found[:count]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def project_chunk(
    position, start, stop, rotation, translation, intrinsics, width, height, uv, depth, pixel
):
    """Pixels and depth of rows start..stop; without branches, so that it is vectorised.

    Outputs:
        uv: (2, CHUNK) float32 column and row plus one half, cut off at -1 and at the size plus
            one.
        depth: (CHUNK,) float32 z in the camera.
        pixel: (CHUNK,) int32 index of the pixel, -1 for what is outside of the image, behind
            the camera or dead.
    """
    r00, r01, r02 = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    r10, r11, r12 = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    r20, r21, r22 = rotation[2, 0], rotation[2, 1], rotation[2, 2]
    t0, t1, t2 = translation[0], translation[1], translation[2]
    fx, fy = intrinsics[0], intrinsics[1]
    cx, cy = intrinsics[2] + np.float32(0.5), intrinsics[3] + np.float32(0.5)
    zero, one, before = np.float32(0), np.float32(1), np.float32(-1)
    right, bottom = np.float32(width), np.float32(height)
    past_right, past_bottom = right + one, bottom + one
    columns, outside = np.int32(width), np.int32(-1)
    xs, ys, zs = position[0, start:stop], position[1, start:stop], position[2, start:stop]
    us, vs = uv[0], uv[1]
    for i in range(stop - start):
        x, y, z = xs[i], ys[i], zs[i]
        d = r20 * x + r21 * y + r22 * z + t2
        inverse = one / d
        u = (r00 * x + r01 * y + r02 * z + t0) * fx * inverse + cx
        v = (r10 * x + r11 * y + r12 * z + t1) * fy * inverse + cy
        u = u if u > before else before  # also where it is NaN
        v = v if v > before else before
        u = u if u < past_right else past_right
        v = v if v < past_bottom else past_bottom
        is_inside = (u >= zero) & (v >= zero) & (u < right) & (v < bottom) & (d > zero)
        at = np.int32(v) * columns + np.int32(u)
        us[i] = u
        vs[i] = v
        depth[i] = d
        pixel[i] = at if is_inside else outside


@njit(cache=True, nogil=True)
def margin_fraction(confidence):
    """Part of the depth within which a measurement of this confidence agrees with a surfel."""
    sigma = np.float32(LEAST_SIGMA) + np.float32(SIGMA_OF_DOUBT) * (np.float32(1) - confidence)
    sigma = max(np.float32(LEAST_SIGMA), min(np.float32(MOST_SIGMA), sigma))
    return np.float32(MARGIN_SIGMAS) * sigma


FREE, LOW, HIGH, DEPTH = 0, 1, 2, 3

BELIEVED_RANGES = 10
"""Depth is believed up to so many times `map.max_depth_m`: what is beyond the map's range is not
fused, but the space before it is free; 1e6 m is no depth."""

EDGE_MARGINS = 4.5
"""Where inverse depth bends by more than this many margins (eight standard deviations, and noise
bends by 2.4), the nearer pixel is an edge: the camera may have seen past it, and a depth in
between is of no surface."""

SETTLED, EDGE = 1, 2
"""Bits of what is known of a pixel: it shows a mature surfel; it is an edge."""


@njit(cache=True, nogil=True, error_model="numpy")
def depth_limits(depth, confidence, voxel, carves, believed):
    """What the depth of a surfel means at each pixel, side by side in memory.

    Inputs:
        believed: greatest depth that is one; what is beyond says nothing, not even free space.

    Returns:
        (H * W, 4) float32: surfels nearer than FREE (0 where there is no depth or without
        `carves`) are seen through, those from LOW to HIGH are the surface, DEPTH. Edges confirm
        nothing. And (H * W,) uint8, EDGE at the near side of a step of the depth.
    """
    height, width = depth.shape
    limits = np.empty((height * width, 4), np.float32)
    marks = np.zeros(height * width, np.uint8)
    infinity, zero, one, two = np.float32(np.inf), np.float32(0), np.float32(1), np.float32(2)
    inverse = np.empty((height, width), np.float32)
    for v in range(height):
        for u in range(width):
            d = depth[v, u]
            inverse[v, u] = one / d if (d > zero) & (d < infinity) else np.float32(np.nan)
    margin, bend = np.float32(MARGIN_VOXELS * voxel), np.float32(EDGE_MARGINS)
    for v in range(height):
        above, below = max(v - 1, 0), min(v + 1, height - 1)
        for u in range(width):
            before, after = max(u - 1, 0), min(u + 1, width - 1)
            d, w = depth[v, u], inverse[v, u]
            c = confidence[v, u]
            is_seen = (d > zero) & (d < infinity) & (d <= believed) & (c > zero)
            fraction = margin_fraction(c)
            least = (two - bend * fraction) * w
            # A missing neighbour (NaN) is no edge.
            is_edge = is_seen & (
                (inverse[v, before] + inverse[v, after] < least)
                | (inverse[above, u] + inverse[below, u] < least)
            )
            is_surface = is_seen & (not is_edge)
            at = v * width + u
            marks[at] = EDGE if is_edge else 0
            limits[at, FREE] = d * (one - fraction) - margin if is_seen and carves else zero
            limits[at, LOW] = d * (one - fraction) - margin if is_surface else infinity
            limits[at, HIGH] = d * (one + fraction) + margin if is_surface else -infinity
            limits[at, DEPTH] = d
    return limits, marks


@njit(cache=True, nogil=True)
def count_measured(depth, confidence):
    """Pixels with a finite positive depth and a positive confidence."""
    count = 0
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            d = depth[v, u]
            count += d > 0 and d < np.inf and confidence[v, u] > 0
    return count
