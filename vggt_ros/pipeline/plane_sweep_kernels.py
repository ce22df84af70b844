"""Compiled loops of the plane sweep: matching cost, semi-global aggregation, refinement.

Images are float32 grey levels (H, W). The source images of one reference view lie one after the
other in a flat array with `offsets`, `widths` and `heights`, because their sizes may differ.
Everything runs on one thread without the GIL and gives the same bytes for the same input.

Arithmetic is float32 throughout: numba widens small integers to 64 bits, which costs more vector
lanes than float32 does.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.pipeline.image_kernels import FAST, four, is_inside, reflect, row_sums, split

INVALID = 255
"""Cost of a pixel that the source does not see; valid costs are 0 (same) to 254."""


@njit(**FAST)
def _warp(flat, offset, width, height, h, margin, warped, valid, at, part):
    """Bilinear look-up of a source at the homography `h` (9,) of the reference pixels.

    Positions first, look-up second: the first loop then runs in vectors, and the look-up, which
    does not, has nothing else to do (3.4 times as fast as one loop).
    """
    rows, columns = warped.shape
    u_max, v_max = np.float32(width - 1 - margin), np.float32(height - 1 - margin)
    low = np.float32(margin)
    u_clip, v_clip = np.float32(width) - np.float32(1.001), np.float32(height) - np.float32(1.001)
    one = np.float32(1)
    start, pitch = np.int32(offset), np.int32(width)
    ha, hb, hc = np.float32(h[0]), np.float32(h[3]), np.float32(h[6])
    for y in range(rows):
        a = np.float32(h[1] * y + h[2])
        b = np.float32(h[4] * y + h[5])
        c = np.float32(h[7] * y + h[8])
        for x in range(columns):
            fx = np.float32(np.int32(x))
            w = hc * fx + c
            inverse = one / w
            u = (ha * fx + a) * inverse
            v = (hb * fx + b) * inverse
            valid[y, x] = is_inside(u, v, w, low, u_max, v_max)
            iu, part[0, x] = split(u, u_clip)
            iv, part[1, x] = split(v, v_clip)
            at[x] = start + iv * pitch + iu
        for x in range(columns):
            du, dv = part[0, x], part[1, x]
            p00, p01, p10, p11 = four(flat, at[x], pitch)
            top = p00 + du * (p01 - p00)
            bottom = p10 + du * (p11 - p10)
            warped[y, x] = top + dv * (bottom - top)


@njit(**FAST)
def _zncc_cost(reference, mean, inverse_std, warped, valid, radius, noise, sums, padded, out):
    """1 - ZNCC of (2 radius + 1)^2 windows as uint8, windows mirrored at the border."""
    rows, columns = warped.shape
    cb, cbb, cab, hb, hbb, hab = sums
    area = np.float32(1.0 / ((2 * radius + 1) * (2 * radius + 1)))
    extra = np.float32(noise)
    zero, one, top = np.float32(0), np.float32(1), np.float32(254)
    for y in range(rows):
        if y == 0:
            cb[:] = zero
            cbb[:] = zero
            cab[:] = zero
            for k in range(-radius, radius + 1):
                r = reflect(k, rows)
                for x in range(columns):
                    b = warped[r, x]
                    cb[x] += b
                    cbb[x] += b * b
                    cab[x] += b * reference[r, x]
        else:
            new, old = reflect(y + radius, rows), reflect(y - 1 - radius, rows)
            for x in range(columns):
                b1, b0 = warped[new, x], warped[old, x]
                cb[x] += b1 - b0
                cbb[x] += b1 * b1 - b0 * b0
            for x in range(columns):
                cab[x] += warped[new, x] * reference[new, x] - warped[old, x] * reference[old, x]
        row_sums(cb, padded, hb, radius)
        row_sums(cbb, padded, hbb, radius)
        row_sums(cab, padded, hab, radius)
        for x in range(columns):
            mean_b = hb[x] * area
            variance = max(hbb[x] * area - mean_b * mean_b, zero) + extra
            covariance = hab[x] * area - mean[y, x] * mean_b
            score = covariance * inverse_std[y, x] / np.sqrt(variance)
            hb[x] = min(max(one - score, zero), one) * top
        for x in range(columns):
            out[y, x] = np.uint8(np.int32(hb[x])) if valid[y, x] else np.uint8(255)


@njit(**FAST)
def sweep(reference, mean, inverse_std, flat, offsets, widths, heights, planes, radius, noise):
    """Matching cost of every plane.

    Args:
        reference: (H, W) grey levels around zero.
        mean, inverse_std: (H, W) of the reference's windows, mirrored at the border.
        planes: (S, D, 9) source pixels from reference pixels by each plane.
        radius: of the window [px].
        noise: variance [grey levels^2] added to a window's own: flat windows match nothing.

    Returns:
        (D, H, W) uint8: three parts of the best source and one of the second, which leaves out
        those in which the point is hidden; `INVALID` where no source sees the point.
    """
    sources, depths = planes.shape[0], planes.shape[1]
    rows, columns = reference.shape
    cost = np.empty((depths, rows, columns), np.uint8)
    warped = np.empty((rows, columns), np.float32)
    valid = np.empty((rows, columns), np.bool_)
    one_cost = np.empty((rows, columns), np.uint8)
    second = np.empty((rows, columns), np.uint8)
    at = np.empty(columns, np.int32)
    part = np.empty((2, columns), np.float32)
    padded = np.empty(columns + 2 * radius, np.float32)
    sums = (
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
    )
    for d in range(depths):
        for s in range(sources):
            _warp(
                flat, offsets[s], widths[s], heights[s], planes[s, d], radius / 2, warped, valid,
                at, part,
            )  # fmt: skip
            _zncc_cost(
                reference, mean, inverse_std, warped, valid, radius, noise, sums, padded,
                one_cost,
            )  # fmt: skip
            if s == 0:
                cost[d] = one_cost
                second[:] = 255
            else:
                for y in range(rows):
                    for x in range(columns):
                        c, best = one_cost[y, x], cost[d, y, x]
                        second[y, x] = min(second[y, x], max(c, best))
                        cost[d, y, x] = min(c, best)
        if sources > 1:
            for y in range(rows):
                for x in range(columns):
                    best, other = np.float32(cost[d, y, x]), np.float32(second[y, x])
                    both = np.float32(0.75) * best + np.float32(0.25) * other
                    cost[d, y, x] = np.uint8(both if other < np.float32(255) else best)
    return cost


@njit(**FAST)
def planes_last(cost, fill):
    """(D, H, W) to (H, W, D) float-free copy in blocks; `INVALID` becomes `fill`."""
    depths, rows, columns = cost.shape
    out = np.empty((rows, columns, depths), np.uint8)
    for y in range(rows):
        for x0 in range(0, columns, 64):
            x1 = min(x0 + 64, columns)
            for d in range(depths):
                for x in range(x0, x1):
                    c = cost[d, y, x]
                    out[y, x, d] = fill if c == np.uint8(255) else c
    return out


@njit(**FAST)
def _follow(cost, y, x, lines, to, lowest, frm, depths, p1, p2):
    """One step of one path: lines[to] from lines[frm]; index d + 1, ends padded. Returns min."""
    floor = lowest
    far = floor + p2
    smallest = np.float32(1e9)
    for d in range(depths):
        side = min(lines[frm, d], lines[frm, d + 2]) + p1
        reach = min(min(lines[frm, d + 1], side), far)
        value = np.float32(cost[y, x, d]) + reach - floor
        lines[to, d + 1] = value
        smallest = min(smallest, value)
    return smallest


@njit(**FAST)
def semi_global(cost, edge, p1, p2):
    """Sum of the costs of four paths, Hirschmueller (PAMI 2008).

    Eight paths gave the same depth on `indoor_sequence` for 30 % more time.

    Args:
        cost: (H, W, D) uint8.
        edge: (H, W) factor in (0, 1] on p2, small where the image has an edge.
        p1, p2: penalties of a step of one plane, and of more.

    Returns:
        (H, W, D) uint16.
    """
    rows, columns, depths = cost.shape
    total = np.empty((rows, columns, depths), np.uint16)
    big = np.float32(1e9)
    # Lines: along the row, pixel by pixel; down the columns, two rows. One more on each side
    # stays zero: there the paths begin.
    stride = columns + 2
    lines = np.empty((3 * stride, depths + 2), np.float32)
    lowest = np.empty(3 * stride, np.float32)
    first = np.float32(p1)
    for back in range(2):
        lines[:] = 0
        lines[:, 0] = big
        lines[:, depths + 1] = big
        lowest[:] = 0
        step = -1 if back else 1
        for j in range(rows):
            y = rows - 1 - j if back else j
            now, before = stride + (j & 1) * stride, stride + ((j + 1) & 1) * stride
            for i in range(columns):
                x = columns - 1 - i if back else i
                penalty = first + np.float32(p2 - p1) * edge[y, x]
                along, last = x + 1, x + 1 - step
                lowest[along] = _follow(
                    cost, y, x, lines, along, lowest[last], last, depths, first, penalty
                )
                down, last = now + x + 1, before + x + 1
                lowest[down] = _follow(
                    cost, y, x, lines, down, lowest[last], last, depths, first, penalty
                )
                if back:
                    for d in range(depths):
                        total[y, x, d] = np.uint16(
                            np.float32(total[y, x, d]) + lines[along, d + 1] + lines[down, d + 1]
                        )
                else:
                    for d in range(depths):
                        total[y, x, d] = np.uint16(lines[along, d + 1] + lines[down, d + 1])
    return total


@njit(**FAST)
def winner(total):
    """Best plane with sub-plane position.

    Returns:
        index: (H, W) float32 plane index, parabola through the three lowest sums.
        margin: (H, W) float32 in [0, 1]: how much worse the best plane elsewhere is.
    """
    rows, columns, depths = total.shape
    index = np.empty((rows, columns), np.float32)
    margin = np.empty((rows, columns), np.float32)
    for y in range(rows):
        for x in range(columns):
            best, at = np.float32(1e9), 0
            for d in range(depths):
                value = np.float32(total[y, x, d])
                if value < best:
                    best, at = value, d
            second = np.float32(1e9)
            for d in range(depths):
                if d < at - 1 or d > at + 1:
                    second = min(second, np.float32(total[y, x, d]))
            shift = np.float32(0)
            if 0 < at < depths - 1:
                before = np.float32(total[y, x, at - 1])
                after = np.float32(total[y, x, at + 1])
                bend = before + after - np.float32(2) * best
                if bend > 0:
                    shift = np.float32(0.5) * (before - after) / bend
            index[y, x] = np.float32(at) + shift
            margin[y, x] = (second - best) / max(second, np.float32(1))
    return index, margin
