"""What goes when the budget is spent, and closing the rows of what has gone."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.surfels import ALIVE, BOOTSTRAP, extend_bounds


@njit(cache=True, nogil=True)
def compact(position, data, bounds, mature, changed, rows):
    """Move the living rows down, keeping their order. Returns how many there are.

    The hash must be rebuilt afterwards, and what has changed since is everything.
    """
    to = 0
    for row in range(rows):
        if not data[row].flags & ALIVE:
            continue
        if to != row:
            position[0, to] = position[0, row]
            position[1, to] = position[1, row]
            position[2, to] = position[2, row]
            position[3, to] = position[3, row]
            data[to] = data[row]
        extend_bounds(position, bounds, to, True)
        to += 1
    mature[:] = 0
    changed[:] = 0
    return to


PRIORITY_LEVELS = 1024


@njit(cache=True, nogil=True)
def _priority(data, row, view, oldest, most_log_odds):
    """0 goes first: half confidence, half how lately it was seen; the bootstrap is above all."""
    confidence = max(np.float32(0), data[row].log_odds) / most_log_odds
    age = np.float32(view - data[row].last) / np.float32(max(1, view - oldest))
    level = int((confidence + np.float32(1) - age) * np.float32(0.5 * (PRIORITY_LEVELS - 1)))
    level = max(0, min(PRIORITY_LEVELS - 1, level))
    return level + PRIORITY_LEVELS if data[row].flags & BOOTSTRAP else level


@njit(cache=True, nogil=True)
def evict(position, data, rows, count, view, most_log_odds):
    """Mark `count` living surfels dead, those of the lowest priority first.

    Ties go by row, oldest first. `compact` and `rebuild` must follow. Returns the count.
    """
    oldest = np.uint32(view)
    for row in range(rows):
        if data[row].flags & ALIVE:
            oldest = min(oldest, data[row].last)
    histogram = np.zeros(2 * PRIORITY_LEVELS, np.int64)
    for row in range(rows):
        if data[row].flags & ALIVE:
            histogram[_priority(data, row, view, oldest, most_log_odds)] += 1
    limit, below = 0, 0
    while limit < histogram.size and below + histogram[limit] <= count:
        below += histogram[limit]
        limit += 1
    of_limit = count - below
    gone = 0
    for row in range(rows):
        if not data[row].flags & ALIVE:
            continue
        level = _priority(data, row, view, oldest, most_log_odds)
        if level < limit or (level == limit and of_limit > 0):
            if level == limit:
                of_limit -= 1
            data[row].flags = 0
            position[0, row] = np.nan
            gone += 1
    return gone
