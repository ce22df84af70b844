"""How much memory there is, how much was used, and a refusal before it runs out."""

from __future__ import annotations

import sys
from pathlib import Path

from vggt_ros.errors import EngineError

GIB = 2**30


def available_memory() -> float:
    """Bytes that can still be had without swapping, in this cgroup; infinite if nobody tells."""
    limits = [_meminfo("MemAvailable")]
    for maximum, current in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        limit, used = _number(maximum), _number(current)
        if limit is not None and used is not None:
            # the page cache counts as used and is given back when needed
            limits.append(max(limit - used + _cache(Path(current).parent), 0.0))
    return min(limits)


def require_memory(needed: float, what: str, remedy: str) -> None:
    """Refuse now what would be killed in the middle.

    Args:
        needed: bytes, estimated.
        what: is to be done; the message begins with it.
        remedy: what to do instead.

    Raises:
        EngineError: less is available.
    """
    available = available_memory()
    if needed > available:
        raise EngineError(
            f"{what}: needs about {needed / GIB:.1f} GiB of memory, {available / GIB:.1f} GiB are "
            f"available; {remedy}"
        )


def peak_rss() -> int:
    """Most memory that this process has had [bytes]; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _meminfo(key: str) -> float:
    try:
        words = Path("/proc/meminfo").read_text().split()
        return int(words[words.index(key + ":") + 1]) * 1024
    except (OSError, ValueError):
        return float("inf")


def _number(path: str) -> float | None:
    try:
        return float(Path(path).read_text())
    except (OSError, ValueError):  # "max": no limit
        return None


def _cache(folder: Path) -> float:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0.0
    fields = dict(line.split()[:2] for line in lines if len(line.split()) == 2)
    return float(fields.get("inactive_file", 0)) + float(fields.get("active_file", 0))
