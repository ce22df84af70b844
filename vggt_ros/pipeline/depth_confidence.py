"""How likely a pixel's depth is right."""

from __future__ import annotations

import numpy as np

from vggt_ros.types import Float32

CONFIDENCE = {
    "constant": -2.40,
    "consensus": 5.64,
    "first": 0.61,
    "second": 0.35,
    "third": 0.44,
    "conflict": -0.08,
    "difference": -0.26,
    "sigma": -0.24,
    "unit": -1.08,
    "margin": 1.54,
    "score": 1.24,
}
"""Logistic regression of "within 5 % of the truth" on `indoor_sequence` (320 and 640 px, refined
poses and, at half the weight, given ones) and the synthetic room (640 px): the part of the image
on which another view agrees, which tells how good the poses are; one, two and three views that
agree on the pixel and their mean difference; views that look through; standard deviation and step
of one pixel relative to depth; margin of the best plane; correlation. Bins of 0.1 are right
within 0.05 with refined poses and the room, and up to 0.15 too sure with the given poses."""


def within_5_percent(
    q: Float32,
    unit: float,
    sigma: Float32,
    score: Float32,
    margin: Float32,
    agree: Float32,
    conflict: Float32,
    difference: Float32,
) -> Float32:
    """Chance that a pixel's depth is within 5 % of the truth, (H, W), 0 in holes.

    Args:
        q: inverse depth, NaN in holes.
        unit: step of q that moves a match by a pixel.
        sigma: standard deviation of q [units].
        score: correlation with the sources.
        margin: by which the best plane wins, in [0, 1].
        agree, conflict: number of other views that see the same surface, or through it.
        difference: mean relative difference of those that agree.
    """
    w = CONFIDENCE
    with np.errstate(invalid="ignore", divide="ignore"):
        per_unit = np.float32(unit) / q
        relative = np.clip(sigma * per_unit, 3e-4, 0.1)
        x = w["constant"] + w["score"] * score + w["margin"] * np.sqrt(margin)
        x += w["first"] * (agree >= 1) + w["second"] * (agree >= 2) + w["third"] * (agree >= 3)
        x += w["conflict"] * conflict
        known = np.isfinite(q)
        consensus = float((agree[known] > 0).mean()) if known.any() else 0.0
        x += np.float32(w["consensus"] * (consensus - 0.7))
        x += w["sigma"] * np.log(relative / 3e-3)
        x += w["unit"] * np.log(np.clip(per_unit, 1e-3, 1) / 0.02)
        checked = np.log(np.maximum(difference, 1e-3) / 0.01)
        x += w["difference"] * np.where(agree > 0, checked, 0)
        chance = 1 / (1 + np.exp(-x))
    return np.asarray(np.nan_to_num(chance), np.float32)
