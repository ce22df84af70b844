"""Storage of the surfels: arrays side by side, a voxel hash over them, and what keeps both small.

Rows are appended; a dead row stays (flag ALIVE cleared) until `compact` moves the living ones
down. The hash maps a voxel to a row. Its slots come in groups of 64, one group for 4x4x4 voxels,
so that neighbouring pixels find their surfels in the same cache lines; a group that is taken is
followed by another group drawn from the same hash, never by its neighbour, so that the runs that
planes leave in a group do not grow into clusters.

Numba's cache sees a change of the file of a kernel, not of the files whose functions it calls:
after a change here, or in another `kernels_*.py` that is imported, delete the cached `*.nbi`.
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

SLOTS_PER_ROW = 1.45
"""Slots of the hash per row: at most 69 % are taken, 1.7 probes find, 3.2 miss."""

CELL_LIMIT = 1 << 20
"""Cells of each axis reach from -CELL_LIMIT to CELL_LIMIT - 1; three times 21 bits make a key."""


class Surfels(NamedTuple):
    """The arrays of a map.

    Positions and radii lie apart because projecting them, the commonest thing to do, then runs
    in vector registers; the rest of a surfel is one record because it is wanted together, and
    then costs one cache line and not ten.
    """

    position: NDArray[np.float32]
    """(4, rows) x, y, z in map and radius [map units]; x is NaN where the surfel is dead, the
    radius is negative while it is young."""
    data: NDArray[np.void]
    """(rows,) of SURFEL."""
    bounds: NDArray[np.float32]
    """(rows / CHUNK, 6) minimum and maximum of x y z of each chunk."""
    mature: NDArray[np.uint8]
    """(rows / CHUNK,) whether all of a chunk that was seen last had been seen often."""
    changed: NDArray[np.uint32]
    """(rows / CHUNK,) number of the last depth map that changed a chunk."""


SURFEL = np.dtype(
    [
        ("key", np.int64),  # voxel under which the hash finds it
        ("weight", np.float32),
        ("log_odds", np.float32),
        ("last", np.uint32),  # depth maps are counted, not time
        ("first", np.uint16),  # the same in steps of FIRST_STEP, up to 65535
        # Mean unit normal times 32767; its length says how well the views agree.
        ("nx", np.int16),
        ("ny", np.int16),
        ("nz", np.int16),
        ("red", np.uint16),  # 8.8 fixed point
        ("green", np.uint16),
        ("blue", np.uint16),
        ("hits", np.uint8),  # depth maps that saw it, up to MOST_HITS
        ("flags", np.uint8),
    ]
)

FIRST_STEP = 64

MOST_HITS = 255

ROW_BYTES = 4 * 4 + SURFEL.itemsize
"""Bytes of a surfel without its share of `bounds` and of the hash."""

CHUNK_BYTES = 6 * 4 + 1 + 4
"""Bounds and what else is kept of a chunk."""

BYTES_PER_SURFEL = ROW_BYTES + 4 * SLOTS_PER_ROW + CHUNK_BYTES / CHUNK
"""Everything that one surfel costs once the map is full: 57.9 bytes."""


def allocate(rows: int) -> Surfels:
    """Room for `rows` surfels.

    The operating system hands out the pages of such large arrays when they are first written,
    so an empty map costs nothing and growing needs neither a copy nor twice the memory.
    """
    chunks = -(-rows // CHUNK)
    return Surfels(
        np.empty((4, rows), np.float32),
        np.empty(rows, SURFEL),
        np.empty((chunks, 6), np.float32),
        np.zeros(chunks, np.uint8),
        np.zeros(chunks, np.uint32),
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
    """Slot of a key in the group that a hash selects.

    The low bits of the hash shuffle the slots of a group: the surfels of a plane along an axis
    would otherwise all want the same quarter of every group.
    """
    group = ((h >> np.uint64(32)) * np.uint64(groups)) >> np.uint64(32)
    local = (key & 3) | ((key >> 19) & 12) | ((key >> 38) & 48)
    return (np.int64(group) << 6) | (local ^ np.int64(h & np.uint64(63)))


@njit(cache=True, nogil=True)
def find(data, table, key, nx, ny, nz, least_cosine):
    """Row of a surfel in cell `key` whose normal agrees with a unit normal in map, else -1.

    Smaller cosines of the angle between the normals than `least_cosine` are another surface.
    Where a cell already holds two surfaces the one that agrees better is taken if
    `least_cosine` is negative, so that a cell never holds three.
    """
    groups = table.size >> 6
    h = first_hash(key)
    seen = 0
    best, best_cosine = np.int64(-1), np.float32(-2)
    while True:
        row = np.int64(table[slot_of(h, key, groups)])
        if row == EMPTY:
            return best if seen >= 2 and least_cosine < 0 else np.int64(-1)
        if row >= 0 and data[row].key == key:
            a = np.float32(data[row].nx)
            b = np.float32(data[row].ny)
            c = np.float32(data[row].nz)
            length = np.sqrt(a * a + b * b + c * c) + np.float32(1e-6)
            cosine = (a * nx + b * ny + c * nz) / length
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
def kill(position, data, table, row):
    """Take a surfel out of the map; its NaN position keeps it out of every image."""
    take_out(table, data[row].key, row)
    data[row].flags = 0
    position[0, row] = np.nan


MOST_WEIGHT = 1000.0
"""Bound of the accumulated weight: the average of the last thousand measurements at one metre."""


@njit(cache=True, nogil=True)
def _drawn(value, target, share):
    """A colour or normal moved by a share towards another, not yet rounded."""
    old = np.float32(value)
    return old + share * (target - old)


@njit(cache=True, nogil=True)
def average(position, data, row, share, x, y, z, nx, ny, nz, red, green, blue):
    """Move a surfel by a share towards a measurement; colours are 8.8 fixed point."""
    position[0, row] += share * (x - position[0, row])
    position[1, row] += share * (y - position[1, row])
    position[2, row] += share * (z - position[2, row])
    s = data[row]
    full = np.float32(32767)
    half = np.float32(0.5)
    s.nx = np.int16(np.floor(_drawn(s.nx, nx * full, share) + half))
    s.ny = np.int16(np.floor(_drawn(s.ny, ny * full, share) + half))
    s.nz = np.int16(np.floor(_drawn(s.nz, nz * full, share) + half))
    s.red = np.uint16(_drawn(s.red, red, share) + half)
    s.green = np.uint16(_drawn(s.green, green, share) + half)
    s.blue = np.uint16(_drawn(s.blue, blue, share) + half)


YOUNG_HITS = 3
"""Surfels seen less often are young: they may be noise."""


@njit(cache=True, nogil=True)
def shrink(position, row, radius):
    """Let a surfel not be larger than `radius`, keeping its sign, which says that it is young."""
    old = position[3, row]
    position[3, row] = max(old, -radius) if old < 0 else min(old, radius)


@njit(cache=True, nogil=True)
def absorb(position, data, row, other):
    """Average surfel `other` into `row`; the caller kills it."""
    s, o = data[row], data[other]
    share = o.weight / (o.weight + s.weight)
    scale = np.float32(1 / 32767)
    average(
        position, data, row, share, position[0, other], position[1, other], position[2, other],
        o.nx * scale, o.ny * scale, o.nz * scale,
        np.float32(o.red), np.float32(o.green), np.float32(o.blue),
    )  # fmt: skip
    s.weight = min(np.float32(MOST_WEIGHT), s.weight + o.weight)
    shrink(position, row, abs(position[3, other]))
    s.log_odds = max(s.log_odds, o.log_odds)
    s.hits = max(s.hits, o.hits)
    if s.hits >= YOUNG_HITS:
        position[3, row] = abs(position[3, row])
    s.first = min(s.first, o.first)
    s.last = max(s.last, o.last)
    s.flags |= o.flags


@njit(cache=True, nogil=True)
def extend_bounds(position, bounds, row, is_new):
    """Make the box of a row's chunk hold its position; the first new row of a chunk opens it."""
    box = row // CHUNK
    opens = is_new and row % CHUNK == 0
    for axis in range(3):
        value = position[axis, row]
        if opens:
            bounds[box, axis] = value
            bounds[box, axis + 3] = value
        else:
            bounds[box, axis] = min(bounds[box, axis], value)
            bounds[box, axis + 3] = max(bounds[box, axis + 3], value)


UNMOVED, MOVED, MERGED = 0, 1, 2

SAME_COSINE = 0.5
"""Surfels of two cells are one surface only if their normals differ by less than 60 degrees."""


@njit(cache=True, nogil=True)
def key_at(position, row, inverse_voxel):
    """Key of the cell in which a surfel lies."""
    return pack_key(
        np.floor(position[0, row] * inverse_voxel),
        np.floor(position[1, row] * inverse_voxel),
        np.floor(position[2, row] * inverse_voxel),
    )


@njit(cache=True, nogil=True)
def rekey(position, data, bounds, table, row, key):
    """Enter a surfel under the cell in which it now lies, or merge it with the one there.

    Returns:
        (row that holds the surfel now; what happened: MOVED or MERGED).
    """
    a, b, c = np.float32(data[row].nx), np.float32(data[row].ny), np.float32(data[row].nz)
    length = np.sqrt(a * a + b * b + c * c) + np.float32(1e-6)
    other = find(data, table, key, a / length, b / length, c / length, SAME_COSINE)
    if other < 0:
        take_out(table, data[row].key, row)
        data[row].key = key
        put(table, key, row)
        extend_bounds(position, bounds, row, False)
        return np.int64(row), MOVED
    absorb(position, data, other, row)
    kill(position, data, table, row)
    return other, MERGED


@njit(cache=True, nogil=True)
def rebuild(data, table, rows):
    """Enter all living rows into the table anew."""
    table[:] = EMPTY
    for row in range(rows):
        if data[row].flags & ALIVE:
            put(table, data[row].key, row)
