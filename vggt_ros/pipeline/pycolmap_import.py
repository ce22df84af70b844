"""Import pycolmap without losing SIGTERM to it.

pycolmap's import installs glog's failure handler, which takes SIGTERM (and the fatal signals)
for itself at C level: a node that is asked to end would print a stack trace and die.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from collections.abc import Iterator
from types import ModuleType

_TAKEN = (
    signal.SIGTERM,
    signal.SIGSEGV,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGBUS,
)
_SIGACTION_BYTES = 512
"""More than `struct sigaction` needs on any Linux (152 on x86-64)."""


def import_pycolmap() -> ModuleType:
    """The module; the first call restores the signal handlers that its import replaces."""
    import cv2  # noqa: F401  before pycolmap: else OpenCV's PNG codec calls pycolmap's zlib, and aborts

    if "pycolmap" in sys.modules:
        return sys.modules["pycolmap"]
    libc = ctypes.CDLL(None)
    saved = {}
    for number in _TAKEN:
        saved[number] = ctypes.create_string_buffer(_SIGACTION_BYTES)
        libc.sigaction(int(number), None, saved[number])
    try:
        import pycolmap
    finally:
        for number, action in saved.items():
            libc.sigaction(int(number), action, None)
    return pycolmap


@contextlib.contextmanager
def quiet_and_seeded(seed: int) -> Iterator[None]:
    """Keep COLMAP's progress lines off stderr, and give its random numbers a seed."""
    pycolmap = import_pycolmap()
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3  # a start that fails is no error
    pycolmap.set_random_seed(seed)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
