"""Whether the cameras of a set agree on the surfaces that several of them see.

Every camera may fit the map and still be wrong where the map is thin: two cameras that see the
same surface at different depths cannot both be right.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit

from vggt_ros.types import DepthMap, Float32

SAMPLES = 1024
"""Pixels of a depth map that are looked up in another one."""
WIDEST_LOG_RATIO = 0.7
"""Depths that differ by more than a factor of two belong to two surfaces."""
LEAST_PIXELS = 50
"""Fewer common pixels say nothing."""


@njit(cache=True, nogil=True, error_model="numpy")
def _log_ratios(depth, step, intrinsics, rotation, translation, other, other_intrinsics, widest):
    """log(depth of the point in the other camera / depth that it sees there), (N,) float32.

    Inputs:
        depth, other: (H, W) and (h, w) float32 [map units], NaN empty.
        step: every how manyth pixel is looked up.
        intrinsics, other_intrinsics: fx fy cx cy.
        rotation, translation: `other_from_camera`.
        widest: greater values are left out.
    """
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics
    gx, gy, hx, hy = other_intrinsics
    found = np.empty((height * width + step - 1) // step, np.float32)
    n = 0
    for at in range(0, height * width, step):
        v, u = at // width, at % width
        z = depth[v, u]
        if not z > 0:
            continue
        x, y = (u - cx) / fx * z, (v - cy) / fy * z
        w = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        if not w > 0:
            continue
        a = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + translation[0]
        b = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + translation[1]
        column, line = gx * a / w + hx + 0.5, gy * b / w + hy + 0.5
        if not (column >= 0 and line >= 0 and column < other.shape[1] and line < other.shape[0]):
            continue
        seen = other[int(line), int(column)]
        if not seen > 0:
            continue
        ratio = math.log(w / seen)
        if abs(ratio) < widest:
            found[n] = ratio
            n += 1
    return found[:n]


def log_difference(one: DepthMap, two: DepthMap) -> float:
    """Median of log(depth by `one` / depth by `two`) of the surfaces that both see.

    Both are looked up in the other, so that what hides from one of them cancels out.

    Returns:
        NaN if fewer than `LEAST_PIXELS` pixels can be compared.
    """
    forth, back = _compared(one, two), _compared(two, one)
    if min(len(forth), len(back)) < LEAST_PIXELS:
        return math.nan
    return 0.5 * (float(np.median(forth)) - float(np.median(back)))


def contradictions(depth_maps: Sequence[DepthMap], largest: float) -> dict[str, dict[str, float]]:
    """The cameras that contradict the others, worst first, with whom they contradict and how.

    Camera by camera the one is taken out that is contradicted by most others (those that it
    agrees with taken off), until no two contradict; of equals the one with the larger residual
    against the map.

    Args:
        depth_maps: of one set, accepted ones only.
        largest: relative difference of depth that is still agreement.

    Returns:
        {camera: {other camera: depth by `camera` / depth by the other - 1}}.
    """
    limit = math.log1p(largest)
    differences: dict[str, dict[str, float]] = {d.camera: {} for d in depth_maps}
    for k, one in enumerate(depth_maps):
        for two in depth_maps[k + 1 :]:
            difference = log_difference(one, two)
            if math.isfinite(difference):
                differences[one.camera][two.camera] = difference
                differences[two.camera][one.camera] = -difference
    residuals = {d.camera: d.alignment.residual for d in depth_maps}
    found: dict[str, dict[str, float]] = {}
    while True:
        against = {camera: _beyond(of, limit) for camera, of in differences.items()}
        if not any(against.values()):
            return found
        worst = max(
            (camera for camera in against if against[camera]),
            key=lambda c: (2 * len(against[c]) - len(differences[c]), residuals[c], c),
        )
        found[worst] = {other: math.expm1(d) for other, d in against[worst].items()}
        del differences[worst]
        for of in differences.values():
            of.pop(worst, None)


def agrees(depth_map: DepthMap, others: Sequence[DepthMap], largest: float) -> bool:
    """Whether a depth map agrees with each of the others, and with one at least."""
    differences = [log_difference(depth_map, other) for other in others]
    known = [abs(d) for d in differences if math.isfinite(d)]
    return bool(known) and max(known) <= math.log1p(largest)


def _beyond(differences: Mapping[str, float], limit: float) -> dict[str, float]:
    return {other: d for other, d in differences.items() if abs(d) > limit}


def _compared(one: DepthMap, two: DepthMap) -> Float32:
    # other_from_camera, without the checks of a Rigid3, which would take most of the time
    back = two.map_from_camera.rotation.T
    rotation = np.ascontiguousarray(back @ one.map_from_camera.rotation)
    translation = back @ (one.map_from_camera.translation - two.map_from_camera.translation)
    a, b = one.model, two.model
    ratios: Float32 = _log_ratios(
        one.depth,
        max(1, one.depth.size // SAMPLES) | 1,
        (a.fx, a.fy, a.cx, a.cy),
        rotation,
        translation,
        two.depth,
        (b.fx, b.fy, b.cx, b.cy),
        WIDEST_LOG_RATIO,
    )
    return ratios
