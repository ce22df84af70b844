"""How likely a pixel's depth is right, and how likely it is far off."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.types import Float32

RIGHT = 0.05
"""Depth is right if its relative error is smaller."""
FAR_OFF = 0.25
"""Depth is far off if its relative error is larger."""

NEAR, WIDE = 1 / 64, 1 / 20
"""Radius of the neighbourhoods, parts of the width."""

WEIGHTS = {
    "constant": (-0.18, 1.48),
    "consensus": (3.27, 1.22),
    "first": (0.23, 0.20),
    "second": (0.39, 0.42),
    "third": (0.44, 0.30),
    "conflict": (0.13, 0.16),
    "difference": (-0.03, -0.07),
    "sigma": (-0.22, -0.08),
    "unit": (-0.77, -0.49),
    "margin": (0.44, 0.16),
    "score": (-0.98, -0.47),
    "near": (0.46, 0.72),
    "wide": (0.64, 0.53),
    "dense": (1.44, 2.07),
    "rough": (-0.26, -0.48),
    "spread": (-0.52, -0.48),
}
"""Two logistic regressions: of "right", and of "not far off"; terms as in `features`.

`python -m bench.confidence` finds them: on `indoor_sequence` (320 to 640 px, two to five cameras;
given and refined poses), with less weight on `room5` and the synthetic room (exact poses, and
turned by 0.1 and 0.3 degrees). Of the pixels that are said to be right with a chance of c, c are:
bins of 0.1 differ by 0.02 to 0.06 on average on the indoor sequence, by 0.1 at 320 px in the room
(too careful). Two cameras (0.12 with the given poses) and poses that are 0.3 degrees off (0.11 to
0.17) are too sure: what scales all depth alike cannot be seen from the images."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the stereo knows about each pixel of a view, all (H, W) but `unit`.

    `q` inverse depth, NaN in holes; `unit` step of q that moves a match by a pixel; `sigma`
    standard deviation of q [units]; `score` correlation with the sources; `margin` by which the
    best plane wins, in [0, 1]; `agree`, `conflict` number of other views that see the
    same surface, or through it; `difference` mean relative difference of depth of those that
    agree.
    """

    q: Float32
    unit: float
    sigma: Float32
    score: Float32
    margin: Float32
    agree: Float32
    conflict: Float32
    difference: Float32


def features(e: Evidence) -> dict[str, Float32 | float]:
    """The terms of the regressions, each about zero for a typical pixel; NaN in holes.

    `consensus`: part of the image on which another view agrees, which tells how good the poses
    are. `first`, `second`, `third`: at least so many views agree. `conflict`: views that look
    through. `difference`: to those that agree. `sigma`, `unit`: standard
    deviation and step of one pixel, relative to the depth. `margin`, `score`: of the pixel.
    `near`, `wide`: part of the neighbours with depth on which another view agrees. `dense`: part
    of the neighbours with depth. `rough`: distance from the mean of the neighbours [units].
    `spread`: mean difference to the views that agree, of the neighbourhood.
    """
    width = e.q.shape[1]
    near, wide = max(1, round(NEAR * width)), max(1, round(WIDE * width))
    known = np.isfinite(e.q)
    agrees = (e.agree > 0) & known
    has_depth, agreed = known.astype(np.float32), agrees.astype(np.float32)
    dense = _mean(has_depth, near)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_unit = np.float32(e.unit) / e.q
        smooth = _mean(np.where(known, e.q, np.float32(0)), near) / np.maximum(dense, 1e-3)
        apart = np.abs(e.q - smooth) / np.float32(e.unit)
        difference = agreed * np.log(np.maximum(e.difference, np.float32(1e-3)) / np.float32(0.01))
        agreed_wide = _mean(agreed, wide)
        return {
            "constant": 1.0,
            "consensus": float(agrees.sum() / max(known.sum(), 1)) - 0.7,
            "first": agreed,
            "second": (e.agree >= 2).astype(np.float32),
            "third": (e.agree >= 3).astype(np.float32),
            "conflict": np.minimum(e.conflict, np.float32(4)),
            "difference": difference,
            "sigma": np.log(np.clip(e.sigma * per_unit, 3e-4, 0.1) / np.float32(3e-3)),
            "unit": np.log(np.clip(per_unit, 1e-3, 1) / np.float32(0.02)),
            "margin": np.sqrt(e.margin),
            "score": e.score,
            "near": _mean(agreed, near) / np.maximum(dense, 1e-3) - np.float32(0.7),
            "wide": agreed_wide / np.maximum(_mean(has_depth, wide), 1e-3) - np.float32(0.7),
            "dense": dense - np.float32(0.7),
            "rough": np.log(np.clip(apart, 0.05, 20)),
            "spread": _mean(difference, wide) / np.maximum(agreed_wide, 1e-3),
        }


def chances(e: Evidence) -> tuple[Float32, Float32]:
    """Chance that a pixel's depth is right, and that it is not far off, (H, W), 0 in holes."""
    right = np.zeros(e.q.shape, np.float32)
    not_far_off = np.zeros(e.q.shape, np.float32)
    for name, term in features(e).items():
        weights = WEIGHTS[name]
        right += np.float32(weights[0]) * term
        not_far_off += np.float32(weights[1]) * term
    # The far smaller error cannot be likelier than the larger one.
    return _chance(np.minimum(right, not_far_off)), _chance(not_far_off)


def _chance(x: Float32) -> Float32:
    return np.asarray(np.nan_to_num(1 / (1 + np.exp(-x))), np.float32)


def _mean(image: Float32, radius: int) -> Float32:
    """Mean of (2 radius + 1)^2 windows, mirrored at the border."""
    size = (2 * radius + 1, 2 * radius + 1)
    return np.asarray(cv2.blur(image, size, borderType=cv2.BORDER_REFLECT_101), np.float32)
