"""VGGT's outputs into a scene. What is peculiar to the network ends here.

A pose vector holds translation, quaternion xyzw and vertical and horizontal field of view of
camera-from-world, in optical axes; world is about, not exactly, the first camera, and the unit of
length is arbitrary. The network's camera has its principal point in the middle of the input,
`W / 2` counted from the edge. Here pixels are counted from the centre of the first one, so that
the middle is at (W - 1) / 2: half a pixel is taken off in `decode_cameras` and nowhere else.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.inference.vggt_input import VggtInput
from vggt_ros.types import Float32, Float64, Frame, Image, UnscaledScene, View

_POINT_CONFIDENCE = 0.5
"""Points are taken from the more confident half of the pixels."""
_MIN_NORM = 1e-6
"""Shorter quaternions have no direction."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkCamera:
    """A camera as the network saw it: the whole input, without distortion."""

    world_from_camera: Rigid3
    focal_px: tuple[float, float] | None
    """fx and fy at the size of the input; None where the predicted field of view is none."""


def encode_cameras(
    world_from_camera: Sequence[Rigid3], input_models: Sequence[CameraModel]
) -> Float32:
    """Pose vectors (S, 9) of known cameras, the reverse of `decode_cameras`.

    Args:
        world_from_camera: of each view.
        input_models: camera of the whole input; its principal point cannot be encoded.
    """
    vectors = np.zeros((len(world_from_camera), 9))
    for vector, pose, model in zip(vectors, world_from_camera, input_models, strict=True):
        camera_from_world = pose.inverse()
        vector[:3] = camera_from_world.translation
        vector[3:7] = camera_from_world.quaternion_xyzw
        vector[7] = 2 * math.atan(model.height / 2 / model.fy)
        vector[8] = 2 * math.atan(model.width / 2 / model.fx)
    return vectors.astype(np.float32)


def decode_cameras(pose_enc: ArrayLike, width: int, height: int) -> list[NetworkCamera | None]:
    """Cameras of pose vectors (S, 9) for an input of width x height.

    Returns:
        One per view; None where the vector holds no pose: not finite, or no rotation.
    """
    return [_decode_camera(v, width, height) for v in np.asarray(pose_enc, np.float64)]


def _decode_camera(vector: Float64, width: int, height: int) -> NetworkCamera | None:
    norm = float(np.linalg.norm(vector[3:7]))
    if not np.isfinite(vector[:7]).all() or norm < _MIN_NORM:
        return None
    camera_from_world = Rigid3.from_quaternion(vector[3:7] / norm, vector[:3])
    focal = None
    if all(0.0 < fov < math.pi for fov in vector[7:]):
        focal = (
            width / 2 / math.tan(vector[8] / 2),
            height / 2 / math.tan(vector[7] / 2),
        )
    return NetworkCamera(camera_from_world.inverse(), focal)


def decode(
    pose_enc: ArrayLike,
    depth: ArrayLike,
    depth_conf: ArrayLike,
    network_input: VggtInput,
    frames: Sequence[tuple[int, Frame]],
    max_points: int = 100_000,
) -> UnscaledScene:
    """Make a scene of what the network answered.

    Intrinsics of a frame win over predicted ones, which are the median over the views of a
    camera otherwise. Confidence becomes the share of the scene's pixels that are less sure: the
    network's own has no absolute meaning.

    Args:
        pose_enc: (S, 9), or with a leading batch dimension of 1, like all three.
        depth: (S, H, W) or (S, H, W, 1), along z.
        depth_conf: (S, H, W).
        network_input: what the network was given.
        frames: stamp [ns] of its frame set and frame, in the order of the input.
        max_points: `UnscaledScene.points` are thinned out evenly to this number.

    Returns:
        Dense views: depth, confidence, rgb and `depth_model` for the part of the input that shows
        the image, NaN and confidence 0 where depth is not finite and positive. `scene` is the
        network's world. `statistics`: views, registered, points, invalid_depth (share of
        pixels), raw confidence at 10, 50 and 90 %, and where intrinsics are given focal_ratio,
        the median of predicted over given.

    Raises:
        ValueError: arrays of other shapes, or a frame's model that is distorted or for another
            size; the message names them.
        AlignmentError: no view with a pose, intrinsics and depth.
    """
    width, height = network_input.size
    views = len(network_input.placements)
    poses = _shaped("pose_enc", pose_enc, (views, 9))
    depths = _shaped("depth", depth, (views, height, width))
    confidences = _shaped("depth_conf", depth_conf, (views, height, width))
    if len(frames) != views:
        raise ValueError(f"frames: expected {views}, as many as images, got {len(frames)}")
    cameras = decode_cameras(poses, width, height)
    models = _models(cameras, network_input, frames)
    parts = [
        _depth_part(depths[k], confidences[k], *place.region)
        for k, place in enumerate(network_input.placements)
    ]
    usable, reasons = _views(cameras, models, parts, network_input, frames)
    if not usable:
        raise AlignmentError(
            f"VGGT: expected at least one view with pose, field of view and depth, got none of "
            f"{views} ({'; '.join(reasons)}); verify the engine, or use one of higher precision"
        )
    for reason in reasons:
        _logger.warning("VGGT: view left out: %s", reason)
    ranks = _ranks([parts[k] for k in usable])
    found = [
        dataclasses.replace(view, confidence=rank)
        for view, rank in zip(usable.values(), ranks, strict=True)
    ]
    points, colours = dense_points(found, max_points)
    registered = {view.camera for view in found}
    failed = dict.fromkeys(f.camera for _, f in frames if f.camera not in registered)
    statistics = _statistics(cameras, network_input, frames, parts)
    statistics |= {"registered": float(len(found)), "points": float(len(points))}
    return UnscaledScene(tuple(found), points, colours, tuple(failed), "vggt", statistics)


def _views(
    cameras: Sequence[NetworkCamera | None],
    models: Sequence[CameraModel | None],
    parts: Sequence[_DepthPart],
    network_input: VggtInput,
    frames: Sequence[tuple[int, Frame]],
) -> tuple[dict[int, View], list[str]]:
    """Views by index, without confidence, and what is wrong with those that are not there."""
    views, reasons = {}, []
    for k, (stamp_ns, frame) in enumerate(frames):
        camera, model = cameras[k], models[k]
        if camera is None:
            reasons.append(f"{frame.camera}: no pose")
        elif model is None:
            reasons.append(f"{frame.camera}: no field of view")
        elif not parts[k].valid.any():
            reasons.append(f"{frame.camera}: no depth")
        else:
            views[k] = View(
                frame.camera,
                stamp_ns,
                model,
                camera.world_from_camera,
                depth=parts[k].depth,
                depth_model=network_input.placements[k].kept_camera(model),
                rgb=network_input.kept_rgb(k),
            )
    return views, reasons


def _shaped(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Float32:
    array = np.asarray(value)
    if array.shape not in (shape, (1, *shape), (*shape, 1), (1, *shape, 1)):
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array.astype(np.float32, copy=False).reshape(shape)


def _models(
    cameras: Sequence[NetworkCamera | None],
    network_input: VggtInput,
    frames: Sequence[tuple[int, Frame]],
) -> list[CameraModel | None]:
    """Intrinsics of each view at the size of its original image: given, else predicted."""
    predicted = _predicted_models(cameras, network_input)
    groups: dict[tuple[str, tuple[int, int]], list[CameraModel]] = {}
    keys = [
        (frame.camera, place.original)
        for (_, frame), place in zip(frames, network_input.placements, strict=True)
    ]
    for key, model in zip(keys, predicted, strict=True):
        if model is not None:
            groups.setdefault(key, []).append(model)
    models: list[CameraModel | None] = []
    for key, (_, frame) in zip(keys, frames, strict=True):
        same = groups.get(key)
        models.append(frame.model or (_median_model(same) if same else None))
    return models


def _predicted_models(
    cameras: Sequence[NetworkCamera | None], network_input: VggtInput
) -> list[CameraModel | None]:
    width, height = network_input.size
    models: list[CameraModel | None] = []
    for camera, place in zip(cameras, network_input.placements, strict=True):
        if camera is None or camera.focal_px is None:
            models.append(None)
            continue
        # W / 2 from the edge is half a pixel less from the centre of the first pixel
        middle = (width / 2 - 0.5, height / 2 - 0.5)
        whole = CameraModel(width, height, *camera.focal_px, *middle)
        models.append(place.original_camera(whole))
    return models


def _median_model(models: Sequence[CameraModel]) -> CameraModel:
    fx, fy, cx, cy = np.median([(m.fx, m.fy, m.cx, m.cy) for m in models], axis=0).tolist()
    return CameraModel(*models[0].size, fx, fy, cx, cy)


@dataclass(frozen=True, eq=False)
class _DepthPart:
    """What the network says of the pixels that show the image."""

    depth: Float32
    confidence: Float32
    valid: NDArray[np.bool_]


def _depth_part(depth: Float32, confidence: Float32, rows: slice, columns: slice) -> _DepthPart:
    part, sure = depth[rows, columns], confidence[rows, columns]
    valid = np.isfinite(part) & (part > 0) & np.isfinite(sure)
    return _DepthPart(np.where(valid, part, np.float32(np.nan)), sure, valid)


def _ranks(parts: Sequence[_DepthPart]) -> list[Float32]:
    """Confidence as the share of valid pixels of all parts that are less sure; ties share."""
    raw = np.concatenate([part.confidence[part.valid] for part in parts])
    _, inverse, counts = np.unique(raw, return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - 0.5 * counts) / len(raw)
    shares = np.split(middle[inverse], np.cumsum([part.valid.sum() for part in parts])[:-1])
    ranks = []
    for part, share in zip(parts, shares, strict=True):
        rank = np.zeros(part.depth.shape, np.float32)
        rank[part.valid] = share
        ranks.append(rank)
    return ranks


def dense_points(views: Sequence[View], max_points: int = 100_000) -> tuple[Float64, Image]:
    """Points (M, 3) in scene of the more confident pixels of dense views, evenly thinned.

    Returns:
        The points and their colours (M, 3).
    """
    points, colours = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    masks = [view.confidence >= _POINT_CONFIDENCE for view in views if view.confidence is not None]
    step = max(-(-sum(int(mask.sum()) for mask in masks) // max(max_points, 1)), 1)
    for view, mask in zip(views, masks, strict=True):
        if view.depth is None or view.depth_model is None or view.rgb is None:
            continue
        chosen = np.flatnonzero(mask)[::step]
        in_camera = view.depth_model.unproject(view.depth).reshape(-1, 3)[chosen]
        points.append(view.scene_from_camera.apply(in_camera))
        colours.append(view.rgb.reshape(-1, 3)[chosen])
    return np.concatenate(points), np.concatenate(colours)


def _statistics(
    cameras: Sequence[NetworkCamera | None],
    network_input: VggtInput,
    frames: Sequence[tuple[int, Frame]],
    parts: Sequence[_DepthPart],
) -> dict[str, float]:
    pixels = sum(part.valid.size for part in parts)
    raw = np.concatenate([part.confidence[part.valid] for part in parts])
    low, middle, high = np.percentile(raw, [10, 50, 90])
    statistics = {
        "views": float(len(frames)),
        "invalid_depth": 1.0 - len(raw) / pixels,
        "depth_confidence_p10": float(low),
        "depth_confidence_p50": float(middle),
        "depth_confidence_p90": float(high),
    }
    predicted = _predicted_models(cameras, network_input)
    ratios = [
        model.fx / frame.model.fx
        for model, (_, frame) in zip(predicted, frames, strict=True)
        if model is not None and frame.model is not None
    ]
    if ratios:
        statistics["focal_ratio"] = float(np.median(ratios))
    return statistics
