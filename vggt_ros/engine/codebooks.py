"""Four- and eight-bit forms of weights, as numbers; needs numpy alone.

The weights stay in float32 arrays: each is replaced by the value that its code stands for, so
that a network exported with them answers as a quantised one does, on any runtime.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.types import Float32

NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
"""NormalFloat of QLoRA (arXiv 2305.14314, appendix E): quantiles of the normal distribution."""

_FP4_POSITIVE = np.array([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0], np.float32)
FP4 = np.concatenate([_FP4_POSITIVE, -_FP4_POSITIVE]) / np.float32(12.0)
"""By code: sign, two exponent bits, one mantissa bit, over the largest; the layout that
bitsandbytes documents for its FP4 (`create_fp4_map`)."""

BLOCK = 64
"""Weights that share one largest magnitude; the default of bitsandbytes' 4-bit layers."""


def quantise_blockwise(
    weight: Float32, codebook: Float32, block: int = BLOCK
) -> tuple[NDArray[np.uint8], Float32]:
    """Nearest code of each weight, after division by the largest magnitude of its block.

    Args:
        weight: any shape; blocks run over its values in C order, the last may be shorter.
        codebook: 16 values in [-1, 1], by code.
        block: values that share a scale.

    Returns:
        Codes in the shape of `weight`, and the largest magnitude of each block (n,).
    """
    flat = np.asarray(weight, np.float32).ravel()
    count = -(-flat.size // block)
    padded = np.zeros(count * block, np.float32)
    padded[: flat.size] = flat
    blocks = padded.reshape(count, block)
    largest = np.abs(blocks).max(axis=1)
    scaled = blocks / np.where(largest > 0, largest, np.float32(1.0))[:, None]
    order = np.argsort(codebook, kind="stable")
    values = codebook[order]
    between = (values[1:] + values[:-1]) / 2
    codes = order.astype(np.uint8)[np.searchsorted(between, scaled.ravel())]
    return codes[: flat.size].reshape(weight.shape), largest


def dequantise_blockwise(
    codes: NDArray[np.uint8], largest: Float32, codebook: Float32, block: int = BLOCK
) -> Float32:
    """Weights that the codes of `quantise_blockwise` stand for."""
    flat = codebook[codes.ravel()]
    scale = np.repeat(largest, block)[: flat.size]
    return (flat * scale).astype(np.float32).reshape(codes.shape)


def quantise_int8(weight: Float32, axis: int = 0) -> tuple[NDArray[np.int8], Float32]:
    """Symmetric int8 with one scale per index of `axis`.

    Codes are in [-127, 127]: -128 has no opposite, and TensorRT wants symmetric weights.

    Returns:
        Codes in the shape of `weight`, and the scales (n,): weight ~ code * scale.
    """
    weight = np.asarray(weight, np.float32)
    others = tuple(a for a in range(weight.ndim) if a != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others) if others else np.abs(weight)
    scale = np.where(largest > 0, largest / np.float32(127.0), np.float32(1.0))
    scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    codes = np.rint(weight / _along(scale, axis, weight.ndim))
    return np.clip(codes, -127, 127).astype(np.int8), scale


def dequantise_int8(codes: NDArray[np.int8], scale: Float32, axis: int = 0) -> Float32:
    """Weights that the codes of `quantise_int8` stand for."""
    return codes.astype(np.float32) * _along(scale, axis, codes.ndim)


def _along(scale: Float32, axis: int, rank: int) -> Float32:
    shape = [1] * rank
    shape[axis % rank] = -1
    return scale.reshape(shape)
