"""Which cameras are not waited for, because they are silent or send nothing usable."""

from __future__ import annotations

import logging
from collections.abc import Sequence

_LOG = logging.getLogger(__name__)

_LEAST_MISSED = 5
"""Fewer images that another camera sent meanwhile do not make a camera silent: sets may be taken
minutes apart."""


class AbsentCameras:
    """Tells by stamps alone who has been silent or faulty for `after_ns`. Not thread-safe.

    Time is that of the other cameras' stamps, each camera by its own clock, for clocks may
    differ by hours and a bag may be played at any rate.

    Args:
        cameras: all names.
        after_ns: a camera without a usable image for so long is absent; 0: never.
        warns: whether it is worth a warning that sets go on without a camera.
    """

    def __init__(self, cameras: Sequence[str], after_ns: int, warns: bool):
        self._cameras = tuple(cameras)
        self.after_ns = after_ns
        self.warns = warns
        self._missed: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in cameras}
        """By camera, what each other one has sent since its last image: first stamp, number."""
        self._faulty_since: dict[str, tuple[int, int]] = {}
        """By camera whose last image could not be used: stamp of the first such, number."""
        self._silent: set[str] = set()
        self._faulty: set[str] = set()

    @property
    def names(self) -> set[str]:
        """Silent or faulty cameras."""
        return self._silent | self._faulty

    @property
    def silent(self) -> frozenset[str]:
        """Those that send nothing at all."""
        return frozenset(self._silent)

    def leave_out(self, camera: str) -> None:
        """Take a camera for silent until it sends."""
        self._silent.add(camera)

    def note_arrival(self, camera: str, stamp_ns: int) -> None:
        """An image has come: its camera is not silent, others may have become so."""
        if not self.after_ns:
            return
        self._missed[camera].clear()
        if camera in self._silent:
            self._silent.discard(camera)
            _LOG.info("camera '%s': sends again", camera)
        for other in self._cameras:
            if other == camera:
                continue
            since, number = self._missed[other].get(camera, (stamp_ns, 0))
            self._missed[other][camera] = since, number + 1
            duration = stamp_ns - since
            if other not in self._silent and self._is_over(duration, number + 1):
                self._silent.add(other)
                self._warn(other, f"no image for {duration * 1e-9:.1f} s")

    def note_usable(self, camera: str, stamp_ns: int, usable: bool) -> None:
        """An image was decoded, or could not be."""
        if usable or not self.after_ns:
            self._faulty_since.pop(camera, None)
            self._faulty.discard(camera)
            return
        since, number = self._faulty_since.get(camera, (stamp_ns, 0))
        self._faulty_since[camera] = since, number + 1
        duration = stamp_ns - since
        if camera not in self._faulty and self._is_over(duration, number + 1):
            self._faulty.add(camera)
            self._warn(camera, f"no usable image for {duration * 1e-9:.1f} s")

    def forget_stamps(self) -> None:
        """Clocks were set back: durations start anew; who is absent stays so until it sends."""
        self._faulty_since.clear()
        for missed in self._missed.values():
            missed.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.forget_stamps()
        self._silent.clear()
        self._faulty.clear()

    def _is_over(self, duration_ns: int, images: int) -> bool:
        return duration_ns >= self.after_ns and images >= _LEAST_MISSED

    def _warn(self, camera: str, why: str) -> None:
        if self.warns:
            _LOG.warning("camera '%s': %s; sets go on without it until it is back", camera, why)
