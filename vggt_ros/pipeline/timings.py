"""How long each stage took, without keeping more than the last few hundred values."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_KEPT = 512
"""Values per stage; at 10 Hz the percentiles look back about a minute."""


class Timings:
    """Wall-clock durations by stage [ms]."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._counts: dict[str, int] = defaultdict(int)
        self._totals: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent in the `with` block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter() - start) * 1e3)

    def add(self, stage: str, milliseconds: float) -> None:
        """Note one duration."""
        self._values[stage].append(milliseconds)
        self._counts[stage] += 1
        self._totals[stage] += milliseconds

    def summary(self) -> dict[str, dict[str, float]]:
        """Per stage: count, total_ms, and p50_ms and p95_ms of the newest values."""
        return {
            stage: {
                "count": float(self._counts[stage]),
                "total_ms": self._totals[stage],
                "p50_ms": float(np.percentile(values, 50)),
                "p95_ms": float(np.percentile(values, 95)),
            }
            for stage, values in list(self._values.items())
        }
