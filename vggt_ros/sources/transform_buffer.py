"""Transforms that move: what `/tf` said of the last seconds, interpolated, never extrapolated."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

from vggt_ros.geometry import Rigid3
from vggt_ros.geometry.rigid3 import interpolate

HISTORY_S = 10.0
"""As long as tf2 remembers (tf2::BUFFER_CORE_DEFAULT_CACHE_TIME)."""

MAX_ENTRIES = 10_000
"""Of one frame: the history of one that is published at 1 kHz."""


@dataclass
class _Track:
    """What is known of one child frame; stamps ascend. A fixed frame has one entry."""

    is_static: bool
    parents: list[str] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    poses: list[Rigid3] = field(default_factory=list)
    """`parent_from_child`."""

    def add(self, stamp_ns: int, parent: str, pose: Rigid3, history_ns: int, most: int) -> None:
        if self.stamps and stamp_ns < self.stamps[-1] - history_ns:
            self.cut(len(self.stamps))  # the clock was set back
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.parents[at], self.poses[at] = parent, pose
            return
        self.stamps.insert(at, stamp_ns)
        self.parents.insert(at, parent)
        self.poses.insert(at, pose)
        too_old = bisect_left(self.stamps, self.stamps[-1] - history_ns)
        self.cut(max(too_old, len(self.stamps) - most))

    def cut(self, count: int) -> None:
        """Forget the oldest."""
        if count > 0:
            del self.parents[:count], self.stamps[:count], self.poses[:count]

    def at(self, stamp_ns: int, child: str) -> Rigid3 | str:
        """`parent_from_child`, or why there is none."""
        if self.is_static:
            return self.poses[-1]
        after = bisect_left(self.stamps, stamp_ns)
        parent = self.parents[-1]
        edge = f"'{parent}' -> '{child}'"
        if after == len(self.stamps):
            late_s = (stamp_ns - self.stamps[-1]) * 1e-9
            return f"the newest transform {edge} is {late_s:.3f} s older than the stamp"
        before = after if self.stamps[after] == stamp_ns else after - 1
        if before < 0:
            early_s = (self.stamps[0] - stamp_ns) * 1e-9
            return f"the oldest transform {edge} is {early_s:.3f} s newer than the stamp"
        if not (self.parents[before] == self.parents[after] == parent):
            return f"the parent of '{child}' changed around the stamp"
        if before == after:
            return self.poses[after]
        span = self.stamps[after] - self.stamps[before]
        fraction = (stamp_ns - self.stamps[before]) / span
        return interpolate(self.poses[before], self.poses[after], fraction)


class TransformBuffer:
    """Fixed and moving transforms by child frame; safe between threads.

    A frame's parent is what its newest transform says. Between two transforms the translation is
    linear and the rotation turns at a constant rate (slerp), as in tf2. The history is bounded:
    by time, counted back from each frame's newest stamp, and by number. A stamp that goes back
    by more than the history is a clock that was set back: the frame's history begins anew.

    Args:
        history_s: what is older is forgotten.
        max_entries: of one frame; the oldest go first.
    """

    def __init__(self, history_s: float = HISTORY_S, max_entries: int = MAX_ENTRIES) -> None:
        self._history_ns = int(history_s * 1e9)
        self._most = max_entries
        self._tracks: dict[str, _Track] = {}
        self._lock = threading.Lock()

    def insert(
        self, parent: str, child: str, parent_from_child: Rigid3, stamp_ns: int, static: bool
    ) -> None:
        """Store one transform; frames without a name, or below themselves, are left out.

        A fixed transform holds for all times and takes the place of what was known before.
        """
        if not parent or not child or parent == child:
            return
        with self._lock:
            track = self._tracks.get(child)
            if track is None or track.is_static or static:
                track = self._tracks[child] = _Track(static)
            track.add(stamp_ns, parent, parent_from_child, self._history_ns, self._most)

    def forget_moving(self) -> None:
        """Drop what moves; for a clock that jumps back."""
        with self._lock:
            self._tracks = {c: track for c, track in self._tracks.items() if track.is_static}

    def size(self, child: str) -> int:
        """Transforms of a frame that are remembered."""
        with self._lock:
            track = self._tracks.get(child)
            return len(track.stamps) if track else 0

    def parent(self, frame: str) -> str | None:
        """The parent of a frame, None for a root or an unknown frame."""
        with self._lock:
            return self._parent(frame.lstrip("/"))

    def top(self, frame: str, *below: str) -> str:
        """The highest ancestor of a frame that is none of `below` nor above them."""
        with self._lock:
            chain = self._chain(frame.lstrip("/"))
        for number, ancestor in enumerate(chain[1:]):
            if ancestor in below:
                return chain[number]
        return chain[-1]

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """`target_from_source` of the newest transforms, None where the tree does not know."""
        found = self._find(target.lstrip("/"), source.lstrip("/"), None)
        return None if isinstance(found, str) else found

    def lookup_at(self, target: str, source: str, stamp_ns: int) -> Rigid3 | str:
        """`target_from_source` at an instant, or a sentence that says why there is none."""
        return self._find(target.lstrip("/"), source.lstrip("/"), stamp_ns)

    # --- with the lock held ------------------------------------------------------------------

    def _find(self, target: str, source: str, stamp_ns: int | None) -> Rigid3 | str:
        with self._lock:
            up_target, up_source = self._chain(target), self._chain(source)
            common = next((frame for frame in up_source if frame in up_target), None)
            if common is None:
                return self._why_apart(target, source)
            ends = []
            for chain in (up_target, up_source):
                found = self._along(chain[: chain.index(common)], stamp_ns)
                if isinstance(found, str):
                    return found
                ends.append(found)
            common_from_target, common_from_source = ends
            return common_from_target.inverse() @ common_from_source

    def _along(self, chain: list[str], stamp_ns: int | None) -> Rigid3 | str:
        """From the first frame of a chain to the parent of its last."""
        pose = Rigid3.identity()
        for child in chain:
            track = self._tracks[child]
            step = track.poses[-1] if stamp_ns is None else track.at(stamp_ns, child)
            if isinstance(step, str):
                return step
            pose = step @ pose
        return pose

    def _parent(self, frame: str) -> str | None:
        track = self._tracks.get(frame)
        return track.parents[-1] if track else None

    def _chain(self, frame: str) -> list[str]:
        """A frame and its ancestors; a loop ends it."""
        chain = [frame]
        while (parent := self._parent(chain[-1])) is not None and parent not in chain:
            chain.append(parent)
        return chain

    def _why_apart(self, target: str, source: str) -> str:
        known = set(self._tracks).union(*(track.parents for track in self._tracks.values()))
        for frame in (target, source):
            if frame not in known:
                return f"TF knows no frame '{frame}'"
        return f"TF does not connect '{target}' and '{source}'"
