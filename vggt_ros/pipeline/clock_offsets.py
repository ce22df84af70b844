"""Which camera's clock differs from the others', told by when its images arrive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_IMAGES = 5
"""Fewer lags have no median worth the name."""

_SIGMAS = 5.0
"""A difference must be so many of its standard deviations: jitter alone passes it once in
millions of checks."""

_PLAUSIBLE_LAG_S = 5.0
"""Images later than this by the clock of this computer do not speak for their camera's clock."""


@dataclass(frozen=True)
class _Lag:
    median: float
    sigma: float
    """Standard deviation of the median."""


def clock_offsets(lags_s: Mapping[str, Sequence[float]], limit_s: float) -> dict[str, float]:
    """Seconds by which the stamps of a camera are behind the others' (negative: ahead).

    Transport delays an image by milliseconds, a clock that is not synchronised by anything. What
    all cameras have in common, as a bag that is replayed, cancels out. Of two cameras the one is
    blamed that is farther from the clock of this computer, and where neither is near it, the one
    that is behind.

    Args:
        lags_s: by camera, receive time minus stamp of its last images [s], of the same seconds
            for all.
        limit_s: smaller differences are not told.
    """
    found = {
        name: _Lag(float(np.median(values)), _sigma(values))
        for name, values in lags_s.items()
        if len(values) >= LEAST_IMAGES
    }
    if len(found) < 2:
        return {}
    if len(found) == 2:
        first, second = sorted(found, key=lambda name: abs(found[name].median))
        if abs(found[first].median) > _PLAUSIBLE_LAG_S:
            first, second = sorted(found, key=lambda name: found[name].median)
        offsets = {second: found[second].median - found[first].median}
    else:
        middle = float(np.median([lag.median for lag in found.values()]))
        offsets = {name: lag.median - middle for name, lag in found.items()}
    widest = max(lag.sigma for lag in found.values())
    return {
        name: offset
        for name, offset in offsets.items()
        if abs(offset) > max(limit_s, _SIGMAS * math.hypot(found[name].sigma, widest))
    }


def _sigma(values: Sequence[float]) -> float:
    """Of the median of normal values: 1.253 sigma / sqrt(n), sigma by the median deviation."""
    spread = 1.4826 * float(np.median(np.abs(np.asarray(values) - np.median(values))))
    return 1.2533 * spread / math.sqrt(len(values))
