"""Exact nearest neighbours among points in space.

A k-d tree of our own: SciPy is no dependency, FLANN's Python interface is approximate by
default, and a grid needs a cell size that suits a scan of a room and one stray point alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

_LEAF = 16
"""Points below which a node is searched one by one; 8 to 32 measured alike."""
_MAX_DEPTH = 64


class NearestNeighbours:
    """Answers which of the given points is nearest, exactly.

    Points that are not finite are left out.
    """

    def __init__(self, points: ArrayLike) -> None:
        """Sort points (N, 3), N >= 1, into a tree.

        Raises:
            ValueError: wrong shape, or no finite point.
        """
        given = np.asarray(points)
        if given.ndim != 2 or given.shape[1] != 3:
            raise ValueError(f"nearest neighbours: expected points (N, 3), got {given.shape}")
        self._index = np.flatnonzero(np.isfinite(given).all(axis=1))
        if len(self._index) == 0:
            raise ValueError("nearest neighbours: expected at least one finite point")
        self._points = np.ascontiguousarray(given[self._index], np.float64)
        order = np.arange(len(self._points))
        self._axes = np.zeros(_node_count(len(self._points)), np.int8)
        self._splits = np.zeros(len(self._axes))
        _build(self._points, order, self._axes, self._splits)
        self._points = self._points[order]
        self._index = self._index[order]

    def query(self, points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distance to and index of the nearest given point, (M,) each, for points (M, 3).

        A query that is not finite gives distance NaN and index -1.
        """
        queries = np.ascontiguousarray(points, np.float64)
        if queries.ndim != 2 or queries.shape[1] != 3:
            raise ValueError(f"nearest neighbours: expected points (M, 3), got {queries.shape}")
        squared, found = _query(self._points, self._axes, self._splits, queries, 1, False)
        index = np.where(found >= 0, self._index[found[:, 0]][:, None], -1)
        return np.sqrt(squared[:, 0]), index[:, 0]

    def spacing(self, rows: slice, neighbours: int) -> tuple[NDArray[np.float64], Any]:
        """How far the given points are from each other.

        Args:
            rows: some of the finite points, in the order of the tree (0 to `len(self)`).
            neighbours: how many of the nearest others count.

        Returns:
            Root mean square distance to them, (n,), NaN where there are fewer; and which of the
            given points these are, (n,).
        """
        squared, _ = _query(
            self._points, self._axes, self._splits, self._points[rows], neighbours, True,
            rows.start,
        )  # fmt: skip
        return np.sqrt(squared.mean(axis=1)), self._index[rows]

    def __len__(self) -> int:
        return len(self._points)


def _node_count(points: int) -> int:
    """Nodes of a heap-ordered tree whose leaves hold at most `_LEAF` points."""
    levels = 0
    while points > _LEAF:
        points = (points + 1) // 2
        levels += 1
    return int((1 << levels) - 1)


@njit(cache=True, nogil=True)
def _select(values: Any, order: Any, low: int, high: int, k: int) -> None:
    """Reorder order[low:high] so that the k-th value stands at k (Hoare's quickselect)."""
    left, right = low, high - 1
    while left < right:
        pivot = values[order[(left + right) // 2]]
        i, j = left, right
        while i <= j:
            while values[order[i]] < pivot:
                i += 1
            while values[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            return


@njit(cache=True, nogil=True)
def _build(points: Any, order: Any, axes: Any, splits: Any) -> None:
    """Order the points so that node n splits its range [low, high) at the middle.

    Children of node n are 2n + 1 and 2n + 2; the split is along the longest side of the box.
    """
    columns = points.T.copy()
    lows = np.zeros(len(axes), np.int64)
    highs = np.zeros(len(axes), np.int64)
    if len(axes):
        highs[0] = len(points)
    for node in range(len(axes)):
        low, high = lows[node], highs[node]
        if high - low > 1:
            widest = -1.0
            for axis in range(3):
                smallest, largest = np.inf, -np.inf
                for i in range(low, high):
                    value = columns[axis, order[i]]
                    smallest = min(smallest, value)
                    largest = max(largest, value)
                if largest - smallest > widest:
                    widest = largest - smallest
                    axes[node] = axis
            middle = (low + high) // 2
            _select(columns[axes[node]], order, low, high, middle)
            splits[node] = columns[axes[node], order[middle]]
        middle = (low + high) // 2
        for child, a, b in ((2 * node + 1, low, middle), (2 * node + 2, middle, high)):
            if child < len(axes):
                lows[child], highs[child] = a, b


@njit(cache=True, nogil=True)
def _query(
    points: Any, axes: Any, splits: Any, queries: Any, count: int, own: bool, start: int = 0
) -> Any:
    """Squared distances (M, count), ascending, and rows of the nearest points.

    With `own` the queries are the points from `start` on, which are not their own neighbours.
    """
    distances = np.full((len(queries), count), np.nan)
    found = np.full((len(queries), count), -1, np.int64)
    lowest, highest = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(len(points)):
        for axis in range(3):
            lowest[axis] = min(lowest[axis], points[i, axis])
            highest[axis] = max(highest[axis], points[i, axis])
    # A stack of ranges that may still hold something nearer: node, low, high, and the squared
    # distance of the query from their box along each axis (Arya and Mount, "Algorithms for fast
    # vector quantization", 1993; without it a query far from all points visits every leaf).
    nodes = np.empty((_MAX_DEPTH, 3), np.int64)
    apart = np.empty((_MAX_DEPTH, 3))
    here = np.empty(3)
    for q in range(len(queries)):
        query = queries[q]
        if not np.isfinite(query).all():
            continue
        nearest, indices = distances[q], found[q]
        nearest[:] = np.inf
        best = np.inf
        skipped = start + q if own else -1
        nodes[0, 0], nodes[0, 1], nodes[0, 2] = 0, 0, len(points)
        for axis in range(3):
            outside = max(lowest[axis] - query[axis], query[axis] - highest[axis], 0.0)
            apart[0, axis] = outside * outside
        top = 1
        while top:
            top -= 1
            here[:] = apart[top]
            if here[0] + here[1] + here[2] >= best:
                continue
            node, low, high = nodes[top, 0], nodes[top, 1], nodes[top, 2]
            while node < len(axes):
                middle = (low + high) // 2
                axis = axes[node]
                offset = query[axis] - splits[node]
                # The near side is searched first; the far side is kept for later.
                if offset < 0:
                    far, far_low, far_high = 2 * node + 2, middle, high
                    node, high = 2 * node + 1, middle
                else:
                    far, far_low, far_high = 2 * node + 1, low, middle
                    node, low = 2 * node + 2, middle
                nodes[top, 0], nodes[top, 1], nodes[top, 2] = far, far_low, far_high
                apart[top] = here
                apart[top, axis] = max(here[axis], offset * offset)
                top += 1
            for i in range(low, high):
                x = points[i, 0] - query[0]
                y = points[i, 1] - query[1]
                z = points[i, 2] - query[2]
                squared = x * x + y * y + z * z
                if squared < best and i != skipped:
                    at = count - 1
                    while at > 0 and nearest[at - 1] > squared:
                        nearest[at], indices[at] = nearest[at - 1], indices[at - 1]
                        at -= 1
                    nearest[at], indices[at] = squared, i
                    best = nearest[count - 1]
        if np.isinf(best):
            nearest[:] = np.nan
    return distances, found
