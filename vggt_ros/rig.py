"""The rig: where the cameras sit on the robot, and `RIG.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import CalibrationError, ConfigError, nearest
from vggt_ros.geometry import CameraModel, Rigid3

_CAMERA_KEYS = (
    "image",
    "camera_info",
    "frame_id",
    "size",
    "intrinsics",
    "distortion",
    "rig_from_camera",
)


@dataclass(frozen=True, eq=False)
class RigCamera:
    """One camera of a rig; everything but the name may be unknown."""

    name: str
    image: str = ""
    """Image topic, or folder for `bag from-images`."""
    camera_info: str = ""
    frame_id: str = ""
    model: CameraModel | None = None
    rig_from_camera: Rigid3 | None = None


@dataclass(frozen=True, eq=False)
class Rig:
    """Cameras in their fixed order. `rig` is a frame fixed to the robot, z up by REP-103."""

    cameras: tuple[RigCamera, ...]
    rig_frame: str = "rig"

    @property
    def names(self) -> tuple[str, ...]:
        """Camera names in their fixed order."""
        return tuple(camera.name for camera in self.cameras)

    @property
    def poses(self) -> dict[str, Rigid3]:
        """`rig_from_camera` of the cameras whose place is known."""
        return {c.name: c.rig_from_camera for c in self.cameras if c.rig_from_camera is not None}

    @property
    def models(self) -> dict[str, CameraModel]:
        """Intrinsics of the cameras that have them."""
        return {c.name: c.model for c in self.cameras if c.model is not None}

    @property
    def size_m(self) -> float:
        """Largest distance between two known camera centres; 0 for fewer than two."""
        centres = np.array([pose.translation for pose in self.poses.values()]).reshape(-1, 3)
        if len(centres) < 2:
            return 0.0
        return float(np.linalg.norm(centres[:, None] - centres[None], axis=2).max())


def load_rig(path: str | Path) -> Rig:
    """Read a `RIG.yaml`.

    Raises:
        ConfigError: missing or unreadable file, unknown key (named with the nearest valid
            one), wrong shape of an entry.
        CalibrationError: impossible intrinsics or poses.
    """
    import yaml

    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"rig file {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"rig file {path}: is not YAML: {error}") from error
    return rig_from_dict(data, str(path))


def rig_from_dict(data: Any, origin: str) -> Rig:
    """A rig from the parsed content of `RIG.yaml`; `origin` is named in errors."""
    _check_keys(data, ("rig_frame", "cameras"), f"rig file {origin}")
    cameras = data.get("cameras")
    if not isinstance(cameras, dict) or not cameras:
        raise ConfigError(
            f"rig file {origin}: expected 'cameras' with at least one camera, got {cameras!r}"
        )
    return Rig(
        tuple(_camera(str(name), entry or {}, origin) for name, entry in cameras.items()),
        str(data.get("rig_frame") or "rig"),
    )


def rig_to_dict(rig: Rig) -> dict[str, Any]:
    """The content of a `RIG.yaml`; what is unknown is left out."""
    cameras: dict[str, Any] = {}
    for camera in rig.cameras:
        entry: dict[str, Any] = {}
        for key in ("image", "camera_info", "frame_id"):
            if getattr(camera, key):
                entry[key] = getattr(camera, key)
        if camera.model is not None:
            m = camera.model
            entry["size"] = [m.width, m.height]
            entry["intrinsics"] = [m.fx, m.fy, m.cx, m.cy]
            if m.distortion_model != "none":
                entry["distortion"] = {
                    "model": m.distortion_model,
                    "coefficients": list(m.distortion),
                }
        if camera.rig_from_camera is not None:
            entry["rig_from_camera"] = {
                "translation": camera.rig_from_camera.translation.tolist(),
                "rotation_xyzw": camera.rig_from_camera.quaternion_xyzw.tolist(),
            }
        cameras[camera.name] = entry
    return {"rig_frame": rig.rig_frame, "cameras": cameras}


def _camera(name: str, entry: Any, origin: str) -> RigCamera:
    where = f"rig file {origin}: camera '{name}'"
    _check_keys(entry, _CAMERA_KEYS, where)
    try:
        return RigCamera(
            name,
            str(entry.get("image") or ""),
            str(entry.get("camera_info") or ""),
            str(entry.get("frame_id") or ""),
            _model(entry, where),
            _pose(entry.get("rig_from_camera"), where),
        )
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{where}: {error}") from error


def _model(entry: dict[str, Any], where: str) -> CameraModel | None:
    if "intrinsics" not in entry:
        if "distortion" in entry:
            raise ConfigError(f"{where}: 'distortion' needs 'intrinsics: [fx, fy, cx, cy]'")
        return None
    if "size" not in entry:
        raise ConfigError(f"{where}: 'intrinsics' needs 'size: [width, height]'")
    width, height = _numbers(entry["size"], 2, f"{where}: size")
    fx, fy, cx, cy = _numbers(entry["intrinsics"], 4, f"{where}: intrinsics")
    distortion = entry.get("distortion") or {}
    _check_keys(distortion, ("model", "coefficients"), f"{where}: distortion")
    coefficients = tuple(float(c) for c in distortion.get("coefficients") or ())
    model = str(distortion.get("model") or ("plumb_bob" if coefficients else "none"))
    return CameraModel(int(width), int(height), fx, fy, cx, cy, model, coefficients)


def _pose(entry: Any, where: str) -> Rigid3 | None:
    if entry is None:
        return None
    _check_keys(entry, ("translation", "rotation_xyzw"), f"{where}: rig_from_camera")
    for key in ("translation", "rotation_xyzw"):
        if key not in entry:
            raise ConfigError(f"{where}: rig_from_camera needs '{key}'")
    translation = _numbers(entry["translation"], 3, f"{where}: translation")
    rotation = _numbers(entry["rotation_xyzw"], 4, f"{where}: rotation_xyzw")
    return Rigid3.from_quaternion(rotation, translation)


def _numbers(value: Any, count: int, where: str) -> list[float]:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise ConfigError(f"{where}: expected {count} numbers, got {value!r}")
    try:
        return [float(v) for v in value]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: expected {count} numbers, got {value!r}") from error


def _check_keys(entry: Any, valid: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping, got {type(entry).__name__}")
    for key in entry:
        if key not in valid:
            raise ConfigError(
                f"{where}: unknown key '{key}'{nearest(str(key), valid)}; "
                f"valid keys: {', '.join(valid)}"
            )
