"""How far the outputs of two runs of one network are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError


@dataclass(frozen=True)
class Parity:
    """Errors of one output; infinite where it holds NaN or infinity and the reference does not."""

    max_rel: float
    """Largest difference over the largest magnitude of the reference."""
    median_rel: float
    """Median of the differences, each over its own reference value."""
    rel_l2: float
    """Norm of the difference over the norm of the reference."""

    def __str__(self) -> str:
        return f"max {self.max_rel:.2g}, median {self.median_rel:.2g}, l2 {self.rel_l2:.2g}"


def compare(
    reference: Mapping[str, NDArray[np.floating]], got: Mapping[str, NDArray[np.floating]]
) -> dict[str, Parity]:
    """Compare outputs by name.

    Args:
        reference: of the network in float32.
        got: of the one to judge.

    Raises:
        EngineError: an output is missing, or has another shape.
    """
    missing = sorted(set(reference) - set(got))
    if missing:
        raise EngineError(
            f"outputs: expected {', '.join(reference)}, got {', '.join(got) or 'none'}; missing "
            f"are {', '.join(missing)}"
        )
    return {name: _compare(name, reference[name], got[name]) for name in reference}


def _compare(name: str, reference: NDArray[np.floating], got: NDArray[np.floating]) -> Parity:
    if reference.shape != got.shape:
        raise EngineError(
            f"output {name}: expected shape {reference.shape}, got {tuple(got.shape)}"
        )
    a = np.asarray(reference, np.float64).ravel()
    b = np.asarray(got, np.float64).ravel()
    if not a.size:
        return Parity(0.0, 0.0, 0.0)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        same = np.array_equal(a, b, equal_nan=True)
        return Parity(0.0, 0.0, 0.0) if same else Parity(np.inf, np.inf, np.inf)
    difference, magnitude = np.abs(b - a), np.abs(a)
    # a value of zero has no relative error: it is judged at the smallest normal magnitude
    tiny = np.finfo(np.float32).tiny
    return Parity(
        float(difference.max() / max(magnitude.max(), tiny)),
        float(np.median(difference / np.maximum(magnitude, tiny))),
        float(np.linalg.norm(difference) / max(np.linalg.norm(magnitude), tiny)),
    )
