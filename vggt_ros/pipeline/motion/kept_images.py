"""The images of the keyframes, older ones compressed: loops and calibrations need them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import cv2
import numpy as np

from vggt_ros.types import FrameSet

_JPEG_QUALITY = 95
"""SIFT finds the same features; about a tenth of the memory."""


@dataclass(frozen=True, eq=False)
class _Compressed:
    frame_set: FrameSet
    """Without pixels."""
    jpegs: tuple[bytes, ...]

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
        old = len(self._sets) - 1 - self._recent
        if old >= 0:
            self._sets[old] = _compressed(self[old])

    def forget(self, first: int, last: int) -> None:
        """Forget the sets of these numbers, `last` not included."""
        del self._sets[first:last]


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
