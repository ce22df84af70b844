"""Features of images whose places in the map are known, by which the map is found again.

Any bootstrapper will do: a feature's place is the surface of the map that its pixel shows, or the
triangulated point where structure from motion found one at the same pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.scene_members import npz_arrays, npz_bytes
from vggt_ros.types import Features, Float32, Float64, Frame, Image

LANDMARKS = "landmarks.npz"

MOST_FEATURES = 3000
"""Of one image: 0.4 MB in the archive, and matching two images takes 0.1 s."""

MOST_IMAGES = 24
"""Of a camera: where it stood when the map was saved, the newest first, or along its path."""

_SAME_PIXEL_PX = 1.0
"""A triangulated feature so near is the same."""

_SAME_RAY_PX = 2.0
"""A triangulated point that the camera sees farther from its feature belongs to another image."""

_EDGE = 0.05
"""Relative difference of depth between neighbours that makes an edge, where a pixel decides
between two surfaces."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What one image showed.

    `pixels` (K, 2), SIFT `descriptors` (K, 128) uint8 and `points_in_map` (K, 3) [map units].
    """

    camera: str
    pixels: Float32
    descriptors: NDArray[np.uint8]
    points_in_map: Float32

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class SeenView:
    """An undistorted image of a camera that stood at `map_from_camera`.

    `depth` (H, W) is that of the map there [map units], at the size of `depth_model`.
    """

    frame: Frame
    map_from_camera: Rigid3
    depth: Float32
    depth_model: CameraModel
    features: Features | None = None
    """Of this very image, or of another that was taken at the same place."""


def detect(rgb: Image, most: int = MOST_FEATURES) -> tuple[Float32, NDArray[np.uint8]]:
    """SIFT keypoints (K, 2) [px] and descriptors (K, 128) of an image, the strongest first."""
    sift: Any = cv2.SIFT_create(most)  # type: ignore[attr-defined]
    keypoints, descriptors = sift.detectAndCompute(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), None)
    if not keypoints:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
    order = np.argsort([-k.response for k in keypoints], kind="stable")[:most]
    pixels = np.array([k.pt for k in keypoints], np.float32)[order]
    return pixels, np.clip(np.rint(descriptors[order]), 0, 255).astype(np.uint8)


def landmarks_of(view: SeenView, points_in_map: Float64) -> Landmarks:
    """The features of a view that lie on a surface of the map.

    Args:
        view: image, pose and depth.
        points_in_map: of the scene, to which `view.features` refer.
    """
    pixels, descriptors = detect(view.frame.rgb)
    assert view.frame.model is not None  # an undistorted frame has one
    model = view.frame.model.without_distortion()
    depth = _depth_at(view, pixels, model)
    homogeneous = np.column_stack(
        [
            (pixels[:, 0] - model.cx) / model.fx,
            (pixels[:, 1] - model.cy) / model.fy,
            np.ones(len(pixels)),
        ]
    )
    points = view.map_from_camera.apply(homogeneous * depth[:, None])
    if view.features is not None and len(view.features.rows):
        _take_triangulated(points, pixels, view, model, points_in_map)
    known = np.isfinite(points).all(axis=1)
    return Landmarks(
        view.frame.camera, pixels[known], descriptors[known], points[known].astype(np.float32)
    )


def joined(newer: Sequence[Landmarks], older: Sequence[Landmarks]) -> tuple[Landmarks, ...]:
    """All images, the newer ones first; no more than a few of each camera."""
    kept: dict[str, list[Landmarks]] = {}
    for entry in (*newer, *older):
        images = kept.setdefault(entry.camera, [])
        if len(entry) and len(images) < MOST_IMAGES:
            images.append(entry)
    return tuple(entry for images in kept.values() for entry in images)


def landmark_bytes(landmarks: Sequence[Landmarks]) -> bytes:
    """As the bytes of an NPZ file: per image `<n>/<camera>/pixels`, `descriptors`, `points`."""
    arrays: dict[str, Any] = {}
    for n, entry in enumerate(landmarks):
        arrays[f"{n}/{entry.camera}/pixels"] = entry.pixels
        arrays[f"{n}/{entry.camera}/descriptors"] = entry.descriptors
        arrays[f"{n}/{entry.camera}/points"] = entry.points_in_map
    return npz_bytes(arrays)


def landmarks_from(content: bytes) -> tuple[Landmarks, ...]:
    """The inverse of `landmark_bytes`.

    Raises:
        SourceError: arrays that are missing or do not fit together.
    """
    try:
        return _landmarks(npz_arrays(content))
    except (KeyError, ValueError) as error:
        raise SourceError(
            f"map archive: expected landmarks of images, got {error}; it was not written by this "
            "package"
        ) from error


def _landmarks(arrays: Mapping[str, Any]) -> tuple[Landmarks, ...]:
    found = []
    for name in arrays:
        if not name.endswith("/pixels"):
            continue
        number, camera, _ = name.split("/")
        pixels = arrays[name]
        descriptors = arrays[f"{number}/{camera}/descriptors"]
        points = arrays[f"{number}/{camera}/points"]
        count = len(pixels)
        expected = ((count, 2), (count, 128), (count, 3))
        got = (pixels.shape, descriptors.shape, points.shape)
        if got != expected or descriptors.dtype != np.uint8:
            raise ValueError(f"landmarks of '{camera}' of shapes {got}")
        if not (np.isfinite(pixels).all() and np.isfinite(points).all()):
            raise ValueError(f"landmarks of '{camera}' that are not finite")
        found.append(
            Landmarks(camera, pixels.astype(np.float32), descriptors, points.astype(np.float32))
        )
    return tuple(found)


def _depth_at(view: SeenView, pixels: Float32, model: CameraModel) -> Float64:
    """Depth of the map at the pixels; NaN where it has none, or an edge."""
    small = view.depth_model
    x = np.rint((pixels[:, 0] + 0.5) * small.width / model.width - 0.5).astype(int)
    y = np.rint((pixels[:, 1] + 0.5) * small.height / model.height - 0.5).astype(int)
    around = np.stack(
        [
            view.depth[
                np.clip(y + dy, 0, small.height - 1), np.clip(x + dx, 0, small.width - 1)
            ].astype(np.float64)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
    )
    spread = around.max(axis=0) - around.min(axis=0)  # NaN where one is missing
    middle = around[4]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(spread < _EDGE * middle, middle, np.nan))


def _take_triangulated(
    points: Float64,
    pixels: Float32,
    view: SeenView,
    model: CameraModel,
    points_in_map: Float64,
) -> None:
    """Replace the places of the features that structure from motion has triangulated."""
    features = _seen_here(view, model, points_in_map)
    cells: dict[tuple[int, int], int] = {}
    for k, (x, y) in enumerate(np.rint(features.pixels).astype(int).tolist()):
        cells.setdefault((x, y), k)
    for k, (x, y) in enumerate(np.rint(pixels).astype(int).tolist()):
        near = [
            cells[x + dx, y + dy]
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            if (x + dx, y + dy) in cells
        ]
        if not near:
            continue
        distance = np.linalg.norm(features.pixels[near] - pixels[k], axis=1)
        if distance.min() <= _SAME_PIXEL_PX:
            points[k] = points_in_map[features.rows[near[int(distance.argmin())]]]


def _seen_here(view: SeenView, model: CameraModel, points_in_map: Float64) -> Features:
    """The features of a view whose points it sees where they were found."""
    assert view.features is not None  # the caller has looked
    features = view.features
    in_camera = view.map_from_camera.inverse().apply(points_in_map[features.rows])
    front = np.flatnonzero(in_camera[:, 2] > 0)
    distance = np.linalg.norm(model.project(in_camera[front]) - features.pixels[front], axis=1)
    keep = front[distance <= _SAME_RAY_PX]
    return Features(features.rows[keep], features.pixels[keep])
