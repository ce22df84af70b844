"""Intrinsics to and from COLMAP, and which views share them.

COLMAP puts the centre of the top-left pixel at (0.5, 0.5), this package at (0, 0). Half a pixel
is added in `camera_to_colmap`, taken off in `camera_from_colmap`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.pycolmap_import import import_pycolmap
from vggt_ros.types import Frame

COLMAP_PIXEL_OFFSET = 0.5
"""Where COLMAP puts the centre of the top-left pixel, along both axes [px]."""

PRIOR_FOCAL = 1.2
"""First guess of an unknown focal length over the longer side (COLMAP's default: 45 degrees)."""


def camera_to_colmap(frame: Frame, camera_id: int) -> Any:
    """A COLMAP camera: PINHOLE as given, else SIMPLE_RADIAL with a guessed focal length."""
    pycolmap = import_pycolmap()

    height, width = frame.rgb.shape[:2]
    if frame.model is None:
        model = "SIMPLE_RADIAL"
        params = [PRIOR_FOCAL * max(width, height), width / 2, height / 2, 0.0]
    else:
        m = frame.model
        model, params = (
            "PINHOLE",
            [m.fx, m.fy, m.cx + COLMAP_PIXEL_OFFSET, m.cy + COLMAP_PIXEL_OFFSET],
        )
    camera = pycolmap.Camera(
        model=model, width=width, height=height, params=params, camera_id=camera_id
    )
    camera.has_prior_focal_length = frame.model is not None
    return camera


def camera_from_colmap(camera: Any) -> CameraModel:
    """Intrinsics of a COLMAP camera, PINHOLE or SIMPLE_RADIAL (then plumb_bob with k1)."""
    if camera.model.name == "PINHOLE":
        fx, fy, cx, cy = camera.params
        return CameraModel(
            camera.width, camera.height, fx, fy, cx - COLMAP_PIXEL_OFFSET, cy - COLMAP_PIXEL_OFFSET
        )
    f, cx, cy, k1 = camera.params
    return CameraModel(
        camera.width,
        camera.height,
        f,
        f,
        cx - COLMAP_PIXEL_OFFSET,
        cy - COLMAP_PIXEL_OFFSET,
        "plumb_bob",
        (k1, 0.0, 0.0, 0.0),
    )


def group_cameras(frames: Sequence[Frame], shared: bool) -> list[int]:
    """Camera id (from 1) of each frame.

    Frames of one camera name, size and model share intrinsics; with `shared` also all those of
    one size whose intrinsics are unknown.
    """
    ids: dict[object, int] = {}
    result = []
    for frame in frames:
        size = frame.rgb.shape[:2]
        key: object = (frame.camera, frame.model, size)
        if shared and frame.model is None:
            key = size
        result.append(ids.setdefault(key, len(ids) + 1))
    return result
