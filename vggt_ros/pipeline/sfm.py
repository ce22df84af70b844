"""The `sfm` bootstrapper: SIFT structure from motion with pycolmap, on the CPU.

COLMAP puts the centre of the top-left pixel at (0.5, 0.5), this package at (0, 0):
`_to_colmap` and `_from_colmap` are the only places that know.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vggt_ros.config import SfmConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import Float64, Frame, FrameSet, Image, UnscaledScene, View

_LOG = logging.getLogger(__name__)

_PRIOR_FOCAL = 1.2
"""First guess of an unknown focal length over the longer side (COLMAP's default: 53 degrees)."""

_MAX_REPROJECTION_PX = 2.0
"""Points that fit worse after the last bundle adjustment are left out."""


@dataclass(frozen=True)
class _Try:
    """Thresholds of one attempt to start a reconstruction."""

    min_tri_angle_deg: float
    min_inliers: int
    pnp_inliers: int


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
        estimated (plumb_bob with k1, principal point in the middle), one set per camera name.

        Returns:
            Poses [scene units], sparse points with colours. `statistics`: views,
            registered, points, reprojection_error_px (mean), track_length (mean), seconds,
            and how long features, matching and mapping took.

        Raises:
            AlignmentError: too few registered views or points; counts and names both.
        """
        start = time.monotonic()
        jobs = [(s.stamp_ns, frame) for s in frame_sets for frame in s.frames]
        if len(jobs) < self._config.min_views:
            raise AlignmentError(
                f"structure from motion: expected at least {self._config.min_views} images, "
                f"got {len(jobs)}; add cameras, or move the rig and raise sfm.sets"
            )
        frames = [frame for _, frame in jobs]
        with tempfile.TemporaryDirectory(prefix="vggt_ros_sfm_") as folder:
            reconstruction, seconds = _reconstruct(frames, Path(folder), self._config)
        names = [_view_name(frame, stamp, len(frame_sets) > 1) for stamp, frame in jobs]
        self._check(reconstruction, names)
        return _scene(reconstruction, jobs, start, seconds)

    def _check(self, reconstruction: Any, names: Sequence[str]) -> None:
        config = self._config
        registered = set() if reconstruction is None else set(reconstruction.reg_image_ids())
        points = 0 if reconstruction is None else reconstruction.num_points3D()
        if len(registered) >= config.min_views and points >= config.min_points:
            return
        failed = [name for k, name in enumerate(names) if k + 1 not in registered]
        raise AlignmentError(
            f"structure from motion: registered {len(registered)} of {len(names)} views "
            f"(expected at least {config.min_views}) with {points} points (expected at least "
            f"{config.min_points}); not registered: {', '.join(failed) or 'none'}; the views "
            "need texture and overlap of about two thirds of the image between neighbours "
            "(up to 30 degrees apart), or several sets of a moving rig (sfm.sets)"
        )


def _view_name(frame: Frame, stamp_ns: int, several_sets: bool) -> str:
    return f"{frame.camera}@{stamp_ns}" if several_sets else frame.camera


def _reconstruct(
    frames: Sequence[Frame], folder: Path, config: SfmConfig
) -> tuple[Any, dict[str, float]]:
    """The largest reconstruction (None if there is none) and the seconds of each part."""
    import pycolmap

    seconds: dict[str, float] = {}
    with _quiet(pycolmap):
        pycolmap.set_random_seed(config.seed)
        database = folder / "sfm.db"
        known = _write_database(pycolmap, frames, folder, database)
        t = time.monotonic()
        extraction = pycolmap.FeatureExtractionOptions()
        extraction.max_image_size = config.max_image_px
        extraction.num_threads = _threads()
        extraction.sift.max_num_features = config.max_features
        pycolmap.extract_features(
            database,
            folder / "images",
            [_file(k) for k in range(len(frames))],
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        seconds["features_s"] = time.monotonic() - t
        t = time.monotonic()
        matching = pycolmap.FeatureMatchingOptions()
        matching.num_threads = _threads()
        matching.use_gpu = False
        verification = pycolmap.TwoViewGeometryOptions()
        verification.ransac.random_seed = config.seed
        pycolmap.match_exhaustive(
            database,
            matching_options=matching,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        seconds["matching_s"] = time.monotonic() - t
        t = time.monotonic()
        best = _map(pycolmap, len(frames), known, folder, database, config)
        if best is not None:
            _refine(pycolmap, best, frames)
        seconds["mapping_s"] = time.monotonic() - t
    return best, seconds


def _map(
    pycolmap: Any, count: int, known: set[int], folder: Path, database: Path, config: SfmConfig
) -> Any:
    """Incremental mapping from stricter to looser starts; the largest model wins."""
    best: Any = None
    for attempt in _tries(config):
        options = pycolmap.IncrementalPipelineOptions()
        options.random_seed = config.seed
        options.num_threads = _threads()
        options.min_model_size = 2
        options.extract_colors = False
        options.constant_cameras = known
        options.mapper.random_seed = config.seed
        options.mapper.init_min_tri_angle = attempt.min_tri_angle_deg
        options.mapper.init_min_num_inliers = attempt.min_inliers
        options.mapper.abs_pose_min_num_inliers = attempt.pnp_inliers
        options.triangulation.random_seed = config.seed
        options.triangulation.ignore_two_view_tracks = count > 8
        models = pycolmap.incremental_mapping(database, folder / "images", folder, options)
        for _, model in sorted(models.items()):
            if best is None or _size(model) > _size(best):
                best = model
        if best is not None and best.num_reg_images() == count:
            break
        _LOG.debug("sfm: %s gave %s of %d views", attempt, best and best.num_reg_images(), count)
    return best


def _tries(config: SfmConfig) -> list[_Try]:
    angle = config.min_tri_angle_deg
    return [_Try(angle, 100, 30), _Try(angle / 2, 50, 20), _Try(angle / 4, 25, 15)]


def _size(model: Any) -> tuple[int, int]:
    return model.num_reg_images(), model.num_points3D()


def _refine(pycolmap: Any, model: Any, frames: Sequence[Frame]) -> None:
    """Last bundle adjustments, each followed by taking out what fits badly."""
    for _ in range(2):
        options = pycolmap.BundleAdjustmentOptions()
        options.print_summary = False
        options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
        options.ceres.loss_function_scale = 1.0
        options.ceres.solver_options.num_threads = _threads()
        if all(frame.model is not None for frame in frames):
            options.refine_focal_length = False
            options.refine_extra_params = False
        pycolmap.bundle_adjustment(model, options)
        manager = pycolmap.ObservationManager(model)
        manager.filter_all_points3D(_MAX_REPROJECTION_PX, 1.5)
    model.update_point_3d_errors()


def _write_database(
    pycolmap: Any, frames: Sequence[Frame], folder: Path, database: Path
) -> set[int]:
    """Write images and cameras in view order (ids from 1); ids of the known cameras."""
    (folder / "images").mkdir()
    ids: dict[tuple[str, CameraModel | None, tuple[int, ...]], int] = {}
    known: set[int] = set()
    db = pycolmap.Database.open(database)
    for k, frame in enumerate(frames):
        grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        path = folder / "images" / _file(k)
        if not cv2.imwrite(str(path), grey, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise AlignmentError(f"structure from motion: cannot write {path}; is the disk full?")
        key = (frame.camera, frame.model, frame.rgb.shape[:2])
        if key not in ids:
            camera = _to_colmap(pycolmap, frame)
            ids[key] = db.write_camera(camera)
            camera.camera_id = ids[key]
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            rig_id = db.write_rig(rig)
            if rig_id != ids[key]:
                raise AssertionError("rig and camera ids run together in a fresh database")
            if frame.model is not None:
                known.add(ids[key])
        image = pycolmap.Image(name=_file(k), camera_id=ids[key])
        image.image_id = db.write_image(image)
        colmap_frame = pycolmap.Frame()
        colmap_frame.rig_id = ids[key]
        colmap_frame.add_data_id(image.data_id)
        db.write_frame(colmap_frame)
    db.close()
    return known


def _to_colmap(pycolmap: Any, frame: Frame) -> Any:
    """A COLMAP camera: PINHOLE as given, else SIMPLE_RADIAL with a guessed focal length."""
    height, width = frame.rgb.shape[:2]
    if frame.model is None:
        model = "SIMPLE_RADIAL"
        params = [_PRIOR_FOCAL * max(width, height), width / 2, height / 2, 0.0]
    else:
        m = frame.model
        model, params = "PINHOLE", [m.fx, m.fy, m.cx + 0.5, m.cy + 0.5]
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params)
    camera.has_prior_focal_length = frame.model is not None
    return camera


def _from_colmap(camera: Any) -> CameraModel:
    """Intrinsics of a COLMAP camera with pixel centres at whole numbers."""
    if camera.model.name == "PINHOLE":
        fx, fy, cx, cy = camera.params
        return CameraModel(camera.width, camera.height, fx, fy, cx - 0.5, cy - 0.5)
    f, cx, cy, k1 = camera.params
    return CameraModel(
        camera.width, camera.height, f, f, cx - 0.5, cy - 0.5, "plumb_bob", (k1, 0.0, 0.0, 0.0)
    )


def _scene(
    reconstruction: Any,
    jobs: Sequence[tuple[int, Frame]],
    start: float,
    seconds: dict[str, float],
) -> UnscaledScene:
    registered = set(reconstruction.reg_image_ids())
    views = []
    failed = []
    for k, (stamp_ns, frame) in enumerate(jobs):
        if k + 1 not in registered:
            failed.append(frame.camera)
            continue
        image = reconstruction.image(k + 1)
        camera_from_scene = Rigid3.from_matrix(image.cam_from_world().matrix())
        model = frame.model or _from_colmap(reconstruction.camera(image.camera_id))
        views.append(View(frame.camera, stamp_ns, model, camera_from_scene.inverse()))
    found = {view.camera for view in views}
    points, colours = _points(reconstruction, [frame for _, frame in jobs])
    statistics = {
        "views": float(len(jobs)),
        "registered": float(len(views)),
        "points": float(len(points)),
        "reprojection_error_px": float(reconstruction.compute_mean_reprojection_error()),
        "track_length": float(reconstruction.compute_mean_track_length()),
        **seconds,
        "seconds": time.monotonic() - start,
    }
    return UnscaledScene(
        tuple(views),
        points,
        colours,
        tuple(name for name in dict.fromkeys(failed) if name not in found),
        "sfm",
        statistics,
    )


def _points(reconstruction: Any, frames: Sequence[Frame]) -> tuple[Float64, Image]:
    """Points [scene] in the order of their ids and the mean colour of their observations."""
    ids = sorted(reconstruction.point3D_ids())
    points = np.array([reconstruction.point3D(i).xyz for i in ids], np.float64).reshape(-1, 3)
    sums = np.zeros((len(ids), 3))
    counts = np.zeros(len(ids))
    row = {point_id: k for k, point_id in enumerate(ids)}
    for image_id in sorted(reconstruction.reg_image_ids()):
        rgb = frames[image_id - 1].rgb
        seen = [p for p in reconstruction.image(image_id).points2D if p.has_point3D()]
        if not seen:
            continue
        rows = np.array([row[p.point3D_id] for p in seen])
        xy = np.floor(np.array([p.xy for p in seen])).astype(int)  # centres at 0.5: floor
        x = np.clip(xy[:, 0], 0, rgb.shape[1] - 1)
        y = np.clip(xy[:, 1], 0, rgb.shape[0] - 1)
        np.add.at(sums, rows, rgb[y, x].astype(np.float64))
        np.add.at(counts, rows, 1)
    colours = np.rint(sums / np.maximum(counts, 1)[:, None]).astype(np.uint8)
    return points, colours


def _file(index: int) -> str:
    return f"{index:05d}.png"


def _threads() -> int:
    return min(os.cpu_count() or 1, 8)


@contextlib.contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Keep COLMAP's progress lines off stderr."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 2
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
