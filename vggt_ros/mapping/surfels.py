"""Storage of the surfels: arrays side by side, a voxel hash over them, and what keeps both small.

Rows are appended; a dead row stays (flag ALIVE cleared) until `compact` moves the living ones
down. The hash maps a voxel to a row. Its slots come in groups of 64, one group for 4x4x4 voxels,
so that neighbouring pixels find their surfels in the same cache lines; a group that is taken is
followed by another group drawn from the same hash, never by its neighbour, so that the runs that
planes leave in a group do not grow into clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

ALIVE = 1
BOOTSTRAP = 2

EMPTY = -1
REMOVED = -2

CHUNK = 256
"""Rows that share one bounding box."""

SLOTS_PER_ROW = 1.6
"""Slots of the hash for each row, so at most 62 % are taken: 1.5 probes on a hit, 2.6 on a miss."""

CELL_LIMIT = 1 << 20
"""Cells of each axis reach from -CELL_LIMIT to CELL_LIMIT - 1; three times 21 bits make a key."""


class Surfels(NamedTuple):
    """One row per surfel, all arrays of the same length, and the tables over them.

    `normal` is the mean unit normal times 32767; its length says how well the views agree.
    `rgb` is 8.8 fixed point. `first` and `last` count depth maps, not time. `key` is the voxel
    under which a surfel is found. `bounds` (rows / CHUNK, 6) holds minimum and maximum of x y z.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    z: NDArray[np.float32]
    radius: NDArray[np.float32]
    key: NDArray[np.int64]
    normal: NDArray[np.int16]
    rgb: NDArray[np.uint16]
    weight: NDArray[np.float32]
    log_odds: NDArray[np.float32]
    hits: NDArray[np.uint16]
    first: NDArray[np.uint32]
    last: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    bounds: NDArray[np.float32]


ROW_BYTES = 4 * 4 + 8 + 3 * 2 + 3 * 2 + 4 + 4 + 2 + 4 + 4 + 1
"""Bytes of one row of `Surfels` without its share of `bounds` and of the hash."""

BYTES_PER_SURFEL = ROW_BYTES + 4 * SLOTS_PER_ROW + 6 * 4 / CHUNK
"""Everything that one surfel costs once the map is full: 61.5 bytes."""


def allocate(rows: int) -> Surfels:
    """Room for `rows` surfels.

    The operating system hands out the pages of such large arrays when they are first written,
    so an empty map costs nothing and growing needs neither a copy nor twice the memory.
    """
    chunks = -(-rows // CHUNK)

    def new(dtype: type, *shape: int) -> NDArray:
        return np.empty((rows, *shape), dtype)

    return Surfels(
        new(np.float32),
        new(np.float32),
        new(np.float32),
        new(np.float32),
        new(np.int64),
        new(np.int16, 3),
        new(np.uint16, 3),
        new(np.float32),
        new(np.float32),
        new(np.uint16),
        new(np.uint32),
        new(np.uint32),
        new(np.uint8),
        np.empty((chunks, 6), np.float32),
    )


def new_table(rows: int) -> NDArray[np.int32]:
    """An empty hash for `rows` surfels: a whole number of groups of 64 slots."""
    groups = max(1, -(-int(rows * SLOTS_PER_ROW) // 64))
    return np.full(groups * 64, EMPTY, np.int32)


@njit(cache=True, nogil=True)
def pack_key(i, j, k):
    """Cell indices to one int64; each must lie within CELL_LIMIT."""
    return (
        (np.int64(i) + CELL_LIMIT)
        | ((np.int64(j) + CELL_LIMIT) << 21)
        | ((np.int64(k) + CELL_LIMIT) << 42)
    )


@njit(cache=True, nogil=True)
def mix(value):
    """Finaliser of splitmix64 (Steele et al., OOPSLA 2014): every bit depends on every bit."""
    h = np.uint64(value)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


_GROUP_MASK = ~np.int64(3 | (3 << 21) | (3 << 42))


@njit(cache=True, nogil=True)
def first_hash(key):
    """Hash of the 4x4x4 group of a key."""
    return mix(np.int64(key) & _GROUP_MASK)


@njit(cache=True, nogil=True)
def next_hash(h):
    """Hash of the next group to look into."""
    return mix(h + np.uint64(0x9E3779B97F4A7C15))


@njit(cache=True, nogil=True)
def slot_of(h, key, groups):
    """Slot of a key in the group that a hash selects."""
    group = ((h >> np.uint64(32)) * np.uint64(groups)) >> np.uint64(32)
    local = (key & 3) | ((key >> 19) & 12) | ((key >> 38) & 48)
    return (np.int64(group) << 6) | local


@njit(cache=True, nogil=True)
def find(surfels, table, key, nx, ny, nz, least_cosine):
    """Row of a surfel in cell `key` whose normal agrees with (nx, ny, nz), else -1.

    Args:
        nx, ny, nz: unit normal in map.
        least_cosine: smaller cosines of the angle between the normals are another surface.
            Where a cell already holds two surfaces the one that agrees better is taken if
            `least_cosine` is negative, so that a cell never holds three.
    """
    groups = table.size >> 6
    h = first_hash(key)
    seen = 0
    best, best_cosine = -1, -2.0
    while True:
        row = table[slot_of(h, key, groups)]
        if row == EMPTY:
            return best if seen >= 2 and least_cosine < 0 else -1
        if row >= 0 and surfels.key[row] == key:
            a = surfels.normal[row, 0]
            b = surfels.normal[row, 1]
            c = surfels.normal[row, 2]
            length = np.float32(np.sqrt(np.float32(a) * a + np.float32(b) * b + np.float32(c) * c))
            cosine = (a * nx + b * ny + c * nz) / (length + np.float32(1e-6))
            if cosine >= least_cosine:
                return row
            seen += 1
            if cosine > best_cosine:
                best, best_cosine = row, cosine
        h = next_hash(h)


@njit(cache=True, nogil=True)
def put(table, key, row):
    """Enter a row under its key; the table must have a free slot."""
    groups = table.size >> 6
    h = first_hash(key)
    while True:
        slot = slot_of(h, key, groups)
        if table[slot] < 0:
            table[slot] = row
            return
        h = next_hash(h)


@njit(cache=True, nogil=True)
def take_out(table, key, row):
    """Take a row out of the hash."""
    groups = table.size >> 6
    h = first_hash(key)
    while True:
        slot = slot_of(h, key, groups)
        if table[slot] == row:
            table[slot] = REMOVED
            return
        if table[slot] == EMPTY:
            return
        h = next_hash(h)


@njit(cache=True, nogil=True)
def kill(surfels, table, row):
    """Take a surfel out of the map; its NaN position keeps it out of every image."""
    take_out(table, surfels.key[row], row)
    surfels.flags[row] = 0
    surfels.x[row] = np.nan


MOST_WEIGHT = 1000.0
"""Bound of the accumulated weight: the average of the last thousand measurements at one metre."""


@njit(cache=True, nogil=True)
def average(surfels, row, a, x, y, z, nx, ny, nz, red, green, blue):
    """Move a surfel by the fraction `a` towards a measurement; colours are 8.8 fixed point."""
    surfels.x[row] += a * (x - surfels.x[row])
    surfels.y[row] += a * (y - surfels.y[row])
    surfels.z[row] += a * (z - surfels.z[row])
    full = np.float32(32767)
    normal = surfels.normal[row]
    normal[0] = np.int16(np.rint(normal[0] + a * (nx * full - normal[0])))
    normal[1] = np.int16(np.rint(normal[1] + a * (ny * full - normal[1])))
    normal[2] = np.int16(np.rint(normal[2] + a * (nz * full - normal[2])))
    rgb = surfels.rgb[row]
    rgb[0] = np.uint16(rgb[0] + a * (red - np.float32(rgb[0])) + np.float32(0.5))
    rgb[1] = np.uint16(rgb[1] + a * (green - np.float32(rgb[1])) + np.float32(0.5))
    rgb[2] = np.uint16(rgb[2] + a * (blue - np.float32(rgb[2])) + np.float32(0.5))


@njit(cache=True, nogil=True)
def absorb(surfels, row, other):
    """Average surfel `other` into `row`; the caller kills it."""
    weight = surfels.weight[other]
    share = weight / (weight + surfels.weight[row])
    scale = np.float32(1 / 32767)
    normal, rgb = surfels.normal[other], surfels.rgb[other]
    average(
        surfels, row, share, surfels.x[other], surfels.y[other], surfels.z[other],
        normal[0] * scale, normal[1] * scale, normal[2] * scale,
        np.float32(rgb[0]), np.float32(rgb[1]), np.float32(rgb[2]),
    )  # fmt: skip
    surfels.weight[row] = min(np.float32(MOST_WEIGHT), surfels.weight[row] + weight)
    surfels.radius[row] = min(surfels.radius[row], surfels.radius[other])
    surfels.log_odds[row] = max(surfels.log_odds[row], surfels.log_odds[other])
    surfels.hits[row] = max(surfels.hits[row], surfels.hits[other])
    surfels.first[row] = min(surfels.first[row], surfels.first[other])
    surfels.last[row] = max(surfels.last[row], surfels.last[other])
    surfels.flags[row] |= surfels.flags[other]


SAME_COSINE = 0.5
"""Surfels of two cells are one surface only if their normals differ by less than 60 degrees."""


@njit(cache=True, nogil=True)
def rekey(surfels, table, row, voxel):
    """Enter a surfel under the cell in which it now lies, or merge it with the one there.

    Returns:
        (row that holds the surfel now, surfels that vanished: 0 or 1).
    """
    inverse = np.float32(1) / np.float32(voxel)
    key = pack_key(
        np.floor(surfels.x[row] * inverse),
        np.floor(surfels.y[row] * inverse),
        np.floor(surfels.z[row] * inverse),
    )
    if key == surfels.key[row]:
        return row, 0
    normal = surfels.normal[row]
    a, b, c = np.float32(normal[0]), np.float32(normal[1]), np.float32(normal[2])
    length = np.sqrt(a * a + b * b + c * c) + np.float32(1e-6)
    a, b, c = a / length, b / length, c / length
    other = find(surfels, table, key, a, b, c, SAME_COSINE)
    if other < 0:
        take_out(table, surfels.key[row], row)
        surfels.key[row] = key
        put(table, key, row)
        extend_bounds(surfels, row, False)
        return row, 0
    absorb(surfels, other, row)
    kill(surfels, table, row)
    return other, 1


@njit(cache=True, nogil=True)
def rebuild(surfels, table, rows):
    """Enter all living rows into the table anew."""
    table[:] = EMPTY
    for row in range(rows):
        if surfels.flags[row] & ALIVE:
            put(table, surfels.key[row], row)


@njit(cache=True, nogil=True)
def extend_bounds(surfels, row, is_new):
    """Make the box of a row's chunk hold its position; the first new row of a chunk opens it."""
    box = surfels.bounds[row // CHUNK]
    x, y, z = surfels.x[row], surfels.y[row], surfels.z[row]
    if is_new and row % CHUNK == 0:
        box[0] = box[3] = x
        box[1] = box[4] = y
        box[2] = box[5] = z
        return
    box[0] = min(box[0], x)
    box[1] = min(box[1], y)
    box[2] = min(box[2], z)
    box[3] = max(box[3], x)
    box[4] = max(box[4], y)
    box[5] = max(box[5], z)


@njit(cache=True, nogil=True)
def compact(surfels, rows):
    """Move the living rows down, keeping their order. Returns how many there are.

    The hash must be rebuilt afterwards.
    """
    to = 0
    for row in range(rows):
        if not surfels.flags[row] & ALIVE:
            continue
        if to != row:
            surfels.x[to] = surfels.x[row]
            surfels.y[to] = surfels.y[row]
            surfels.z[to] = surfels.z[row]
            surfels.radius[to] = surfels.radius[row]
            surfels.key[to] = surfels.key[row]
            for i in range(3):
                surfels.normal[to, i] = surfels.normal[row, i]
                surfels.rgb[to, i] = surfels.rgb[row, i]
            surfels.weight[to] = surfels.weight[row]
            surfels.log_odds[to] = surfels.log_odds[row]
            surfels.hits[to] = surfels.hits[row]
            surfels.first[to] = surfels.first[row]
            surfels.last[to] = surfels.last[row]
            surfels.flags[to] = surfels.flags[row]
        extend_bounds(surfels, to, True)
        to += 1
    return to


PRIORITY_LEVELS = 1024


@njit(cache=True, nogil=True)
def _priority(surfels, row, view, oldest, most_log_odds):
    """0 goes first: half confidence, half how lately it was seen; the bootstrap is above all."""
    confidence = max(np.float32(0), surfels.log_odds[row]) / most_log_odds
    age = np.float32(view - surfels.last[row]) / np.float32(max(1, view - oldest))
    level = int((confidence + np.float32(1) - age) * np.float32(0.5 * (PRIORITY_LEVELS - 1)))
    level = max(0, min(PRIORITY_LEVELS - 1, level))
    return level + PRIORITY_LEVELS if surfels.flags[row] & BOOTSTRAP else level


@njit(cache=True, nogil=True)
def evict(surfels, rows, count, view, most_log_odds):
    """Mark `count` living surfels dead, those of the lowest priority first.

    Ties go by row, oldest first. `compact` and `rebuild` must follow. Returns the count.
    """
    oldest = np.uint32(view)
    for row in range(rows):
        if surfels.flags[row] & ALIVE:
            oldest = min(oldest, surfels.last[row])
    histogram = np.zeros(2 * PRIORITY_LEVELS, np.int64)
    for row in range(rows):
        if surfels.flags[row] & ALIVE:
            histogram[_priority(surfels, row, view, oldest, most_log_odds)] += 1
    limit, below = 0, 0
    while limit < histogram.size and below + histogram[limit] <= count:
        below += histogram[limit]
        limit += 1
    of_limit = count - below
    gone = 0
    for row in range(rows):
        if not surfels.flags[row] & ALIVE:
            continue
        level = _priority(surfels, row, view, oldest, most_log_odds)
        if level < limit or (level == limit and of_limit > 0):
            if level == limit:
                of_limit -= 1
            surfels.flags[row] = 0
            surfels.x[row] = np.nan
            gone += 1
    return gone
