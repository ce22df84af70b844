"""Sets that wait for others to say where the rig was at their stamp."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.ingest import ImageSet

MOST = 16
"""Sets that wait at a time: 0.5 s at 30 Hz. The images of a set are the only large thing here."""


@dataclass(frozen=True)
class _Waiting:
    images: ImageSet
    since_ns: int


class WaitingSets:
    """A bounded queue between ingest and pipeline; nothing here ever blocks.

    Sets leave in the order in which they came. One whose place is not known when it has waited
    for `wait_ms` is dropped, and so is the oldest one when there is no room; none is ever given
    the identity.

    Args:
        target: frame of the one who says where the rig is, "odom".
        wait_ms: the longest wait, by the clock whose time `put` and `take` are given.
        lookup: `target_from_source` at a stamp, or why there is none: (target, source, stamp).
        on_drop: gets the reason and a sentence for each set that is dropped.
        most: sets that wait at a time.
    """

    def __init__(
        self,
        target: str,
        wait_ms: float,
        lookup: Callable[[str, str, int], Rigid3 | str],
        on_drop: Callable[[str, str], None],
        most: int = MOST,
    ) -> None:
        self.target = target
        self.fault = ""
        """Why the newest set has no place yet, or had none; empty while all is well."""
        self._wait_ns = int(wait_ms * 1e6)
        self._lookup = lookup
        self._on_drop = on_drop
        self._most = most
        self._sets: deque[_Waiting] = deque()

    def __len__(self) -> int:
        return len(self._sets)

    def clear(self, reason: str = "reset") -> None:
        """Forget the sets, each counted under `reason`, and why they waited."""
        while self._sets:
            self._sets.popleft()
            self._on_drop(reason, "")
        self.fault = ""

    def put(self, images: ImageSet, now_ns: int, rig_frame: str) -> None:
        """Add a set; where there is no room the oldest one goes, and is counted."""
        if len(self._sets) >= self._most:
            self._drop(rig_frame)
        self._sets.append(_Waiting(images, now_ns))

    def take(self, now_ns: int, rig_frame: str) -> tuple[ImageSet, Rigid3] | None:
        """The oldest set whose `target_from_rig` is known, None while there is none."""
        while self._sets:
            first = self._sets[0]
            found = self._lookup(self.target, rig_frame, first.images.stamp_ns)
            if isinstance(found, Rigid3):
                self.fault = ""
                return self._sets.popleft().images, found
            if 0 <= now_ns - first.since_ns < self._wait_ns:
                return None
            self._drop(rig_frame, found)
        return None

    def next_placed(
        self, source: Callable[[], ImageSet | None], now_ns: int, rig_frame: str
    ) -> tuple[ImageSet, Rigid3] | None:
        """As `take`; sets are fetched from `source` only while none of those here is ready."""
        while (found := self.take(now_ns, rig_frame)) is None:
            images = source()
            if images is None:
                return None
            self.put(images, now_ns, rig_frame)
        return found

    def finish(self, rig_frame: str) -> None:
        """Nothing more will be known: drop what still waits."""
        while self._sets:
            self._drop(rig_frame)

    def _drop(self, rig_frame: str, why: str = "") -> None:
        stamp_ns = self._sets.popleft().images.stamp_ns
        if not why:
            found = self._lookup(self.target, rig_frame, stamp_ns)
            why = "known too late" if isinstance(found, Rigid3) else found
        reason = f"no transform {self.target} -> {rig_frame} at the stamp"
        self.fault = f"{reason}: {why}"
        self._on_drop(reason, self.fault)
