"""An aligned scene as members of an archive, and back with checks."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vggt_ros.errors import SourceError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.types import (
    AlignedScene,
    CameraResidual,
    Features,
    ScaleEstimate,
    ScaleSource,
)

SCENE, POINTS = "scene.json", "scene.npz"


def scene_members(scene: AlignedScene) -> dict[str, bytes]:
    """`scene.json`: cameras, poses, scale, residuals; `scene.npz`: points, colours, features.

    JSON keeps every float64 as it is; a sigma that is infinite and a residual that is unknown
    are null.
    """
    rig = scene.map_from_rig
    content = {
        "cameras": {
            name: {
                "size": list(model.size),
                "intrinsics": [model.fx, model.fy, model.cx, model.cy],
                "distortion_model": model.distortion_model,
                "distortion": list(model.distortion),
                "map_from_camera": _rigid(scene.map_from_camera[name]),
            }
            for name, model in scene.cameras.items()
        },
        "scale": {
            "value": scene.scale.value,
            "sigma": _or_none(scene.scale.sigma),
            "source": scene.scale.source.value,
            "sources": [source.value for source in scene.scale.sources],
            "contradiction": scene.scale.contradiction,
        },
        "map_from_scene": {
            "scale": scene.map_from_scene.scale,
            "rotation": scene.map_from_scene.rotation.tolist(),
            "translation": scene.map_from_scene.translation.tolist(),
        },
        "map_from_rig": None if rig is None else _rigid(rig),
        "residuals": {
            name: {
                "centre": _or_none(r.centre),
                "rotation_rad": _or_none(r.rotation_rad),
                "inlier": r.inlier,
            }
            for name, r in scene.residuals.items()
        },
        "up_source": scene.up_source,
        "failed": list(scene.failed),
        "bootstrapper": scene.bootstrapper,
    }
    arrays: dict[str, Any] = {"points_in_map": scene.points_in_map, "colours": scene.colours}
    for name, features in scene.features.items():
        arrays[f"rows/{name}"] = features.rows
        arrays[f"pixels/{name}"] = features.pixels
    return {SCENE: json.dumps(content, allow_nan=False).encode(), POINTS: npz_bytes(arrays)}


def scene_from_members(members: Mapping[str, bytes]) -> AlignedScene:
    """The inverse of `scene_members`.

    Raises:
        SourceError: missing or impossible entries.
    """
    try:
        return _scene(json.loads(members[SCENE]), npz_arrays(members[POINTS]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            f"map archive: expected a scene of cameras, poses and points, got "
            f"{type(error).__name__}: {error}; it was not written by this package"
        ) from error


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Named arrays as the bytes of an NPZ file."""
    buffer = io.BytesIO()
    members: dict[str, Any] = dict(arrays)
    np.savez(buffer, **members)
    return buffer.getvalue()


def npz_arrays(content: bytes) -> dict[str, Any]:
    """The inverse of `npz_bytes`; ValueError for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"no arrays: {error}") from error


def _scene(content: Mapping[str, Any], arrays: Mapping[str, Any]) -> AlignedScene:
    points, colours = arrays["points_in_map"], arrays["colours"]
    if points.ndim != 2 or points.shape[1] != 3 or points.shape != colours.shape:
        raise ValueError(f"points {points.shape} and colours {colours.shape}")
    if points.dtype != np.float64 or colours.dtype != np.uint8 or not np.isfinite(points).all():
        raise ValueError("points that are not finite float64, or colours that are not uint8")
    cameras, poses, features = {}, {}, {}
    for name, entry in content["cameras"].items():
        width, height = entry["size"]
        fx, fy, cx, cy = (float(v) for v in entry["intrinsics"])
        cameras[name] = CameraModel(
            int(width),
            int(height),
            fx,
            fy,
            cx,
            cy,
            str(entry["distortion_model"]),
            tuple(float(v) for v in entry["distortion"]),
        )
        poses[name] = Rigid3.from_matrix(entry["map_from_camera"])
        if f"rows/{name}" in arrays:
            features[name] = _features(arrays, name, len(points))
    if not cameras:
        raise ValueError("no cameras")
    scale, similarity, rig = content["scale"], content["map_from_scene"], content["map_from_rig"]
    return AlignedScene(
        cameras,
        poses,
        points,
        colours,
        ScaleEstimate(
            float(scale["value"]),
            _or(scale["sigma"], math.inf),
            ScaleSource(scale["source"]),
            tuple(ScaleSource(source) for source in scale.get("sources", ())),
            str(scale.get("contradiction", "")),
        ),
        Sim3(float(similarity["scale"]), similarity["rotation"], similarity["translation"]),
        {
            str(name): CameraResidual(
                _or(r["centre"], math.nan), _or(r["rotation_rad"], math.nan), bool(r["inlier"])
            )
            for name, r in content["residuals"].items()
        },
        str(content["up_source"]),
        tuple(str(name) for name in content["failed"]),
        str(content["bootstrapper"]),
        None if rig is None else Rigid3.from_matrix(rig),
        features,
    )


def _features(arrays: Mapping[str, Any], name: str, points: int) -> Features:
    rows, pixels = arrays[f"rows/{name}"], arrays[f"pixels/{name}"]
    if rows.dtype != np.int64 or rows.ndim != 1 or pixels.shape != (len(rows), 2):
        raise ValueError(f"features of '{name}': rows {rows.shape}, pixels {pixels.shape}")
    if len(rows) and not 0 <= rows.min() <= rows.max() < points:
        raise ValueError(f"features of '{name}' beyond the {points} points")
    return Features(rows, pixels.astype(np.float64))


def _rigid(transform: Rigid3) -> list[list[float]]:
    matrix: list[list[float]] = transform.matrix.tolist()
    return matrix


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _or(value: Any, otherwise: float) -> float:
    return otherwise if value is None else float(value)
