"""`preview.png`: the images, their depth, and the map from two sides, on one sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vggt_ros.export.files import atomic_write
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import Float32, Image, PointCloud

_MAP_VIEW_SIZE = (960, 640)
_TILE_WIDTH = 480
_MAX_COLUMNS = 4
_BACKGROUND = 24
_AZIMUTHS_DEG = (-40.0, 40.0)
_ELEVATION_DEG = 30.0


@dataclass(frozen=True, eq=False)
class PreviewImage:
    """One column of the sheet: RGB (H, W, 3) and, where there is one, depth (h, w)."""

    name: str
    rgb: Image
    depth: Float32 | None = None


def write_preview(
    path: str | Path,
    images: Sequence[PreviewImage],
    cloud: PointCloud,
    map_from_camera: Mapping[str, Rigid3],
) -> None:
    """Write the sheet as PNG; at most eight cameras are shown.

    Raises:
        ExportError: the file cannot be written.
    """
    sheet = preview_sheet(images, cloud, map_from_camera)
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RuntimeError("OpenCV could not encode a PNG")
    with atomic_write(path) as file:
        file.write(encoded.tobytes())


def preview_sheet(
    images: Sequence[PreviewImage], cloud: PointCloud, map_from_camera: Mapping[str, Rigid3]
) -> Image:
    """The sheet as RGB (H, W, 3)."""
    width = 2 * _MAP_VIEW_SIZE[0]
    rows: list[Image] = []
    for start in range(0, min(len(images), 2 * _MAX_COLUMNS), _MAX_COLUMNS):
        part = images[start : start + _MAX_COLUMNS]
        rows.append(_row([_tile(i.rgb, i.name) for i in part], width))
        if any(i.depth is not None for i in part):
            rows.append(_row([_depth_tile(i) for i in part], width))
    unit = "m" if cloud.is_metric else "units (scale unknown)"
    views = [
        _labelled(
            draw_cloud(cloud, map_from_camera, azimuth),
            f"map from {'left' if azimuth > 0 else 'right'}: {len(cloud):,} points, {unit}",
        )
        for azimuth in reversed(_AZIMUTHS_DEG)
    ]
    rows.append(_row(views, width))
    return np.vstack(rows)


def draw_cloud(
    cloud: PointCloud, map_from_camera: Mapping[str, Rigid3], azimuth_deg: float
) -> Image:
    """Look at the cloud from behind and above the cameras, turned by an azimuth.

    Surfaces seen from behind are left out where normals are known, so that one looks into a
    room through its walls. Cameras are drawn as yellow frusta.
    """
    width, height = _MAP_VIEW_SIZE
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    if not len(cloud):
        return picture
    model, view_from_map = _viewpoint(cloud, map_from_camera, azimuth_deg)
    points = view_from_map.apply(cloud.points)
    visible = points[:, 2] > 1e-6
    if cloud.normals is not None:
        normals = cloud.normals.astype(np.float64) @ view_from_map.rotation.T
        visible &= np.einsum("ij,ij->i", normals, points) < 0
    pixels = model.project(points)
    with np.errstate(invalid="ignore"):
        u, v = np.rint(pixels[:, 0]), np.rint(pixels[:, 1])
        visible &= (u >= 1) & (u < width - 1) & (v >= 1) & (v < height - 1)
    index = np.flatnonzero(visible)
    index = index[np.argsort(-points[index, 2], kind="stable")]  # nearest is drawn last
    u_px, v_px = u[index].astype(int), v[index].astype(int)
    for dv in (-1, 0, 1):  # the corner pixels are left out: a surfel is round
        for du in (-1, 0, 1) if dv == 0 else (0,):
            picture[v_px + dv, u_px + du] = cloud.colours[index]
    for pose in map_from_camera.values():
        _draw_frustum(picture, model, view_from_map @ pose, _frustum_size(points))
    return picture


def _viewpoint(
    cloud: PointCloud, map_from_camera: Mapping[str, Rigid3], azimuth_deg: float
) -> tuple[CameraModel, Rigid3]:
    low, high = np.percentile(cloud.points, [2, 98], axis=0).astype(float)
    for pose in map_from_camera.values():
        low, high = np.minimum(low, pose.translation), np.maximum(high, pose.translation)
    target = 0.5 * (low + high)
    radius = 0.5 * float(np.linalg.norm(high - low)) or 1.0
    forward = np.array([1.0, 0.0, 0.0])
    if map_from_camera:
        forward = np.mean([p.rotation[:, 2] for p in map_from_camera.values()], axis=0)
    heading = np.arctan2(forward[1], forward[0]) + np.deg2rad(azimuth_deg)
    elevation = np.deg2rad(_ELEVATION_DEG)
    direction = np.array(
        [
            np.cos(heading) * np.cos(elevation),
            np.sin(heading) * np.cos(elevation),
            -np.sin(elevation),
        ]
    )
    width, height = _MAP_VIEW_SIZE
    focal = 1.1 * height
    eye = target - direction * radius * 1.7
    right = np.cross(direction, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    map_from_view = Rigid3(np.stack([right, np.cross(direction, right), direction], axis=1), eye)
    model = CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    return model, map_from_view.inverse()


def _frustum_size(points_in_view: np.ndarray) -> float:
    return 0.04 * float(np.median(points_in_view[:, 2]))


def _draw_frustum(
    picture: Image, model: CameraModel, view_from_camera: Rigid3, size: float
) -> None:
    corners = np.array([[0, 0, 0], [-1, -0.75, 1.3], [1, -0.75, 1.3], [1, 0.75, 1.3]])
    corners = np.vstack([corners, [[-1, 0.75, 1.3]]]) * size
    pixels = model.project(view_from_camera.apply(corners))
    if not np.isfinite(pixels).all() or np.abs(pixels).max() > 1e5:
        return
    ends = [tuple(round(float(c)) for c in p) for p in pixels]
    for a, b in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)):
        cv2.line(picture, ends[a], ends[b], (255, 220, 40), 2, cv2.LINE_AA)


def colour_depth(depth: Float32) -> Image:
    """Depth (H, W) to RGB: near is red, far is blue, holes are black; 2-98 % of the range."""
    valid = np.isfinite(depth) & (depth > 0)
    picture = np.zeros((*depth.shape, 3), np.uint8)
    if valid.any():
        inverse = np.where(valid, 1.0 / np.where(valid, depth, 1.0), 0.0)
        low, high = np.percentile(inverse[valid], [2, 98])
        scaled = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1) * 255
        coloured = cv2.applyColorMap(scaled.astype(np.uint8), cv2.COLORMAP_TURBO)
        picture[valid] = cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)[valid]
    return picture


def _depth_tile(image: PreviewImage) -> Image:
    if image.depth is None:
        return _tile(np.zeros_like(image.rgb), f"{image.name}: no depth")
    valid = np.isfinite(image.depth)
    label = f"{image.name}: depth of {100 * valid.mean():.0f} %"
    if valid.any():
        low, high = np.percentile(image.depth[valid], [2, 98])
        label += f", {low:.1f}-{high:.1f}"
    return _tile(colour_depth(image.depth), label)


def _tile(rgb: Image, label: str) -> Image:
    height = round(rgb.shape[0] * _TILE_WIDTH / rgb.shape[1])
    shrink = rgb.shape[1] > _TILE_WIDTH
    method = cv2.INTER_AREA if shrink else cv2.INTER_NEAREST
    return _labelled(
        np.asarray(cv2.resize(rgb, (_TILE_WIDTH, height), interpolation=method)), label
    )


def _labelled(picture: Image, label: str) -> Image:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (width, height), below = cv2.getTextSize(label, font, scale, 1)
    picture[: height + below + 8, : width + 12] //= 3
    cv2.putText(picture, label, (6, height + 4), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _row(tiles: Sequence[Image], width: int) -> Image:
    row = np.full((max(t.shape[0] for t in tiles), width, 3), _BACKGROUND, np.uint8)
    left = (width - sum(t.shape[1] for t in tiles)) // 2
    for tile in tiles:
        row[: tile.shape[0], left : left + tile.shape[1]] = tile
        left += tile.shape[1]
    return row
