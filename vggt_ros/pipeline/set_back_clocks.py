"""Stamps that go back: a stray image, the clock of one camera, or the clock of all."""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from vggt_ros.types import StampedImage

_LOG = logging.getLogger(__name__)

_JUMP_NS = 1_000_000_000
"""A camera whose stamp goes back by more has a clock that was set back (bag loop)."""
_BACKWARD_RUN = 5
"""So many images in a row, each newer than the one before, but all older than what came earlier,
are a clock that was set back too: the loop of a short bag."""
_HELD = 5
"""Images kept of a camera whose stamps went back, until those of most others do: a loop of a bag
reaches all cameras within one or two images of each."""
_ALIVE_IMAGES = 50
"""A camera that sent nothing while so many images of each came does not count."""


class Verdict(enum.Enum):
    """What is to be done with an image."""

    IN_TIME = "in time"
    STALE = "stale"
    """Dropped and counted: older than its camera's image before, or stamped alike."""
    HELD = "held"
    """Kept here: the camera's clock was set back, that of the others was not (yet)."""
    REJOINS = "rejoins"
    """The camera is nearer to the others' time than before: what waits of it is of the past."""
    ALL_BACK = "all back"
    """Kept here, and the clock of most cameras was set back."""


class SetBackClocks:
    """Judges every image by its stamp. Not thread-safe.

    Args:
        cameras: all names.
        drop: counts images that are left out: camera, reason, number.
    """

    def __init__(self, cameras: Sequence[str], drop: Callable[[str, str, int], None]):
        self._cameras = tuple(cameras)
        self._drop = drop
        self._last: dict[str, int] = {}
        """Newest stamp in time, by camera."""
        self._backward: dict[str, list[int]] = {}
        self._held: dict[str, deque[StampedImage]] = {}
        """By camera whose stamps have gone back, its newest images: it may be the clock of all."""
        self._warned: set[str] = set()
        self._received = 0
        self._heard: dict[str, int] = {}
        """By camera the number of all images when its newest one came."""

    @property
    def names(self) -> set[str]:
        """Cameras whose stamps have gone back while those of the others go on."""
        return set(self._held)

    def note(self, camera: str) -> None:
        """An image has come, usable or not: its camera is alive."""
        self._received += 1
        self._heard[camera] = self._received

    def judge(self, image: StampedImage) -> Verdict:
        """What is to be done with an image; it is counted or kept where that is done here."""
        name, stamp = image.camera, image.stamp_ns
        last = self._last.get(name)
        if last is None or stamp > last:
            return Verdict.IN_TIME
        if name not in self._held and not self._is_set_back(name, stamp, last):
            self._drop(name, "duplicate" if stamp == last else "out_of_order", 1)
            return Verdict.STALE
        if self._rejoins(name, stamp, last):
            return Verdict.REJOINS
        return Verdict.ALL_BACK if self._most_are_set_back(image) else Verdict.HELD

    def accept(self, image: StampedImage) -> None:
        """An image is in time: what was held of its camera is of a clock that was wrong."""
        name = image.camera
        self._backward.pop(name, None)
        held = self._held.pop(name, None)
        if held is not None:
            self._drop(name, "set_back", len(held))
            if name in self._warned:
                self._warned.discard(name)
                _LOG.info("camera '%s': its stamps are in time again", name)
        self._last[name] = image.stamp_ns

    def release(self) -> list[StampedImage]:
        """The images that were held, by stamp: after `Verdict.ALL_BACK` they are the newest."""
        _LOG.info("stamps went back, those of %s", ", ".join(self._held))
        held = [image for images in self._held.values() for image in images]
        self._held.clear()
        return sorted(held, key=lambda image: image.stamp_ns)

    def forget(self, reason: str) -> None:
        """Forget all stamps; what was held is counted under `reason`."""
        for name, images in self._held.items():
            self._drop(name, reason, len(images))
        self._held.clear()
        self._warned.clear()
        self._last.clear()
        self._backward.clear()

    def _is_set_back(self, name: str, stamp: int, last: int) -> bool:
        if last - stamp > _JUMP_NS:
            return True
        run = self._backward.setdefault(name, [])
        if run and stamp <= run[-1]:
            run.clear()
        run.append(stamp)
        return len(run) >= _BACKWARD_RUN

    def _rejoins(self, name: str, stamp: int, last: int) -> bool:
        """Whether going back brings a camera nearer to the time of the others."""
        others = [self._last[other] for other in self._alive() if other != name]
        if not others:
            return False
        middle = median(others)
        return abs(stamp - middle) < abs(last - middle)

    def _most_are_set_back(self, image: StampedImage) -> bool:
        """Keep an image of a camera that was set back; True when it is the clock of all."""
        name, stamp = image.camera, image.stamp_ns
        held = self._held.setdefault(name, deque())
        if held and stamp <= held[-1].stamp_ns:
            self._drop(name, "out_of_order", 1)
            return False
        held.append(image)
        if len(held) > _HELD:
            held.popleft()
            self._drop(name, "set_back", 1)
            self._warn(name, (max(self._last.values()) - stamp) * 1e-9)
        alive = self._alive()
        return 2 * len(alive.intersection(self._held)) > len(alive)

    def _alive(self) -> set[str]:
        """Cameras that have sent lately, by the number of images, for clocks are in doubt."""
        oldest = self._received - _ALIVE_IMAGES * len(self._cameras)
        return {name for name in self._last if self._heard[name] >= oldest}

    def _warn(self, name: str, behind_s: float) -> None:
        if name not in self._warned:
            self._warned.add(name)
            _LOG.warning(
                "camera '%s': its stamps went back while those of the others go on, and are now "
                "%.3f s old; its images are left out until they are in time again: look at its "
                "clock",
                name,
                behind_s,
            )
