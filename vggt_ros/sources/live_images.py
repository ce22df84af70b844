"""A folder of images that grows while it is read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.sources.calibration_files import Calibration
from vggt_ros.sources.cameras import Views, match_rig, natural_key, select
from vggt_ros.sources.image_files import load_image
from vggt_ros.sources.images import (
    check_rate,
    find_cameras,
    frame_at,
    image_files,
    load_checked,
)
from vggt_ros.sources.source import START_NS
from vggt_ros.types import StampedImage

_LOG = logging.getLogger(__name__)

_POLL_S = 0.1
_SETTLED_S = 0.5
"""An image that cannot be decoded, but was written to more recently, is still being written."""


class LiveImageFolderSource:
    """Sets of images from a folder to which others write; the layouts of `ImageFolderSource`.

    The cameras are those that have an image once every camera of `views` or of the rig has one.
    The k-th images of all cameras are one set, in the order of their names; a set is given once
    all cameras have it. It ends when nothing has come for `idle_s`.

    Args:
        directory: the folder; it may still be empty or missing.
        rig: see `ImageFolderSource`.
        fps: images per second of each camera, for the stamps.
        views: which cameras.
        frame_step: every so many-th image of each camera.
        calibration: intrinsics and poses from files.
        idle_s: ends when no new set has come for so long.
        stop: set from outside to end it at once.

    Raises:
        ConfigError: a number that is not positive.
        SourceError: no images within `idle_s`, or a camera that is not there by then.
        CalibrationError: calibration of other cameras or images.
    """

    is_live = True
    set_count = None

    def __init__(
        self,
        directory: str | Path,
        rig: Rig | None = None,
        fps: float = 10.0,
        *,
        views: Views | None = None,
        frame_step: int = 1,
        calibration: Calibration | None = None,
        idle_s: float = 30.0,
        stop: threading.Event | None = None,
    ):
        check_rate(fps, frame_step)
        if not idle_s > 0:
            raise ConfigError(f"idle_s: expected a number > 0, got {idle_s}")
        self.directory = Path(directory)
        self.fps = float(fps)
        self.frame_step = frame_step
        self.idle_s = idle_s
        self._stop = stop or threading.Event()
        self._rig = rig
        self._views = views or Views()
        self._folders: dict[str, Path] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self.rig = self._wait_for_cameras()
        """The cameras with their final names and frames, and what is known of them."""
        self.sizes: Mapping[str, tuple[int, int]] = {
            name: self._first_size(folder) for name, folder in self._folders.items()
        }
        """(width, height) [px] of the first upright image of each camera."""
        self._calibration = calibration
        if calibration is not None:
            self.rig = calibration.applied_to(self.rig, self._keys, self.sizes)
        self._given: dict[str, int] = dict.fromkeys(self._folders, 0)
        self._last: dict[str, str] = {}
        self._next = 0

    @property
    def rate_hz(self) -> float:
        """Sets per second that are expected."""
        return self.fps / self.frame_step

    def __iter__(self) -> Iterator[tuple[StampedImage, ...]]:
        """Sets as they become whole; see `ImageSource`."""
        idle_since = time.monotonic()
        while not self._stop.is_set():
            images = self._take()
            if images is not None:
                yield images
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > self.idle_s:
                _LOG.info("folder %s: no new set for %g s", self.directory, self.idle_s)
                return
            else:
                self._stop.wait(_POLL_S)

    def poses(self, stamp_ns: int) -> dict[str, Rigid3]:
        """`world_from_camera` of the cameras with a known pose; see `ImageSource`."""
        if self._calibration is None:
            return self.rig.poses
        return self._calibration.poses_of(self.rig, self._keys, frame_at(stamp_ns, self.fps))

    def report(self) -> dict[str, Any]:
        """Images per camera."""
        return {name: {"used": count} for name, count in self._given.items()}

    def close(self) -> None:
        """End the iteration."""
        self._stop.set()

    def _wait_for_cameras(self) -> Rig:
        limit = time.monotonic() + self.idle_s
        while True:
            try:
                return self._find()
            except SourceError:
                if self._stop.is_set() or time.monotonic() > limit:
                    raise
                self._stop.wait(_POLL_S)

    def _find(self) -> Rig:
        where = f"folder {self.directory}"
        found = find_cameras(self.directory)
        pairs = select(match_rig(found, self._rig, where), self._views, where)
        folders = {camera.name: camera.folder for camera in found}
        self._folders = {entry.name: folders[camera.name] for camera, entry in pairs}
        self._keys = {entry.name: (*camera.keys, camera.name) for camera, entry in pairs}
        return Rig(tuple(e for _, e in pairs), self._rig.rig_frame if self._rig else "rig")

    def _first_size(self, folder: Path) -> tuple[int, int]:
        path = image_files(folder)[0]
        while True:
            try:
                return load_image(path)[2]
            except SourceError:
                if _is_settled(path) or self._stop.wait(_POLL_S):
                    raise

    def _take(self) -> tuple[StampedImage, ...] | None:
        stamp = START_NS + round(self._next * self.frame_step * 1e9 / self.fps)
        ahead = self.frame_step - 1 if self._next else 0  # those between are passed over
        paths: dict[str, Path] = {}
        for name, folder in self._folders.items():
            files = self._new_files(name, folder)
            if len(files) <= ahead:
                return None
            paths[name] = files[ahead]
        images = []
        for camera in self.rig.cameras:
            try:
                images.append(load_checked(camera, stamp, paths[camera.name]))
            except SourceError:
                if _is_settled(paths[camera.name]):
                    raise
                return None
        for name, path in paths.items():
            self._last[name] = path.name
            self._given[name] += 1
        self._next += 1
        return tuple(images)

    def _new_files(self, name: str, folder: Path) -> list[Path]:
        """Those whose names come after the one given last."""
        try:
            files = image_files(folder)
        except OSError as error:
            raise SourceError(f"folder {folder}: cannot be read: {error.strerror}") from error
        last = self._last.get(name)
        if last is None:
            return files
        return [file for file in files if natural_key(file.name) > natural_key(last)]


def _is_settled(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _SETTLED_S
    except OSError:
        return True
