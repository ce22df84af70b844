"""Code books against their published definitions, not against themselves."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vggt_ros.engine.codebooks import (
    FP4,
    NF4,
    dequantise_blockwise,
    dequantise_int8,
    quantise_blockwise,
    quantise_int8,
)

WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 90)),
    elements=st.floats(-8, 8, width=32),
)


def test_nf4_is_the_quantiles_of_qlora():
    # arXiv 2305.14314, appendix E: 8 quantiles above zero, 7 below, zero itself, over the largest
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    expected = np.sort([*above, 0.0, *below]) / max(above)
    np.testing.assert_allclose(NF4, expected, atol=2e-6)


def test_fp4_has_a_sign_two_exponent_bits_and_a_mantissa_bit():
    for code in range(16):
        sign, exponent, mantissa = (-1) ** (code >> 3), (code >> 1) & 3, code & 1
        if exponent:
            # its order of exponents is 3, 1, 2: the code book is a table, not a number format
            value = (1 + mantissa / 2) * {1: 8, 2: 4, 3: 2}[exponent] / 12
        else:
            value = mantissa * 0.0625 / 12
        assert FP4[code] == pytest.approx(sign * value, rel=1e-6), code


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.sampled_from([NF4, FP4]), st.sampled_from([8, 64]))
def test_blockwise_takes_the_nearest_code(weight, codebook, block):
    codes, largest = quantise_blockwise(weight, codebook, block)
    found = dequantise_blockwise(codes, largest, codebook, block)
    assert found.shape == weight.shape
    assert codes.max(initial=0) < 16
    scale = np.repeat(largest, block)[: weight.size].reshape(weight.shape)
    every = codebook * scale[..., None]
    nearest = np.abs(every - weight[..., None]).min(axis=-1)
    np.testing.assert_allclose(np.abs(found - weight), nearest, atol=1e-6 * scale.max() + 1e-12)


def test_values_of_the_code_book_come_back_exactly():
    for codebook in (NF4, FP4):
        weight = np.tile(codebook, 4)[None] * np.float32(0.5)
        found = dequantise_blockwise(*quantise_blockwise(weight, codebook), codebook)
        np.testing.assert_array_equal(found, weight)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.sampled_from([0, 1]))
def test_int8_is_symmetric_and_within_half_a_step(weight, axis):
    codes, scale = quantise_int8(weight, axis)
    assert codes.min() >= -127
    assert scale.shape == (weight.shape[axis],)
    step = scale[:, None] if axis == 0 else scale[None]
    assert (np.abs(dequantise_int8(codes, scale, axis) - weight) <= 0.5001 * step).all()
    np.testing.assert_array_equal(quantise_int8(-weight, axis)[0], -codes)


def test_int8_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    weight = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    codes, scale = quantise_int8(weight)
    expected = torch.quantize_per_channel(
        torch.from_numpy(weight), torch.from_numpy(scale), torch.zeros(6), 0, torch.qint8
    )
    np.testing.assert_array_equal(codes, expected.int_repr().numpy())
    np.testing.assert_allclose(dequantise_int8(codes, scale), expected.dequantize().numpy())
