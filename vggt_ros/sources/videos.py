"""Videos as cameras, one file per camera."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.sources.calibration_files import Calibration
from vggt_ros.sources.cameras import FoundCamera, Views, match_rig, natural_key, ros_name, select
from vggt_ros.sources.source import START_NS
from vggt_ros.sources.video_file import SUFFIXES, VideoFile
from vggt_ros.types import Image, StampedImage

_LOG = logging.getLogger(__name__)

_ROUNDING_NS = 1_000_000
"""Some containers (Matroska) round stamps to milliseconds."""


@dataclass(frozen=True)
class VideoCamera(FoundCamera):
    """The video of one camera."""

    file: Path = Path()


class VideoSource:
    """Sets of frames from one video per camera, all of which start at the same instant.

    The frames of the slowest video (the first of equals) make the sets; of the others comes the
    frame that is nearest in time, if it is within half a period of that rate. The images of a
    set have the stamp of the set. A camera whose video ends early is missing from later sets.

    Frames are decoded in threads, one set ahead.

    Args:
        path: a folder of videos (the camera is the name without suffix), a folder of folders
            (the camera is the name of the folder, its first video counts), or one video.
        rig: calibration; its cameras match by name or by `image` (file or folder), give the
            names and come first.
        views: which cameras.
        frame_step: every so many-th set; frames between are not converted.
        start_set: go on at this set, counted after `frame_step`, as if those before were done.
        calibration: intrinsics and poses from files; they overrule the rig's.

    Raises:
        SourceError: no videos, both layouts at once, a damaged video, a camera that is not
            there, or names that cannot be told apart.
        ConfigError: `frame_step` is not positive, or `start_set` is behind the end.
        CalibrationError: calibration of other cameras or images.
    """

    is_live = False

    def __init__(
        self,
        path: str | Path,
        rig: Rig | None = None,
        *,
        views: Views | None = None,
        frame_step: int = 1,
        start_set: int = 0,
        calibration: Calibration | None = None,
    ):
        if frame_step < 1:
            raise ConfigError(f"frame_step: expected a whole number > 0, got {frame_step}")
        self.path = Path(path)
        self.frame_step = frame_step
        where = f"videos {self.path}"
        found = find_videos(self.path)
        pairs = select(match_rig(found, rig, where), views or Views(), where)
        files = {camera.name: camera.file for camera in found}
        threads = max(1, (os.cpu_count() or 1) // len(pairs))
        self._videos: dict[str, VideoFile] = {
            entry.name: VideoFile(files[camera.name], threads) for camera, entry in pairs
        }
        self.rig = Rig(tuple(entry for _, entry in pairs), rig.rig_frame if rig else "rig")
        """The cameras with their final names and frames, and what is known of them."""
        self.sizes: Mapping[str, tuple[int, int]] = {n: v.size for n, v in self._videos.items()}
        """(width, height) [px] of the upright frames of each camera."""
        self._calibration = calibration
        self._keys = {entry.name: (*camera.keys, camera.name) for camera, entry in pairs}
        if calibration is not None:
            self.rig = calibration.applied_to(self.rig, self._keys, self.sizes)
        self._plan = plan_sets(self._videos, frame_step)
        self.set_count = len(self._plan)
        if not 0 <= start_set < self.set_count:
            raise ConfigError(
                f"start_set: expected 0 to {self.set_count - 1}, got {start_set}; {where} has "
                f"{self.set_count} sets"
            )
        self._start = start_set
        self._missing: Counter[str] = Counter()
        self._given: Counter[str] = Counter()
        self._closed = False
        self._tell_ends()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names in the order of views."""
        return self.rig.names

    @property
    def rate_hz(self) -> float:
        """Sets per second."""
        return min(video.rate_hz for video in self._videos.values()) / self.frame_step

    @property
    def videos(self) -> Mapping[str, VideoFile]:
        """The file of each camera."""
        return dict(self._videos)

    def __len__(self) -> int:
        return self.set_count

    def __iter__(self) -> Iterator[tuple[StampedImage, ...]]:
        """Sets of `bgr8` images; stamps start at one second."""
        workers = min(len(self._videos), os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, thread_name_prefix="videos") as pool:
            coming = self._submit(pool, self._start)
            for index in range(self._start, self.set_count):
                frames = {name: future.result() for name, future in coming.items()}
                if self._closed:
                    break
                coming = self._submit(pool, index + 1)
                images = self._images(index, frames)
                if images:
                    yield images
        if self._closed:
            self._close_files()

    def frame_numbers(self, set_index: int) -> dict[str, int]:
        """Which frame of each video is in a set; cameras without one are left out."""
        return dict(self._plan[set_index][1])

    def poses(self, stamp_ns: int) -> dict[str, Rigid3]:
        """`world_from_camera` of the cameras with a known pose; see `ImageSource`.

        Frames of a poses file are those of the slowest video.
        """
        if self._calibration is None:
            return self.rig.poses
        return self._calibration.poses_of(self.rig, self._keys, self._frame_at(stamp_ns))

    def _frame_at(self, stamp_ns: int) -> int:
        times = [START_NS + time for time, _ in self._plan]
        return int(np.argmin(np.abs(np.array(times) - stamp_ns))) * self.frame_step

    def report(self) -> dict[str, Any]:
        """Frames of each video, how many were given, and sets in which it had none."""
        offsets = dict.fromkeys(self._videos, 0)
        for stamp, numbers in self._plan:
            for name, number in numbers.items():
                offset = abs(int(self._videos[name].stamps_ns[number]) - stamp)
                offsets[name] = max(offsets[name], offset)
        return {
            name: {
                "frames": len(video),
                "rate_hz": round(video.rate_hz, 4),
                "variable_rate": video.is_variable,
                "used": self._given[name],
                "missing": self._missing[name],
                "largest_offset_ms": round(offsets[name] * 1e-6, 3),
            }
            for name, video in self._videos.items()
        }

    def close(self) -> None:
        """Close the files; an iteration that runs ends with the next set."""
        self._closed = True
        self._close_files()

    def _close_files(self) -> None:
        for video in self._videos.values():
            video.close()

    def _submit(self, pool: ThreadPoolExecutor, index: int) -> dict[str, Future[Image | None]]:
        if index >= self.set_count or self._closed:
            return {}
        return {
            name: pool.submit(self._videos[name].read, number)
            for name, number in self._plan[index][1].items()
        }

    def _images(self, index: int, frames: dict[str, Image | None]) -> tuple[StampedImage, ...]:
        stamp = START_NS + self._plan[index][0]
        images = []
        for camera in self.rig.cameras:
            pixels = frames.get(camera.name)
            if pixels is None:
                self._count_missing(camera.name, index, camera.name in frames)
                continue
            self._given[camera.name] += 1
            images.append(StampedImage(camera.name, stamp, pixels, "bgr8", camera.frame_id))
        return tuple(images)

    def _count_missing(self, name: str, index: int, is_damaged: bool) -> None:
        self._missing[name] += 1
        if is_damaged:
            _LOG.warning(
                "video %s: frame %d cannot be decoded",
                self._videos[name].path,
                self._plan[index][1][name],
            )

    def _tell_ends(self) -> None:
        ends = {name: int(video.stamps_ns[-1]) * 1e-9 for name, video in self._videos.items()}
        period = max(video.period_ns for video in self._videos.values()) * 1e-9
        if max(ends.values()) - min(ends.values()) > period:
            _LOG.warning(
                "videos %s: of different lengths (%s); the last sets lack some cameras",
                self.path,
                ", ".join(f"{name}: {end:.2f} s" for name, end in ends.items()),
            )


def plan_sets(
    videos: Mapping[str, VideoFile], frame_step: int = 1
) -> list[tuple[int, dict[str, int]]]:
    """Per set its time from the start [ns] and the number of the frame of each camera.

    A camera without a frame within half a period of the slowest video is left out of the set.
    """
    slowest = min(videos.values(), key=lambda video: round(video.rate_hz, 3))
    period = slowest.period_ns
    end = max(int(video.stamps_ns[-1]) for video in videos.values())
    last = int(slowest.stamps_ns[-1])
    more = max(0, (end - last + _ROUNDING_NS) // period)
    times = np.concatenate([slowest.stamps_ns, last + period * np.arange(1, more + 1)])
    plan: list[tuple[int, dict[str, int]]] = []
    for time in times[::frame_step].tolist():
        numbers = {}
        for name, video in videos.items():
            number, offset = video.nearest(time)
            if abs(offset) <= period // 2 + _ROUNDING_NS:
                numbers[name] = number
        plan.append((int(time), numbers))
    return plan


def find_videos(path: Path) -> list[VideoCamera]:
    """The videos of a folder by its layout, in natural order; see `VideoSource`.

    Raises:
        SourceError: no such folder, no videos, or two layouts at once.
    """
    if path.is_file():
        return [VideoCamera(ros_name(path.stem), (path.stem, path.name), path)]
    if not path.is_dir():
        raise SourceError(f"videos {path}: there is no such folder or file")
    try:
        flat = _video_files(path)
        folders = sorted(
            (d for d in path.iterdir() if d.is_dir() and not d.name.startswith(".")),
            key=lambda d: natural_key(d.name),
        )
        nested = {d: files for d in folders if (files := _video_files(d))}
    except OSError as error:
        raise SourceError(f"videos {path}: cannot be read: {error.strerror}") from error
    if flat and nested:
        raise SourceError(
            f"videos {path}: has videos ({flat[0].name}, ...) and sub-folders with videos "
            f"({next(iter(nested)).name}, ...); expected one or the other"
        )
    if flat:
        return [VideoCamera(ros_name(f.stem), (f.stem, f.name), f) for f in flat]
    if not nested:
        raise SourceError(f"videos {path}: no videos ({', '.join(SUFFIXES)})")
    for folder, files in nested.items():
        if len(files) > 1:
            _LOG.warning("videos %s: only %s of %d is used", folder, files[0].name, len(files))
    return [VideoCamera(ros_name(d.name), (d.name,), files[0]) for d, files in nested.items()]


def _video_files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    return sorted(files, key=lambda f: natural_key(f.name))
