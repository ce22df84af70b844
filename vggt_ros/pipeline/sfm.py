"""The `sfm` bootstrapper: SIFT structure from motion with pycolmap, on the CPU."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.config import SfmConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.colmap_cameras import camera_from_colmap
from vggt_ros.pipeline.sfm_mapping import ColmapWorkspace
from vggt_ros.pipeline.sfm_refine import adjust, choose_intrinsics
from vggt_ros.types import Float64, Frame, FrameSet, Image, UnscaledScene, View


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
    """The best reconstruction (None if there is none) and the seconds of each part."""
    import pycolmap

    with _quiet(pycolmap):
        pycolmap.set_random_seed(config.seed)
        workspace = ColmapWorkspace(frames, folder, config)
        workspace.match()
        model = workspace.map(lambda found: adjust(found, frames, principal_point=False))
        start = time.monotonic()
        if model is not None:
            model, _ = choose_intrinsics(model, frames, config.intrinsics)
        workspace.seconds["refinement_s"] = time.monotonic() - start
    return model, workspace.seconds


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
        model = frame.model or camera_from_colmap(reconstruction.camera(image.camera_id))
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


@contextlib.contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Keep COLMAP's progress lines off stderr."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3  # a start that fails is no error
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
