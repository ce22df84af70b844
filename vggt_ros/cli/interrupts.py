"""Ctrl-C that comes while C code calls back into Python."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_AGAIN_S = 0.05


@contextlib.contextmanager
def hearing_lost_interrupts() -> Iterator[None]:
    """Raise a `KeyboardInterrupt` once more that a callback from C swallowed.

    Python ignores exceptions of such callbacks, and LLVM makes them while numba compiles: a
    signal of that time always ends there.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            timer = threading.Timer(_AGAIN_S, _thread.interrupt_main)
            timer.daemon = True
            timer.start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
