"""What Fast DDS has left in shared memory: which files are in use, which are stale.

A process that is killed (SIGKILL, out of memory) leaves its files behind. Seen of Fast DDS 2.14:
`fastrtps_<hex>` is the memory of one participant; `fastrtps_<hex>_el` is locked (flock) as long as
its owner lives. `fastrtps_port<N>` is a mailbox that outlives a clean end too; its `_el` or `_sl`
is locked while somebody listens, and `sem.fastrtps_port<N>_mutex` belongs to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/dev/shm")

LIVE, STALE, UNKNOWN = "live", "stale", "unknown"

MIN_AGE_S = 10.0
"""A file so young may belong to a process that has not locked it yet."""

_NAME = re.compile(
    r"(?:sem\.)?((?:fastrtps|fastdds)_(?:port)?[0-9a-f]+|fast_datasharing_[0-9a-zA-Z_.]+?)"
    r"(?:_el|_sl|_mutex)?"
)
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the kernel: who is in it sees the processes of every container."""


@dataclass(frozen=True)
class Segment:
    """The files of one participant or mailbox, and whether anybody needs them."""

    name: str
    files: tuple[Path, ...]
    size_bytes: int
    state: str
    why: str


def find_segments(folder: Path = FOLDER, min_age_s: float = MIN_AGE_S) -> list[Segment]:
    """Everything of Fast DDS in a folder of shared memory, by name.

    A segment is `stale` only if none of its files is mapped, open or locked by any process, if
    that can be known, and if none of them is young.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            groups[match.group(1)].append(folder / name)
    used, blind = _used_files()
    return [_segment(name, files, used, blind, min_age_s) for name, files in groups.items()]


def remove_stale(segments: Iterable[Segment]) -> tuple[list[Segment], list[str]]:
    """Remove the stale ones of `segments`, each looked at once more just before.

    Returns:
        What was removed, and a sentence for each that could not be.
    """
    removed, refused = [], []
    wanted = [segment for segment in segments if segment.state == STALE]
    used, blind = _used_files()
    for segment in wanted:
        now = _segment(segment.name, list(segment.files), used, blind, 0.0)
        if now.state != STALE:
            refused.append(f"{segment.name}: {now.why}")
            continue
        try:
            # The lock last: as long as it is there, whoever starts finds out that it is taken.
            for file in sorted(segment.files, key=lambda f: f.name.endswith(("_el", "_sl"))):
                file.unlink(missing_ok=True)
        except OSError as error:
            refused.append(f"{segment.name}: {error.strerror}")
            continue
        removed.append(segment)
    return removed, refused


def _segment(
    name: str, files: list[Path], used: dict[tuple[int, int], int], blind: str, min_age_s: float
) -> Segment:
    size, state, why = 0, STALE, "no process maps, opens or locks it"
    owner_is_gone = False
    for file in files:
        try:
            found = file.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            state, why = UNKNOWN, f"cannot be read: {error.strerror}"
            continue
        size += found.st_size
        if state == LIVE:
            continue
        pid = used.get((found.st_dev, found.st_ino))
        if pid is not None:
            state, why = LIVE, f"used by process {pid}"
        elif file.name.endswith(("_el", "_sl")):
            locked = _is_locked(file)
            if locked is None:
                state, why = UNKNOWN, "its lock belongs to another user"
            elif locked:
                state, why = LIVE, "locked, by a process of another container or user"
            else:
                owner_is_gone = True
        if state == STALE and time.time() - max(found.st_mtime, found.st_ctime) < min_age_s:
            state, why = UNKNOWN, f"younger than {min_age_s:.0f} s: look again"
    if state == STALE and blind and not (owner_is_gone and "port" not in name):
        state, why = UNKNOWN, blind
    return Segment(name, tuple(files), size, state, why)


def _is_locked(file: Path) -> bool | None:
    """Whether anybody, also one we cannot see, holds a lock; None: may not be opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)  # gives the lock back
    return False


def _has_memory(process: Path) -> bool:
    """Whether a process could map anything; one that waits to be reaped cannot."""
    try:
        return "VmSize:" in (process / "status").read_text(errors="replace")
    except OSError:
        return False


def _used_files() -> tuple[dict[tuple[int, int], int], str]:
    """Files of shared memory that processes map or hold open.

    Returns:
        The process by (device, inode), and why some processes cannot be seen, or "".
    """
    used: dict[tuple[int, int], int] = {}
    hidden = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            for line in (entry / "maps").read_text(errors="replace").splitlines():
                fields = line.split(maxsplit=5)
                if len(fields) == 6 and "fast" in fields[5]:
                    major, minor = (int(part, 16) for part in fields[3].split(":"))
                    used[os.makedev(major, minor), int(fields[4])] = pid
            for descriptor in (entry / "fd").iterdir():
                found = descriptor.stat()
                used.setdefault((found.st_dev, found.st_ino), pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        except PermissionError:
            hidden += _has_memory(entry)
    if hidden:
        advice = ": use sudo" if os.geteuid() else ""
        return used, f"{hidden} processes cannot be looked into{advice}"
    try:
        own_namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        own_namespace = ""
    if own_namespace != _INITIAL_PID_NAMESPACE:
        return used, "processes outside this container cannot be seen: look on the host"
    return used, ""
