"""What can be compared: result folders, camera lists, rig files, trajectories and clouds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.errors import SourceError, nearest
from vggt_ros.export.pcd import read_pcd
from vggt_ros.export.ply import read_ply
from vggt_ros.export.trajectory import StampedPose, read_tum
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.rig import load_rig
from vggt_ros.types import PointCloud

REPORT, MAP, CAMERAS = "report.json", "map.ply", "cameras.tum"
"""Files of a result folder, as `vggt-ros replay` writes them."""


@dataclass(frozen=True, eq=False)
class Comparable:
    """The content of a file or folder; what it does not hold is empty."""

    origin: str
    cameras: dict[str, Rigid3] = field(default_factory=dict)
    """`frame_from_camera` of cameras that do not move."""
    trajectories: dict[str, list[StampedPose]] = field(default_factory=dict)
    """By the name of the camera; "" for the only body of a file."""
    cloud: PointCloud | None = None
    is_metric: bool | None = None
    """Whether it says that its unit is the metre; None: it says nothing."""

    @property
    def kinds(self) -> str:
        """What it holds, for people."""
        names = {"cameras": self.cameras, "trajectory": self.trajectories}
        found = [name for name, content in names.items() if content]
        return ", ".join(found + ["cloud"] * (self.cloud is not None)) or "nothing"

    def merged(self, other: Comparable) -> Comparable:
        """With what `other` holds beside; `other` wins."""
        return Comparable(
            f"{self.origin}, {other.origin}",
            {**self.cameras, **other.cameras},
            {**self.trajectories, **other.trajectories},
            other.cloud if other.cloud is not None else self.cloud,
            other.is_metric if other.is_metric is not None else self.is_metric,
        )


def load_comparable(path: str | Path) -> Comparable:
    """Read a result folder, or a file by its suffix.

    `.json`: `report.json`, or a list with `file`, `R_w2c`, `t_w2c` (world-to-camera) for each
    image; `.yaml`, `.yml`: a rig file; `.tum`, `.txt`: poses; `.ply`, `.pcd`: a cloud.

    Raises:
        SourceError: missing or damaged file, or another type.
        ConfigError: a rig file with an error.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    readers: dict[str, Callable[[Path], Comparable]] = {
        ".json": _load_json,
        ".yaml": _load_rig,
        ".yml": _load_rig,
        ".tum": _load_poses,
        ".txt": _load_poses,
        ".ply": _load_cloud,
        ".pcd": _load_cloud,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourceError(
            f"{path}: expected a folder of results or a file of type {', '.join(readers)}"
            f"{nearest(path.suffix.lower(), readers)}"
        )
    return reader(path)


def match_names(found: Iterable[str], truth: Iterable[str]) -> dict[str, str]:
    """Pairs of names, truth to found: equal names, else those that mean the same image.

    A bag made from images calls `0001.jpg` `cam_0001`, since a ROS name begins with a letter.

    Raises:
        SourceError: two names of one side mean the same.
    """
    found, truth = list(found), list(truth)
    pairs = {name: name for name in truth if name in found}
    if pairs:
        return pairs
    by_key = _by_key(found)
    return {name: by_key[key] for key, name in _by_key(truth).items() if key in by_key}


def to_json(value: Any) -> Any:
    """Dataclasses of this package as JSON: matrices as lists, NaN as null."""
    if isinstance(value, (Sim3, Rigid3)):
        return value.matrix.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _load_folder(path: Path) -> Comparable:
    result = Comparable(str(path))
    for name, read in ((CAMERAS, _load_poses), (REPORT, _load_json), (MAP, _load_cloud)):
        if (path / name).is_file():
            result = result.merged(read(path / name))
    if result.kinds == "nothing":
        raise SourceError(
            f"{path}: is no folder of results: expected {REPORT} with registered cameras, {MAP} "
            f"or {CAMERAS}"
        )
    return dataclasses.replace(result, origin=str(path))


def _load_json(path: Path) -> Comparable:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path}: is not JSON: {error}") from error
    try:
        if isinstance(data, dict) and isinstance(data.get("cameras"), dict):
            return _from_report(path, data)
        images = data.get("cameras") if isinstance(data, dict) else data
        if isinstance(images, list) and images:
            return Comparable(str(path), dict(_from_world_to_camera(entry) for entry in images))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise SourceError(f"{path}: a camera is not understood: {what}") from error
    raise SourceError(
        f"{path}: expected 'cameras: {{name: {{map_from_camera}}}}' as in {REPORT}, or a list "
        "of images with 'file', 'R_w2c' and 't_w2c'"
    )


def _from_report(path: Path, data: dict[str, Any]) -> Comparable:
    poses: dict[str, Rigid3] = {}
    for name, entry in data["cameras"].items():
        if entry.get("registered", True) and entry.get("map_from_camera") is not None:
            poses[name] = Rigid3.from_matrix(entry["map_from_camera"])
    source = (data.get("scale") or {}).get("source")
    is_metric = None if source is None else source != "none"
    return Comparable(str(path), poses, is_metric=is_metric)


def _from_world_to_camera(entry: dict[str, Any]) -> tuple[str, Rigid3]:
    name = entry.get("name") or entry["file"]
    return str(name), Rigid3(entry["R_w2c"], entry["t_w2c"]).inverse()


def _load_rig(path: Path) -> Comparable:
    poses = load_rig(path).poses
    if not poses:
        raise SourceError(f"{path}: no camera has 'rig_from_camera'")
    return Comparable(str(path), poses, is_metric=True)


def _load_poses(path: Path) -> Comparable:
    trajectories: dict[str, list[StampedPose]] = {}
    for pose in read_tum(path):
        trajectories.setdefault(pose.name, []).append(pose)
    if "" not in trajectories and all(len(poses) == 1 for poses in trajectories.values()):
        cameras = {name: poses[0].map_from_body for name, poses in trajectories.items()}
        return Comparable(str(path), cameras)
    return Comparable(str(path), trajectories=trajectories)


def _load_cloud(path: Path) -> Comparable:
    cloud = read_pcd(path) if path.suffix.lower() == ".pcd" else read_ply(path)
    return Comparable(str(path), cloud=cloud)


def _by_key(names: Iterable[str]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"\.(jpe?g|png|tiff?|bmp|webp)$", "", name.lower())
        key = re.sub(r"\W", "_", stem).removeprefix("cam_")
        if key in keys:
            raise SourceError(f"cameras '{keys[key]}' and '{name}' cannot be told apart by name")
        keys[key] = name
    return keys
