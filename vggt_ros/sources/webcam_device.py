"""One webcam in a thread of its own: the newest image, stamped when it was grabbed."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggt_ros.types import Image

_LOG = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.5
_LAST_BACKOFF_S = 8.0
_RATE_IMAGES = 30
_TIMEOUT_MS = 3000
"""A camera on the network that says nothing for so long is gone."""


@dataclass(frozen=True)
class CaptureSettings:
    """What is asked of a camera; 0 or empty: what it does by itself.

    OpenCV and V4L2 take the nearest mode that there is; what came out is logged.
    """

    width: int = 0
    height: int = 0
    rate_hz: float = 0.0
    fourcc: str = ""
    """Pixel format, such as MJPG: USB 2 carries 1080p at 30 Hz only compressed."""


@dataclass
class DeviceCounts:
    """What happened to the images of one camera."""

    grabbed: int = 0
    given: int = 0
    """Taken from the slot."""
    dropped: int = 0
    """Replaced by a newer one before anybody took it."""
    stepped_over: int = 0
    """Left out by `frame_step`."""
    failures: int = 0
    """Grabs and decodings that gave nothing."""
    reconnects: int = 0


class WebcamDevice:
    """Grabs in a thread and keeps only the newest image.

    A camera that fails is closed and opened again, after 0.5 s, 1 s, ... at most 8 s.

    Args:
        name: of the camera.
        device: number N of `/dev/videoN`, a path, or an address (http, rtsp).
        settings: resolution, rate and format.
        frame_step: every so many-th image is decoded; the others are only grabbed.
        clock: stamps [ns].
        arrived: notified at each new image.
    """

    def __init__(
        self,
        name: str,
        device: int | str,
        settings: CaptureSettings,
        frame_step: int,
        clock: Callable[[], int],
        arrived: threading.Condition,
    ):
        self.name = name
        self.device = device
        self.counts = DeviceCounts()
        self.is_connected = False
        self.size: tuple[int, int] | None = None
        """(width, height) [px] of the images; None before the first."""
        self._grab_times: deque[float] = deque(maxlen=_RATE_IMAGES)
        self._settings = settings
        self._step = frame_step
        self._clock = clock
        self._arrived = arrived
        self._slot: tuple[int, Image] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"webcam-{name}", daemon=True)

    @property
    def rate_hz(self) -> float:
        """Images per second as they came lately, before `frame_step`; 0: not yet known."""
        times = tuple(self._grab_times)
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    @property
    def shown(self) -> str:
        """The device as people know it."""
        return f"/dev/video{self.device}" if isinstance(self.device, int) else self.device

    @property
    def waiting_stamp_ns(self) -> int | None:
        """Stamp of the image in the slot; call with the condition held."""
        return self._slot[0] if self._slot else None

    def start(self) -> None:
        """Begin to grab."""
        self._thread.start()

    def take(self) -> tuple[int, Image]:
        """Stamp [ns] and BGR (H, W, 3); the slot is empty then. Call with the condition held."""
        if self._slot is None:
            raise LookupError(f"camera '{self.name}': no image waits")
        taken, self._slot = self._slot, None
        self.counts.given += 1
        return taken

    def discard(self) -> None:
        """Drop the image in the slot; with the condition held."""
        if self._slot is not None:
            self._slot = None
            self.counts.dropped += 1

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def close(self, timeout_s: float) -> bool:
        """End the thread; False where the driver does not return in time."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_S
        was_connected = False
        while not self._stop.is_set():
            capture = open_capture(self.device, self._settings)
            if capture.isOpened() and self._grab(capture, 0):
                if was_connected:
                    self.counts.reconnects += 1
                    _LOG.warning("camera '%s' (%s): is back", self.name, self.shown)
                was_connected = True
                self._set_connected(True)
                backoff = _FIRST_BACKOFF_S
                self._grab_until_failure(capture)
                self._set_connected(False)
                if not self._stop.is_set():
                    _LOG.warning(
                        "camera '%s' (%s): gives no images any more, unplugged or failed; it is "
                        "opened again when it is back",
                        self.name,
                        self.shown,
                    )
            capture.release()
            self._stop.wait(backoff)
            backoff = min(2 * backoff, _LAST_BACKOFF_S)

    def _grab_until_failure(self, capture: Any) -> None:
        number = 1
        while not self._stop.is_set():
            if not self._grab(capture, number):
                return
            number += 1

    def _grab(self, capture: Any, number: int) -> bool:
        """One image into the slot; False where there was none."""
        if not capture.grab():
            self.counts.failures += not self._stop.is_set()
            return False
        stamp = self._clock()
        self._grab_times.append(time.monotonic())
        self.counts.grabbed += 1
        if number % self._step:
            self.counts.stepped_over += 1
            return True
        done, pixels = capture.retrieve()
        if not done or pixels is None:
            self.counts.failures += 1
            return False
        with self._arrived:
            if self._slot is not None:
                self.counts.dropped += 1
            self._slot = stamp, pixels
            self.size = pixels.shape[1], pixels.shape[0]
            self._arrived.notify_all()
        return True

    def _set_connected(self, connected: bool) -> None:
        with self._arrived:
            self.is_connected = connected
            if not connected:
                self._slot = None
                self._grab_times.clear()
            self._arrived.notify_all()


def open_capture(device: int | str, settings: CaptureSettings) -> Any:
    """A `cv2.VideoCapture` of a device with the newest image only; see `isOpened`."""
    import cv2

    if isinstance(device, int) or device.startswith("/dev/"):
        if not Path(f"/dev/video{device}" if isinstance(device, int) else device).exists():
            return cv2.VideoCapture()  # OpenCV would write an error of its own at every try
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not capture.isOpened():
            return capture
        # The format first: it decides which sizes and rates there are.
        if settings.fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings.fourcc))
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, settings.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, settings.height),
            (cv2.CAP_PROP_FPS, settings.rate_hz),
            (cv2.CAP_PROP_BUFFERSIZE, 1),
        ):
            if value:
                capture.set(key, value)
        return capture
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    return cv2.VideoCapture(device, cv2.CAP_FFMPEG, limits)


def wait_connected(
    devices: list[WebcamDevice], arrived: threading.Condition, limit_s: float
) -> None:
    """Wait until each device has given an image, at most `limit_s`."""
    end = time.monotonic() + limit_s
    with arrived:
        while any(d.size is None for d in devices) and (left := end - time.monotonic()) > 0:
            arrived.wait(left)
