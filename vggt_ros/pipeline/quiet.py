"""Log messages about cameras whose names are internal are kept from people."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(logger: str, level: int) -> Iterator[None]:
    """Let a logger tell nothing below a level for as long as the context lasts."""
    named = logging.getLogger(logger)
    before = named.level
    named.setLevel(level)
    try:
        yield
    finally:
        named.setLevel(before)
