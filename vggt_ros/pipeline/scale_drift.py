"""How the scale has changed since the bootstrap, as later sets show it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from vggt_ros.types import DepthKind, DepthMap, Float32, FrameSet

_REFERENCE_SETS = 3
"""The first sets after the bootstrap say what no change looks like."""
_WINDOW_SETS = 5
"""Drift is that of the median of the last sets."""
_LEAST_PIXELS = 100
_STEP_PX = 4


class ScaleDrift:
    """Compares metres with the map, camera by camera, with what it was after the bootstrap.

    Metres are those of depth cameras, and of networks of metric depth, whose alignment is the
    ratio. A camera's own error does not count, for it is in the reference too.
    """

    def __init__(self) -> None:
        self._reference: dict[str, list[float]] = {}
        self._recent: dict[str, deque[float]] = {}

    def reset(self) -> None:
        """After a bootstrap."""
        self._reference.clear()
        self._recent.clear()

    def observe(self, frame_set: FrameSet, depth_maps: Iterable[DepthMap]) -> None:
        """Take what one mapped set shows; depth that was not accepted shows nothing."""
        depths = {f.camera: f.depth_m for f in frame_set.frames if f.depth_m is not None}
        for depth_map in depth_maps:
            if not depth_map.alignment.accepted:
                continue
            name = depth_map.camera
            if name in depths:
                self._add(name, _log_ratio(depths[name], depth_map.depth))
            elif depth_map.alignment.kind is DepthKind.METRIC_DEPTH:
                # z = scale * d: the more map units a metre of the network is, the smaller a
                # map unit has become
                self._add(name, -math.log(depth_map.alignment.scale))

    @property
    def value(self) -> float:
        """(metres per map unit now) / (after the bootstrap) - 1; NaN where nothing shows it."""
        changes = [
            float(np.median(recent)) - float(np.median(self._reference[name]))
            for name, recent in self._recent.items()
        ]
        return math.expm1(float(np.median(changes))) if changes else math.nan

    def _add(self, camera: str, log_ratio: float) -> None:
        if not math.isfinite(log_ratio):
            return
        reference = self._reference.setdefault(camera, [])
        if len(reference) < _REFERENCE_SETS:
            reference.append(log_ratio)
            return
        self._recent.setdefault(camera, deque(maxlen=_WINDOW_SETS)).append(log_ratio)


def _log_ratio(metres: Float32, depth: Float32) -> float:
    """Median logarithm of metres over map depth, on a grid; NaN where too few pixels have both."""
    height, width = depth.shape
    y, x = np.mgrid[_STEP_PX // 2 : height : _STEP_PX, _STEP_PX // 2 : width : _STEP_PX]
    rows = ((y + 0.5) * metres.shape[0] / height).astype(np.int64)
    columns = ((x + 0.5) * metres.shape[1] / width).astype(np.int64)
    seen, mapped = metres[rows, columns], depth[y, x]
    with np.errstate(invalid="ignore"):
        good = (seen > 0) & (mapped > 0)
    if np.count_nonzero(good) < _LEAST_PIXELS:
        return math.nan
    return float(np.median(np.log(seen[good].astype(np.float64) / mapped[good])))
