"""nerfstudio's `transforms.json`.

Source of the format: docs.nerf.studio, "Data conventions": poses are world from camera with the
camera's axes of OpenGL (x right, y up, z backwards), the world is z up, as our map. Pixel centres
lie at halves, as in COLMAP: `_PIXEL_OFFSET` is added to the principal point here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import ExportError
from vggt_ros.export.files import write_json
from vggt_ros.geometry import CameraModel
from vggt_ros.types import AlignedScene

_PIXEL_OFFSET = 0.5
"""Where nerfstudio puts the centre of the top-left pixel, along both axes [px]."""

_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_transforms(
    path: str | Path,
    scene: AlignedScene,
    *,
    image_names: Mapping[str, str] | None = None,
    image_folder: str = "images",
    points: str = "",
    frame: str = "map",
    comments: Sequence[str] = (),
) -> None:
    """Write the cameras, atomically.

    Args:
        path: the file, usually `transforms.json`; its folder must exist.
        scene: cameras with intrinsics.
        image_names: the file of each camera; missing: the camera's name with `.png`.
        image_folder: of the images, seen from the folder of `path`.
        points: name of a PLY file in the same frame, seen from the folder of `path`.
        frame: the frame of the poses, kept beside the unit under the key `vggt_ros`.
        comments: kept there too.

    Raises:
        ExportError: no cameras, lenses that cannot be written together, or the file cannot be
            written.
    """
    if not scene.map_from_camera:
        raise ExportError(f"export to {path}: expected at least one camera with a pose, got none")
    models = [scene.cameras[name] for name in scene.map_from_camera]
    kind = _camera_model(path, models)
    frames = []
    for name, pose in scene.map_from_camera.items():
        image = (image_names or {}).get(name) or f"{name}.png"
        frames.append(
            {
                "file_path": f"{image_folder}/{image}" if image_folder else image,
                **_intrinsics(path, name, scene.cameras[name]),
                "transform_matrix": (pose.matrix @ _OPENCV_FROM_OPENGL).tolist(),
            }
        )
    content: dict[str, Any] = {"camera_model": kind}
    if points:
        content["ply_file_path"] = points
    content["vggt_ros"] = {
        "frame": frame,
        "unit": scene.scale.unit,
        "up": "z",
        "comments": list(comments),
    }
    content["frames"] = frames
    write_json(path, content)


def _camera_model(path: str | Path, models: Sequence[CameraModel]) -> str:
    """One for all: the format has a single place for it."""
    fisheye = [model.distortion_model == "equidistant" for model in models]
    if all(fisheye):
        return "OPENCV_FISHEYE"
    if any(fisheye):
        raise ExportError(
            f"export to {path}: expected cameras of one kind, got fisheye and others; nerfstudio "
            "has one camera model for all: export the two kinds apart"
        )
    return "OPENCV"


def _intrinsics(path: str | Path, name: str, model: CameraModel) -> dict[str, float]:
    found: dict[str, float] = {
        "w": model.width,
        "h": model.height,
        "fl_x": model.fx,
        "fl_y": model.fy,
        "cx": model.cx + _PIXEL_OFFSET,
        "cy": model.cy + _PIXEL_OFFSET,
    }
    if not model.is_distorted:
        return found
    names: tuple[str, ...] = ("k1", "k2", "p1", "p2", "k3")
    if model.distortion_model == "equidistant":
        names = ("k1", "k2", "k3", "k4")
    elif any(model.distortion[5:]):
        raise ExportError(
            f"export to {path}: camera '{name}': expected a lens that nerfstudio knows, got "
            "rational distortion; undistort the images and export the cameras without"
        )
    return found | dict(zip(names, model.distortion, strict=False))
