"""Compiled loops that make a depth map exact: image alignment, smoothing, checks.

Depth is held as inverse depth q, (H, W) float32, in which matches move almost linearly. Sources
lie in flat arrays as in `plane_sweep_kernels`. `unit` is the step of q that moves a match by
about one pixel; it only sets the scale of sums and thresholds.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.pipeline.image_kernels import (
    FAST,
    OPTIONS,
    four,
    is_inside,
    reflect,
    row_sums,
    split,
)


@njit(**FAST)
def _warp_with_slope(
    flat, offset, width, height, m, q, unit, margin, value, slope, valid, tmp, at
):
    """Look-up of a source at depth q: grey level, its slope along q [grey/unit], in view or not.

    Args:
        m: (12,) `source pixel (homogeneous) = M [x y 1] + q t`, M row by row, then t.
    """
    rows, columns = q.shape
    u_max, v_max = np.float32(width - 1 - margin), np.float32(height - 1 - margin)
    low = np.float32(margin)
    u_clip, v_clip = np.float32(width) - np.float32(1.001), np.float32(height) - np.float32(1.001)
    one = np.float32(1)
    start, pitch = np.int32(offset), np.int32(width)
    m0, m3, m6 = np.float32(m[0]), np.float32(m[3]), np.float32(m[6])
    t0, t1, t2 = np.float32(m[9]), np.float32(m[10]), np.float32(m[11])
    k = np.float32(unit)
    for y in range(rows):
        a = np.float32(m[1] * y + m[2])
        b = np.float32(m[4] * y + m[5])
        c = np.float32(m[7] * y + m[8])
        for x in range(columns):
            fx, qq = np.float32(np.int32(x)), q[y, x]
            w = m6 * fx + c + qq * t2
            inverse = one / w
            u = (m0 * fx + a + qq * t0) * inverse
            v = (m3 * fx + b + qq * t1) * inverse
            valid[y, x] = is_inside(u, v, w, low, u_max, v_max)
            tmp[2, x] = (t0 - u * t2) * inverse * k
            tmp[3, x] = (t1 - v * t2) * inverse * k
            iu, tmp[0, x] = split(u, u_clip)
            iv, tmp[1, x] = split(v, v_clip)
            at[x] = start + iv * pitch + iu
        for x in range(columns):
            du, dv = tmp[0, x], tmp[1, x]
            p00, p01, p10, p11 = four(flat, at[x], pitch)
            right0, right1 = p01 - p00, p11 - p10
            top, bottom = p00 + du * right0, p10 + du * right1
            value[y, x] = top + dv * (bottom - top)
            slope[y, x] = (right0 + dv * (right1 - right0)) * tmp[2, x] + (bottom - top) * tmp[
                3, x
            ]


@njit(**FAST)
def _add_row(value, slope, reference, y, sign, sums):
    s, ss, rs, g, gg, rg, sg = sums
    columns = value.shape[1]
    f = np.float32(sign)
    for x in range(columns):
        a = value[y, x]
        s[x] += f * a
        ss[x] += f * a * a
    for x in range(columns):
        rs[x] += f * value[y, x] * reference[y, x]
    for x in range(columns):
        b = slope[y, x]
        g[x] += f * b
        gg[x] += f * b * b
    for x in range(columns):
        rg[x] += f * slope[y, x] * reference[y, x]
    for x in range(columns):
        sg[x] += f * slope[y, x] * value[y, x]


@njit(**FAST)
def align_depth(
    reference, mean, variance, flat, offsets, widths, heights, transforms, q, unit, radius, noise
):
    """One Gauss-Newton step of every pixel's inverse depth that makes its windows look alike.

    Lucas and Kanade with a gain and an offset per window and source (both eliminated), summed
    over the sources; every pixel of a window is looked up at its own depth, so that windows bend
    with the surface and edges do not bleed. A source counts by its information (slope^2 over
    residual variance) and not at all where the windows do not correlate.

    Args:
        reference: (H, W); mean, variance: of its windows, mirrored at the border.
        transforms: (S, 12), see `_warp_with_slope`.
        q: (H, W), finite.
        noise: variance of the grey levels' noise, > 0.

    Returns:
        step: (H, W) [units], at most 1.
        information: (H, W) [1/units^2]; 1/sqrt of it is the step's standard deviation.
        score: (H, W) correlation, mean over the sources that count, 0 where there is none.
    """
    sources = transforms.shape[0]
    rows, columns = reference.shape
    value = np.empty((rows, columns), np.float32)
    slope = np.empty((rows, columns), np.float32)
    valid = np.empty((rows, columns), np.bool_)
    tmp, at = np.empty((4, columns), np.float32), np.empty(columns, np.int32)
    step = np.zeros((rows, columns), np.float32)
    information = np.zeros((rows, columns), np.float32)
    score = np.zeros((rows, columns), np.float32)
    used = np.zeros((rows, columns), np.float32)
    sums = (
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
    )
    s, ss, rs, g, gg, rg, sg = sums
    h = np.empty((7, columns), np.float32)
    padded = np.empty(columns + 2 * radius, np.float32)
    count = np.float32((2 * radius + 1) * (2 * radius + 1))
    area = np.float32(1) / count
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(1e-6)
    extra = np.float32(noise)
    for i in range(sources):
        _warp_with_slope(
            flat, offsets[i], widths[i], heights[i], transforms[i], q, unit, radius / 2,
            value, slope, valid, tmp, at,
        )  # fmt: skip
        for y in range(rows):
            if y == 0:
                for line in sums:
                    line[:] = zero
                for k in range(-radius, radius + 1):
                    _add_row(value, slope, reference, reflect(k, rows), 1, sums)
            else:
                _add_row(value, slope, reference, reflect(y + radius, rows), 1, sums)
                _add_row(value, slope, reference, reflect(y - 1 - radius, rows), -1, sums)
            row_sums(s, padded, h[0], radius)
            row_sums(ss, padded, h[1], radius)
            row_sums(rs, padded, h[2], radius)
            row_sums(g, padded, h[3], radius)
            row_sums(gg, padded, h[4], radius)
            row_sums(rg, padded, h[5], radius)
            row_sums(sg, padded, h[6], radius)
            for x in range(columns):
                ms, mg, mr = h[0, x] * area, h[3, x] * area, mean[y, x]
                vs = max(h[1, x] * area - ms * ms, zero) + tiny
                vr = variance[y, x] + tiny
                crs = h[2, x] * area - mr * ms
                vg = h[4, x] * area - mg * mg
                crg = h[5, x] * area - mr * mg
                csg = h[6, x] * area - ms * mg
                gain = min(max(crs / vs, np.float32(0.3)), np.float32(3))
                free = max(vg - csg * csg / vs, tiny)
                pull = crg - csg * crs / vs
                likeness = crs / np.sqrt((vs + extra) * (vr + extra))
                residual = max(vr - crs * crs / vs, zero) + extra
                trust = min(max((likeness - np.float32(0.3)) * np.float32(2.5), zero), one)
                trust = trust if valid[y, x] else zero
                weight = trust * count * gain * gain * free / residual
                move = min(max(pull / (gain * free), -one), one)
                step[y, x] += weight * move
                information[y, x] += weight
                score[y, x] += trust * likeness
                used[y, x] += trust
    for y in range(rows):
        for x in range(columns):
            step[y, x] /= information[y, x] + one
            score[y, x] /= max(used[y, x], tiny)
    return step, information, score


@njit(**FAST)
def smooth(q, information, unit, radius):
    """Mean of each pixel's neighbours on the same surface, by information.

    Weights fall with the difference in q: 1 / (1 + (dq/unit)^2)^2, so edges stay.
    """
    rows, columns = q.shape
    out = np.empty((rows, columns), np.float32)
    scale = np.float32(1.0 / unit)
    one = np.float32(1)
    total = np.empty(columns, np.float32)
    shift = np.empty(columns, np.float32)
    for y in range(rows):
        total[:] = np.float32(1e-3)
        shift[:] = 0
        for j in range(max(0, y - radius), min(rows, y + radius + 1)):
            for i in range(-radius, radius + 1):
                x0, x1 = max(0, -i), min(columns, columns - i)
                for x in range(x0, x1):
                    d = q[np.uint64(j), np.uint64(x + i)] - q[y, np.uint64(x)]
                    r = d * scale
                    w = one / (one + r * r)
                    w = w * w * (information[np.uint64(j), np.uint64(x + i)] + one)
                    total[np.uint64(x)] += w
                    shift[np.uint64(x)] += w * d
        for x in range(columns):
            out[y, x] = q[y, x] + shift[x] / total[x]
    return out


@njit(**OPTIONS)
def agreement(q, transform, other, relative, step, agree, conflict, difference, shift):
    """Compare a view's depth with that of another view; the last three are added to.

    Args:
        q: (H, W) inverse depth; NaN in holes.
        transform: (12,) to pixels of the other depth map, see `_warp_with_slope`; its third row
            is (other's depth) / (own depth).
        other: (h, w) inverse depth of the other view, NaN in holes.
        relative, step: two depths agree if their inverse depths differ by less than
            `relative` times themselves or `step`.
        agree, conflict: (H, W) float32: views that see the same surface; views that look
            through it. A view that sees something nearer says nothing.
        difference: (H, W) float32 sum of |difference| of those that agree, relative to depth.
        shift: (H, W) float32 sum of what those that agree would add to q.
    """
    rows, columns = q.shape
    last_row, last_column = other.shape[0] - 1, other.shape[1] - 1
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    other_rows, other_columns = np.float32(other.shape[0]), np.float32(other.shape[1])
    m = transform.astype(np.float32)
    relative, step = np.float32(relative), np.float32(step)
    for y in range(rows):
        fy = np.float32(np.int32(y))
        a, b, c = m[1] * fy + m[2], m[4] * fy + m[5], m[7] * fy + m[8]
        for x in range(columns):
            own = q[y, x]
            if not own > 0:
                continue
            fx = np.float32(np.int32(x))
            turned = m[6] * fx + c
            w = turned + own * m[11]
            if not w > 0:
                continue
            inverse = one / w
            u = (m[0] * fx + a + own * m[9]) * inverse
            v = (m[3] * fx + b + own * m[10]) * inverse
            if u < -half or v < -half or u + half >= other_columns or v + half >= other_rows:
                continue
            seen = other[np.uint32(v + half), np.uint32(u + half)]
            if not seen > 0:
                continue
            expected = own * inverse
            tolerance = max(relative * expected, step)
            gap = abs(expected - seen)
            if gap <= tolerance:
                # Between pixels where the four around it belong to one surface.
                iu, iv = int(max(u, zero)), int(max(v, zero))
                if iu < last_column and iv < last_row:
                    q00, q01 = other[iv, iu], other[iv, iu + 1]
                    q10, q11 = other[iv + 1, iu], other[iv + 1, iu + 1]
                    du, dv = u - np.float32(iu), v - np.float32(iv)
                    # Written so that NaN fails: min and max may drop it.
                    if (
                        abs(q00 - seen) <= tolerance
                        and abs(q01 - seen) <= tolerance
                        and abs(q10 - seen) <= tolerance
                        and abs(q11 - seen) <= tolerance
                    ):
                        top, bottom = q00 + du * (q01 - q00), q10 + du * (q11 - q10)
                        seen = top + dv * (bottom - top)
                agree[y, x] += one
                difference[y, x] += abs(expected - seen) / expected
                shift[y, x] += turned / (one / seen - m[11]) - own
            elif expected > seen:
                conflict[y, x] += one


@njit(**OPTIONS)
def remove_specks(q, step, smallest):
    """Make holes of connected surfaces (4-neighbours within `step`) of few pixels, in place."""
    rows, columns = q.shape
    seen = np.zeros((rows, columns), np.bool_)
    stack = np.empty(rows * columns, np.int32)
    for y0 in range(rows):
        for x0 in range(columns):
            if seen[y0, x0] or not q[y0, x0] > 0:
                continue
            seen[y0, x0] = True
            stack[0] = y0 * columns + x0
            read, size = 0, 1
            while read < size:
                y, x = stack[read] // columns, stack[read] % columns
                read += 1
                here = q[y, x]
                for k in range(4):
                    yy = y + (k == 0) - (k == 1)
                    xx = x + (k == 2) - (k == 3)
                    if yy < 0 or xx < 0 or yy >= rows or xx >= columns or seen[yy, xx]:
                        continue
                    if abs(q[yy, xx] - here) <= step:
                        seen[yy, xx] = True
                        stack[size] = yy * columns + xx
                        size += 1
            if size < smallest:
                for k in range(size):
                    q[stack[k] // columns, stack[k] % columns] = np.nan
