"""Names of devices and precisions, and what the processor can do."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

from vggt_ros.errors import EngineError

PRECISIONS = ("fp32", "bf16", "fp16")
"""Those that a back end may be asked for at run time."""

_CPU_INFO = Path("/proc/cpuinfo")


def cuda_index(device: str) -> int | None:
    """Index of the GPU that is meant, or None for the processor.

    Raises:
        EngineError: neither cpu nor cuda:N.
    """
    if device == "cpu":
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise EngineError(f"device: expected auto, cpu or cuda:N, got '{device}'")
    return int(match[1] or 0)


def check_precision(precision: str) -> None:
    """Raise EngineError for a precision that no back end knows."""
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(
            f"precision: expected auto or one of {', '.join(PRECISIONS)}, got '{precision}'"
        )


def check_file_precision(engine: str, asked: str, stored: str) -> None:
    """Raise EngineError where the file decides the precision and another was asked for."""
    check_precision(asked)
    if asked not in ("auto", stored):
        raise EngineError(
            f"{engine}: precision: the file computes in {stored}, asked was {asked}; this back "
            f"end runs what the file holds: export it anew (vggt-ros engine export --precision "
            f"{asked})"
        )


@functools.lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor, as Linux names them; empty where it does not say."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def cpu_has_bf16() -> bool:
    """Whether matrices are multiplied in bfloat16 by instructions and not by emulation."""
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16", "bf16"})


def cpu_name() -> str:
    """Model of the processor."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
