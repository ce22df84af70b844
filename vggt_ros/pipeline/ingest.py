"""Stamped images of N cameras to sets of one instant, decoded and undistorted.

Matching looks at heads of queues only: N steps for each message that comes or goes, where the
approximate synchroniser of `message_filters` walks a product over all queues.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from vggt_ros.config import IngestConfig
from vggt_ros.errors import CalibrationError, ConfigError, SourceError, nearest
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.decode import (
    Undistorter,
    decode_rgb,
    fit_model,
    reduced_size,
    resize_rgb,
    undistorted_frame,
)
from vggt_ros.pipeline.depth_images import DepthImages
from vggt_ros.types import Float32, Frame, FrameSet, StampedImage

_LOG = logging.getLogger(__name__)

MAX_CAMERAS = 64
"""16 is what is promised and measured; more is for photographs that each count as a camera."""
_JUMP_NS = 1_000_000_000
"""A camera whose stamp goes back by more has a clock that was set back (bag loop)."""
_BACKWARD_RUN = 5
"""So many images in a row, each newer than the one before, but all older than what came earlier,
are a clock that was set back too: the loop of a short bag."""
_LEAST_MISSED = 5
"""Fewer images that another camera sent meanwhile do not make a camera silent: sets may be taken
minutes apart."""
_MAX_THREADS = 4


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images chosen for one set, not yet decoded, in the fixed camera order."""

    stamp_ns: int
    images: tuple[StampedImage, ...]


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
    clock_jump      waiting when a clock was set back
    uncalibrated    no CameraInfo yet and `require_calibration`
    corrupt         cannot be decoded
    encoding        has no colours, or an unknown encoding
    size_changed    not of the size of the camera's first image
    calibration     CameraInfo does not fit the image
    incomplete      whole, but too few others of its set could be decoded
    =============== =================================================================

    Where all cameras are needed, one that has sent nothing usable for `silent_after_s` is left
    out, so that it does not stop the others; its next good image makes it needed again.

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
        if config.min_cameras > len(cameras):
            raise ConfigError(
                f"ingest.min_cameras: expected at most the {len(cameras)} cameras, got "
                f"{config.min_cameras}"
            )
        self.cameras = tuple(cameras)
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
        self._last: dict[str, int] = {}
        self._backward: dict[str, list[int]] = {}
        self._absent: set[str] = set()
        self._silent_ns = int(config.silent_after_s * 1e9)
        self._missed: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in cameras}
        """By camera, what each other one has sent since its last image: first stamp, number."""
        self._faulty_since: dict[str, tuple[int, int]] = {}
        """By camera whose last image could not be used: stamp of the first such, number."""
        self._silent: set[str] = set()
        self._faulty: set[str] = set()
        self._taken_until: int | None = None
        self._finished = False
        self._sizes: dict[str, tuple[int, int]] = {}
        self._warned: set[tuple[str, str]] = set()
        self._undistorter = Undistorter()
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
        return dict(self._sizes)

    @property
    def silent(self) -> tuple[str, ...]:
        """Cameras that never sent an image."""
        return tuple(name for name in self.cameras if not self.received[name])

    @property
    def left_out(self) -> tuple[str, ...]:
        """Cameras that are not waited for, because nothing usable came for `silent_after_s`."""
        return tuple(name for name in self.cameras if name in self._silent | self._faulty)

    def leave_out(self, camera: str) -> None:
        """Do not wait for a camera until it sends."""
        self._check_camera(camera)
        with self._lock:
            self._silent.add(camera)

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

    def reset(self) -> None:
        """Forget queues, stamps and image sizes; counts stay."""
        with self._lock:
            self._forget("clock_jump")
            self._sizes.clear()
            self._warned.clear()
            self._silent.clear()
            self._faulty.clear()

    def _needed(self) -> int:
        """Cameras that make a set."""
        if self._config.min_cameras:
            return self._config.min_cameras
        return max(1, len(self.cameras) - len(self._silent | self._faulty))

    def _put(self, image: StampedImage) -> None:
        name, stamp = image.camera, image.stamp_ns
        self.received[name] += 1
        if self._config.require_calibration and self._models[name] is None:
            self._drop(name, "uncalibrated")
            return
        last = self._last.get(name)
        if last is not None and stamp <= last:
            if not self._is_set_back(name, stamp, last):
                self._drop(name, "duplicate" if stamp == last else "out_of_order")
                return
            self.clock_resets += 1
            _LOG.info("camera '%s': clock went back by %.3f s", name, (last - stamp) * 1e-9)
            self._forget("clock_jump")
        self._backward.pop(name, None)
        self._last[name] = stamp
        self._note_arrival(name, stamp)
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

    def _note_arrival(self, name: str, stamp: int) -> None:
        """Tell who has been silent, each camera by its own clock: clocks may differ by hours."""
        if not self._silent_ns:
            return
        self._missed[name].clear()
        if name in self._silent:
            self._silent.discard(name)
            _LOG.info("camera '%s': sends again", name)
        for other in self.cameras:
            if other == name:
                continue
            since, number = self._missed[other].get(name, (stamp, 0))
            self._missed[other][name] = since, number + 1
            if other not in self._silent and self._is_over(stamp - since, number + 1):
                self._silent.add(other)
                self._warn_left_out(other, f"no image for {(stamp - since) * 1e-9:.1f} s")

    def _note_usable(self, image: StampedImage, usable: bool) -> None:
        """Tell whose images have been faulty for long."""
        name = image.camera
        if usable or not self._silent_ns:
            self._faulty_since.pop(name, None)
            self._faulty.discard(name)
            return
        since, number = self._faulty_since.get(name, (image.stamp_ns, 0))
        self._faulty_since[name] = since, number + 1
        duration = image.stamp_ns - since
        if name not in self._faulty and self._is_over(duration, number + 1):
            self._faulty.add(name)
            self._warn_left_out(name, f"no usable image for {duration * 1e-9:.1f} s")

    def _is_over(self, duration_ns: int, images: int) -> bool:
        return duration_ns >= self._silent_ns and images >= _LEAST_MISSED

    def _warn_left_out(self, name: str, why: str) -> None:
        if not self._config.min_cameras:
            _LOG.warning("camera '%s': %s; sets go on without it until it is back", name, why)

    def _is_set_back(self, name: str, stamp: int, last: int) -> bool:
        if last - stamp > _JUMP_NS:
            return True
        run = self._backward.setdefault(name, [])
        if run and stamp <= run[-1]:
            run.clear()
        run.append(stamp)
        return len(run) >= _BACKWARD_RUN

    def _forget(self, reason: str) -> None:
        for name, queue in self._queues.items():
            self._drop(name, reason, len(queue))
            queue.clear()
        self._last.clear()
        self._backward.clear()
        self._absent.clear()
        self._faulty_since.clear()
        for missed in self._missed.values():
            missed.clear()
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
            gone = self._absent | self._silent
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
        return ImageSet(stamps[(len(stamps) - 1) // 2], images)

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
                self._note_usable(image, isinstance(result, Frame))
            if isinstance(result, Frame):
                frames.append(result)
                continue
            with self._lock:
                self._drop(image.camera, result[0])
            self._warn_once(image.camera, *result)
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
        return undistorted_frame(frame, model, self._undistorter)

    def _decode(self, image: StampedImage) -> Frame | tuple[str, str]:
        """The frame, or why there is none: the reason and the text."""
        name = image.camera
        try:
            rgb = decode_rgb(image)
        except SourceError as error:
            return ("corrupt" if isinstance(image.data, bytes) else "encoding"), str(error)
        height, width = rgb.shape[:2]
        first = self._sizes.setdefault(name, (width, height))
        if first != (width, height):
            return "size_changed", (
                f"camera '{name}': image of {width}x{height} after {first[0]}x{first[1]}; "
                f"reset after a change of resolution"
            )
        size = reduced_size(width, height, self._config.max_width)
        model = self._models[name]
        try:
            depth = self._depth(image)
            if model is None:
                return Frame(name, image.stamp_ns, resize_rgb(rgb, size), depth_m=depth)
            if model.size != (width, height):
                fitted = fit_model(model, (width, height), name)
                self._warn_once(
                    name,
                    "scaled",
                    f"camera '{name}': calibrated at {model.width}x{model.height}, scaled to "
                    f"the images' {width}x{height}",
                )
                model = fitted
            reduced = model.resized(*size) if model.size != size else model
            rgb, pinhole = self._undistorter.undistort(resize_rgb(rgb, size), reduced)
            if depth is not None:
                depth = self._undistorter.undistort_depth(depth, reduced)
        except CalibrationError as error:
            return "calibration", str(error)
        return Frame(name, image.stamp_ns, rgb, pinhole, depth)

    def _depth(self, image: StampedImage) -> Float32 | None:
        """The depth image of a colour image; a faulty one is counted and left out."""
        try:
            return self.depth.nearest(image.camera, image.stamp_ns)
        except SourceError as error:
            self.depth.counts["depth"] += 1
            self._warn_once(image.camera, "depth", str(error))
            return None

    # ------------------------------------------------------------------ bookkeeping

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

    def _warn_once(self, camera: str, reason: str, text: str) -> None:
        if (camera, reason) not in self._warned:
            self._warned.add((camera, reason))
            _LOG.warning("%s", text)


def _spread(stamps: Mapping[str, int]) -> int:
    return max(stamps.values()) - min(stamps.values())
