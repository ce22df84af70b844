"""Functions that other threads hand to one thread, which runs them between its steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from vggt_ros.errors import VggtRosError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """A queue of functions; `call` and `post` for others, `run` for the thread that owns it.

    Args:
        wake: notified when a task has come.
        on_fault: is told the text of a `VggtRosError` of a task for which nobody waits.
    """

    def __init__(self, wake: threading.Condition, on_fault: Callable[[str], None]) -> None:
        self._wake = wake
        self._on_fault = on_fault
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ended = ""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Run a function in the owning thread and return its result.

        Raises:
            TimeoutError: the step in hand takes longer than `timeout_s`.
            VggtRosError: the thread has ended by itself.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._ended:
                raise VggtRosError(self._ended)
            self._waiting.append((function, future))
            self._wake.notify()
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:  # another class than TimeoutError before Python 3.11
            future.cancel()
            raise TimeoutError(f"no answer within {timeout_s} s") from error

    def post(self, function: Callable[[], Any]) -> None:
        """Run a function in the owning thread without waiting for it or for its errors."""

        def told() -> None:
            try:
                function()
            except VggtRosError as error:
                self._on_fault(str(error))

        with self._wake:
            if not self._ended:
                self._waiting.append((told, Future()))
            self._wake.notify()

    def take(self) -> list[tuple[Callable[[], Any], Future[Any]]]:
        """What has come so far, for `run`; the caller holds `wake`."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    @staticmethod
    def run(taken: list[tuple[Callable[[], Any], Future[Any]]]) -> None:
        """Run what was taken; errors go to whoever waits."""
        for function, future in taken:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:  # handed to the caller of `call`; `post` has none
                if not isinstance(error, VggtRosError):
                    logger.exception("internal error in a task of the mapping thread")
                future.set_exception(error)

    def cancel(self) -> None:
        """Nobody will run what still waits."""
        for _, future in self._waiting:
            future.cancel()

    def end(self, reason: str) -> None:
        """The thread has ended by itself: what waits and what comes gets the reason."""
        with self._wake:
            self._ended = reason
            taken = self.take()
        for _, future in taken:
            if future.set_running_or_notify_cancel():
                future.set_exception(VggtRosError(reason))
