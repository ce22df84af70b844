"""Where the live cameras are in a loaded map, found by their images.

Each image's SIFT features are matched with the landmarks of the archive; perspective-n-point with
RANSAC (Lepetit et al., EPnP, IJCV 2009; here OpenCV's) gives a pose for each camera alone. As the
rig holds the cameras together, all of them then vote for one motion of the whole rig, which is
fitted to all their inliers; a camera that contradicts it has been moved on the rig and keeps the
place that its own image shows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.archive import SavedMap
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.landmarks import Landmarks, detect
from vggt_ros.types import Float64, Frame, FrameSet

log = logging.getLogger(__name__)

LEAST_INLIERS = 25
"""Matches that must agree with a camera's pose. Of hundreds whose points had been exchanged at
random none agreed; a rig turned round to see a room from its other side had 43 to 74."""

_RATIO = 0.8
"""Of the distances to the nearest and second nearest descriptor (Lowe, IJCV 2004)."""

_REACH_PX = 4.0
"""Reprojection error of an inlier for an image 1280 px wide; others in proportion."""

_REFERENCE_WIDTH = 1280
_TRIES = 2000

_SUPPORT = 0.5
"""Of a camera's own inliers that must agree with the motion of the rig."""

_STEPS = 15


@dataclass(frozen=True, eq=False)
class _Seen:
    """Matches of one camera: pixels (K, 2) and points (K, 3) in the saved map."""

    camera: str
    model: CameraModel
    pixels: Float64
    points: Float64
    pose: Rigid3 | None = None
    """`map_from_camera` of its image alone."""
    inliers: int = 0

    @property
    def reach_px(self) -> float:
        return _REACH_PX * max(self.model.width / _REFERENCE_WIDTH, 0.25)


@dataclass(frozen=True, eq=False)
class Reanchored:
    """A saved map with its cameras where they are now."""

    saved: SavedMap
    inliers: dict[str, int]
    """By camera, matches that agree with its new place."""
    matches: dict[str, int]
    moved: tuple[str, ...]
    """Cameras that have been moved on the rig since."""
    motion: Rigid3
    """From the old place of the rig in the map to the new one."""

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name} {self.inliers[name]} of {self.matches[name]}" for name in self.inliers
        )
        distance = float(np.linalg.norm(self.motion.translation))
        turn = np.degrees(self.motion.angle_rad)
        text = f"found by its images (matches that agree: {counts}), {distance:.3g} "
        unit = self.saved.scene.scale.unit
        text += f"{'m' if unit == 'm' else 'units'} and {turn:.1f} degrees from where it was"
        if self.moved:
            text += f"; moved on the rig since: {', '.join(self.moved)}"
        return text


def reanchor(saved: SavedMap, frame_set: FrameSet) -> Reanchored:
    """Find the cameras of a set in a saved map.

    Args:
        saved: with landmarks.
        frame_set: images of now; undistorted where they have a model.

    Raises:
        AlignmentError: too few matches agree with one place of the rig; counts by camera.
    """
    if not saved.landmarks:
        raise AlignmentError(
            f"reanchor: {saved.path} holds no landmarks: it was saved before any set was mapped; "
            "load it without reanchor"
        )
    undistorter = Undistorter()
    seen = []
    for frame in frame_set.frames:
        if frame.camera not in saved.scene.cameras:
            continue  # nobody knows its lens nor its place on the rig
        if frame.model is None:
            frame = undistorted_frame(frame, saved.scene.cameras[frame.camera], undistorter)
        seen.append(_alone(_matches(frame, saved.landmarks)))
    placed = [s for s in seen if s.pose is not None]
    if not placed:
        counts = ", ".join(f"{s.camera} {s.inliers} of {len(s.points)}" for s in seen)
        raise AlignmentError(
            f"reanchor: the images do not show the place of {saved.path}: matches that agree with "
            f"one pose: {counts or 'no camera of the map is in the set'} (expected at least "
            f"{LEAST_INLIERS} of one camera); bring the robot to where the map was made, or where "
            "its cameras see it from a similar direction"
        )
    old = saved.scene.map_from_camera
    motion = _common_motion(placed, seen, old)
    poses = {name: motion @ pose for name, pose in old.items()}
    inliers, moved = {}, []
    for s in seen:
        agreeing = _count(s, poses[s.camera])
        if s.pose is not None and agreeing < _SUPPORT * s.inliers:
            moved.append(s.camera)
            poses[s.camera] = s.pose
            agreeing = s.inliers
        inliers[s.camera] = agreeing
    if moved:
        log.warning("reanchor: %s moved on the rig since the map was saved", ", ".join(moved))
    return Reanchored(
        replace(saved, scene=_moved(saved, motion, poses)),
        inliers,
        {s.camera: len(s.points) for s in seen},
        tuple(moved),
        motion,
    )


def _moved(saved: SavedMap, motion: Rigid3, poses: dict[str, Rigid3]) -> Any:
    """The scene with its cameras at new places; what else they see of it are the landmarks."""
    scene = saved.scene
    points = np.concatenate(
        [
            scene.points_in_map,
            *(entry.points_in_map.astype(np.float64) for entry in saved.landmarks),
        ]
    )
    colours = np.concatenate(
        [scene.colours, np.full((len(points) - len(scene.colours), 3), 128, np.uint8)]
    )
    return replace(
        scene,
        map_from_camera=poses,
        points_in_map=points,
        colours=colours,
        map_from_rig=None if scene.map_from_rig is None else motion @ scene.map_from_rig,
        features={},  # their pixels were those of the old places
    )


def _matches(frame: Frame, landmarks: Sequence[Landmarks]) -> _Seen:
    """Matches with every saved image in turn.

    So a point that two of them show is no rival of itself.
    """
    pixels, descriptors = detect(frame.rgb)
    found_pixels: list[NDArray[Any]] = [np.zeros((0, 2))]
    found_points: list[NDArray[Any]] = [np.zeros((0, 3))]
    for entry in landmarks:
        ours, theirs = _nearest(descriptors, entry.descriptors)
        found_pixels.append(pixels[ours])
        found_points.append(entry.points_in_map[theirs])
    assert frame.model is not None  # `reanchor` has seen to that
    return _Seen(
        frame.camera,
        frame.model.without_distortion(),
        np.concatenate(found_pixels).astype(np.float64),
        np.concatenate(found_points).astype(np.float64),
    )


def _nearest(
    ours: NDArray[np.uint8], theirs: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of descriptors that are each other's nearest and clearly nearer than the next."""
    none = np.zeros(0, np.int64)
    if len(ours) < 2 or len(theirs) < 2:
        return none, none
    a, b = ours.astype(np.float32), theirs.astype(np.float32)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * (a @ b.T)
    two = np.argpartition(squared, 1, axis=1)[:, :2]
    rows = np.arange(len(a))
    values = squared[rows[:, None], two]
    order = values.argsort(axis=1)
    best = two[rows, order[:, 0]]
    first, second = np.take_along_axis(values, order, axis=1).T
    back = squared.argmin(axis=0)
    keep = np.flatnonzero((first < _RATIO**2 * second) & (back[best] == rows))
    return keep, best[keep]


def _alone(seen: _Seen) -> _Seen:
    """With the pose that this camera's matches give, if enough of them agree."""
    if len(seen.points) < LEAST_INLIERS:
        return seen
    cv2.setRNGSeed(0)
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        seen.points,
        seen.pixels,
        seen.model.matrix,
        None,
        iterationsCount=_TRIES,
        reprojectionError=seen.reach_px,
        confidence=0.9999,
        flags=cv2.SOLVEPNP_EPNP,
    )
    count = 0 if inliers is None else len(inliers)
    if not ok or count < LEAST_INLIERS:
        return replace(seen, inliers=count)
    camera_from_map = Rigid3.from_rotation_vector(np.ravel(turn), np.ravel(shift))
    pose = _refined([seen], {seen.camera: camera_from_map.inverse()}, Rigid3.identity())
    map_from_camera = pose @ camera_from_map.inverse()
    return replace(seen, pose=map_from_camera, inliers=_count(seen, map_from_camera))


def _common_motion(
    placed: Sequence[_Seen], seen: Sequence[_Seen], old: dict[str, Rigid3]
) -> Rigid3:
    """The motion of the rig that most matches of all cameras agree with, fitted to them."""
    best, most = Rigid3.identity(), -1
    for s in placed:
        assert s.pose is not None  # for the type checker
        motion = s.pose @ old[s.camera].inverse()
        count = sum(_count(other, motion @ old[other.camera]) for other in seen)
        if count > most:
            best, most = motion, count
    return _refined(seen, old, best)


def _count(seen: _Seen, map_from_camera: Rigid3) -> int:
    return int((_errors(seen, map_from_camera) < seen.reach_px).sum())


def _errors(seen: _Seen, map_from_camera: Rigid3) -> Float64:
    """Reprojection error (K,) [px]; infinite behind the camera."""
    points = map_from_camera.inverse().apply(seen.points)
    front = points[:, 2] > 1e-6
    errors = np.full(len(points), np.inf)
    pixels = seen.model.project(points[front])
    errors[front] = np.linalg.norm(pixels - seen.pixels[front], axis=1)
    return errors


def _refined(seen: Sequence[_Seen], poses: dict[str, Rigid3], motion: Rigid3) -> Rigid3:
    """Gauss-Newton on the reprojection errors of the inliers of all cameras, by Tukey's weights.

    Args:
        seen: matches.
        poses: `map_from_camera` before the motion.
        motion: to begin with; multiplied from the left.
    """
    for _ in range(_STEPS):
        hessian, gradient = np.zeros((6, 6)), np.zeros(6)
        for s in seen:
            camera_from_map = (motion @ poses[s.camera]).inverse()
            points = camera_from_map.apply(s.points)
            reach = 2 * s.reach_px
            z = np.where(points[:, 2] > 1e-6, points[:, 2], np.nan)
            x, y = points[:, 0] / z, points[:, 1] / z
            residual = np.stack(
                [
                    s.model.fx * x + s.model.cx - s.pixels[:, 0],
                    s.model.fy * y + s.model.cy - s.pixels[:, 1],
                ],
                axis=1,
            )
            error = np.linalg.norm(residual, axis=1)
            keep = np.flatnonzero(error < reach)  # NaN is not
            if not len(keep):
                continue
            weight = (1 - (error[keep] / reach) ** 2) ** 2
            jacobian = _jacobian(s, points[keep], camera_from_map.rotation, s.points[keep])
            hessian += np.einsum("kai,k,kaj->ij", jacobian, weight, jacobian)
            gradient += np.einsum("kai,k,ka->i", jacobian, weight, residual[keep])
        if not hessian.any():
            return motion
        step = -np.linalg.solve(hessian + 1e-9 * np.trace(hessian) * np.eye(6), gradient)
        motion = Rigid3.from_rotation_vector(step[:3], step[3:]) @ motion
        if np.abs(step).max() < 1e-9:
            break
    return motion


def _jacobian(
    seen: _Seen, in_camera: Float64, camera_from_map: Float64, in_map: Float64
) -> Float64:
    """(K, 2, 6): pixels by a small rotation and shift of the cameras in map, about its origin.

    A camera that moves by T sees the point T^-1 x: to first order x - w x (x) - v.
    """
    x, y, z = in_camera.T
    project = np.zeros((len(z), 2, 3))
    project[:, 0, 0] = seen.model.fx / z
    project[:, 0, 2] = -seen.model.fx * x / z**2
    project[:, 1, 1] = seen.model.fy / z
    project[:, 1, 2] = -seen.model.fy * y / z**2
    skew = np.zeros((len(z), 3, 3))  # [x]_x, for -w x (x) = x x w
    skew[:, 0, 1], skew[:, 0, 2] = -in_map[:, 2], in_map[:, 1]
    skew[:, 1, 0], skew[:, 1, 2] = in_map[:, 2], -in_map[:, 0]
    skew[:, 2, 0], skew[:, 2, 1] = -in_map[:, 1], in_map[:, 0]
    change = np.concatenate([skew, np.broadcast_to(-np.eye(3), skew.shape)], axis=2)
    return np.asarray(project @ (camera_from_map @ change))
