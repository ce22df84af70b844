"""Depth of the keyframes, kept small, so that the map can be made anew where the path changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import Sim3
from vggt_ros.mapping.interface import Map
from vggt_ros.types import DepthMap, Float64

_LOG = logging.getLogger(__name__)

_JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class _Kept:
    """One depth map: its arrays are empty, what they held is in the others."""

    depth_map: DepthMap
    depth: NDArray[np.float16]
    """In units of the map when it was fused."""
    confidence: NDArray[np.uint8]
    rgb: bytes
    window: int
    map_from_window: Sim3
    """When it was first fused."""
    bootstrap: bool

    @property
    def size_bytes(self) -> int:
        return self.depth.nbytes + self.confidence.nbytes + len(self.rgb)

    def restored(self, map_from_window: Sim3) -> DepthMap:
        """The depth map where the window lies now."""
        change = map_from_window @ self.map_from_window.inverse()
        bgr = cv2.imdecode(np.frombuffer(self.rgb, np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None  # for the type checker: we have written it
        return replace(
            self.depth_map,
            depth=self.depth.astype(np.float32) * np.float32(change.scale),
            confidence=self.confidence.astype(np.float32) / np.float32(255),
            rgb=np.ascontiguousarray(bgr[..., ::-1]),
            map_from_camera=change.apply_to_pose(self.depth_map.map_from_camera),
        )


class KeptDepth:
    """What was fused, by window; bounded.

    Args:
        budget_mb: of memory, may be changed in `budget_bytes`; beyond it every second depth map
            of the older half is forgotten.
    """

    def __init__(self, budget_mb: float) -> None:
        self.budget_bytes = budget_mb * 1e6
        self._kept: list[_Kept] = []
        self._bytes = 0
        self._fused_at: dict[int, Sim3] = {}
        """Where the windows lay when what is in the map was fused."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def memory_bytes(self) -> int:
        """Of all that is kept."""
        return self._bytes

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._fused_at.clear()
        self._bytes = 0

    def add(
        self, depth_map: DepthMap, window: int, map_from_window: Sim3, bootstrap: bool
    ) -> None:
        """Keep one depth map that was fused."""
        largest = float(np.finfo(np.float16).max)
        depth = np.where(depth_map.depth < largest, depth_map.depth, np.nan).astype(np.float16)
        confidence = np.rint(np.clip(depth_map.confidence, 0, 1) * 255).astype(np.uint8)
        bgr = np.ascontiguousarray(depth_map.rgb[..., ::-1])
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        empty = replace(
            depth_map,
            depth=np.zeros((0, 0), np.float32),
            confidence=np.zeros((0, 0), np.float32),
            rgb=np.zeros((0, 0, 3), np.uint8),
        )
        kept = _Kept(empty, depth, confidence, jpeg.tobytes(), window, map_from_window, bootstrap)
        self._kept.append(kept)
        self._fused_at.setdefault(window, map_from_window)
        self._bytes += kept.size_bytes
        while self._bytes > self.budget_bytes and len(self._kept) > 3:
            self._thin()

    def views(self, most: int) -> list[DepthMap]:
        """At most so many of them, evenly chosen, where their windows lay in the map last."""
        count = len(self._kept)
        chosen = (
            [self._kept[k * count // most] for k in range(most)] if count > most else self._kept
        )
        return [kept.restored(self._fused_at[kept.window]) for kept in chosen]

    def largest_move(self, map_from_window: Callable[[int], Sim3]) -> float:
        """How far [map units] corrections would move what is in the map, at the most.

        Of each depth map its camera and the point before it at the median depth.
        """
        changes = {
            window: map_from_window(window) @ then.inverse()
            for window, then in self._fused_at.items()
        }
        largest = 0.0
        for kept in self._kept:
            probes = self._fused_at[kept.window].apply(_probes_in_window(kept))
            moved = changes[kept.window].apply(probes) - probes
            largest = max(largest, float(np.linalg.norm(moved, axis=1).max()))
        return largest

    def fuse_again(self, map_: Map, map_from_window: Callable[[int], Sim3]) -> None:
        """Empty a map and fill it with what is kept, where its windows lie now."""
        map_.clear()
        for window in self._fused_at:
            self._fused_at[window] = map_from_window(window)
        for kept in self._kept:
            map_.fuse([kept.restored(self._fused_at[kept.window])], kept.bootstrap)

    def newest(self, count: int, map_from_window: Callable[[int], Sim3]) -> list[DepthMap]:
        """The last depth maps, where their windows lie now."""
        return [kept.restored(map_from_window(kept.window)) for kept in self._kept[-count:]]

    def _thin(self) -> None:
        half = len(self._kept) // 2
        self._kept = self._kept[:half:2] + self._kept[half:]
        self._bytes = sum(kept.size_bytes for kept in self._kept)
        _LOG.info("motion: the depth of %d keyframes is kept", len(self._kept))


def _probes_in_window(kept: _Kept) -> Float64:
    pose = kept.depth_map.map_from_camera
    finite = kept.depth[np.isfinite(kept.depth)]
    ahead = float(np.median(finite)) if finite.size else 0.0
    probes = np.stack([pose.translation, pose.translation + ahead * pose.rotation[:, 2]])
    return kept.map_from_window.inverse().apply(probes)
