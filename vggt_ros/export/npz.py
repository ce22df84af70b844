"""Everything that is known of a map as arrays in one NPZ file, for NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.export.files import atomic_write
from vggt_ros.export.rows import check_cloud
from vggt_ros.types import AlignedScene, PointCloud


def write_npz(
    path: str | Path,
    cloud: PointCloud,
    scene: AlignedScene | None = None,
    *,
    comments: Sequence[str] = (),
) -> None:
    """Write the arrays, uncompressed and atomically; the points are not copied as a whole.

    Arrays: `points` (N, 3) float32, `colours` (N, 3) uint8, `normals` (N, 3) and `confidence`
    (N,) float32 where known; `frame`, `unit` ("m" or "unscaled") and `comments` as text; and
    with a scene `camera_names` (C,), `map_from_camera` (C, 4, 4) float64, and, where the
    intrinsics are known, `intrinsics` (C, 3, 3), `image_sizes` (C, 2) width and height. Pixel
    (0, 0) is the centre of the top-left pixel.

    Raises:
        ExportError: the file cannot be written, or the arrays of the cloud do not fit together.
    """
    check_cloud(cloud)
    arrays: dict[str, Any] = {"points": cloud.points, "colours": cloud.colours}
    if cloud.normals is not None:
        arrays["normals"] = cloud.normals
    if cloud.confidence is not None:
        arrays["confidence"] = cloud.confidence
    arrays["frame"] = np.array(cloud.frame)
    arrays["unit"] = np.array("m" if cloud.is_metric else "unscaled")
    arrays["comments"] = np.array(list(comments), dtype=np.str_)
    if scene is not None and scene.map_from_camera:
        names = list(scene.map_from_camera)
        arrays["camera_names"] = np.array(names)
        arrays["map_from_camera"] = np.array([scene.map_from_camera[n].matrix for n in names])
        if all(name in scene.cameras for name in names):
            models = [scene.cameras[name] for name in names]
            arrays["intrinsics"] = np.array([model.matrix for model in models])
            arrays["image_sizes"] = np.array([model.size for model in models])
    with atomic_write(path) as file:
        np.savez(file, **arrays)
