"""Where the cameras are between the windows: features of the newest keyframes with known depth.

A pose by resection is good to centimetres and there at once; the path of the keyframes is better
and comes with their window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.geometry import Rigid3
from vggt_ros.types import DepthMap, Float32, Float64, Frame, FrameSet, Image

Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_FEATURES = 800
_RATIO = 0.8
"""Of the distances to the nearest and second nearest descriptor (Lowe, IJCV 2004)."""
_REPROJECTION_PX = 3.0
_LEAST_INLIERS = 20
_LEAST_FRACTION = 0.25
_TRIES = 200
_LONG_SIDE_PX = 640


@dataclass(frozen=True, eq=False)
class _Landmarks:
    descriptors: Float32
    points_in_map: Float64


class Tracker:
    """Finds `map_from_rig` of single sets by what the map's newest keyframes show."""

    KEPT = 6
    """Depth maps whose features are looked for: those of the newest keyframes."""

    def __init__(self) -> None:
        self._landmarks: deque[_Landmarks] = deque(maxlen=self.KEPT)

    def clear(self) -> None:
        """Forget all features."""
        self._landmarks.clear()

    def learn(self, depth_map: DepthMap) -> None:
        """Take the features of a depth map that went into the map."""
        pixels, descriptors = _features(depth_map.rgb)
        if not len(pixels):
            return
        columns, lines = np.rint(pixels).astype(int).T
        depth = depth_map.depth[lines, columns]
        good = np.isfinite(depth)
        if not good.any():
            return
        model = depth_map.model
        rays = np.stack(
            [
                (pixels[good, 0] - model.cx) / model.fx,
                (pixels[good, 1] - model.cy) / model.fy,
                np.ones(int(good.sum())),
            ],
            axis=1,
        )
        points = depth_map.map_from_camera.apply(rays * depth[good, None])
        self._landmarks.append(_Landmarks(descriptors[good], points))

    def locate(self, frame_set: FrameSet, rig_from_camera: Mapping[str, Rigid3]) -> Rigid3 | None:
        """`map_from_rig` of an undistorted set by the camera that sees most; None if none does."""
        best: tuple[int, Rigid3] | None = None
        for frame in frame_set.frames:
            if frame.camera not in rig_from_camera or frame.model is None:
                continue
            found = _resected(frame, self._landmarks)
            if found is not None and (best is None or found[0] > best[0]):
                best = (found[0], found[1] @ rig_from_camera[frame.camera].inverse())
        return best[1] if best is not None else None


def _resected(frame: Frame, landmarks: Iterable[_Landmarks]) -> tuple[int, Rigid3] | None:
    """Inliers and `map_from_camera`."""
    pixels, own = _features(frame.rgb)
    rows, targets = [], []
    for kept in landmarks:  # each keyframe shows a point once: its second nearest is another
        if len(own) and len(kept.descriptors) > 1:
            chosen, nearest = _distinct(own, kept.descriptors)
            rows.append(chosen)
            targets.append(kept.points_in_map[nearest])
    if sum(map(len, rows)) < _LEAST_INLIERS:
        return None
    matched, points = pixels[np.concatenate(rows)], np.concatenate(targets)
    assert frame.model is not None  # for the type checker: the caller has looked
    cv2.setRNGSeed(0)
    found, vector, shift, inliers = cv2.solvePnPRansac(
        points,
        matched,
        frame.model.matrix,
        None,
        iterationsCount=_TRIES,
        reprojectionError=_REPROJECTION_PX,
        confidence=0.999,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not found or inliers is None:
        return None
    if len(inliers) < max(_LEAST_INLIERS, _LEAST_FRACTION * len(points)):
        return None
    camera_from_map = Rigid3.from_rotation_vector(vector.ravel(), shift.ravel())
    return len(inliers), camera_from_map.inverse()


def _distinct(own: Float32, others: Float32) -> tuple[Indices, Indices]:
    """Rows of descriptors whose nearest other is clearly nearer than the second, and that one."""
    similarity = own @ others.T
    nearest = similarity.argmax(axis=1)
    second, first = np.partition(similarity, -2, axis=1)[:, -2:].T
    # of unit vectors: squared distance = 2 - 2 * similarity
    chosen = np.flatnonzero(2 - 2 * first < _RATIO**2 * (2 - 2 * second))
    return chosen, nearest[chosen]


def _features(rgb: Image) -> tuple[Float64, Float32]:
    """Pixels (N, 2) of the full image and RootSIFT descriptors (N, 128)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    factor = min(1.0, _LONG_SIDE_PX / max(grey.shape))
    if factor < 1:
        grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT_create(_FEATURES).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    if descriptors is None:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    pixels = np.array([point.pt for point in points], np.float64)
    scale = np.array([rgb.shape[1] / grey.shape[1], rgb.shape[0] / grey.shape[0]])
    pixels = (pixels + 0.5) * scale - 0.5
    limit = np.array([rgb.shape[1] - 1, rgb.shape[0] - 1])
    return np.clip(pixels, 0, limit), root.astype(np.float32)
