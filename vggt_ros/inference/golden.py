"""An input that every machine draws alike, and how an answer to it is compared.

The input looks like photographs of one scene from cameras side by side: smooth noise over four
octaves, shifted a little from view to view. It is made of the raw bits of PCG64 and of integers,
so that it has the same bytes with every NumPy and on every processor; its hash proves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError, nearest
from vggt_ros.inference.passport import Golden, GoldenOutput
from vggt_ros.models.vggt_config import IMAGENET_MEAN, IMAGENET_STD
from vggt_ros.types import Float32

SAMPLES = 256
"""Values kept of each output: few enough for a passport in a repository, enough to see a fault
that touches one view or one channel."""

TOLERANCE = {
    "fp32": 1e-3,
    "tf32": 1e-2,
    "fp16": 1e-2,
    "bf16": 5e-2,
    "int8": 1.5e-1,
    "fp8": 1.5e-1,
    "nf4": 2.5e-1,
    "fp4": 2.5e-1,
    "nvfp4": 2.5e-1,
    "int4": 2.5e-1,
}
"""Largest `relative_error` against the fp32 reference, by effective precision. At least three
times what the tiny network shows (docs/engines.md), so that another card passes and a wrong
engine, whose error is near 1, does not."""

QUANT_MODE_TOLERANCE = {
    "torch-int8-dynamic": 5e-2,
    "bitsandbytes-8bit": 5e-2,
    "bitsandbytes-nf4": 2.5e-1,
    "bitsandbytes-fp4": 2.5e-1,
    "modelopt-fp8": 1.5e-1,
    "modelopt-nvfp4": 2.5e-1,
}
"""The same for quantised weights, whatever computes with them."""

_OCTAVES = ((64, 4), (32, 2), (16, 1), (4, 1))
"""Period [px] and weight of each; the weights add up to 8."""
_SHIFT_PX = 6
"""Between neighbouring views."""
_FRACTION = 1 << 6
"""Periods divide it: weights of the interpolation are exact integers."""

Recipe = Callable[[tuple[int, ...], int], NDArray[np.uint8]]


def shifted_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Views (..., 3, H, W) of smooth noise, each a few pixels to the right of the one before.

    Raises:
        EngineError: a shape that is not that of images.
    """
    if len(shape) < 3 or shape[-3] != 3 or min(shape) < 1:
        raise EngineError(
            f"golden input: expected a shape of images (..., 3, H, W), got {shape}; export the "
            "engine with fixed sizes"
        )
    height, width = shape[-2:]
    views = int(np.prod(shape[:-3], dtype=np.int64))
    bits = np.random.PCG64(seed)
    total = np.zeros((3, height, width + _SHIFT_PX * (views - 1)), np.uint32)
    for period, weight in _OCTAVES:
        total += np.uint32(weight) * _octave(bits, period, *total.shape[1:])
    canvas = (total // 8).astype(np.uint8)
    stack = [canvas[:, :, _SHIFT_PX * k : _SHIFT_PX * k + width] for k in range(views)]
    return np.ascontiguousarray(np.stack(stack)).reshape(shape)


def _octave(bits: np.random.PCG64, period: int, height: int, width: int) -> NDArray[np.uint32]:
    """Bilinear interpolation of random bytes on a lattice, (3, height, width) below 256."""
    rows, columns = height // period + 2, width // period + 2
    raw = bits.random_raw(3 * rows * columns)
    lattice = (raw >> np.uint64(56)).astype(np.uint32).reshape(3, rows, columns)
    y, x = np.arange(height), np.arange(width)
    step = np.uint32(_FRACTION // period)
    v = (y % period).astype(np.uint32)[:, None] * step
    u = (x % period).astype(np.uint32) * step
    one = np.uint32(_FRACTION)
    upper, lower = lattice[:, y // period], lattice[:, y // period + 1]
    column, after = x // period, x // period + 1
    above = upper[:, :, column] * (one - u) + upper[:, :, after] * u
    below = lower[:, :, column] * (one - u) + lower[:, :, after] * u
    return (above * (one - v) + below * v) // (one * one)


RECIPES: Mapping[str, Recipe] = {"shifted_noise_1": shifted_noise}
"""By the name that passports hold. What one draws never changes: a new one gets a new name."""
DEFAULT_RECIPE = "shifted_noise_1"


def golden_input(recipe: str, shape: tuple[int, ...], seed: int, normalisation: str) -> Float32:
    """Draw the input of a passport, normalised as the network wants it.

    Raises:
        EngineError: unknown recipe or normalisation, or a shape that is not that of images.
    """
    if recipe not in RECIPES:
        raise EngineError(
            f"golden recipe: expected one of {', '.join(RECIPES)}, got '{recipe}'"
            f"{nearest(recipe, RECIPES)}; update vggt_ros, or make the engine anew"
        )
    return normalise(RECIPES[recipe](shape, seed), normalisation)


def normalise(images: NDArray[np.uint8], normalisation: str) -> Float32:
    """RGB bytes (..., 3, H, W) to what a network wants.

    Raises:
        EngineError: unknown normalisation.
    """
    scaled = images.astype(np.float32) / np.float32(255)
    if normalisation == "zero_to_one":
        return scaled
    if normalisation == "imagenet":
        mean = np.array(IMAGENET_MEAN, np.float32)[:, None, None]
        deviation = np.array(IMAGENET_STD, np.float32)[:, None, None]
        normalised: Float32 = (scaled - mean) / deviation
        return normalised
    raise EngineError(
        f"normalisation: expected zero_to_one or imagenet, got '{normalisation}'; make the "
        "passport anew: vggt-ros engine export"
    )


def array_sha256(array: NDArray[Any]) -> str:
    """Of the values in little-endian order."""
    ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(ordered.view(np.uint8).data).hexdigest()


def sample_indices(size: int) -> NDArray[np.int64]:
    """Even steps through a flattened array, from the middle of the first step."""
    count = min(size, SAMPLES)
    return (np.arange(count, dtype=np.int64) * 2 + 1) * size // (2 * count)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Euclidean norm of the difference over that of what is expected; infinite for NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.asarray(found, np.float64).ravel() - np.asarray(expected).ravel()
        norm = float(np.linalg.norm(np.asarray(expected, np.float64)))
        error = float(np.linalg.norm(difference)) / max(norm, 1e-12)
    return error if np.isfinite(error) else float("inf")


def tolerance_of(precision: str) -> float:
    """Largest accepted `relative_error`.

    Raises:
        EngineError: unknown precision.
    """
    if precision not in TOLERANCE:
        raise EngineError(
            f"precision: expected one of {', '.join(TOLERANCE)}, got '{precision}'"
            f"{nearest(precision, TOLERANCE)}"
        )
    return TOLERANCE[precision]


def make_golden(
    shape: tuple[int, ...],
    normalisation: str,
    reference: str,
    answer: Callable[[Float32], Mapping[str, NDArray[Any]]],
    precision: str = "fp32",
    seed: int = 1,
) -> Golden:
    """Ask the reference once and keep samples of what it says.

    Args:
        shape: of the input, without free sizes.
        normalisation: of the input, as in the passport.
        reference: what computes the answer, for people.
        answer: input to outputs by name.
        precision: of the engine that the tolerance is for.
        seed: of the recipe.

    Raises:
        EngineError: the reference answers NaN or infinity, or a word is unknown.
    """
    images = golden_input(DEFAULT_RECIPE, shape, seed, normalisation)
    tolerance = tolerance_of(precision)
    outputs = []
    for name, array in answer(images).items():
        flat = np.asarray(array, np.float32).ravel()
        if not np.isfinite(flat).all():
            raise EngineError(
                f"golden output {name}: expected finite numbers of {reference}, got NaN or "
                "infinity; check the checkpoint"
            )
        indices = sample_indices(flat.size)
        outputs.append(
            GoldenOutput(name, tuple(indices.tolist()), _short(flat[indices]), tolerance)
        )
    return Golden(
        recipe=DEFAULT_RECIPE,
        seed=seed,
        input_shape=shape,
        input_sha256=array_sha256(images),
        outputs=tuple(outputs),
        reference=reference,
    )


def _short(values: Float32) -> tuple[float, ...]:
    """As few digits as make the same float32."""
    return tuple(float(str(value)) for value in values)


def golden_errors(golden: Golden, found: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """`relative_error` of each golden output; infinite where it is not there or too small."""
    errors = {}
    for output in golden.outputs:
        indices = np.asarray(output.indices, np.int64)
        array = np.asarray(found.get(output.name, ())).ravel()
        if not len(indices) or int(indices.max()) >= array.size:
            errors[output.name] = float("inf")
        else:
            errors[output.name] = relative_error(
                array[indices], np.array(output.values, np.float32)
            )
    return errors
