"""Where the commands log to, and how much."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(level: str, form: str = "%(levelname)s %(name)s: %(message)s") -> None:
    """Begin to log this level and above, but no debug messages of numba.

    They are millions of lines, and where they are written it compiles many times as slowly.
    """
    logging.basicConfig(level=level, format=form, stream=sys.stderr)
    logging.getLogger("numba").setLevel(logging.WARNING)
