"""COLMAP's binary model: `cameras.bin`, `images.bin`, `points3D.bin`, and beside it `points.ply`.

Source of the format: colmap.github.io, "Output format"; little-endian. COLMAP puts the centre of
the top-left pixel at (0.5, 0.5): half a pixel is added here, in `_PIXEL_OFFSET`. Its world is the
map (z up), its cameras are optical frames like ours, and poses are written as camera from world.

Two kinds of points are written. Those of the structure from motion carry the places where their
features were found in the images, and their reprojection error. Those of the map carry the
cameras that see them (`visibility`) with the places they project to; as nothing was measured
there, their error is -1, which COLMAP reads as unknown and leaves out of its mean.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ExportError
from vggt_ros.export import colmap_kernels as kernels
from vggt_ros.export.files import atomic_paths
from vggt_ros.export.ply import write_ply
from vggt_ros.export.rows import check_cloud, check_finite, chunks
from vggt_ros.export.visibility import project, seen_points
from vggt_ros.geometry import CameraModel
from vggt_ros.types import AlignedScene, Float64, PointCloud

FILES = ("cameras.bin", "images.bin", "points3D.bin")
POINTS_PLY = "points.ply"

_PIXEL_OFFSET = 0.5
"""Where COLMAP puts the centre of the top-left pixel, along both axes [px]."""

_PINHOLE, _OPENCV, _OPENCV_FISHEYE, _FULL_OPENCV = 1, 4, 5, 6

_UNKNOWN_ERROR = -1.0

_POINT2D = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])

_CHUNK = 1 << 14
"""Points of which the records are made at a time."""


@dataclass(frozen=True)
class ColmapSummary:
    """What was written."""

    files: list[Path]
    images: int
    points: int
    observations: int
    measured_points: int
    """Points with features found in the images."""
    measured_observations: int
    mean_error_px: float
    """Mean over the measured points of the mean distance between feature and projection, as
    COLMAP reports it; NaN without any."""

    @property
    def mean_track_length(self) -> float:
        """Observations per point."""
        return self.observations / max(self.points, 1)

    def __str__(self) -> str:
        """One line for people."""
        measured = "none measured in images"
        if self.measured_points:
            measured = (
                f"{self.measured_observations:,} measured in images, mean reprojection error "
                f"{self.mean_error_px:.2f} px"
            )
        return (
            f"{self.images} images, {self.points:,} points, {self.observations:,} observations "
            f"({measured})"
        )


def write_colmap(
    folder: str | Path,
    cloud: PointCloud,
    scene: AlignedScene,
    *,
    image_names: Mapping[str, str] | None = None,
    seen: Sequence[NDArray[np.int32]] | None = None,
    comments: Sequence[str] = (),
    progress: bool = False,
) -> ColmapSummary:
    """Write a model of the map and its cameras; all files appear together or none.

    Args:
        folder: made if it is missing; its parent must exist.
        cloud: points of the map, in its frame; any number.
        scene: cameras; and, where it has features, the points that they are of.
        image_names: the file of each camera; missing: the camera's name with `.png`.
        seen: rows of the cloud that each camera of the scene sees; None: found by `seen_points`.
        comments: further header lines of `points.ply`, which also tells frame and unit: the
            other files have no place for it.
        progress: show bars if it takes seconds.

    Raises:
        ExportError: no camera, a lens that COLMAP has no model for, points that are not finite,
            a folder with a model of another kind, or files that cannot be written.
    """
    check_cloud(cloud)
    if not scene.map_from_camera:
        raise ExportError(
            f"export to {folder}: expected at least one camera with a pose, got none"
        )
    if len(cloud):
        check_finite(folder, cloud.points)
    names = list(scene.map_from_camera)
    records = {name: _camera_record(i, name, scene) for i, name in enumerate(names, 1)}
    measured = _measured(scene)
    if seen is None:
        seen = [
            seen_points(cloud, scene.cameras[name], scene.map_from_camera[name])
            for part in chunks(len(names), "visibility", progress, 1)
            for name in names[part]
        ]
    images = {name: (image_names or {}).get(name) or f"{name}.png" for name in names}
    target = Path(folder)
    made = _prepare(target)
    try:
        with atomic_paths([target / name for name in (*FILES, POINTS_PLY)]) as temporary:
            with open(temporary[0], "wb") as file:
                file.write(struct.pack("<Q", len(names)) + b"".join(records.values()))
            with open(temporary[1], "wb") as file:
                file.write(struct.pack("<Q", len(names)))
                for i, name in enumerate(names):
                    _write_image(file, i + 1, images[name], name, scene)
                    _write_observations(file, measured, i, cloud, seen[i], scene, name)
            with open(temporary[2], "wb") as file:
                file.write(struct.pack("<Q", len(measured.points) + len(cloud)))
                _write_measured(file, measured)
                _write_points(file, cloud, seen, measured, progress)
            write_ply(temporary[3], cloud, comments=comments, progress=progress)
    except BaseException:
        if made:
            target.rmdir()
        raise
    total = sum(len(rows) for rows in seen)
    count = len(measured.points)
    return ColmapSummary(
        [target / name for name in (*FILES, POINTS_PLY)],
        len(names),
        count + len(cloud),
        total + len(measured.rows),
        count,
        len(measured.rows),
        float(measured.errors_px.mean()) if count else float("nan"),
    )


def _prepare(folder: Path) -> bool:
    """Make the folder; whether it was made."""
    strange = [name for name in ("rigs.bin", "frames.bin") if (folder / name).exists()]
    if strange:
        raise ExportError(
            f"export to {folder}: expected an empty folder or one of an earlier export, got one "
            f"with {', '.join(strange)} of another model, which would not fit; give another folder"
        )
    if folder.is_dir():
        return False
    try:
        folder.mkdir()
    except OSError as error:
        raise ExportError(
            f"export to {folder}: the folder cannot be made ({error.strerror}); give another path"
        ) from error
    return True


def _camera_record(camera_id: int, name: str, scene: AlignedScene) -> bytes:
    model, params = colmap_camera(scene.cameras[name], name)
    width, height = scene.cameras[name].size
    head = struct.pack("<iiQQ", camera_id, model, width, height)
    return head + struct.pack(f"<{len(params)}d", *params)


def colmap_camera(camera: CameraModel, name: str) -> tuple[int, list[float]]:
    """Number of the COLMAP model, and its parameters.

    Raises:
        ExportError: a lens that COLMAP has no model for.
    """
    pinhole = [camera.fx, camera.fy, camera.cx + _PIXEL_OFFSET, camera.cy + _PIXEL_OFFSET]
    if not camera.is_distorted:
        return _PINHOLE, pinhole
    k = list(camera.distortion)
    if camera.distortion_model == "equidistant":
        return _OPENCV_FISHEYE, pinhole + k
    if any(k[8:]):
        raise ExportError(
            f"camera '{name}': expected a lens that COLMAP knows, got thin prism coefficients; "
            "undistort the images and export the cameras without distortion"
        )
    if not any(k[4:]):
        return _OPENCV, pinhole + k[:4]
    return _FULL_OPENCV, pinhole + (k + [0.0] * 8)[:8]


def _write_image(
    file: IO[bytes], image_id: int, image: str, name: str, scene: AlignedScene
) -> None:
    camera_from_map = scene.map_from_camera[name].inverse()
    x, y, z, w = camera_from_map.quaternion_xyzw
    if "\0" in image:
        raise ExportError(f"camera '{name}': expected a file name without a zero byte")
    file.write(struct.pack("<i7d", image_id, w, x, y, z, *camera_from_map.translation))
    file.write(struct.pack("<i", image_id) + image.encode() + b"\0")


@dataclass(frozen=True, eq=False)
class _Measured:
    """Points with features, and one row per feature."""

    points: Float64
    colours: NDArray[np.uint8]
    errors_px: Float64
    rows: NDArray[np.int64]
    """Point of each feature, (K,); features of one camera follow each other."""
    views: NDArray[np.int64]
    indices: NDArray[np.int64]
    """Number of the feature within its image."""
    pixels: Float64

    def of(self, view: int) -> slice:
        """The features of one camera."""
        low, high = np.searchsorted(self.views, (view, view + 1))
        return slice(int(low), int(high))


def _measured(scene: AlignedScene) -> _Measured:
    rows, views, indices, pixels, errors = [], [], [], [], []
    for i, (name, pose) in enumerate(scene.map_from_camera.items()):
        found = scene.features.get(name)
        if found is None:
            continue
        at = np.asarray(found.rows, np.int64)
        points = scene.points_in_map[at]
        projected = scene.cameras[name].project(pose.inverse().apply(points))
        rows.append(at)
        views.append(np.full(len(at), i))
        indices.append(np.arange(len(at)))
        pixels.append(found.pixels)
        errors.append(np.linalg.norm(projected - found.pixels, axis=1))
    if not rows:
        none = np.empty(0, np.int64)
        empty = np.empty((0, 3))
        return _Measured(empty, empty.astype(np.uint8), none.astype(float), none, none, none,
                         np.empty((0, 2)))  # fmt: skip
    joined = np.concatenate(rows)
    used, points_of = np.unique(joined, return_inverse=True)
    sums = np.bincount(points_of, np.concatenate(errors))
    return _Measured(
        scene.points_in_map[used],
        scene.colours[used],
        sums / np.bincount(points_of),
        points_of.astype(np.int64),
        np.concatenate(views),
        np.concatenate(indices),
        np.concatenate(pixels),
    )


def _write_observations(
    file: IO[bytes],
    measured: _Measured,
    view: int,
    cloud: PointCloud,
    seen: NDArray[np.int32],
    scene: AlignedScene,
    name: str,
) -> None:
    """The 2-D points of one image: features first, then projections of the map."""
    features = measured.of(view)
    records = np.empty(features.stop - features.start, _POINT2D)
    file.write(struct.pack("<Q", len(records) + len(seen)))
    records["x"], records["y"] = measured.pixels[features].T + _PIXEL_OFFSET
    records["point"] = measured.rows[features] + 1
    file.write(records.data)
    _write_projections(file, cloud, seen, scene, name, len(measured.points) + 1)


def _write_projections(
    file: IO[bytes],
    cloud: PointCloud,
    seen: NDArray[np.int32],
    scene: AlignedScene,
    name: str,
    first: int,
) -> None:
    """Where points of the map project to; `first` is the id of the first of them."""
    model, pose = scene.cameras[name], scene.map_from_camera[name]
    camera_from_map = pose.inverse()
    intrinsics = (model.fx, model.fy, model.cx + _PIXEL_OFFSET, model.cy + _PIXEL_OFFSET)
    buffer = np.empty((min(_CHUNK, len(seen)), 3))
    for part in chunks(len(seen), "", False, _CHUNK):
        at, records = seen[part], buffer[: part.stop - part.start]
        ids = records.view(np.int64)
        kernels.project_points(
            *(cloud.points, at, camera_from_map.rotation, camera_from_map.translation),
            *(intrinsics, first, records, ids),
        )
        if model.is_distorted:
            points = np.ascontiguousarray(cloud.points[at], np.float32)
            records[:, :2] = project(points, model, pose).pixels + _PIXEL_OFFSET
        file.write(records.data)


def _point3d(track: int) -> np.dtype[Any]:
    """A record of `points3D.bin` whose track has that length."""
    return np.dtype(
        [
            ("id", "<u8"),
            ("xyz", "<f8", 3),
            ("rgb", "u1", 3),
            ("error", "<f8"),
            ("length", "<u8"),
            ("track", "<i4", (track, 2)),
        ]
    )


def _write_measured(file: IO[bytes], measured: _Measured) -> None:
    order = np.argsort(measured.rows, kind="stable")
    lengths = np.bincount(measured.rows, minlength=len(measured.points))
    starts = np.cumsum(lengths) - lengths
    elements = np.stack([measured.views[order] + 1, measured.indices[order]], axis=1)
    for length in np.unique(lengths):
        at = np.flatnonzero(lengths == length)
        track = elements[starts[at][:, None] + np.arange(length)]
        records = _records(at + 1, measured.points[at], measured.colours[at], track)
        records["error"] = measured.errors_px[at]
        file.write(records.data)


def _write_points(
    file: IO[bytes],
    cloud: PointCloud,
    seen: Sequence[NDArray[np.int32]],
    measured: _Measured,
    progress: bool,
) -> None:
    first = len(measured.points) + 1
    features = [part.stop - part.start for part in map(measured.of, range(len(seen)))]
    for part in chunks(len(cloud), "points3D.bin", progress, _CHUNK):
        ends = np.array((part.start, part.stop), np.int32)  # or searchsorted copies the rows
        ranges = [np.searchsorted(rows, ends) for rows in seen]
        lengths = np.zeros(part.stop - part.start, np.int64)
        for rows, (low, high) in zip(seen, ranges, strict=True):
            kernels.count_tracks(rows[low:high], part.start, lengths)
        cursors = np.cumsum(lengths) - lengths
        elements = np.empty((int(lengths.sum()), 2), np.int32)
        for view, (rows, (low, high)) in enumerate(zip(seen, ranges, strict=True)):
            number = features[view] + low
            kernels.fill_tracks(rows[low:high], part.start, view + 1, number, cursors, elements)
        ids = np.arange(part.start, part.stop) + first
        heads = _records(ids, cloud.points[part], cloud.colours[part], np.empty((len(ids), 0, 2)))
        heads["length"], heads["error"] = lengths, _UNKNOWN_ERROR
        out = np.empty(heads.nbytes + elements.nbytes, np.uint8)
        kernels.interleave(
            heads.view(np.uint8).reshape(-1, kernels.HEAD),
            elements.view(np.uint8).ravel(),
            *(lengths, out),
        )
        file.write(out.data)


def _records(
    ids: NDArray[Any], points: NDArray[Any], colours: NDArray[Any], track: NDArray[Any]
) -> NDArray[Any]:
    records = np.empty(len(ids), _point3d(track.shape[1]))
    records["id"], records["rgb"] = ids, colours
    for i in range(3):  # twice as fast as all at once
        records["xyz"][:, i] = points[:, i]
    records["length"], records["track"] = track.shape[1], track
    return records
