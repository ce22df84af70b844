"""What is known of the rig before mapping: rig file, CameraInfo and TF, which come late."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from typing import Any, TypeVar

from vggt_ros.config import Config
from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.nodes.transforms import Frames
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.sources.messages import model_from_camera_info
from vggt_ros.types import AlignedScene, unscaled_frame

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The rig as far as it is known, with the optical frame of every camera."""

    rig: Rig
    missing: tuple[str, ...]
    """Sentences about what is not known, for the log."""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal knowledge."""
        return tuple(
            (c.frame_id, c.model, c.rig_from_camera and c.rig_from_camera.matrix.tobytes())
            for c in self.rig.cameras
        )


class Calibration:
    """Collects what callbacks bring and tells when it is enough; safe between threads.

    The rig file wins over CameraInfo and TF, for it was written on purpose. A wrong CameraInfo is
    an error that is told, but does not take the place of one that was right.

    Args:
        config: `cameras` in their order, `bootstrap`, `frame.*`, `ingest.require_calibration`.
        rig: content of the rig file, if there is one.
        frames: the tf tree.
        wait_s: after the first image, wait this long for what is missing.
    """

    def __init__(self, config: Config, rig: Rig | None, frames: Frames, wait_s: float) -> None:
        self._config = config
        self._file = {camera.name: camera for camera in rig.cameras} if rig else {}
        prefix = config.frame.prefix  # that of config is in its names already
        self._rig_frame = prefix + rig.rig_frame if rig else config.frame.rig
        self._frames = frames
        self._wait_s = wait_s
        self._first_image_s: float | None = None
        self._lock = threading.Lock()
        self._models: dict[str, CameraModel | None] = {}
        self._errors: dict[str, str] = {}
        self._frame_ids: dict[str, str] = {}

    def take_info(self, camera: str, message: Any) -> None:
        """Take a CameraInfo; a wrong one is remembered as an error until a right one comes."""
        try:
            topic = self._config.camera[camera].image_topic
            is_rectified = topic.rsplit("/", 1)[-1].startswith("image_rect")
            model = model_from_camera_info(message, camera, rectified=is_rectified)
        except CalibrationError as error:
            with self._lock:
                self._errors[camera] = str(error)
            return
        with self._lock:
            self._errors.pop(camera, None)
            self._models[camera] = model
            if message.header.frame_id:
                self._frame_ids.setdefault(camera, message.header.frame_id.lstrip("/"))

    def take_image(self, camera: str, frame_id: str, now_s: float) -> None:
        """Note that an image came, and its frame."""
        with self._lock:
            if self._first_image_s is None:
                self._first_image_s = now_s
            if frame_id:
                self._frame_ids[camera] = frame_id.lstrip("/")

    def frame_id(self, camera: str) -> str:
        """Optical frame: parameter, rig file, messages, or made from the camera's name."""
        entry = self._config.camera.get(camera)
        if entry is not None and entry.frame_id:
            return entry.frame_id
        prefix = self._config.frame.prefix
        if camera in self._file and self._file[camera].frame_id:
            return prefix + self._file[camera].frame_id
        with self._lock:
            return self._frame_ids.get(camera) or f"{prefix}{camera}_optical_frame"

    @property
    def errors(self) -> dict[str, str]:
        """Per camera, what is wrong with its CameraInfo."""
        with self._lock:
            return dict(self._errors)

    def resolve(self, now_s: float) -> Calibrated | str:
        """The rig, or a sentence that says what is still waited for.

        Args:
            now_s: the clock that `take_image` was given.

        Raises:
            CalibrationError: a CameraInfo is impossible, or two cameras share a frame.
        """
        with self._lock:
            errors, models = dict(self._errors), dict(self._models)
            started = self._first_image_s
        given = {n: c.model for n, c in self._file.items() if c.model is not None}
        for camera, text in errors.items():
            if camera not in given and camera not in models:  # one that was right still holds
                raise CalibrationError(text)
        cameras = self._config.cameras
        frame_ids = {name: self.frame_id(name) for name in cameras}
        self._check_frames(frame_ids)
        models.update(given)
        poses, rig_frame = self._poses(frame_ids)
        without_model = [name for name in cameras if models.get(name) is None]
        unheard = [name for name in without_model if name not in models]
        without_pose = [name for name in cameras if name not in poses]
        missing = []
        if without_model:
            missing.append(f"no intrinsics of {', '.join(without_model)}")
        if without_pose:
            missing.append(f"no pose on the rig (rig file or TF) of {', '.join(without_pose)}")
        needs_all = self._config.bootstrap == "rig"
        must_wait = (needs_all or self._config.ingest.require_calibration) and without_model
        must_wait = must_wait or (needs_all and without_pose)
        in_time = started is None or now_s - started < self._wait_s
        if must_wait or (in_time and (unheard or without_pose)):
            return f"waiting for calibration: {'; '.join(missing)}"
        rig = Rig(
            tuple(
                RigCamera(
                    name,
                    frame_id=frame_ids[name],
                    model=models.get(name),
                    rig_from_camera=poses.get(name),
                )
                for name in cameras
            ),
            rig_frame,
        )
        return Calibrated(rig, tuple(missing))

    def _poses(self, frame_ids: dict[str, str]) -> tuple[dict[str, Rigid3], str]:
        """`rig_from_camera` of as many cameras as possible, and the name of the rig frame."""
        given = {
            name: self._file[name].rig_from_camera
            for name in frame_ids
            if name in self._file and self._file[name].rig_from_camera is not None
        }
        if given:
            return {n: p for n, p in given.items() if p is not None}, self._rig_frame
        best: dict[str, Rigid3] = {}
        best_frame = self._rig_frame
        map_frame = self._config.frame.map
        known = (map_frame, unscaled_frame(map_frame), self._config.frame.odom)
        below = [frame for frame in known if frame]
        tops = [self._frames.top(frame, *below) for frame in frame_ids.values()]
        # A camera without a parent is no rig; one that TF moves is a rig of one.
        moves_alone = self._config.motion == "tf" and len(frame_ids) == 1
        for candidate in dict.fromkeys([self._config.frame.base, self._rig_frame, *tops]):
            if not candidate or (candidate in frame_ids.values() and not moves_alone):
                continue
            found = {}
            for name, frame in frame_ids.items():
                pose = self._frames.lookup(candidate, frame)
                if pose is not None:
                    found[name] = pose
            if len(found) > len(best):
                best, best_frame = found, candidate
        return best, best_frame

    @staticmethod
    def _check_frames(frame_ids: dict[str, str]) -> None:
        owners: dict[str, str] = {}
        for camera, frame in frame_ids.items():
            if frame in owners:
                raise CalibrationError(
                    f"cameras '{owners[frame]}' and '{camera}': both have the frame_id "
                    f"'{frame}'; give each camera its own optical frame (driver, or parameter "
                    f"camera.{camera}.frame_id)"
                )
            owners[frame] = camera


def rig_from_cameras(calibrated: Calibrated, scene: AlignedScene) -> dict[str, Rigid3]:
    """Where the cameras sit on the rig: as given, else as found, else the only camera is it."""
    found = dict(calibrated.rig.poses)
    if scene.map_from_rig is not None:
        rig_from_map = scene.map_from_rig.inverse()
        for camera, map_from_camera in scene.map_from_camera.items():
            found.setdefault(camera, rig_from_map @ map_from_camera)
    if not found and len(calibrated.rig.cameras) == 1:
        found[calibrated.rig.cameras[0].name] = Rigid3.identity()
    return found


def with_rig_topics(config: C, rig: Rig | None) -> C:
    """Fill in cameras and topics: parameter, else rig file, else `<name>/image_raw`.

    This is also where `frame.prefix` comes before the names of frames, so that it stands in the
    result already.
    """
    prefix = config.frame.prefix
    if rig is None:
        cameras = config.cameras
        file: dict[str, RigCamera] = {}
    else:
        cameras = list(config.cameras) or list(rig.names)
        file = {camera.name: camera for camera in rig.cameras}
    entries = {}
    for name in cameras:
        entry = config.camera[name]
        if name in file:
            entry = dataclasses.replace(
                entry,
                image_topic=entry.image_topic or file[name].image,
                info_topic=entry.info_topic or file[name].camera_info,
                frame_id=entry.frame_id or file[name].frame_id,
            )
        if entry.frame_id:
            entry = dataclasses.replace(entry, frame_id=prefix + entry.frame_id)
        entries[name] = entry.resolved(name)
    names = {
        key: prefix + name
        for key in ("map", "rig", "base", "odom")
        if (name := getattr(config.frame, key))
    }
    frame = dataclasses.replace(config.frame, **names)
    return dataclasses.replace(config, cameras=list(cameras), camera=entries, frame=frame)
