"""What receivers of a map have not been told yet: blocks of points that replace earlier ones.

The protocol is that of docs/conventions.md ("~/map_update"): parts are numbered from 0; number 0
means that the receiver drops what it has. A part holds whole blocks; those of a part replace the
blocks of the same number. A block that became empty is one point that is not a number.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vggt_ros.config import CropConfig
from vggt_ros.errors import ConfigError
from vggt_ros.mapping.interface import MapChanges
from vggt_ros.types import Float32, Image

HEADER = 0xFFFFFFFF
"""The block of the first point of every part, which is none: its y is the number of the part."""


@dataclass(frozen=True, eq=False)
class UpdatePart:
    """Points (N, 3) with colours, confidence (N,) and the block (N,) uint32 of each.

    The first row is no point, see `HEADER`.
    """

    number: int
    points: Float32
    colours: Image
    confidence: Float32
    blocks: NDArray[np.uint32]


class _Block(NamedTuple):
    points: Float32
    colours: Image
    confidence: Float32


class MapUpdates:
    """Collects changes and hands them out in parts.

    `add` and `next_part` may be called in two threads, each in one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrived: deque[tuple[MapChanges, CropConfig, float]] = deque()
        self._pending: dict[int, _Block] = {}
        self._told: set[int] = set()
        self._number = -1

    def add(self, changes: MapChanges, crop: CropConfig, voxel_m: float) -> None:
        """Take changes; complete ones make everything before them void.

        Args:
            changes: of `Map.changes`.
            crop: points outside its box are left out.
            voxel_m: one point of a block per cell is kept; 0: all.
        """
        with self._lock:
            if changes.complete:
                self._arrived.clear()
            self._arrived.append((changes, crop, voxel_m))

    def next_part(self, max_points: int) -> UpdatePart | None:
        """The oldest changes that nobody was told of, at least a block; None without any.

        Args:
            max_points: about as many; the rest stays for the next part.

        Raises:
            ConfigError: a corner of the box is not below the other.
        """
        with self._lock:
            arrived = list(self._arrived)
            self._arrived.clear()
        for changes, crop, voxel_m in arrived:
            self._take(changes, crop, voxel_m)
        if self._number >= 0 and not self._pending:
            return None
        chosen: list[tuple[int, _Block]] = []
        total = 0
        while self._pending and total < max_points:
            block = next(iter(self._pending))
            content = self._pending.pop(block)
            if len(content.points):
                self._told.add(block)
            else:
                self._told.discard(block)
                content = _NOTHING
            chosen.append((block, content))
            total += len(content.points)
        self._number += 1
        return _part(self._number, chosen)

    def _take(self, changes: MapChanges, crop: CropConfig, voxel_m: float) -> None:
        if changes.complete:
            self._pending.clear()
            self._told.clear()
            self._number = -1
        points = np.ascontiguousarray(changes.cloud.points, np.float32)
        starts = np.asarray(changes.starts, np.int64)
        keep = inside(points, crop)
        if voxel_m > 0:
            first_in_cells(points, starts, np.float32(1 / voxel_m), keep)
        rows = np.flatnonzero(keep)
        starts = np.searchsorted(rows, starts)
        points, colours = points[rows], changes.cloud.colours[rows]
        confidence = changes.cloud.confidence
        sure = np.ones(len(rows), np.float32) if confidence is None else confidence[rows]
        for block, a, b in zip(changes.blocks.tolist(), starts[:-1], starts[1:], strict=True):
            if a == b and block not in self._told:
                self._pending.pop(block, None)  # the receiver has nothing of it
            else:
                self._pending[block] = _Block(points[a:b], colours[a:b], sure[a:b])


_NAN = np.full((1, 3), np.nan, np.float32)
_NOTHING = _Block(_NAN, np.zeros((1, 3), np.uint8), np.zeros(1, np.float32))


def _part(number: int, chosen: list[tuple[int, _Block]]) -> UpdatePart:
    header = np.array([[np.nan, number, np.nan]], np.float32)
    blocks = [np.full(len(content.points), block, np.uint32) for block, content in chosen]
    return UpdatePart(
        number,
        np.concatenate([header, *(content.points for _, content in chosen)]),
        np.concatenate([_NOTHING.colours, *(content.colours for _, content in chosen)]),
        np.concatenate([_NOTHING.confidence, *(content.confidence for _, content in chosen)]),
        np.concatenate([np.array([HEADER], np.uint32), *blocks]),
    )


def check_crop(crop: CropConfig) -> None:
    """Refuse a box without an inside.

    Raises:
        ConfigError: a lower corner that is not below the upper one.
    """
    for axis in "xyz":
        low, high = getattr(crop, f"min_{axis}"), getattr(crop, f"max_{axis}")
        if crop.enabled and not low < high:
            raise ConfigError(
                f"crop.min_{axis}: expected less than crop.max_{axis}, got {low} and {high}; set "
                "both in one call"
            )


def inside(points: Float32, crop: CropConfig) -> NDArray[np.bool_]:
    """Which points (N, 3) lie in the box; all where it is not enabled.

    Raises:
        ConfigError: as `check_crop`.
    """
    if not crop.enabled:
        return np.ones(len(points), np.bool_)
    check_crop(crop)
    low = np.array([crop.min_x, crop.min_y, crop.min_z], np.float32)
    high = np.array([crop.max_x, crop.max_y, crop.max_z], np.float32)
    return np.asarray(((points >= low) & (points <= high)).all(axis=1))


@njit(cache=True, nogil=True)
def first_in_cells(points, starts, inverse, keep):
    """Of the kept points of each block, keep the first in every cell only.

    Inputs:
        points: (N, 3).
        starts: (B + 1,) first points of the blocks.
        inverse: cells per unit.
        keep: (N,) bool, cleared.
    """
    longest = 1
    for b in range(len(starts) - 1):
        longest = max(longest, starts[b + 1] - starts[b])
    size = 2
    while size < 2 * longest:
        size *= 2
    owner = np.full(size, -1, np.int64)
    used = np.empty(longest, np.int64)
    cells = np.empty((longest, 3), np.int64)
    for b in range(len(starts) - 1):
        count = 0
        for p in range(starts[b], starts[b + 1]):
            if not keep[p]:
                continue
            i = np.int64(np.floor(points[p, 0] * inverse))
            j = np.int64(np.floor(points[p, 1] * inverse))
            k = np.int64(np.floor(points[p, 2] * inverse))
            # Teschner et al., "Optimized spatial hashing", VMV 2003
            slot = ((i * 73856093) ^ (j * 19349663) ^ (k * 83492791)) & (size - 1)
            while owner[slot] >= 0:
                o = owner[slot]
                if cells[o, 0] == i and cells[o, 1] == j and cells[o, 2] == k:
                    keep[p] = False
                    break
                slot = (slot + 1) & (size - 1)
            if keep[p]:
                owner[slot] = count
                cells[count, 0], cells[count, 1], cells[count, 2] = i, j, k
                used[count] = slot
                count += 1
        for c in range(count):
            owner[used[c]] = -1
