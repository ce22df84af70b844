"""The `sfm` bootstrapper: SIFT structure from motion with pycolmap, on the CPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.config import SfmConfig
from vggt_ros.errors import AlignmentError, CalibrationError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.colmap_cameras import COLMAP_PIXEL_OFFSET, camera_from_colmap
from vggt_ros.pipeline.pycolmap_import import quiet_and_seeded
from vggt_ros.pipeline.sfm_covariance import Observations, pose_covariance
from vggt_ros.pipeline.sfm_mapping import LEAST_AGREEMENT, ColmapWorkspace
from vggt_ros.pipeline.sfm_refine import adjust, choose_intrinsics
from vggt_ros.types import Features, Frame, FrameSet, Image, UnscaledScene, View


class SfmBootstrapper:
    """Finds the cameras of one or several frame sets from SIFT matches.

    Views come back in the order in which the sets hold them; `View.stamp_ns` is that of the
    frame set. The same images and seed give the same poses bit for bit.
    """

    name = "sfm"

    def __init__(self, config: SfmConfig) -> None:
        self._config = config
        self.sets_needed = config.sets

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """Register the views of all sets together.

        Frames with a `model` keep it; for the others focal length and radial distortion are
        estimated (plumb_bob with k1; see `choose_intrinsics`).

        Returns:
            Poses [scene units], sparse points with colours. `statistics`: views,
            registered, points, reprojection_error_px (mean), track_length (mean), agreement (part
            of the verified matches that agree with the poses), seconds,
            and how long features, matching and mapping took.

        Raises:
            AlignmentError: too few registered views or points; counts and names both.
            CalibrationError: a frame with a model is distorted.
        """
        start = time.monotonic()
        jobs = [(s.stamp_ns, frame) for s in frame_sets for frame in s.frames]
        if len(jobs) < self._config.min_views:
            raise AlignmentError(
                f"structure from motion: expected at least {self._config.min_views} images, "
                f"got {len(jobs)}; add cameras, or move the rig and raise sfm.sets"
            )
        frames = [frame for _, frame in jobs]
        for frame in frames:
            if frame.model is not None and frame.model.is_distorted:
                raise CalibrationError(
                    f"structure from motion: camera '{frame.camera}': expected an undistorted "
                    f"image, got one with {frame.model.distortion_model}; undistort it first "
                    "(pipeline.decode)"
                )
        with tempfile.TemporaryDirectory(prefix="vggt_ros_sfm_") as folder:
            model, statistics = _reconstruct(frames, Path(folder), self._config)
        names = [_view_name(frame, stamp, len(frame_sets) > 1) for stamp, frame in jobs]
        self._check(model, names, statistics.get("agreement", 0.0))
        return _scene(model, jobs, start, statistics)

    def _check(self, model: Any, names: Sequence[str], agreement: float) -> None:
        config = self._config
        registered = set() if model is None else set(model.reg_image_ids())
        points = 0 if model is None else model.num_points3D()
        enough = len(registered) >= config.min_views and points >= config.min_points
        if enough and agreement >= LEAST_AGREEMENT:
            return
        failed = [name for k, name in enumerate(names) if k + 1 not in registered]
        raise AlignmentError(
            f"structure from motion: registered {len(registered)} of {len(names)} views "
            f"(expected at least {config.min_views}) with {points} points (expected at least "
            f"{config.min_points}) and {100 * agreement:.0f} % of the matches in agreement "
            f"(expected at least {100 * LEAST_AGREEMENT:.0f} %); not registered: "
            f"{', '.join(failed) or 'none'}; the views "
            "need texture and overlap of about two thirds of the image between neighbours "
            "(up to 30 degrees apart), or several sets of a moving rig (sfm.sets); where TF or a "
            "rig file has the poses, bootstrap: rig takes them as they are"
        )


def _view_name(frame: Frame, stamp_ns: int, several_sets: bool) -> str:
    return f"{frame.camera}@{stamp_ns}" if several_sets else frame.camera


def _reconstruct(
    frames: Sequence[Frame], folder: Path, config: SfmConfig
) -> tuple[Any, dict[str, float]]:
    """The best reconstruction (None if there is none) and its statistics."""

    def refine(model: Any) -> Any:
        given = all(frame.model is not None for frame in frames)
        adjust(model, frames, intrinsics=False, strict=given)
        return choose_intrinsics(model, frames, config.intrinsics)[0]

    with quiet_and_seeded(config.seed):
        workspace = ColmapWorkspace(frames, folder, config)
        workspace.match()
        found = workspace.map(refine)
    statistics = workspace.seconds
    if found is None:
        return None, statistics
    statistics["agreement"] = found.agreement
    return found.model, statistics


def _scene(
    model: Any,
    jobs: Sequence[tuple[int, Frame]],
    start: float,
    measured: dict[str, float],
) -> UnscaledScene:
    registered = set(model.reg_image_ids())
    row = {point_id: k for k, point_id in enumerate(sorted(model.point3D_ids()))}
    views = []
    failed = []
    for k, (stamp_ns, frame) in enumerate(jobs):
        if k + 1 not in registered:
            failed.append(frame.camera)
            continue
        image = model.image(k + 1)
        camera_from_scene = Rigid3.from_matrix(image.cam_from_world().matrix())
        intrinsics = frame.model or camera_from_colmap(model.camera(image.camera_id))
        scene_from_camera = camera_from_scene.inverse()
        features = _features(image, row)
        views.append(
            View(frame.camera, stamp_ns, intrinsics, scene_from_camera, features=features)
        )
    found = {view.camera for view in views}
    observations = _observations(model, [frame for _, frame in jobs])
    statistics = {
        "views": float(len(jobs)),
        "registered": float(len(views)),
        "points": float(len(observations.points)),
        "reprojection_error_px": float(model.compute_mean_reprojection_error()),
        "track_length": float(model.compute_mean_track_length()),
        **measured,
    }
    covariance = pose_covariance(observations)
    statistics["seconds"] = time.monotonic() - start
    return UnscaledScene(
        tuple(views),
        observations.points,
        _colours(model, observations, [frame for _, frame in jobs]),
        tuple(name for name in dict.fromkeys(failed) if name not in found),
        "sfm",
        statistics,
        covariance,
    )


def _features(image: Any, row: dict[int, int]) -> Features:
    """Where the image saw points, whose rows go by their ids."""
    seen = [p for p in image.points2D if p.has_point3D()]
    pixels = np.array([p.xy for p in seen], np.float64).reshape(-1, 2) - COLMAP_PIXEL_OFFSET
    return Features(np.array([row[p.point3D_id] for p in seen], np.int64), pixels)


def _observations(model: Any, frames: Sequence[Frame]) -> Observations:
    """Points in the order of their ids, and per registered view what it saw of them."""
    ids = sorted(model.point3D_ids())
    points = np.array([model.point3D(i).xyz for i in ids], np.float64).reshape(-1, 3)
    row = {point_id: k for k, point_id in enumerate(ids)}
    poses, rows, errors, intrinsics, groups = [], [], [], [], []
    for image_id in sorted(model.reg_image_ids()):
        image = model.image(image_id)
        camera = model.camera(image.camera_id)
        pose = image.cam_from_world().matrix()
        seen = [p for p in image.points2D if p.has_point3D()]
        at = np.array([row[p.point3D_id] for p in seen], np.int64)
        pixels = np.array([p.xy for p in seen], np.float64).reshape(-1, 2)
        projected = np.asarray(camera.img_from_cam(points[at] @ pose[:, :3].T + pose[:, 3]))
        given = frames[image_id - 1].model is not None
        poses.append(pose)
        rows.append(at)
        errors.append(projected.reshape(-1, 2) - pixels)
        intrinsics.append([camera.mean_focal_length(), 0.0 if given else camera.params[3]])
        groups.append(-1 if given else image.camera_id)
    return Observations(np.array(poses), points, rows, errors, np.array(intrinsics), groups)


def _colours(model: Any, observations: Observations, frames: Sequence[Frame]) -> Image:
    """Mean colour (M, 3) of each point's observations."""
    sums = np.zeros((len(observations.points), 3))
    counts = np.zeros(len(observations.points))
    for k, image_id in enumerate(sorted(model.reg_image_ids())):
        rows = observations.rows[k]
        rgb = frames[image_id - 1].rgb
        seen = [p.xy for p in model.image(image_id).points2D if p.has_point3D()]
        xy = np.floor(np.array(seen, np.float64).reshape(-1, 2)).astype(int)  # centres at 0.5
        x = np.clip(xy[:, 0], 0, rgb.shape[1] - 1)
        y = np.clip(xy[:, 1], 0, rgb.shape[0] - 1)
        np.add.at(sums, rows, rgb[y, x].astype(np.float64))
        np.add.at(counts, rows, 1)
    return np.rint(sums / np.maximum(counts, 1)[:, None]).astype(np.uint8)
