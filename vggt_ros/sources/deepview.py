"""Cameras of a DeepView scene (immersive light field video): `models.json` beside the videos.

Source: Broxton et al., "Immersive light field video with a layered mesh representation", SIGGRAPH
2020, and the description of its data: per camera name, width, height, focal_length,
principal_point, pixel_aspect_ratio, position (of the camera in the world), orientation (rotation
vector, world to camera) and, with projection_type "fisheye", radial_distortion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.rig import Rig, RigCamera

MODELS = "models.json"


def load_deepview(scene: str | Path) -> Rig:
    """The rig of a scene; its frame is `world`, that of the file.

    The lens is r = f * theta * (1 + k1 theta^2 + k2 theta^4 + k3 theta^6), which is the
    `equidistant` model with a last coefficient of zero.

    Args:
        scene: the folder with `models.json`, or the file.

    Raises:
        CalibrationError: no such file, no JSON, or an entry that lacks something.
    """
    path = Path(scene)
    if path.is_dir():
        path = path / MODELS
    try:
        entries = json.loads(path.read_text())
    except OSError as error:
        raise CalibrationError(
            f"cameras {path}: cannot be read: {error.strerror}; expected {MODELS} of a DeepView "
            "scene"
        ) from error
    except json.JSONDecodeError as error:
        raise CalibrationError(f"cameras {path}: is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise CalibrationError(f"cameras {path}: expected a list of cameras")
    return Rig(tuple(_camera(entry, f"cameras {path}: entry {k}") for k, entry in
                     enumerate(entries)), "world")  # fmt: skip


def _camera(entry: Any, where: str) -> RigCamera:
    try:
        name = str(entry["name"])
        focal = float(entry["focal_length"])
        cx, cy = (float(value) for value in entry["principal_point"])
        aspect = float(entry.get("pixel_aspect_ratio", 1.0))
        size = round(float(entry["width"])), round(float(entry["height"]))
        turn = Rigid3.from_rotation_vector([float(v) for v in entry["orientation"]])
        position = np.array([float(v) for v in entry["position"]])
        if position.shape != (3,):
            raise ValueError(f"position of {len(position)} numbers")
        lens = _lens(entry)
        model = CameraModel(*size, focal, focal * aspect, cx, cy, *lens)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            f"{where}: expected name, width, height, focal_length, principal_point, position and "
            f"orientation: {type(error).__name__}: {error}"
        ) from error
    return RigCamera(name, model=model, rig_from_camera=Rigid3(turn.rotation.T, position))


def _lens(entry: dict[str, Any]) -> tuple[str, tuple[float, ...]]:
    given = [float(k) for k in entry.get("radial_distortion") or ()]
    if str(entry.get("projection_type", "fisheye")) == "fisheye":
        k1, k2, k3 = (*given, 0.0, 0.0, 0.0)[:3]
        return "equidistant", (k1, k2, k3, 0.0)
    if not any(given):
        return "none", ()
    k1, k2, k3 = (*given, 0.0, 0.0, 0.0)[:3]
    return "plumb_bob", (k1, k2, 0.0, 0.0, k3)
