"""What one camera sends, counted and timed for `~/status` and `/diagnostics`."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from statistics import median

RATE_WINDOW_S = 5.0
"""Rate and age of stamps are those of the last seconds."""

FAULT_SHOWN_S = 10.0
"""A fault that is over is shown for so long."""


class CameraMonitor:
    """Counts what one camera sends; used by callbacks and timers of several threads."""

    def __init__(self, name: str, topic: str) -> None:
        self.name = name
        self.topic = topic
        self.received = 0
        self.last_stamp_ns = 0
        self._fault = ""
        self._fault_s = 0.0
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=1000)
        """When it came by the steady clock, and receive time minus stamp [s]."""
        self._since_s = time.monotonic()
        self._lock = threading.Lock()

    @property
    def fault(self) -> str:
        """The last message that could not be used, or an incompatible QoS.

        Forgotten when images still arrive `FAULT_SHOWN_S` later.
        """
        with self._lock:
            if self._arrivals and self._arrivals[-1][0] > self._fault_s + FAULT_SHOWN_S:
                self._fault = ""
            return self._fault

    @fault.setter
    def fault(self, text: str) -> None:
        with self._lock:
            self._fault, self._fault_s = text, time.monotonic()

    def restart(self) -> None:
        """Silence counts from now on."""
        with self._lock:
            self._since_s = time.monotonic()
            self._arrivals.clear()

    def arrived(self, stamp_ns: int, received_ns: int | None = None) -> None:
        """Count one image.

        Args:
            stamp_ns: of the image.
            received_ns: now, by the clock that stamps should follow; None: the stamp is not
                compared.
        """
        lag_s = math.nan if received_ns is None else (received_ns - stamp_ns) * 1e-9
        with self._lock:
            self.received += 1
            self.last_stamp_ns = stamp_ns
            self._arrivals.append((time.monotonic(), lag_s))

    @property
    def rate_hz(self) -> float:
        """Images per second over the last `RATE_WINDOW_S`."""
        with self._lock:
            self._forget_old()
            if len(self._arrivals) < 2:
                return 0.0
            span_s = self._arrivals[-1][0] - self._arrivals[0][0]
            return (len(self._arrivals) - 1) / max(span_s, 1e-6)

    @property
    def lags_s(self) -> list[float]:
        """Receive time minus stamp of the images of the last `RATE_WINDOW_S` [s]."""
        with self._lock:
            self._forget_old()
            return [lag for _, lag in self._arrivals if math.isfinite(lag)]

    @property
    def stamp_age_s(self) -> float:
        """Median of `lags_s`; NaN without any."""
        lags = self.lags_s
        return median(lags) if lags else math.nan

    @property
    def silent_s(self) -> float:
        """Seconds since the last image, or since the subscription."""
        with self._lock:
            last = self._arrivals[-1][0] if self._arrivals else self._since_s
            return time.monotonic() - last

    def _forget_old(self) -> None:
        """All but the newest, which tells since when it is silent."""
        now = time.monotonic()
        while len(self._arrivals) > 1 and now - self._arrivals[0][0] > RATE_WINDOW_S:
            self._arrivals.popleft()
