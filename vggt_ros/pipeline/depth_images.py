"""Images of depth cameras: which one belongs to a colour image, and what it says in metres."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from vggt_ros.errors import SourceError
from vggt_ros.types import Float32, StampedImage

_WAIT_NS = 200_000_000
"""A depth image is waited for until its camera has sent colour that is so much newer; drivers
align depth to colour in some ten milliseconds."""

_FARTHEST_M = 200.0
"""Farther is no depth but a fill value (65535 mm is left out as such)."""


class DepthImages:
    """The newest depth images of each camera, not yet converted; safe between threads.

    Args:
        cameras: that have a depth topic; the others have none.
        size: images kept per camera.
        skew_ns: largest difference from the stamp of a colour image.
    """

    def __init__(self, cameras: Iterable[str], size: int, skew_ns: int) -> None:
        self._queues: dict[str, deque[StampedImage]] = {n: deque(maxlen=size) for n in cameras}
        self._skew_ns = skew_ns
        self._lock = threading.Lock()

    @property
    def cameras(self) -> tuple[str, ...]:
        """That have a depth topic."""
        return tuple(self._queues)

    def set_skew(self, skew_ns: int) -> None:
        """Take over another largest difference of the stamps."""
        with self._lock:
            self._skew_ns = skew_ns

    def put(self, image: StampedImage) -> None:
        """Keep one; older ones go.

        Raises:
            SourceError: of a camera without a depth topic.
        """
        queue = self._queues.get(image.camera)
        if queue is None:
            raise SourceError(
                f"camera '{image.camera}': a depth image of a camera without depth_topic"
            )
        with self._lock:
            queue.append(image)

    def clear(self) -> None:
        """After a clock jump."""
        with self._lock:
            for queue in self._queues.values():
                queue.clear()

    def is_awaited(self, camera: str, stamp_ns: int, newest_ns: int) -> bool:
        """Whether the depth of a colour image may still come.

        Args:
            camera: any.
            stamp_ns: of the colour image.
            newest_ns: of the newest colour image of this camera.
        """
        queue = self._queues.get(camera)
        if queue is None or newest_ns - stamp_ns >= _WAIT_NS:
            return False
        with self._lock:
            return not any(image.stamp_ns >= stamp_ns - self._skew_ns for image in queue)

    def nearest(self, camera: str, stamp_ns: int) -> Float32 | None:
        """Depth (H, W) [m] nearest in time, within the skew; None where there is none.

        Raises:
            SourceError: it is not a depth image.
        """
        queue = self._queues.get(camera)
        if queue is None:
            return None
        with self._lock:
            found = min(queue, key=lambda image: abs(image.stamp_ns - stamp_ns), default=None)
        if found is None or abs(found.stamp_ns - stamp_ns) > self._skew_ns:
            return None
        return depth_metres(found)


def depth_metres(image: StampedImage) -> Float32:
    """Depth (H, W) [m] of a depth image by REP-118, NaN where there is none.

    `16UC1` and `mono16` are millimetres, 0 and 65535 are invalid; `32FC1` is metres; bytes are a
    16-bit PNG of millimetres.

    Raises:
        SourceError: another encoding, or a PNG that cannot be read.
    """
    pixels = image.data
    encoding = image.encoding
    if isinstance(pixels, bytes):
        import cv2

        found = None
        if encoding == "png":
            found = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_UNCHANGED)
        if found is None or found.ndim != 2 or found.dtype != np.uint16:
            raise SourceError(
                f"camera '{image.camera}': depth: expected a 16-bit PNG of one channel, got "
                f"{encoding} of {len(pixels)} bytes"
            )
        pixels, encoding = found, "16UC1"
    if encoding in ("16UC1", "mono16"):
        depth: Float32 = pixels.astype(np.float32) * np.float32(1e-3)
        depth[(pixels == 0) | (pixels == np.iinfo(np.uint16).max)] = np.nan
        return depth
    if encoding == "32FC1":
        metres: Float32 = pixels.astype(np.float32)
        with np.errstate(invalid="ignore"):
            metres[~((metres > 0) & (metres < _FARTHEST_M))] = np.nan
        return metres
    raise SourceError(
        f"camera '{image.camera}': depth: expected encoding 16UC1 (millimetres) or 32FC1 "
        f"(metres), got '{encoding}'; camera.{image.camera}.depth_topic must name a depth image "
        "aligned to the colour image"
    )
