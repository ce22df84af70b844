"""Robust affine fit of a prediction to a reference: RANSAC, then Tukey's biweight.

The network errs, the map is an average of many measurements; so the prediction is regressed on
the reference, d = a*y + b, and not the other way round, where the noise of d would flatten the
slope (attenuation, Fuller 1987). y is 1/z for disparities and z for depths. Both have errors that
grow with y, so residuals are relative to a*y, which is the relative error of the depth.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SCORED = 1024
"""Samples on which a hypothesis is scored."""

HYPOTHESES = 96
"""Pairs tried: with half of the samples outliers all fail with p = 0.75^96 = 1e-12; so many more
than needed that a pair of two distant samples, which gives a good slope, is among them."""

SCALE_SAMPLES = 2048
"""Samples from which the spread of the residuals is estimated."""

TUKEY = 2.0
"""Cut-off in standard deviations. 4.685 is usual, for 95 % efficiency at the normal distribution
(Huber 1981); but there are pixels enough, and the errors of a rendered map are skewed, because
near surfaces hide what lies behind. On `indoor_sequence` 4.685 errs by 0.35 %, 2 by 0.25 %."""

HELD_OUT = 7
"""One pixel of so many does not take part in the fit and judges it instead; a prime, so that these
pixels do not stand in columns."""

LEAST_SIGMA = 1e-4
"""Relative residuals are never taken to be more exact than this."""


@njit(cache=True, nogil=True)
def _next_random(state):
    """One step of xorshift64* (Vigna 2016) on a one-element uint64 array; 32 random bits."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return (x * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(32)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _inliers(ys, ds, a, b, threshold):
    """How many samples lie within the relative threshold of d = a*y + b."""
    count = 0
    bound = np.float32(threshold * a)
    fa, fb = np.float32(a), np.float32(b)
    for i in range(ys.size):
        count += abs(ds[i] - fa * ys[i] - fb) < bound * ys[i]
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(ys, ds, a, b, buffer):
    """Robust standard deviation of the relative residuals, from an even subset."""
    step = max(1, ys.size // SCALE_SAMPLES)
    n = min(ys.size // step, buffer.size)
    for i in range(n):
        y = ys[i * step]
        buffer[i] = abs((ds[i * step] - b) / (a * y) - 1)
    return 1.4826 * np.median(buffer[:n])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _sums(ys, ds, a, b, cutoff):
    """Weighted sums of one Tukey step: w, wy, wyy, we, wye, inliers, squares, weights.

    Float32 within runs of 4096 samples, which keeps sixteen lanes busy, float64 across them.
    """
    total = np.zeros(8)
    fa, fb = np.float32(a), np.float32(b)
    inverse_a = np.float32(1 / a)
    square = np.float32(1 / (cutoff * cutoff))
    one, zero = np.float32(1), np.float32(0)
    for start in range(0, ys.size, 4096):
        stop = min(start + 4096, ys.size)
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
        for i in range(start, stop):
            y = ys[i]
            d = ds[i]
            inverse_y = one / y
            # Residual of d against the present fit: small numbers keep float32 exact.
            e = d - fa * y - fb
            r = e * inverse_a * inverse_y
            t = r * r * square
            inside = t < one
            k = one - t if inside else zero
            k = k * k
            w = k * inverse_y * inverse_y
            s0 += w
            s1 += k * inverse_y  # w * y
            s2 += k  # w * y * y
            s3 += w * e
            s4 += k * inverse_y * e
            s5 += one if inside else zero
            s6 += k * r * r
            s7 += k
        total[0] += s0
        total[1] += s1
        total[2] += s2
        total[3] += s3
        total[4] += s4
        total[5] += s5
        total[6] += s6
        total[7] += s7
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def fit_affine(ys, ds, threshold, seed, has_shift):
    """Fit d = a*y + b (b = 0 without a shift) with a > 0.

    Inputs:
        ys, ds: (N,) float32 reference (positive) and prediction, finite, same order.
        threshold: relative residual of an inlier in RANSAC.
        seed: of the random pairs; the same samples and seed give the same fit.
        has_shift: also estimate b.

    Returns:
        float64 (8,): a, b, inlier fraction (within the threshold), robust standard deviation of
        the relative residuals, variance of log a, variance of b, covariance of both, and 1 if
        there is a fit at all, else 0.
    """
    result = np.zeros(8)
    n = ys.size
    if n < 2:
        return result
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x1234567)
    step = max(1, n // SCORED)
    m = min(n // step, SCORED)
    scored_y, scored_d = np.empty(m, np.float32), np.empty(m, np.float32)
    for i in range(m):
        # One sample drawn from each stratum: an even grid would see only some image columns.
        at = i * step + np.int64(_next_random(state)) % step
        scored_y[i], scored_d[i] = ys[at], ds[at]
    best, a, b = -1, 0.0, 0.0
    for _ in range(HYPOTHESES):
        i = np.int64(_next_random(state)) % m
        j = np.int64(_next_random(state)) % m
        y0, y1 = np.float64(scored_y[i]), np.float64(scored_y[j])
        d0, d1 = np.float64(scored_d[i]), np.float64(scored_d[j])
        if has_shift:
            if abs(y1 - y0) < 0.02 * (y0 + y1):
                continue
            slope = (d1 - d0) / (y1 - y0)
            offset = d0 - slope * y0
        else:
            slope, offset = d0 / y0, 0.0
        if not slope > 0:
            continue
        count = _inliers(scored_y, scored_d, slope, offset, threshold)
        if count > best:
            best, a, b = count, slope, offset
    if best < 0:
        return result
    buffer = np.empty(SCALE_SAMPLES, np.float64)
    sigma = max(LEAST_SIGMA, min(_spread(ys, ds, a, b, buffer), threshold))
    variance_a = variance_b = covariance = 0.0
    for iteration in range(6):
        s = _sums(ys, ds, a, b, TUKEY * sigma)
        if has_shift:
            determinant = s[0] * s[2] - s[1] * s[1]
            if not determinant > 1e-9 * s[0] * s[2]:
                return result
            da = (s[0] * s[4] - s[1] * s[3]) / determinant
            db = (s[2] * s[3] - s[1] * s[4]) / determinant
        else:
            if not s[2] > 0:
                return result
            determinant = 1.0
            da, db = s[4] / s[2], 0.0
        change = abs(da) / a + abs(db) * (s[1] / s[2]) / a
        a += da
        b += db
        if not a > 0:
            return result
        # Weighted least squares with errors of a*y*sigma.
        noise = a * a * s[6] / max(1.0, s[7])
        if has_shift:
            variance_a = noise * s[0] / determinant / (a * a)
            variance_b = noise * s[2] / determinant
            covariance = -noise * s[1] / determinant / a
        else:
            variance_a = noise / s[2] / (a * a)
        if change < 1e-6:
            break
        if iteration < 3:
            sigma = max(LEAST_SIGMA, min(_spread(ys, ds, a, b, buffer), threshold))
    result[0], result[1] = a, b
    result[2] = _inliers(ys, ds, a, b, threshold) / n
    result[3] = _spread(ys, ds, a, b, buffer)
    result[4], result[5], result[6] = variance_a, variance_b, covariance
    result[7] = 1.0
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def mark_edges(reference, jump):
    """Pixels at depth edges and on surfaces seen flatly: (H, W) uint8, 1 or 0.

    Both pixels are marked where neighbours differ by more than `jump` (relative to the nearer),
    or those three apart by more than three times that, but at least 5 %. Invalid pixels (NaN or
    not positive) make no edges: the reference may be sparse.
    """
    height, width = reference.shape
    marked = np.zeros((height, width), np.uint8)
    edge = np.empty(width, np.uint8)
    near = np.float32(jump)
    wide = max(np.float32(0.05), np.float32(3) * near)
    zero, one, none = np.float32(0), np.uint8(1), np.uint8(0)
    # Find, then mark on either side: loops without a dependence run in vectors.
    for v in range(height):
        for step, limit in ((1, near), (3, wide)):
            for u in range(width - step):
                a, b = reference[v, u], reference[v, u + step]
                smaller = min(a, b)
                edge[u] = one if (smaller > zero) & (abs(a - b) > limit * smaller) else none
            for u in range(width - step):
                marked[v, u] |= edge[u]
            for u in range(width - step):
                marked[v, u + step] |= edge[u]
            if v + step >= height:
                continue
            for u in range(width):
                a, b = reference[v, u], reference[v + step, u]
                smaller = min(a, b)
                edge[u] = one if (smaller > zero) & (abs(a - b) > limit * smaller) else none
            for u in range(width):
                marked[v, u] |= edge[u]
            for u in range(width):
                marked[v + step, u] |= edge[u]
    return marked


@njit(cache=True, nogil=True, error_model="numpy")
def collect_samples(values, reference, marked, inverts_reference, inverts_values, far):
    """Pixels fit to be compared: valid in both and not marked; one of `HELD_OUT` is kept back.

    Inputs:
        values, reference: (H, W) float32, invalid: NaN or infinite (reference also: not positive).
        marked: (H, W) uint8 from `mark_edges`, widened.
        inverts_reference: the model takes 1/z instead of z.
        inverts_values: the model takes 1/value; values that are not positive are left out.
        far: greater depths of the reference are left out.

    Returns:
        (ys, ds, held_ds, held_zs, valid): float32 reference as the model takes it and prediction
        of the pixels to fit; prediction and reference depth of those kept back, with which the
        fit is judged; number of pixels that are valid, marked ones included.
    """
    height, width = values.shape
    ys = np.empty(height * width, np.float32)
    ds = np.empty(height * width, np.float32)
    held_ds = np.empty(height * width // HELD_OUT + 1, np.float32)
    held_zs = np.empty(height * width // HELD_OUT + 1, np.float32)
    n = held = valid = turn = 0
    zero, one, infinity = np.float32(0), np.float32(1), np.float32(np.inf)
    for v in range(height):
        for u in range(width):
            z = reference[v, u]
            d = values[v, u]
            if inverts_values:
                d = one / d if d > zero else infinity
            if not (z > zero and z <= far and abs(d) < infinity):
                continue
            valid += 1
            if marked[v, u]:
                continue
            turn += 1
            if turn == HELD_OUT:
                turn = 0
                held_ds[held] = d
                held_zs[held] = z
                held += 1
            else:
                ys[n] = one / z if inverts_reference else z
                ds[n] = d
                n += 1
    return ys[:n], ds[:n], held_ds[:held], held_zs[:held], valid


@njit(cache=True, nogil=True, error_model="numpy")
def apply_affine(values, scale, shift, is_inverse, inverts_values):
    """Depth (H, W) of y = scale * x + shift; NaN unless positive and finite.

    Inputs:
        values: (H, W) float32.
        is_inverse: y is 1/z instead of z.
        inverts_values: x is 1/value instead of the value; then values must be positive.
    """
    depth = np.empty(values.shape, np.float32)
    flat, out = values.reshape(-1), depth.reshape(-1)
    s, t, nothing = np.float32(scale), np.float32(shift), np.float32(np.nan)
    zero, one, infinity = np.float32(0), np.float32(1), np.float32(np.inf)
    for i in range(flat.size):
        x = flat[i]
        if inverts_values:
            x = one / x if x > zero else nothing
        y = s * x + t
        z = one / y if is_inverse else y
        out[i] = z if (z > zero) & (z < infinity) else nothing
    return depth


@njit(cache=True, nogil=True, error_model="numpy")
def relative_errors(values, depths, scale, shift, is_inverse, most):
    """|fitted depth / depth - 1| of up to 2 * `most` evenly spaced samples; infinite without.

    Inputs:
        values, depths: (N,) float32 from `collect_samples`: already as the model takes them.
    """
    step = max(1, values.size // most)
    count = (values.size + step - 1) // step
    errors = np.empty(count, np.float32)
    s, t = np.float32(scale), np.float32(shift)
    for i in range(count):
        y = s * values[i * step] + t
        z = np.float32(1) / y if is_inverse else y
        good = (z > np.float32(0)) & (z < np.float32(np.inf))
        errors[i] = abs(z / depths[i * step] - np.float32(1)) if good else np.float32(np.inf)
    return errors
