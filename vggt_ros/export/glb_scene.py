"""A map with its cameras as GLB, and the same for what VGGT predicts.

Where the scene lies in glTF's axes is one of `PLACEMENTS`: `y_up` turns the z of a map to the y of
glTF; `first_camera` is the transform of VGGT's demos, for worlds that are the first camera's
frame; `none` leaves the numbers as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ExportError, nearest
from vggt_ros.export.camera_cones import camera_cones, scene_size
from vggt_ros.export.glb import Primitive, glb_bytes, write_glb
from vggt_ros.export.mesh import Mesh, mesh_primitive
from vggt_ros.export.rows import check_cloud, cloud_comments
from vggt_ros.export.select import filter_cloud, select
from vggt_ros.geometry import Rigid3
from vggt_ros.types import Float64, PointCloud

PLACEMENTS = ("y_up", "first_camera", "none")

_Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
"""glTF (y up) from map (z up): a quarter turn about x."""

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""diag(1, -1, -1, 1), which turns OpenCV's camera to OpenGL's, times half a turn about y."""


def write_scene_glb(
    path: str | Path,
    cloud: PointCloud,
    map_from_camera: Mapping[str, Rigid3],
    *,
    mesh: Mesh | None = None,
    confidence_percentile: float = 0.0,
    mask_black: bool = False,
    mask_white: bool = False,
    show_cameras: bool = True,
    placement: str = "y_up",
    comments: Sequence[str] = (),
    progress: bool = False,
) -> int:
    """Write points, camera cones and, where given, a mesh, atomically.

    Args:
        path: the file; its folder must exist.
        cloud: any number of points; none gives one white point at (1, 0, 0).
        map_from_camera: the cameras, in the order of their colours.
        mesh: in the frame of the cloud.
        confidence_percentile: 0 to 100, see `filter_cloud`.
        mask_black: leave out points whose red, green and blue sum to less than 16.
        mask_white: leave out points whose red, green and blue are all above 240.
        show_cameras: draw the cameras.
        placement: one of `PLACEMENTS`.
        comments: kept in `asset.extras` beside frame and unit.
        progress: show a bar if it takes seconds.

    Returns:
        How many of the points were written.

    Raises:
        ExportError: the file cannot be written, or an option is wrong.
    """
    check_cloud(cloud)
    cloud = filter_cloud(cloud, confidence_percentile=confidence_percentile)
    keep = _background(cloud.colours, mask_black, mask_white)
    cloud = cloud if keep is None else select(cloud, keep)
    primitives = _primitives(cloud, map_from_camera, mesh, show_cameras)
    extras = {"comments": [*cloud_comments(cloud), *comments]}
    matrix = _gltf_from_map(placement, map_from_camera)
    write_glb(path, primitives, gltf_from_scene=matrix, extras=extras, progress=progress)
    return len(cloud)


def predictions_to_glb(
    predictions: Mapping[str, NDArray[Any]],
    conf_thres: float | None = 50.0,
    filter_by_frames: str = "all",
    mask_black_bg: bool = False,
    mask_white_bg: bool = False,
    show_cam: bool = True,
    mask_sky: bool = False,
    prediction_mode: str = "Predicted Pointmap",
) -> bytes:
    """The GLB of VGGT's predictions, as its demos make it.

    Args:
        predictions: `world_points` (S, H, W, 3) and `world_points_conf` (S, H, W), or, for
            another `prediction_mode`, `world_points_from_depth` and `depth_conf`; `images`
            (S, 3, H, W) or (S, H, W, 3) in [0, 1]; `extrinsic` (S, 3, 4), camera from world,
            OpenCV; `alpha_masks` (S, 1, H, W) if there are; for `mask_sky` also `sky_masks`
            (S, H, W), above 0.1 where there is no sky.
        conf_thres: percentile of confidence to leave out, 0 to 100; None: 10.
        filter_by_frames: "all", or a text that begins with the number of the one image to show.
        mask_black_bg: leave out points whose red, green and blue sum to less than 16.
        mask_white_bg: leave out points whose red, green and blue are all above 240.
        show_cam: draw the cameras.
        mask_sky: leave out the sky.
        prediction_mode: with "Pointmap" in it: the points as predicted, else those from depth.

    Raises:
        ExportError: a prediction is missing or of another shape, or an option is wrong.
    """
    points, confidence = _predicted(predictions, "Pointmap" in prediction_mode)
    images, extrinsic = _given(predictions, "images"), _given(predictions, "extrinsic")
    if images.ndim == 4 and images.shape[1] == 3:
        images = images.transpose(0, 2, 3, 1)
    views = len(points)
    for name, array, shape in (
        ("points", points, (*confidence.shape, 3)),
        ("images", images, points.shape),
        ("extrinsic", extrinsic, (views, 3, 4)),
    ):
        if array.shape != shape:
            raise ExportError(f"predictions: expected {name} of shape {shape}, got {array.shape}")
    if mask_sky:
        sky = _given(predictions, "sky_masks")
        confidence = confidence * (sky.reshape(confidence.shape) > 0.1)
    opaque = np.ones(confidence.shape, bool)
    if "alpha_masks" in predictions:
        opaque = np.asarray(predictions["alpha_masks"]).reshape(confidence.shape) > 0.5
    if filter_by_frames.lower() != "all":
        at = _frame_number(filter_by_frames, views)
        chosen = slice(at, at + 1)
        points, confidence, images = points[chosen], confidence[chosen], images[chosen]
        opaque, extrinsic = opaque[chosen], extrinsic[chosen]
    flat = opaque.ravel()
    # Values above 1 (bicubic resizing) wrapped around in the original; here they are white.
    colours = (np.clip(images.reshape(-1, 3)[flat], 0.0, 1.0) * 255).astype(np.uint8)
    sure = confidence.reshape(-1)[flat]
    percentile = 10.0 if conf_thres is None else conf_thres
    if not 0 <= percentile <= 100:
        raise ExportError(f"conf_thres: expected a percentile, 0 to 100, got {conf_thres}")
    least = float(np.percentile(sure, percentile)) if percentile and len(sure) else 0.0
    keep = (sure >= least) & (sure > 1e-5)
    masked = _background(colours, mask_black_bg, mask_white_bg)
    keep = keep if masked is None else keep & masked
    kept = np.ascontiguousarray(points.reshape(-1, 3)[flat][keep], np.float32)
    cloud = PointCloud(kept, colours[keep], frame="first camera", is_metric=False)
    cameras = {
        f"camera_{i}": Rigid3.from_matrix(camera_from_world).inverse()
        for i, camera_from_world in enumerate(extrinsic.astype(np.float64))
    }
    return glb_bytes(
        _primitives(cloud, cameras, None, show_cam),
        gltf_from_scene=_gltf_from_map("first_camera", cameras),
        extras={"comments": list(cloud_comments(cloud))},
    )


def _primitives(
    cloud: PointCloud, cameras: Mapping[str, Rigid3], mesh: Mesh | None, show_cameras: bool
) -> list[Primitive]:
    points, colours = cloud.points, cloud.colours
    primitives = [] if mesh is None else [mesh_primitive(mesh)]
    sized = points if len(points) or mesh is None else mesh.vertices
    if not len(sized):
        points = np.array([[1, 0, 0]], np.float32)
        colours = np.full((1, 3), 255, np.uint8)
    if len(points):
        primitives.insert(0, Primitive("points", points, colours))
    if show_cameras and cameras:
        primitives += camera_cones(dict(cameras), scene_size(sized) if len(sized) else 1.0)
    return primitives


def _gltf_from_map(placement: str, map_from_camera: Mapping[str, Rigid3]) -> Float64 | None:
    if placement not in PLACEMENTS:
        raise ExportError(
            f"placement: expected one of {', '.join(PLACEMENTS)}, got '{placement}'"
            f"{nearest(placement, PLACEMENTS)}"
        )
    if placement == "none":
        return None
    if placement == "y_up":
        return _Y_UP
    if not map_from_camera:
        raise ExportError("placement first_camera: expected at least one camera, got none")
    first = next(iter(map_from_camera.values()))
    return np.asarray(first.matrix @ _FLIP)


def _background(colours: NDArray[np.uint8], black: bool, white: bool) -> NDArray[np.bool_] | None:
    """Which points are not background; None: all."""
    keep = None
    if black:
        keep = colours.sum(axis=1, dtype=np.uint16) >= 16
    if white:
        bright = (colours > 240).all(axis=1)
        keep = ~bright if keep is None else keep & ~bright
    return keep


def _given(predictions: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in predictions:
        raise ExportError(
            f"predictions: expected '{name}', got only {', '.join(sorted(predictions))}"
        )
    return np.asarray(predictions[name])


def _predicted(
    predictions: Mapping[str, NDArray[Any]], point_map: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    names = ("world_points", "world_points_conf")
    if not point_map or "world_points" not in predictions:
        names = ("world_points_from_depth", "depth_conf")
    points = _given(predictions, names[0])
    confidence = predictions.get(names[1])
    if confidence is None:
        confidence = np.ones(points.shape[:-1], np.float32)
    return points, np.asarray(confidence)


def _frame_number(text: str, views: int) -> int:
    number = text.split(":")[0].strip()
    if not number.isdecimal() or int(number) >= views:
        raise ExportError(
            f"filter_by_frames: expected 'all' or the number of an image, 0 to {views - 1}, got "
            f"'{text}'"
        )
    return int(number)
