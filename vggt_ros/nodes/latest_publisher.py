"""A thread that publishes, so that mapping never waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_IDLE_S = 0.1
"""Longest sleep of a thread that has nothing to do."""


class LatestPublisher:
    """A thread that publishes what was put last; older unpublished values are replaced.

    Args:
        handlers: by slot, what publishes a value; called in this thread, in this order.
    """

    def __init__(self, handlers: dict[str, Callable[[Any], None]]) -> None:
        self._handlers = handlers
        self.errors = 0
        """Messages that could not be made or published."""
        self._slots: dict[str, Any] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="publishing", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, slot: str, value: Any) -> None:
        """Never waits for the publishing."""
        with self._wake:
            self._slots[slot] = value
            self._wake.notify()

    def stop(self, timeout_s: float) -> bool:
        """End after the message in hand; what still waits is not published."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._slots):
                    self._wake.wait(_IDLE_S)
                if self._stopping:
                    return
                slots, self._slots = self._slots, {}
            for slot, handler in self._handlers.items():
                if slot in slots and not self._stopping:
                    try:
                        handler(slots[slot])
                    except Exception:
                        self.errors += 1
                        logger.exception("internal error while publishing %s", slot)
