"""Features, matches and incremental mapping with pycolmap, in a folder that the caller cleans."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from vggt_ros.config import SfmConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.pipeline.colmap_cameras import camera_to_colmap, group_cameras
from vggt_ros.types import Frame

_LOG = logging.getLogger(__name__)

_ENOUGH_MATCHES = 30_000
"""Verified matches above which one start is enough. With few of them (four views of an indoor
room: 3,000) two of five starts end in a wrong local minimum with 3-20 % fewer observations, but
each then costs only 0.1 s."""

_MAX_STARTS = 8


@dataclass(frozen=True)
class _Start:
    """One way to begin: thresholds of the first pair and of resection, and the seed."""

    min_tri_angle_deg: float
    min_inliers: int
    pnp_inliers: int
    seed: int


class ColmapWorkspace:
    """Images, database and models of one reconstruction.

    Image ids are places in `frames` plus one; everything is written in that order, so that
    the same frames and seed give the same result.
    """

    def __init__(self, frames: Sequence[Frame], folder: Path, config: SfmConfig) -> None:
        self.frames = frames
        self.seconds: dict[str, float] = {}
        self._config = config
        self._folder = folder
        self._images = folder / "images"
        self._database = folder / "sfm.db"
        self._groups: list[int] = []
        self._write(shared=config.intrinsics != "per_camera")

    def match(self) -> None:
        """Find SIFT features in all images and match all pairs."""
        import pycolmap

        with _timed(self.seconds, "features_s"):
            extraction = pycolmap.FeatureExtractionOptions()
            extraction.use_gpu = False
            extraction.max_image_size = self._config.max_image_px
            extraction.num_threads = _threads()
            extraction.sift.max_num_features = self._config.max_features
            pycolmap.extract_features(
                self._database,
                self._images,
                [_file(k) for k in range(len(self.frames))],
                extraction_options=extraction,
                device=pycolmap.Device.cpu,
            )
        with _timed(self.seconds, "matching_s"):
            matching = pycolmap.FeatureMatchingOptions()
            matching.use_gpu = False
            matching.num_threads = _threads()
            verification = pycolmap.TwoViewGeometryOptions()
            verification.ransac.random_seed = self._config.seed
            pycolmap.match_exhaustive(
                self._database,
                matching_options=matching,
                verification_options=verification,
                device=pycolmap.Device.cpu,
            )

    def map(self, polish: Callable[[Any], float]) -> Any:
        """Incremental mapping from several starts.

        Args:
            polish: refines a model in place and returns how good it is.

        Returns:
            The model with most registered views and, among these, the best; None if no start
            gave any.
        """
        with _timed(self.seconds, "mapping_s"):
            best, best_score = self._map_starts(polish, None, (0, 0.0))
            unknown = any(frame.model is None for frame in self.frames)
            if self._config.intrinsics == "auto" and unknown and best_score[0] < len(self.frames):
                self._regroup(shared=False)
                best, best_score = self._map_starts(polish, best, best_score)
        return best

    def _map_starts(
        self, polish: Callable[[Any], float], best: Any, best_score: tuple[int, float]
    ) -> tuple[Any, tuple[int, float]]:
        wanted = self._starts_wanted()
        for number, start in enumerate(_starts(self._config)):
            complete = best_score[0] == len(self.frames)
            if complete and number >= wanted:
                break
            for _, model in sorted(self._map_once(start).items()):
                score = (model.num_reg_images(), polish(model))
                _LOG.debug("sfm: %s: %d views, score %.0f", start, *score)
                if score > best_score:
                    best, best_score = model, score
        return best, best_score

    def _map_once(self, start: _Start) -> dict[int, Any]:
        import pycolmap

        options = pycolmap.IncrementalPipelineOptions()
        # Threads would make RANSAC and the solver's sums depend on timing.
        options.num_threads = 1
        options.random_seed = start.seed
        options.mapper.random_seed = start.seed
        options.triangulation.random_seed = start.seed
        options.min_model_size = 2
        options.max_num_models = 3
        options.extract_colors = False
        options.constant_cameras = {
            group for group, frame in zip(self._groups, self.frames) if frame.model is not None
        }
        # The last bundle adjustment is ours; in between, coarser ones do (measured on 11
        # views: same poses to 0.1 mm, a quarter less time).
        options.ba_global_frames_ratio = 2.0
        options.ba_global_points_ratio = 2.0
        options.ba_global_function_tolerance = 1e-6
        options.ba_local_function_tolerance = 1e-6
        options.ba_global_max_refinements = 2
        options.mapper.init_min_tri_angle = start.min_tri_angle_deg
        options.mapper.init_min_num_inliers = start.min_inliers
        options.mapper.abs_pose_min_num_inliers = start.pnp_inliers
        # Rigs overlap little: points seen by two cameras are half of all and worth having.
        options.triangulation.ignore_two_view_tracks = len(self.frames) > 8
        models = pycolmap.incremental_mapping(self._database, self._images, self._folder, options)
        return dict(models)

    def _starts_wanted(self) -> int:
        import pycolmap

        with pycolmap.Database.open(self._database) as database:
            matches = int(database.num_inlier_matches())
        return max(1, min(_MAX_STARTS, _ENOUGH_MATCHES // max(matches, 1)))

    def _write(self, shared: bool) -> None:
        import pycolmap

        self._images.mkdir()
        for k, frame in enumerate(self.frames):
            path = self._images / _file(k)
            grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
            if not cv2.imwrite(str(path), grey, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise AlignmentError(
                    f"structure from motion: cannot write {path}; is the disk full?"
                )
        with pycolmap.Database.open(self._database) as database:
            self._groups = group_cameras(self.frames, shared)
            self._write_cameras(database)
            for k, group in enumerate(self._groups):
                image = pycolmap.Image(name=_file(k), camera_id=group, image_id=k + 1)
                database.write_image(image, use_image_id=True)
                self._write_frame(database, image, group)

    def _regroup(self, shared: bool) -> None:
        """Give the images other cameras; features and matches stay."""
        import pycolmap

        with pycolmap.Database.open(self._database) as database:
            self._groups = group_cameras(self.frames, shared)
            database.clear_frames()
            database.clear_rigs()
            database.clear_cameras()
            self._write_cameras(database)
            for k, group in enumerate(self._groups):
                image = database.read_image(k + 1)
                image.camera_id = group
                database.update_image(image)
                self._write_frame(database, image, group)

    def _write_cameras(self, database: Any) -> None:
        import pycolmap

        for group in sorted(set(self._groups)):
            frame = self.frames[self._groups.index(group)]
            camera = camera_to_colmap(frame, group)
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig()
            rig.rig_id = group
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)

    def _write_frame(self, database: Any, image: Any, group: int) -> None:
        import pycolmap

        frame = pycolmap.Frame()
        frame.frame_id = image.image_id
        frame.rig_id = group
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)


def _starts(config: SfmConfig) -> list[_Start]:
    """Other seeds and angles first, weaker thresholds at the end."""
    angle, seed = config.min_tri_angle_deg, config.seed
    strict = [(1, 0), (2, 1), (1, 2), (4, 3), (1, 4), (2, 5)]
    loose = [(0.5, 60, 20, 6), (0.25, 30, 15, 7)]
    return [_Start(angle * f, 100, 30, seed + n) for f, n in strict] + [
        _Start(angle * f, inliers, pnp, seed + n) for f, inliers, pnp, n in loose
    ]


def _file(index: int) -> str:
    return f"{index:05d}.png"


def _threads() -> int:
    return min(os.cpu_count() or 1, 8)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
