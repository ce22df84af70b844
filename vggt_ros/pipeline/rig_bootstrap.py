"""The `rig` bootstrapper: the poses are given, points and depth are not."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vggt_ros.config import RigConfig, SfmConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.pycolmap_import import quiet_and_seeded
from vggt_ros.pipeline.rig_adjustment import (
    Tracks,
    adjust,
    consistent,
    tracks_from_matches,
    triangulate,
)
from vggt_ros.pipeline.sfm_mapping import ColmapWorkspace
from vggt_ros.rig import Rig
from vggt_ros.types import Float64, Frame, FrameSet, Image, UnscaledScene, View

_LOG = logging.getLogger(__name__)

_LEAST_TRACKS = 30
"""Fewer are no ground to move a pose that somebody measured."""


class RigBootstrapper:
    """Takes the poses from the rig; `scene` is the rig frame and its unit the metre.

    Points are triangulated from features where cameras overlap; they give the range of depth.
    With `rig.refine` the poses are fitted to these features within their sigmas.
    """

    name = "rig"
    sets_needed = 1

    def __init__(self, rig: Rig, config: RigConfig, features: SfmConfig) -> None:
        self._rig = rig
        self._config = config
        self._features = features

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """Views of the newest set at their places on the rig.

        Raises:
            AlignmentError: no camera of the set has both a place on the rig and intrinsics.
        """
        if not frame_sets:
            raise AlignmentError("bootstrap rig: expected a frame set, got none")
        start = time.monotonic()
        frame_set = frame_sets[-1]
        frames, models, reasons = self._usable(frame_set)
        poses = [self._rig.poses[frame.camera] for frame in frames]
        tracks = _tracks(frames, self._features)
        if self._config.refine:
            poses = self._refined(frames, tracks, models, poses)
        points = triangulate(tracks, models, poses)
        good = np.isfinite(points).all(axis=1)
        good &= consistent(tracks, points, models, poses)
        views = tuple(
            View(frame.camera, frame_set.stamp_ns, model, pose)
            for frame, model, pose in zip(frames, models, poses, strict=True)
        )
        statistics = {
            "views": float(len(frame_set.frames)),
            "registered": float(len(views)),
            "points": float(good.sum()),
            "seconds": time.monotonic() - start,
        }
        colours = _colours(tracks, frames)
        return UnscaledScene(
            views, points[good], colours[good], tuple(reasons), self.name, statistics
        )

    def _usable(
        self, frame_set: FrameSet
    ) -> tuple[list[Frame], list[CameraModel], dict[str, str]]:
        poses, known = self._rig.poses, self._rig.models
        frames, models, reasons = [], [], {}
        for frame in frame_set.frames:
            model = frame.model or known.get(frame.camera)
            if frame.camera not in poses:
                reasons[frame.camera] = "no rig_from_camera"
            elif model is None:
                reasons[frame.camera] = "no intrinsics"
            else:
                frames.append(frame)
                models.append(model)
        if not frames:
            told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
            raise AlignmentError(
                "bootstrap rig: expected at least one camera with place and intrinsics, got "
                f"none ({told}); give CameraInfo or a rig file"
            )
        return frames, models, reasons

    def _refined(
        self,
        frames: Sequence[Frame],
        tracks: Tracks,
        models: Sequence[CameraModel],
        given: Sequence[Rigid3],
    ) -> list[Rigid3]:
        if tracks.count < _LEAST_TRACKS:
            _LOG.warning(
                "rig.refine: the poses stay as they are: %d feature tracks, %d needed",
                tracks.count,
                _LEAST_TRACKS,
            )
            return list(given)
        sigmas = np.deg2rad(self._config.rotation_sigma_deg), self._config.centre_sigma_m
        poses = adjust(tracks, models, given, *sigmas)
        for frame, pose, known in zip(frames, poses, given, strict=True):
            change = known.inverse() @ pose
            _LOG.info(
                "rig.refine: %s turned by %.2f degrees, moved by %.1f mm",
                frame.camera,
                np.rad2deg(change.angle_rad),
                1e3 * np.linalg.norm(change.translation),
            )
        return poses


def _tracks(frames: Sequence[Frame], config: SfmConfig) -> Tracks:
    """Verified feature matches between all pairs of undistorted frames, joined."""
    nothing = Tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), 0)
    if len(frames) < 2 or any(frame.model is None for frame in frames):
        return nothing
    temporary = tempfile.TemporaryDirectory(prefix="vggt_ros_rig_")
    with temporary as folder, quiet_and_seeded(config.seed):
        workspace = ColmapWorkspace(frames, Path(folder), config)
        workspace.match()
        keypoints, matches = workspace.verified_matches()
    return tracks_from_matches(keypoints, matches)


def _colours(tracks: Tracks, frames: Sequence[Frame]) -> Image:
    """Mean colour (count, 3) of each track."""
    sums: Float64 = np.zeros((tracks.count, 3))
    for view, frame in enumerate(frames):
        rows = np.flatnonzero(tracks.views == view)
        x, y = np.rint(tracks.pixels[rows]).astype(int).T
        height, width = frame.rgb.shape[:2]
        seen = frame.rgb[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        np.add.at(sums, tracks.tracks[rows], seen.astype(np.float64))
    size = np.bincount(tracks.tracks, minlength=tracks.count)
    return np.rint(sums / np.maximum(size, 1)[:, None]).astype(np.uint8)
