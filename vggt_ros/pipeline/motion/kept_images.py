"""The images of the keyframes, older ones compressed: loops and calibrations need them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import cv2
import numpy as np

from vggt_ros.types import Frame, FrameSet

_JPEG_QUALITY = 95
"""SIFT finds the same features; about a tenth of the memory."""


@dataclass(frozen=True, eq=False)
class _Compressed:
    frame_set: FrameSet
    """Without pixels."""
    jpegs: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.jpegs)) + sum(map(_depth_bytes, self.frame_set.frames))

    def restored(self) -> FrameSet:
        frames = []
        for frame, data in zip(self.frame_set.frames, self.jpegs, strict=True):
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert bgr is not None  # for the type checker: we have written it
            depth = frame.depth_m.astype(np.float32) if frame.depth_m is not None else None
            rgb = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
            frames.append(replace(frame, rgb=rgb, depth_m=depth))
        return replace(self.frame_set, frames=tuple(frames))


class KeptImages(Sequence[FrameSet]):
    """Sets in order of time; all but the newest `recent` are JPEGs."""

    def __init__(self, recent: int) -> None:
        self._recent = recent
        self._sets: list[FrameSet | _Compressed] = []
        self._bytes: list[int] = []
        """Of each set."""

    def __len__(self) -> int:
        return len(self._sets)

    def __iter__(self) -> Iterator[FrameSet]:
        return (self[k] for k in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> FrameSet: ...

    @overload
    def __getitem__(self, index: slice) -> list[FrameSet]: ...

    def __getitem__(self, index: int | slice) -> FrameSet | list[FrameSet]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        kept = self._sets[index]
        return kept.restored() if isinstance(kept, _Compressed) else kept

    def append(self, frame_set: FrameSet) -> None:
        """Keep one set, newer than all."""
        self._sets.append(frame_set)
        self._bytes.append(sum(f.rgb.nbytes + _depth_bytes(f) for f in frame_set.frames))
        old = len(self._sets) - 1 - self._recent
        if old >= 0:
            kept = _compressed(self[old])
            self._sets[old] = kept
            self._bytes[old] = kept.size_bytes

    @property
    def stamps(self) -> list[int]:
        """Of the sets [ns]."""
        return [(s.frame_set if isinstance(s, _Compressed) else s).stamp_ns for s in self._sets]

    @property
    def compressed(self) -> int:
        """How many of the oldest are JPEGs."""
        return max(len(self._sets) - self._recent, 0)

    @property
    def memory_bytes(self) -> int:
        """Of all that is kept."""
        return sum(self._bytes)

    @property
    def compressed_bytes(self) -> int:
        """Of those that are JPEGs, which grow in number with the path."""
        return sum(self._bytes[: self.compressed])

    def thin(self) -> list[int]:
        """Forget every second set of the older half of the JPEGs; the numbers of these."""
        forgotten = list(range(1, self.compressed // 2, 2))
        for number in reversed(forgotten):
            self.forget(number, number + 1)
        return forgotten

    def forget(self, first: int, last: int) -> None:
        """Forget the sets of these numbers, `last` not included."""
        del self._sets[first:last], self._bytes[first:last]


def _depth_bytes(frame: Frame) -> int:
    return frame.depth_m.nbytes if frame.depth_m is not None else 0


def _compressed(frame_set: FrameSet) -> _Compressed:
    frames, jpegs = [], []
    for frame in frame_set.frames:
        bgr = np.ascontiguousarray(frame.rgb[..., ::-1])
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        jpegs.append(data.tobytes())
        depth = frame.depth_m.astype(np.float16) if frame.depth_m is not None else None
        empty = np.zeros((0, 0, 3), np.uint8)
        frames.append(replace(frame, rgb=empty, depth_m=depth))  # type: ignore[arg-type]
    return _Compressed(replace(frame_set, frames=tuple(frames)), tuple(jpegs))
