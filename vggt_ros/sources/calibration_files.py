"""Intrinsics and poses of cameras from `.npz`, `.json`, `.yaml` and PKU `cam.txt` files.

Intrinsics are K (3, 3) [px] at the native resolution of the images. Poses are
`world_from_camera` (camera to world), cameras being optical frames.

| | `.npz` | `.json`, `.yaml` |
|---|---|---|
| intrinsics | `<camera>` -> K | `{"intrinsics": {<camera>: K}}`, `{<camera>: K}` or a list of `{"camera" or "id", "matrix"}` |
| poses | `<camera>/<frame>` -> 3x4 or 4x4 | `{"poses": [...]}` or a list of `{"camera" or "cam", "frame" or "t", "matrix"}` |

In `.json` and `.yaml` an entry may say more: `{"matrix": K, "size": [width, height],
"distortion": {"model": plumb_bob, "coefficients": [...]}}`.
"""  # noqa: E501

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import CalibrationError, nearest
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.decode import fit_model
from vggt_ros.rig import Rig
from vggt_ros.sources.calibration_entries import (
    Intrinsics,
    intrinsics_from,
    model_at,
    pose_from,
)

_LOG = logging.getLogger(__name__)

SUFFIXES = (".npz", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Calibration:
    """Intrinsics by camera id, and `world_from_camera` by camera id and frame number."""

    intrinsics: Mapping[str, Intrinsics] = field(default_factory=dict)
    world_from_camera: Mapping[str, Mapping[int, Rigid3]] = field(default_factory=dict)
    origin: str = "calibration"
    """The files, for messages."""

    def applied_to(
        self,
        rig: Rig,
        keys: Mapping[str, Sequence[str]],
        sizes: Mapping[str, tuple[int, int]],
    ) -> Rig:
        """The rig with models scaled to the images, and the poses of frame 0.

        Where there are poses, the frame of the rig is that of the files, `world`.

        Args:
            rig: cameras with final names.
            keys: what the files may call each camera besides.
            sizes: native (width, height) [px] of the images.

        Raises:
            CalibrationError: no camera of the files is one of the rig, or intrinsics that do
                not fit the images.
        """
        cameras = list(rig.cameras)
        if self.intrinsics:
            ids = self._matched(rig.names, keys, self.intrinsics, "intrinsics")
            for k, camera in enumerate(cameras):
                if (name := ids.get(camera.name)) is not None:
                    model = model_at(self.intrinsics[name], sizes[camera.name], camera.name)
                    cameras[k] = replace(camera, model=model)
        frame = rig.rig_frame
        if self.world_from_camera:
            frame = "world"
            ids = self._matched(rig.names, keys, self.world_from_camera, "poses")
            for k, camera in enumerate(cameras):
                pose = None
                if (name := ids.get(camera.name)) is not None:
                    pose = self._pose(name, 0)
                cameras[k] = replace(cameras[k], rig_from_camera=pose)
        for camera in cameras:
            if camera.model is not None:
                fit_model(camera.model, sizes[camera.name], camera.name)
        return Rig(tuple(cameras), frame)

    def poses_of(
        self, rig: Rig, keys: Mapping[str, Sequence[str]], frame: int
    ) -> dict[str, Rigid3]:
        """`world_from_camera` of a frame; where it has none, that of frame 0."""
        if not self.world_from_camera:
            return rig.poses
        ids = _ids(rig.names, keys, self.world_from_camera)
        return {camera: self._pose(name, frame) for camera, name in ids.items()}

    def _pose(self, name: str, frame: int) -> Rigid3:
        poses = self.world_from_camera[name]
        found = poses.get(frame, poses.get(0))
        if found is None:
            raise CalibrationError(
                f"poses {self.origin}: camera '{name}' has neither frame {frame} nor frame 0; it "
                f"has {_some(sorted(poses))}; give one pose of a fixed camera as frame 0"
            )
        return found

    def _matched(
        self,
        names: Iterable[str],
        keys: Mapping[str, Sequence[str]],
        entries: Mapping[str, Any],
        what: str,
    ) -> dict[str, str]:
        names = list(names)
        ids = _ids(names, keys, entries)
        if not ids:
            raise CalibrationError(
                f"{what} {self.origin}: for other cameras; expected {', '.join(names)}, got "
                f"{_some(entries)}{nearest(names[0], entries)}"
            )
        missing = [name for name in names if name not in ids]
        if missing:
            _LOG.warning("%s %s: none for %s", what, self.origin, ", ".join(missing))
        return ids


def load_calibration(
    intrinsics: str | Path | None = None, poses: str | Path | None = None
) -> Calibration | None:
    """Read one or both files; a folder of PKU `*_cam.txt` files gives what it is asked for.

    Returns:
        None where neither is given.

    Raises:
        CalibrationError: a file that is missing, unreadable or wrong; it is named with the entry.
    """
    if not intrinsics and not poses:
        return None
    origin = " and ".join(dict.fromkeys(str(p) for p in (intrinsics, poses) if p))
    return Calibration(
        load_intrinsics(intrinsics) if intrinsics else {},
        load_poses(poses) if poses else {},
        origin,
    )


def load_intrinsics(path: str | Path) -> dict[str, Intrinsics]:
    """K by camera id; see the head of this file.

    Raises:
        CalibrationError: a file that is missing, unreadable or wrong.
    """
    path = Path(path)
    where = f"intrinsics {path}"
    if path.is_dir():
        from vggt_ros.sources.pku_cams import load_pku_cams

        return load_pku_cams(path).intrinsics  # type: ignore[return-value]
    content = _read(path, where)
    entries: dict[str, Any] = {}
    if isinstance(content, dict) and "intrinsics" in content:
        content = content["intrinsics"]
    if isinstance(content, dict):
        entries = {str(k): v for k, v in content.items()}
    elif isinstance(content, list):
        for k, entry in enumerate(content):
            name = _first(entry, ("camera", "id", "cam"), f"{where}: entry {k}")
            if str(name) in entries:
                raise CalibrationError(f"{where}: camera '{name}' is there twice")
            entries[str(name)] = entry
    else:
        raise CalibrationError(f"{where}: expected cameras, got {type(content).__name__}")
    if not entries:
        raise CalibrationError(f"{where}: no cameras in it")
    if "poses" in entries or any("/" in name for name in entries):
        raise CalibrationError(f"{where}: it holds poses; expected intrinsics: swap the files")
    return {k: intrinsics_from(v, f"{where}: camera '{k}'") for k, v in entries.items()}


def load_poses(path: str | Path) -> dict[str, dict[int, Rigid3]]:
    """`world_from_camera` by camera id and frame number; see the head of this file.

    Raises:
        CalibrationError: a file that is missing, unreadable or wrong.
    """
    path = Path(path)
    where = f"poses {path}"
    if path.is_dir():
        from vggt_ros.sources.pku_cams import load_pku_cams

        return load_pku_cams(path).world_from_camera  # type: ignore[return-value]
    content = _read(path, where)
    if isinstance(content, dict) and "poses" in content:
        content = content["poses"]
    triples: list[tuple[str, Any, Any]] = []
    if isinstance(content, dict):
        for key, matrix in content.items():
            name, slash, frame = str(key).rpartition("/")
            if not slash:
                raise CalibrationError(
                    f"{where}: expected keys '<camera>/<frame>', got '{key}'"
                    + ("; it holds intrinsics: swap the files" if key == "intrinsics" else "")
                )
            triples.append((name, frame, matrix))
    elif isinstance(content, list):
        for k, entry in enumerate(content):
            at = f"{where}: entry {k}"
            name = _first(entry, ("camera", "cam", "id"), at)
            frame = entry.get("frame", entry.get("t", 0))
            triples.append((str(name), frame, _first(entry, ("matrix",), at)))
    else:
        raise CalibrationError(f"{where}: expected poses, got {type(content).__name__}")
    if not triples:
        raise CalibrationError(f"{where}: no poses in it")
    poses: dict[str, dict[int, Rigid3]] = {}
    for name, frame, matrix in triples:
        at = f"{where}: camera '{name}', frame {frame}"
        number = _frame_number(frame, at)
        if number in poses.setdefault(name, {}):
            raise CalibrationError(f"{at}: is there twice")
        poses[name][number] = pose_from(matrix, at)
    return poses


def _read(path: Path, where: str) -> Any:
    if path.suffix.lower() not in SUFFIXES:
        raise CalibrationError(
            f"{where}: expected a file {', '.join(SUFFIXES)} or a folder of cam.txt files, got "
            f"'{path.suffix or path.name}'"
        )
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        text = path.read_text()
    except OSError as error:
        raise CalibrationError(f"{where}: cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CalibrationError(f"{where}: is no valid file: {error}") from error
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise CalibrationError(f"{where}: is not JSON: {error}") from error
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CalibrationError(f"{where}: is not YAML: {error}") from error


def _first(entry: Any, names: tuple[str, ...], where: str) -> Any:
    if isinstance(entry, dict):
        for name in names:
            if name in entry:
                return entry[name]
    got = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
    raise CalibrationError(f"{where}: expected '{names[0]}', got {got}")


def _frame_number(frame: Any, where: str) -> int:
    try:
        number = int(frame)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or float(frame) != number:
        raise CalibrationError(f"{where}: expected a frame number >= 0, got {frame!r}")
    return number


def _ids(
    names: Iterable[str], keys: Mapping[str, Sequence[str]], entries: Mapping[str, Any]
) -> dict[str, str]:
    """By camera the id that a file uses: the same word, or, failing all words, the same number.

    Numbers (`cam_3`, `00000003`) are compared only where every camera has one of its own in both.
    """
    names = list(names)
    found = {}
    for name in names:
        for key in (name, *keys.get(name, ())):
            if key in entries:
                found[name] = key
                break
    if found:
        return found
    ours = {_number(name): name for name in names}
    theirs = {_number(name): name for name in entries}
    if None in ours or None in theirs or len(ours) < len(names) or len(theirs) < len(entries):
        return {}
    return {name: theirs[number] for number, name in ours.items() if number in theirs}


def _number(name: str) -> int | None:
    digits: list[str] = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else None


def _some(items: Iterable[Any]) -> str:
    words = [str(item) for item in items]
    return ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")
