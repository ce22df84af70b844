"""One video file, frame by frame, each by its number and with its stamp from the container."""

from __future__ import annotations

import logging
import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import SourceError
from vggt_ros.types import Image

_LOG = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".mpg", ".mpeg")

_SEEK_AHEAD = 120
"""Going on over so many frames costs about as much as a seek to the key frame before them."""
_SEEK_MARGIN = 3
_SAME_MS = 0.5
"""Stamps of a packet and of its frame may be rounded differently."""
_BAD_START = 30
"""So many frames at the start may be damaged."""
_VARIABLE = 0.5
"""Gaps that differ by more than this part of the usual one make the rate a variable one."""
_RATE_TOLERANCE = 0.02


class VideoFile:
    """Frames of a video by their number, exactly.

    The stamps of all frames are read from the container's packets first, which decodes nothing
    (one second per gigabyte or less). Each frame that the decoder then gives is known by its
    stamp, so a seek that lands elsewhere, or a frame that the decoder leaves out, shows.

    Args:
        path: the file.
        threads: of the decoder; 0: as many as there are cores.

    Raises:
        SourceError: missing, empty or damaged file, no index, no video in it, or stamps that
            make no sense.
    """

    def __init__(self, path: str | Path, threads: int = 0):
        self.path = Path(path)
        self._threads = threads
        self._check_file()
        self._capture: Any = None
        self._lock = threading.Lock()
        self._at = -1
        """Number of the frame that is decoded at present; -1: before the first."""
        self._ended = False
        self.stamps_ns, self._is_counted = self._read_stamps()
        """Of the frames in the order in which they are shown, from the first frame [ns]."""
        gaps = np.diff(self.stamps_ns)
        self.period_ns = (
            int(np.median(gaps)) if len(gaps) else round(1e9 / (self._stated_rate or 1.0))
        )
        """Usual time between two frames [ns]."""
        self.is_variable = bool(
            len(gaps) and (gaps.max() - gaps.min()) > _VARIABLE * self.period_ns
        )
        """The gaps between frames differ."""
        frames = (self.read(k) for k in range(min(len(self), _BAD_START)))
        first = next((frame for frame in frames if frame is not None), None)
        if first is None:
            raise SourceError(f"video {self.path}: none of the first frames can be decoded")
        self.size = (first.shape[1], first.shape[0])
        """(width, height) [px] of upright frames."""
        self._check_stated()

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def rate_hz(self) -> float:
        """Frames per second, by the stamps."""
        duration = int(self.stamps_ns[-1])
        if len(self) < 2 or not duration:
            return self._stated_rate
        return (len(self) - 1) * 1e9 / duration

    def read(self, number: int) -> Image | None:
        """The frame of a number as BGR (H, W, 3); None where the decoder does not give it.

        Frames between are grabbed and not converted. Going back or far ahead seeks.

        Raises:
            IndexError: there is no such frame in the file.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"video {self.path}: frame {number} of {len(self)}")
        with self._lock:
            return self._read(number)

    def _read(self, number: int) -> Image | None:
        if self._capture is None or number < self._at or number > self._at + _SEEK_AHEAD:
            self._seek(number)
        while self._at < number and not self._ended:
            self._grab()
        if self._ended or self._at != number:
            return None
        done, pixels = self._capture.retrieve()
        return pixels if done and pixels is not None else None

    def nearest(self, stamp_ns: int) -> tuple[int, int]:
        """Number of the frame nearest to a stamp, and by how much it is later [ns]."""
        k = int(np.searchsorted(self.stamps_ns, stamp_ns))
        near = [i for i in (k - 1, k) if 0 <= i < len(self)]
        best = min(near, key=lambda i: abs(int(self.stamps_ns[i]) - stamp_ns))
        return best, int(self.stamps_ns[best]) - stamp_ns

    def close(self) -> None:
        """Close the file; reading opens it again."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    # ------------------------------------------------------------------ opening

    def _check_file(self) -> None:
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise SourceError(f"video {self.path}: cannot be read: {error.strerror}") from error
        if not self.path.is_file():
            raise SourceError(f"video {self.path}: is no file")
        if size == 0:
            raise SourceError(f"video {self.path}: the file is empty (0 bytes)")

    def _capture_of(self, *extra: int) -> Any:
        import cv2

        backends = cv2.videoio_registry.getStreamBackends()
        backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY
        return cv2.VideoCapture(str(self.path), backend, list(extra))

    def _open(self) -> None:
        import cv2

        self._release()
        # Older OpenCV has no such property and decodes with all cores.
        key = getattr(cv2, "CAP_PROP_N_THREADS", None)
        threads = [key, self._threads] if self._threads and key is not None else []
        self._capture = self._capture_of(*threads)
        if threads and not self._capture.isOpened():
            # A backend that does not know a property refuses to open.
            self._capture = self._capture_of()
        if not self._capture.isOpened():
            raise self._cannot_open()
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright, as phones mark them
        self._at, self._ended = -1, False

    def _cannot_open(self) -> SourceError:
        hint = "damaged, not a video, or of a codec that this OpenCV does not support"
        if self.path.suffix.lower() in (".mp4", ".mov"):
            with (
                self.path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                if content.find(b"moov") < 0:
                    hint = (
                        "it has no index ('moov'), the recording was not ended or the file is "
                        "cut off; repair it (untrunc) or record again"
                    )
        return SourceError(f"video {self.path}: cannot be opened: {hint}")

    # ------------------------------------------------------------------ stamps

    def _read_stamps(self) -> tuple[NDArray[np.int64], bool]:
        """Stamps from the first frame on, and whether frames must be told by counting."""
        import cv2

        self._open()
        get = self._capture.get
        self._stated_rate = _plausible(float(get(cv2.CAP_PROP_FPS)), 1e-3, 1e4)
        self._stated_count = int(_plausible(float(get(cv2.CAP_PROP_FRAME_COUNT)), 0, 1e9))
        stamps = np.sort(self._packet_stamps())
        stamps = stamps[stamps > -_SAME_MS]  # the container's edit list leaves out those before
        first, bad = self._first_decoded_stamp()
        if (
            not _is_increasing(stamps)
            or np.abs(stamps - first).min() > _SAME_MS
            # AVI has no stamps of its own: with frames out of order the decoder's are late.
            or (bad == 0 and first - stamps[0] > _SAME_MS)
        ):
            stamps, bad = self._decoded_stamps(), -1
        if not len(stamps):
            raise SourceError(
                f"video {self.path}: no frames in it; the recording was cut off or is damaged"
            )
        self._first_ms = float(stamps[0])
        if _is_increasing(stamps):
            if bad == 0:
                self._at = 0  # grabbed just now
            else:
                self._open()
            return np.round((stamps - stamps[0]) * 1e6).astype(np.int64), False
        self._open()
        if not self._stated_rate:
            raise SourceError(
                f"video {self.path}: neither stamps nor a frame rate in it; convert it: "
                f"ffmpeg -r RATE -i {self.path.name} out.mp4"
            )
        _LOG.warning(
            "video %s: its stamps do not increase; frames are taken to be %g per second",
            self.path,
            self._stated_rate,
        )
        return np.round(np.arange(len(stamps)) * 1e9 / self._stated_rate).astype(np.int64), True

    def _packet_stamps(self) -> NDArray[np.float64]:
        """Of the packets [ms], without decoding them; empty where OpenCV cannot do that."""
        import cv2

        capture = self._capture_of(cv2.CAP_PROP_FORMAT, -1)
        stamps = []
        while capture.isOpened() and capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        capture.release()
        return np.array(stamps, np.float64)

    def _first_decoded_stamp(self) -> tuple[float, int]:
        """Of the first frame that can be decoded [ms], and how many before it cannot."""
        import cv2

        for bad in range(_BAD_START):
            if self._capture.grab():
                return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)), bad
        raise SourceError(
            f"video {self.path}: no frame can be decoded; the recording was cut off, is damaged, "
            f"or its codec is not supported by this OpenCV"
        )

    def _decoded_stamps(self) -> NDArray[np.float64]:
        """Of all frames as they are decoded [ms]: exact, but slow."""
        import cv2

        self._open()
        stamps = []
        failures = 0
        while failures < _BAD_START:
            if self._capture.grab():
                stamps.append(self._capture.get(cv2.CAP_PROP_POS_MSEC))
                failures = 0
            else:
                failures += 1
        return np.array(stamps, np.float64)

    def _check_stated(self) -> None:
        """Compare what the container says of itself with what is in it."""
        missing = self._stated_count - len(self)
        if missing > max(2, _RATE_TOLERANCE * self._stated_count):
            _LOG.warning(
                "video %s: ends early: %d of the %d frames that it promises are there",
                self.path,
                len(self),
                self._stated_count,
            )
        if self.is_variable:
            gaps = np.diff(self.stamps_ns) * 1e-6
            _LOG.warning(
                "video %s: variable frame rate (gaps of %.1f to %.1f ms); frames are taken by "
                "their stamps",
                self.path,
                gaps.min(),
                gaps.max(),
            )
        elif (
            self._stated_rate
            and len(self) > 1
            and abs(self.rate_hz / self._stated_rate - 1) > _RATE_TOLERANCE
        ):
            _LOG.warning(
                "video %s: says %.3f frames per second, its stamps %.3f; the stamps count",
                self.path,
                self._stated_rate,
                self.rate_hz,
            )

    # ------------------------------------------------------------------ reading

    def _grab(self) -> None:
        """Go to the next frame that can be decoded."""
        import cv2

        # A damaged frame is one failure, the end of the file is failures without end.
        for _ in range(max(1, len(self) - self._at)):
            done = self._capture.grab()
            if self._is_counted:
                self._at += 1
            if done:
                break
        else:
            self._ended = True
            return
        if not self._is_counted:
            stamp = round((self._capture.get(cv2.CAP_PROP_POS_MSEC) - self._first_ms) * 1e6)
            self._at = max(self.nearest(stamp)[0], self._at)

    def _seek(self, number: int) -> None:
        """Before or at a frame, so that going on finds it."""
        import cv2

        if self._capture is not None and not self._is_counted and number > _SEEK_MARGIN:
            self._at, self._ended = -1, False
            target = self._first_ms + float(self.stamps_ns[number - _SEEK_MARGIN]) * 1e-6
            self._capture.set(cv2.CAP_PROP_POS_MSEC, target)
            self._grab()
            if not self._ended and self._at <= number:
                return
        self._open()


def _plausible(value: float, low: float, high: float) -> float:
    return value if np.isfinite(value) and low <= value <= high else 0.0


def _is_increasing(stamps: NDArray[np.float64]) -> bool:
    return len(stamps) > 0 and bool((np.diff(stamps) > 0).all())
