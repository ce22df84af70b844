"""Stamped images of N cameras to sets of one instant, decoded and undistorted.

Matching looks at heads of queues only: N steps for each message that comes or goes, where the
approximate synchroniser of `message_filters` walks a product over all queues.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from types import TracebackType

from vggt_ros.config import IngestConfig
from vggt_ros.errors import ConfigError, SourceError, nearest
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.absent_cameras import AbsentCameras
from vggt_ros.pipeline.depth_images import DepthImages
from vggt_ros.pipeline.image_decoder import ImageDecoder
from vggt_ros.pipeline.set_back_clocks import SetBackClocks, Verdict
from vggt_ros.types import Float32, Frame, FrameSet, StampedImage

MAX_CAMERAS = 64
"""16 is what is promised and measured; more is for photographs that each count as a camera."""
_SKEWS = 50
"""Sets of which `skews_ms` is the median: five seconds at 10 Hz."""
_MAX_THREADS = 4


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images chosen for one set, not yet decoded, in the fixed camera order."""

    stamp_ns: int
    images: tuple[StampedImage, ...]
    clock_resets: int = 0
    """Of the ingest when the set was taken: a higher number is another round of a bag."""


class Ingest:
    """Bounded queues in, frame sets out.

    `put` and `take` are cheap and may be called from other threads than `decode_set`. `counts`
    holds how many images were dropped, by reason:

    =============== =================================================================
    duplicate       stamp of the camera's image before
    out_of_order    older than the camera's image before
    late            its set was already taken without it
    unmatched       no image of enough other cameras within `max_skew_ms`
    overflow        still unmatched when the queue was full
    clock_jump      waiting when the clock was set back
    set_back        the camera's clock alone was set back
    reset           waiting when `reset` was called, or the reason given to it
    uncalibrated    no CameraInfo yet and `require_calibration`
    corrupt         cannot be decoded
    encoding        has no colours, or an unknown encoding
    size_changed    not of the size of the camera's first image
    calibration     CameraInfo does not fit the image
    incomplete      whole, but too few others of its set could be decoded
    =============== =================================================================

    Where all cameras are needed, one that has sent nothing usable for `silent_after_s` is left
    out, so that it does not stop the others; its next good image makes it needed again.

    The clock was set back (a bag that loops, `clock_resets`) when the stamps of most cameras go
    back. Where those of one do while the others go on, the fault is that camera's: it is left out
    until its stamps are in time again.

    Args:
        cameras: names in the fixed order of views.
        models: intrinsics by camera; None or absent: not calibrated.
        config: limits.
        depth_cameras: those whose depth images come by `put_depth`; a set waits a little for
            them, and goes on without.

    Raises:
        ConfigError: no, too many or repeated cameras, or `min_cameras` above their number.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        models: Mapping[str, CameraModel | None],
        config: IngestConfig,
        depth_cameras: Sequence[str] = (),
    ):
        if not 1 <= len(cameras) <= MAX_CAMERAS or len(set(cameras)) != len(cameras):
            raise ConfigError(
                f"cameras: expected 1 to {MAX_CAMERAS} different names, got {list(cameras)}"
            )
        self.cameras = tuple(cameras)
        self._check_least(config)
        self.counts: Counter[str] = Counter()
        self.camera_counts: dict[str, Counter[str]] = {name: Counter() for name in cameras}
        self.received: Counter[str] = Counter()
        self.sets = 0
        """Sets taken."""
        self.clock_resets = 0
        self._config = config
        self._skew_ns = int(config.max_skew_ms * 1e6)
        self.depth = DepthImages(depth_cameras, config.queue_size, self._skew_ns)
        self._models = {name: models.get(name) for name in cameras}
        self._queues: dict[str, deque[StampedImage]] = {name: deque() for name in cameras}
        self._clocks = SetBackClocks(cameras, self._drop)
        self._absent: set[str] = set()
        self._left_out = AbsentCameras(
            cameras, int(config.silent_after_s * 1e9), warns=not config.min_cameras
        )
        self._taken_until: int | None = None
        self._finished = False
        self._skews: dict[str, deque[int]] = {name: deque(maxlen=_SKEWS) for name in cameras}
        self._decoder = ImageDecoder(config.max_width)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    # ------------------------------------------------------------------ intrinsics

    @property
    def models(self) -> dict[str, CameraModel | None]:
        """Intrinsics as they came, by camera."""
        return dict(self._models)

    def set_model(self, camera: str, model: CameraModel | None) -> None:
        """Take over a CameraInfo that came late or changed."""
        self._check_camera(camera)
        with self._lock:
            self._models[camera] = model

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(width, height) of the images as they come, by camera; known once one is decoded."""
        return dict(self._decoder.sizes)

    @property
    def silent(self) -> tuple[str, ...]:
        """Cameras that never sent an image."""
        return tuple(name for name in self.cameras if not self.received[name])

    @property
    def left_out(self) -> tuple[str, ...]:
        """Cameras that are not waited for.

        Nothing usable came of them for `silent_after_s`, or their clocks alone were set back.
        """
        gone = self._left_out.names | self._clocks.names
        return tuple(name for name in self.cameras if name in gone)

    @property
    def set_back(self) -> tuple[str, ...]:
        """Cameras whose stamps have gone back while those of the others go on."""
        return tuple(name for name in self.cameras if name in self._clocks.names)

    @property
    def skews_ms(self) -> dict[str, float]:
        """Stamp minus that of its set, by camera: the median of its last sets [ms]."""
        with self._lock:
            return {n: median(skews) * 1e-6 for n, skews in self._skews.items() if skews}

    @property
    def waiting(self) -> int:
        """Images in the queues."""
        with self._lock:
            return sum(len(queue) for queue in self._queues.values())

    def set_config(self, config: IngestConfig) -> None:
        """Take over what may change while mapping: skew, least cameras, silence.

        Raises:
            ConfigError: `min_cameras` above the number of cameras.
        """
        self._check_least(config)
        with self._lock:
            self._config = config
            self._skew_ns = int(config.max_skew_ms * 1e6)
            self.depth.set_skew(self._skew_ns)
            self._left_out.after_ns = int(config.silent_after_s * 1e9)
            self._left_out.warns = not config.min_cameras

    def leave_out(self, camera: str) -> None:
        """Do not wait for a camera until it sends."""
        self._check_camera(camera)
        with self._lock:
            self._left_out.leave_out(camera)

    # ------------------------------------------------------------------ matching

    def add(self, image: StampedImage) -> FrameSet | None:
        """`put`, `take` and `decode_set` in one call, for where one thread does everything.

        When an image completes several sets, call `take` for the others.
        """
        self.put(image)
        chosen = self.take()
        return None if chosen is None else self.decode_set(chosen)

    def put(self, image: StampedImage) -> None:
        """Queue one image.

        Raises:
            SourceError: of a camera that is not in `cameras`.
        """
        self._check_camera(image.camera)
        with self._lock:
            self._put(image)

    def put_depth(self, image: StampedImage) -> None:
        """Keep a depth image for the colour image of the same camera and time.

        Raises:
            SourceError: of a camera that is not in `depth_cameras`.
        """
        self.depth.put(image)

    def take(self) -> ImageSet | None:
        """The oldest set that is ready, None if there is none yet."""
        with self._lock:
            return self._take()

    def finish(self) -> None:
        """Nothing more will come: do not wait for cameras with empty queues any longer."""
        with self._lock:
            self._finished = True
            if self._needed() < len(self.cameras):
                self._absent = {name for name in self.cameras if not self._queues[name]}

    def reset(self, reason: str = "reset") -> None:
        """Forget queues, stamps and image sizes; counts stay.

        Args:
            reason: under which images that wait are counted.
        """
        with self._lock:
            self._forget(reason)
            self._decoder.forget()
            self._left_out.clear()

    def _needed(self) -> int:
        """Cameras that make a set."""
        if self._config.min_cameras:
            return self._config.min_cameras
        return max(1, len(self.cameras) - len(self._left_out.names | self._clocks.names))

    def _put(self, image: StampedImage) -> None:
        name = image.camera
        self.received[name] += 1
        self._clocks.note(name)
        if self._config.require_calibration and self._models[name] is None:
            self._drop(name, "uncalibrated")
            return
        verdict = self._clocks.judge(image)
        if verdict is Verdict.ALL_BACK:
            self._begin_anew()
        if verdict in (Verdict.STALE, Verdict.HELD, Verdict.ALL_BACK):
            return
        if verdict is Verdict.REJOINS:
            self._drop(name, "clock_jump", len(self._queues[name]))
            self._queues[name].clear()
        self._enqueue(image)

    def _enqueue(self, image: StampedImage) -> None:
        """Queue an image that is in time."""
        name, stamp = image.camera, image.stamp_ns
        self._clocks.accept(image)
        self._left_out.note_arrival(name, stamp)
        if name in self._absent:
            self._absent.discard(name)
            if self._taken_until is not None and stamp <= self._taken_until:
                self._drop(name, "late")
                return
        queue = self._queues[name]
        if len(queue) >= self._config.queue_size:
            queue.popleft()
            self._drop(name, "overflow")
        queue.append(image)

    def _begin_anew(self) -> None:
        """The clock was set back: go on with what came since."""
        self.clock_resets += 1
        held = self._clocks.release()
        self._forget("clock_jump")
        for image in held:
            self._enqueue(image)

    def _forget(self, reason: str) -> None:
        self._clocks.forget(reason)
        for name, queue in self._queues.items():
            self._drop(name, reason, len(queue))
            queue.clear()
        self._absent.clear()
        for skews in self._skews.values():
            skews.clear()
        self._left_out.forget_stamps()
        self._taken_until = None
        self.depth.clear()

    def _take(self) -> ImageSet | None:
        while True:
            heads = [queue[0].stamp_ns for queue in self._queues.values() if queue]
            if not heads:
                return None
            end = min(heads) + self._skew_ns
            needed = self._needed()
            members = [n for n, q in self._queues.items() if q and q[0].stamp_ns <= end]
            gone = self._absent | self._left_out.silent | self._clocks.names
            waiting = [n for n, q in self._queues.items() if not q and n not in gone]
            is_full = any(len(q) >= self._config.queue_size for q in self._queues.values())
            if len(members) == len(self.cameras) or (
                len(members) >= needed and (not waiting or is_full)
            ):
                if not (is_full or self._finished) and self._awaits_depth(members):
                    return None
                return self._pop(members)
            if len(members) + len(waiting) >= needed:
                return None
            oldest = min(members, key=lambda n: self._queues[n][0].stamp_ns)
            self._queues[oldest].popleft()
            self._drop(oldest, "unmatched")

    def _awaits_depth(self, members: list[str]) -> bool:
        return any(
            self.depth.is_awaited(name, queue[0].stamp_ns, queue[-1].stamp_ns)
            for name, queue in ((name, self._queues[name]) for name in members)
        )

    def _pop(self, members: list[str]) -> ImageSet:
        self._advance(members)
        images = tuple(self._queues[name].popleft() for name in members)
        stamps = sorted(image.stamp_ns for image in images)
        self._absent = set(self.cameras).difference(members) - {
            name for name, queue in self._queues.items() if queue
        }
        self._taken_until = stamps[-1]
        self.sets += 1
        stamp = stamps[(len(stamps) - 1) // 2]
        for image in images:
            self._skews[image.camera].append(image.stamp_ns - stamp)
        return ImageSet(stamp, images, self.clock_resets)

    def _advance(self, members: list[str]) -> None:
        """Where cameras are faster than `max_skew_ms`, go on to images closer together."""
        while True:
            heads = {name: self._queues[name][0].stamp_ns for name in members}
            newest = max(heads.values())
            closer = [
                name
                for name in members
                if len(self._queues[name]) > 1
                and abs(self._queues[name][1].stamp_ns - newest) < newest - heads[name]
            ]
            candidate = heads | {name: self._queues[name][1].stamp_ns for name in closer}
            if not closer or _spread(candidate) >= _spread(heads):
                return
            for name in closer:
                self._queues[name].popleft()
                self._drop(name, "unmatched")

    # ------------------------------------------------------------------ decoding

    def decode_set(self, chosen: ImageSet) -> FrameSet | None:
        """Decode, reduce and undistort a chosen set, images in parallel.

        A faulty image is left out and counted; None where fewer than the needed cameras remain.
        """
        if len(chosen.images) == 1:
            results = [self._decode(chosen.images[0])]
        else:
            if self._pool is None:
                threads = min(_MAX_THREADS, len(self.cameras), os.cpu_count() or 1)
                self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ingest")
            results = list(self._pool.map(self._decode, chosen.images))
        frames = []
        for image, result in zip(chosen.images, results, strict=True):
            with self._lock:
                self._left_out.note_usable(image.camera, image.stamp_ns, isinstance(result, Frame))
            if isinstance(result, Frame):
                frames.append(result)
                continue
            with self._lock:
                self._drop(image.camera, result[0])
            self._decoder.warn_once(image.camera, *result)
        with self._lock:
            needed = self._needed()
        if len(frames) < needed:
            with self._lock:
                for frame in frames:
                    self._drop(frame.camera, "incomplete")
            return None
        return FrameSet(chosen.stamp_ns, tuple(frames))

    def undistort(self, frame: Frame, model: CameraModel) -> Frame:
        """A frame with intrinsics that were estimated later; `model` may be distorted.

        Raises:
            CalibrationError: `model` is of another aspect than the image.
        """
        return self._decoder.undistort(frame, model)

    def _decode(self, image: StampedImage) -> Frame | tuple[str, str]:
        return self._decoder.decode(image, self._models[image.camera], self._depth(image))

    def _depth(self, image: StampedImage) -> Float32 | None:
        """The depth image of a colour image; a faulty one is counted and left out."""
        try:
            return self.depth.nearest(image.camera, image.stamp_ns)
        except SourceError as error:
            with self._lock:
                self._drop(image.camera, "depth")
            self._decoder.warn_once(image.camera, "depth", str(error))
            return None

    # ------------------------------------------------------------------ bookkeeping

    def _check_least(self, config: IngestConfig) -> None:
        if config.min_cameras > len(self.cameras):
            raise ConfigError(
                f"ingest.min_cameras: expected at most the {len(self.cameras)} cameras, got "
                f"{config.min_cameras}"
            )

    def _check_camera(self, camera: str) -> None:
        if camera not in self._queues:
            raise SourceError(
                f"camera '{camera}'{nearest(camera, self.cameras)} is not one of "
                f"{', '.join(self.cameras)}"
            )

    def _drop(self, camera: str, reason: str, number: int = 1) -> None:
        if number:
            self.counts[reason] += number
            self.camera_counts[camera][reason] += number


def _spread(stamps: Mapping[str, int]) -> int:
    return max(stamps.values()) - min(stamps.values())
