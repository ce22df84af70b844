"""One field of the tree of parameters."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def parameter(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    runtime: bool = False,
) -> Any:
    """A field with what the documentation and the checks need.

    Args:
        default: the one default; a list is copied for each instance.
        doc: one sentence.
        unit: SI unit as it is written in the documentation.
        low: inclusive lower bound of a number.
        high: inclusive upper bound.
        choices: the only strings that are accepted.
        runtime: may be changed while mapping.
    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "runtime": runtime,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
