"""Webcams and network cameras as one live source of synchronised sets."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.sources.calibration_files import Calibration
from vggt_ros.sources.cameras import FoundCamera, Views, match_rig, natural_key, ros_name, select
from vggt_ros.sources.webcam_device import CaptureSettings, WebcamDevice, wait_connected
from vggt_ros.types import Image, StampedImage

_LOG = logging.getLogger(__name__)

_ADVICE_PERIOD_S = 10.0
_ADVICE_SHARE = 0.5
"""Advice is given where more than this part of the decoded images was replaced unused."""
_ADVICE_LEAST = 30
_CLOSE_S = 4.0


class WebcamSource:
    """Sets of images of live cameras whose stamps differ by at most `max_skew_ms`.

    Each camera has a thread and a slot for its newest image, so that a set is never older than
    the cameras' last images, however slow the taker is; what was replaced is counted. A camera
    that fails is reported, opened again with growing pauses, and not waited for meanwhile.

    Args:
        devices: `"0"`, `"front=0"`, `"left=/dev/video2"`, `"yard=rtsp://..."`; camera N without
            a name is `camN`.
        rig: calibration; its cameras match by name or by `image`, give the names and come first.
        views: which cameras.
        frame_step: every so many-th image of each camera.
        calibration: intrinsics and poses from files.
        settings: resolution, rate and format that are asked for.
        clock: stamps [ns] at the grab.
        max_skew_ms: largest difference of stamps within a set.
        silent_after_s: a camera that is connected, but gives nothing for so long, is not waited
            for; all being silent for `give_up_s` is an error.
        open_timeout_s: at the start every camera must give an image within this time.
        give_up_s: see `silent_after_s`; 0: never.

    Raises:
        ConfigError: a device that cannot be understood, or a number out of range.
        SourceError: a camera that is absent or gives no image; it is named with what is there.
        CalibrationError: calibration of other cameras or images.
    """

    is_live = True
    set_count = None

    def __init__(
        self,
        devices: Sequence[str | int],
        rig: Rig | None = None,
        *,
        views: Views | None = None,
        frame_step: int = 1,
        calibration: Calibration | None = None,
        settings: CaptureSettings | None = None,
        clock: Callable[[], int] = time.time_ns,
        max_skew_ms: float = 40.0,
        silent_after_s: float = 2.0,
        open_timeout_s: float = 10.0,
        give_up_s: float = 60.0,
    ):
        if frame_step < 1:
            raise ConfigError(f"frame_step: expected a whole number > 0, got {frame_step}")
        if not max_skew_ms > 0:
            raise ConfigError(f"max_skew_ms: expected a number > 0, got {max_skew_ms}")
        found = [FoundCamera(name, (str(d),)) for name, d in parse_devices(devices).items()]
        wanted = parse_devices(devices)
        pairs = select(match_rig(found, rig, "webcams"), views or Views(), "webcams")
        self._arrived = threading.Condition()
        self._skew_ns = int(max_skew_ms * 1e6)
        self._silent_s, self._give_up_s = silent_after_s, give_up_s
        self._closed = False
        self._step = frame_step
        self.skipped_for_skew = 0
        """Images that were dropped to wait for one nearer to those of the other cameras."""
        self._devices = {
            entry.name: WebcamDevice(
                entry.name,
                wanted[camera.name],
                settings or CaptureSettings(),
                frame_step,
                clock,
                self._arrived,
            )
            for camera, entry in pairs
        }
        self.rig = Rig(tuple(entry for _, entry in pairs), rig.rig_frame if rig else "rig")
        """The cameras with their final names and frames, and what is known of them."""
        self._advised = time.monotonic()
        self._told_skew = -math.inf
        self._advised_counts: dict[str, tuple[int, int]] = {}
        try:
            self._open_all(open_timeout_s)
            self.sizes: Mapping[str, tuple[int, int]] = {
                name: device.size for name, device in self._devices.items() if device.size
            }
            """(width, height) [px] of the images of each camera."""
            self._calibration = calibration
            self._keys = {entry.name: (*camera.keys, camera.name) for camera, entry in pairs}
            if calibration is not None:
                self.rig = calibration.applied_to(self.rig, self._keys, self.sizes)
        except BaseException:
            self.close()
            raise

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names in the order of views."""
        return self.rig.names

    @property
    def rate_hz(self) -> float:
        """Sets per second that the slowest camera allows, as its images came lately."""
        return min(device.rate_hz for device in self._devices.values()) / self._step

    @property
    def disconnected(self) -> tuple[str, ...]:
        """Cameras that are unplugged or failed at present."""
        return tuple(name for name, d in self._devices.items() if not d.is_connected)

    def __iter__(self) -> Iterator[tuple[StampedImage, ...]]:
        """Sets of `bgr8` images with their own stamps, until `close`.

        Raises:
            SourceError: no camera has given an image for `give_up_s`.
        """
        while (taken := self._wait_for_set()) is not None:
            self._advise()
            yield tuple(
                StampedImage(camera.name, *taken[camera.name], "bgr8", camera.frame_id)
                for camera in self.rig.cameras
                if camera.name in taken
            )

    def poses(self, stamp_ns: int) -> dict[str, Rigid3]:
        """`world_from_camera` of the cameras with a known pose."""
        if self._calibration is None:
            return self.rig.poses
        return self._calibration.poses_of(self.rig, self._keys, 0)

    def report(self) -> dict[str, Any]:
        """Counts of each camera and whether it is connected."""
        return {
            name: {
                "connected": device.is_connected,
                "rate_hz": round(device.rate_hz, 2),
                **asdict(device.counts),
            }
            for name, device in self._devices.items()
        }

    def close(self) -> None:
        """Release the cameras; iterating ends."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
        for device in self._devices.values():
            device.stop()
        for device in self._devices.values():
            if not device.close(_CLOSE_S):
                _LOG.warning("camera '%s' (%s): does not close", device.name, device.shown)

    # ------------------------------------------------------------------ sets

    def _open_all(self, timeout_s: float) -> None:
        devices = list(self._devices.values())
        for device in devices:
            device.start()
        wait_connected(devices, self._arrived, timeout_s)
        absent = [d for d in devices if d.size is None]
        if absent:
            there = sorted(map(str, Path("/dev").glob("video*")), key=natural_key)
            raise SourceError(
                f"webcams: no image within {timeout_s:g} s of "
                + ", ".join(f"'{d.name}' ({d.shown})" for d in absent)
                + f"; devices there: {', '.join(there) or 'none'}; check the cable, that no other "
                f"program uses it, and the group 'video'"
            )
        for device in devices:
            width, height = device.size or (0, 0)
            _LOG.info("camera '%s' (%s): %dx%d", device.name, device.shown, width, height)

    def _wait_for_set(self) -> dict[str, tuple[int, Image]] | None:
        """The next set; None when closed."""
        began = time.monotonic()
        with self._arrived:
            while not self._closed:
                waited = time.monotonic() - began
                taken = self._take(waited > self._silent_s)
                if taken:
                    return taken
                if self._give_up_s and waited > self._give_up_s:
                    raise SourceError(
                        f"webcams: no image of any camera for {self._give_up_s:g} s: "
                        + ", ".join(f"'{d.name}' ({d.shown})" for d in self._devices.values())
                    )
                self._arrived.wait(min(0.5, self._silent_s))
        return None

    def _take(self, is_late: bool) -> dict[str, tuple[int, Image]]:
        """The images of a set if they are there; the condition is held."""
        waiting = {
            name: stamp
            for name, device in self._devices.items()
            if (stamp := device.waiting_stamp_ns) is not None
        }
        if not waiting:
            return {}
        expected = [name for name, device in self._devices.items() if device.is_connected]
        if not is_late and any(name not in waiting for name in expected):
            return {}
        newest = max(waiting.values())
        for name, stamp in waiting.items():
            if newest - stamp > self._skew_ns:
                self._devices[name].discard()
                self.skipped_for_skew += 1
        near = [name for name, stamp in waiting.items() if newest - stamp <= self._skew_ns]
        if len(near) < len(waiting):
            if not is_late:
                return {}
            self._tell_skew(newest - min(waiting.values()))
        return {name: self._devices[name].take() for name in near}

    def _tell_skew(self, skew_ns: int) -> None:
        now = time.monotonic()
        if now - self._told_skew >= _ADVICE_PERIOD_S:
            self._told_skew = now
            _LOG.warning(
                "webcams: the images of the cameras are never within %g ms of each other, now "
                "%.0f ms; sets lack cameras: raise max_skew_ms or the rate of the cameras",
                self._skew_ns * 1e-6,
                skew_ns * 1e-6,
            )

    def _advise(self) -> None:
        """Say what helps where images are lost."""
        now = time.monotonic()
        if now - self._advised < _ADVICE_PERIOD_S:
            return
        self._advised = now
        for name, device in self._devices.items():
            counts = device.counts
            before = self._advised_counts.get(name, (0, 0))
            self._advised_counts[name] = (counts.dropped, counts.given)
            dropped, given = counts.dropped - before[0], counts.given - before[1]
            if dropped + given >= _ADVICE_LEAST and dropped > _ADVICE_SHARE * (dropped + given):
                _LOG.warning("%s", drop_advice(device, dropped, dropped + given))


def drop_advice(device: WebcamDevice, dropped: int, total: int) -> str:
    """What to do about images of a camera that nobody had time for."""
    return (
        f"camera '{device.name}' ({device.shown}): {dropped} of {total} images were dropped, "
        f"mapping is slower than the camera: reduce --depth_workers, increase --frame_step, or "
        f"lower resolution or rate before the start: v4l2-ctl -d {device.shown} "
        f"--set-fmt-video=width=640,height=480,pixelformat=MJPG --set-parm=15"
    )


def parse_devices(devices: Sequence[str | int]) -> dict[str, int | str]:
    """`0`, `front=0`, `left=/dev/video2`, `yard=http://...` to device by camera name.

    Raises:
        ConfigError: none, a word that is no device, or a name or device that is there twice.
    """
    if not devices:
        raise ConfigError("webcams: expected devices, such as 0 1 2 or front=0 left=1, got none")
    found: dict[str, int | str] = {}
    for word in map(str, devices):
        # The = of a query of an address is none of ours.
        match = re.fullmatch(r"(?:([^=:/]+)=)?(.+)", word.strip())
        name, device = (match[1], match[2].strip()) if match else (None, "")
        is_number = device.isdecimal()
        if not (is_number or device.startswith("/") or "://" in device):
            raise ConfigError(
                f"webcams: expected a number, /dev/videoN or an address, perhaps after NAME=, "
                f"got '{word}'"
            )
        if name is None:
            number = re.search(r"(\d+)$", device)
            name = f"cam{number[1]}" if number and "://" not in device else f"cam{len(found)}"
        name = ros_name(name)
        value: int | str = int(device) if is_number else device
        if name in found:
            raise ConfigError(f"webcams: camera '{name}' is there twice")
        if value in found.values():
            raise ConfigError(f"webcams: device {device} is there twice")
        found[name] = value
    return found
