"""The cameras of a map from the files beside it, and the features they found.

`report.json` holds poses, intrinsics and scale, `cameras.tum` at least the poses, `features.npz`
what structure from motion saw: what a map in a PLY or PCD file lacks.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import SourceError
from vggt_ros.export.files import atomic_write
from vggt_ros.export.trajectory import read_tum
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.results import FEATURES, REPORT, TRAJECTORY
from vggt_ros.types import AlignedScene, Features, ScaleEstimate, ScaleSource


def write_features(path: str | Path, scene: AlignedScene) -> None:
    """Write the points and features of a scene as NPZ, atomically.

    Arrays: `points_in_map` (M, 3) float64, `colours` (M, 3) uint8, and per camera
    `rows/<camera>` (K,) int64 and `pixels/<camera>` (K, 2) float64.

    Raises:
        ExportError: the file cannot be written.
    """
    arrays: dict[str, Any] = {"points_in_map": scene.points_in_map, "colours": scene.colours}
    for name, features in scene.features.items():
        arrays[f"rows/{name}"] = features.rows
        arrays[f"pixels/{name}"] = features.pixels
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def read_scene(folder: str | Path) -> AlignedScene | None:
    """The scene of a results folder; None where it has neither report nor trajectory.

    With a trajectory alone the cameras have poses and no intrinsics (`cameras` is empty).

    Raises:
        SourceError: a damaged file.
    """
    folder = Path(folder)
    if (folder / REPORT).is_file():
        scene = _from_report(folder / REPORT)
    elif (folder / TRAJECTORY).is_file():
        poses = read_tum(folder / TRAJECTORY)
        newest = {pose.name or "camera": pose.map_from_body for pose in poses}
        scene = _scene({}, newest, ScaleEstimate(1.0, math.inf, ScaleSource.NONE), "none", ())
    else:
        return None
    if (folder / FEATURES).is_file():
        return _with_features(folder / FEATURES, scene)
    return scene


def _scene(
    cameras: dict[str, CameraModel],
    map_from_camera: dict[str, Rigid3],
    scale: ScaleEstimate,
    up_source: str,
    failed: tuple[str, ...],
) -> AlignedScene:
    none = np.empty((0, 3))
    return AlignedScene(
        cameras,
        map_from_camera,
        none,
        none.astype(np.uint8),
        scale,
        Sim3.identity(),
        {},
        up_source,
        failed,
        "file",
    )


def _from_report(path: Path) -> AlignedScene:
    try:
        report = json.loads(path.read_text())
        cameras, poses, failed = {}, {}, []
        for name, entry in report["cameras"].items():
            if not entry["registered"]:
                failed.append(name)
                continue
            poses[name] = Rigid3.from_matrix(entry["map_from_camera"])
            cameras[name] = _model(entry)
        return _scene(
            cameras,
            poses,
            _scale(report["scale"]),
            str(report.get("up_source", "none")),
            tuple(failed),
        )
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{path}: expected the report of a map (cameras with map_from_camera, size and "
            f"intrinsics; scale): {type(error).__name__}: {error}"
        ) from error


def _model(entry: Mapping[str, Any]) -> CameraModel:
    width, height = entry["size"]
    fx, fy, cx, cy = entry["intrinsics"]
    distortion = entry.get("distortion")
    if distortion is None:
        return CameraModel(int(width), int(height), fx, fy, cx, cy)
    coefficients = tuple(float(c) for c in distortion["coefficients"])
    return CameraModel(
        int(width), int(height), fx, fy, cx, cy, str(distortion["model"]), coefficients
    )


def _scale(entry: Mapping[str, Any]) -> ScaleEstimate:
    sources = tuple(ScaleSource(name) for name in str(entry["source"]).split("+"))
    value = 1.0 if entry["value"] is None else float(entry["value"])
    sigma = math.inf if entry["sigma"] is None else float(entry["sigma"])
    return ScaleEstimate(value, sigma, sources[0], sources if len(sources) > 1 else ())


def _with_features(path: Path, scene: AlignedScene) -> AlignedScene:
    features = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            points, colours = arrays["points_in_map"], arrays["colours"]
            for name in scene.map_from_camera:
                if f"rows/{name}" not in arrays:
                    continue
                rows, pixels = arrays[f"rows/{name}"], arrays[f"pixels/{name}"]
                if pixels.shape != (len(rows), 2) or rows.min(initial=0) < 0:
                    raise ValueError(f"rows and pixels of '{name}' do not fit together")
                if rows.max(initial=-1) >= len(points):
                    raise ValueError(f"rows of '{name}' beyond the {len(points)} points")
                features[name] = Features(rows, pixels)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path}: is damaged: {error}; without the file the export goes on without features"
        ) from error
    return replace(scene, points_in_map=points, colours=colours, features=features)
