"""Numbering the occupied cells of a grid, and the mean point of each.

Cells lie in blocks of 4x4x4, which are stored in the order in which points first meet them, and
a small hash finds a block. Points that follow each other in space, as those of a depth image or
of a map do, so find their cells in few cache lines, wherever the hash would have put them. Points
are taken in batches, and each step of the work is a loop over a batch: what misses the caches
then waits together.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.surfels import (
    CELL_LIMIT,
    EMPTY,
    first_hash,
    mix,
    new_table,
    next_hash,
    pack_key,
    slot_of,
)

_BATCH = 256

_BITS = 2
_SLOTS = 1 << (3 * _BITS)
_LOW = (1 << _BITS) - 1
_BLOCK_MASK = ~np.int64(_LOW | (_LOW << 21) | (_LOW << 42))

_FIRST_BITS = 14
"""Places of the hash at first, as a power of two."""

_SPARE_BITS = 2
"""Places of the hash per block, as a power of two: at most a quarter is taken."""

_LEAST_POINTS_PER_BLOCK = 4
"""A block costs 256 bytes; clouds so sparse that fewer points share one are numbered without."""

_NO_CELL, _FAR, _SPARSE = -1, -1, -2


@njit(cache=True, nogil=True, error_model="numpy")
def _batch_keys(points, start, count, inverse_voxel, key, within):
    """Keys of `count` points and where they lie in their cells.

    Outputs:
        key: (_BATCH,) int64 as of `pack_key`.
        within: (_BATCH, 4) float32 x y z in the cell, 0 to 1, and 1.

    Returns:
        Whether all have a cell.
    """
    far = np.int64(0)
    limit = np.float32(CELL_LIMIT - 1)
    for q in range(count):
        x = points[start + q, 0] * inverse_voxel
        y = points[start + q, 1] * inverse_voxel
        z = points[start + q, 2] * inverse_voxel
        i, j, k = np.floor(x), np.floor(y), np.floor(z)
        # NaN is not nearer, either; `and` would be a branch.
        far |= not ((abs(i) < limit) & (abs(j) < limit) & (abs(k) < limit))
        within[q, 0] = x - i
        within[q, 1] = y - j
        within[q, 2] = z - k
        within[q, 3] = np.float32(1)
        key[q] = pack_key(np.int32(i), np.int32(j), np.int32(k))
    return far == 0


@njit(cache=True, nogil=True)
def _shift_for(table):
    """Bits to drop of a hash, so that it is a place in a table whose size is a power of two."""
    shift, places = np.uint64(64), table.size
    while places > 1:
        places >>= 1
        shift -= np.uint64(1)
    return shift


@njit(cache=True, nogil=True, error_model="numpy")
def _number_part(points, inverse_voxel, start, used, table, blocks, slots, cells, keys, sums):
    """Number the cells of points from `start` on, until a quarter of the table may be taken.

    A function of its own, because numba counts references of arrays that change in a loop.

    Inputs:
        table: (places,) int32 block or EMPTY; a power of two.

    Outputs:
        used: (2,) blocks and cells; the latter _FAR if a point has no cell.
        blocks: (room,) int64 keys of blocks.
        slots: (room * _SLOTS,) int32 cell or _NO_CELL, set for the blocks used.
        cells: (N,) int32.
        keys: (N,) int64 of the cells.
        sums: (N, 4) float32 of each cell: sum of the places in the cell; points.

    Returns:
        The point that comes next, N after the last.
    """
    n = len(points)
    room = min(len(blocks), table.size >> _SPARE_BITS)
    number, count = used[0], used[1]
    mask, shift = np.uint64(table.size - 1), _shift_for(table)
    key = np.empty(_BATCH, np.int64)
    within = np.empty((_BATCH, 4), np.float32)
    slot = np.empty(_BATCH, np.uint64)
    for first in range(start, n, _BATCH):
        length = min(_BATCH, n - first)
        if number + length > room:
            used[0], used[1] = number, count
            return first
        if not _batch_keys(points, first, length, inverse_voxel, key, within):
            used[1] = _FAR
            return n
        for q in range(length):
            k = key[q]
            block_key = k & _BLOCK_MASK
            place = np.uint64(mix(block_key) >> shift)
            while True:
                block = np.int64(table[place])
                if block == EMPTY:
                    block = number
                    table[place] = block
                    blocks[block] = block_key
                    slots[block * _SLOTS : (block + 1) * _SLOTS] = _NO_CELL
                    number += 1
                    break
                if blocks[np.uint64(block)] == block_key:
                    break
                place = (place + np.uint64(1)) & mask
            local = (
                (k & _LOW)
                | ((k >> (21 - _BITS)) & (_LOW << _BITS))
                | ((k >> (42 - 2 * _BITS)) & (_LOW << (2 * _BITS)))
            )
            slot[q] = block * _SLOTS + local
        for q in range(length):
            cell = slots[slot[q]]
            if cell == _NO_CELL:
                cell = np.int32(count)
                slots[slot[q]] = cell
                keys[count] = key[q]
                sums[count] = 0
                count += 1
            cells[first + q] = cell
        for q in range(length):
            cell = np.uint64(cells[first + q])
            sums[cell, 0] += within[q, 0]
            sums[cell, 1] += within[q, 1]
            sums[cell, 2] += within[q, 2]
            sums[cell, 3] += within[q, 3]
    used[0], used[1] = number, count
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _enter_blocks(table, blocks, number):
    """Enter the first blocks into an empty table."""
    mask, shift = np.uint64(table.size - 1), _shift_for(table)
    for block in range(number):
        place = np.uint64(mix(blocks[block]) >> shift)
        while table[place] != EMPTY:
            place = (place + np.uint64(1)) & mask
        table[place] = block


def _number_by_blocks(
    points: np.ndarray, inverse_voxel: np.float32, cells: np.ndarray, keys: np.ndarray,
    sums: np.ndarray,
) -> int:  # fmt: skip
    """Number of cells, _FAR, or _SPARSE if blocks would hold too few points."""
    n = len(points)
    # Memory that is not written costs nothing.
    room = n // _LEAST_POINTS_PER_BLOCK + _BATCH
    blocks, slots = np.empty(room, np.int64), np.empty(room * _SLOTS, np.int32)
    table = np.full(1 << _FIRST_BITS, EMPTY, np.int32)
    used = np.zeros(2, np.int64)
    at = 0
    while True:
        at = _number_part(points, inverse_voxel, at, used, table, blocks, slots, cells, keys, sums)
        if at == n:
            return int(used[1])
        if used[0] + _BATCH > room:
            return _SPARSE
        table = np.full(4 * table.size, EMPTY, np.int32)
        _enter_blocks(table, blocks, used[0])


@njit(cache=True, nogil=True, error_model="numpy")
def _number_one_by_one(points, inverse_voxel, table, cells, keys, sums):
    """Number of cells or _FAR, by one hash over all cells: 6 bytes a point, but scattered.

    Inputs:
        table: empty hash with room for as many cells as there are points.

    Outputs:
        cells, keys, sums: as of `_number_part`.
    """
    n = len(points)
    groups = table.size >> 6
    count = 0
    limit = np.float32(CELL_LIMIT - 1)
    for p in range(n):
        x, y, z = (
            points[p, 0] * inverse_voxel,
            points[p, 1] * inverse_voxel,
            points[p, 2] * inverse_voxel,
        )
        i, j, k = np.floor(x), np.floor(y), np.floor(z)
        if not (abs(i) < limit and abs(j) < limit and abs(k) < limit):
            return _FAR
        key = pack_key(i, j, k)
        h = first_hash(key)
        while True:
            slot = slot_of(h, key, groups)
            cell = table[slot]
            if cell == EMPTY:
                cell = np.int32(count)
                table[slot] = cell
                keys[cell] = key
                sums[cell] = 0
                count += 1
                break
            if keys[cell] == key:
                break
            h = next_hash(h)
        cells[p] = cell
        sums[cell, 0] += x - i
        sums[cell, 1] += y - j
        sums[cell, 2] += z - k
        sums[cell, 3] += np.float32(1)
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_points(keys, sums, count, inverse_voxel):
    """Mean points (count, 3) float32 of cells; places in cells are summed, so float32 is exact."""
    means = np.empty((count, 3), np.float32)
    voxel, mask = 1 / np.float64(inverse_voxel), (1 << 21) - 1
    for cell in range(count):
        share = 1 / np.float64(sums[cell, 3])
        key = keys[cell]
        for axis in range(3):
            index = ((key >> (21 * axis)) & mask) - CELL_LIMIT
            means[cell, axis] = (index + sums[cell, axis] * share) * voxel
    return means


def number_cells(
    points: np.ndarray, inverse_voxel: np.float32
) -> tuple[np.ndarray, int, np.ndarray]:
    """Number the occupied cells in the order of their first point.

    Args:
        points: (N, 3) float32, contiguous.
        inverse_voxel: 1 over the edge of a cell; cells are aligned with the origin.

    Returns:
        Cell of each point (N,) int32; number of cells, -1 if a point is not finite or too far;
        mean point of each cell (cells, 3) float32.
    """
    n = len(points)
    cells, keys, sums = np.empty(n, np.int32), np.empty(n, np.int64), np.empty((n, 4), np.float32)
    count = _number_by_blocks(points, inverse_voxel, cells, keys, sums)
    if count == _SPARSE:
        count = _number_one_by_one(points, inverse_voxel, new_table(n), cells, keys, sums)
    return cells, count, _mean_points(keys, sums, max(count, 0), inverse_voxel)
