"""Features, matches and incremental mapping with pycolmap, in a folder that the caller cleans."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vggt_ros.config import SfmConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.pipeline.colmap_cameras import (
    COLMAP_PIXEL_OFFSET,
    PRIOR_FOCAL,
    camera_to_colmap,
    group_cameras,
)
from vggt_ros.pipeline.pycolmap_import import import_pycolmap
from vggt_ros.types import Float64, Frame

_LOG = logging.getLogger(__name__)

_AGREEMENT_PX = 1.0
"""Distance from the epipolar line at which a match counts nothing.

Wrong local minima cannot be told by the number of points (they often keep more) but by this:
on 16 reconstructions of four-view indoor sets, right ones had 0.69-0.82 of the verified matches
in agreement, wrong ones 0.43-0.51."""

LEAST_AGREEMENT = 0.25
"""Reconstructions that fewer verified matches agree with are nonsense."""

_MANY_MATCHES = 30_000
_STARTS_OF_MANY = 4
"""Above so many verified matches a start takes seconds, and its result depends little on it."""

_SMALL_CHANGE = 0.12
"""Of a focal length when it is refined: the guess was right."""

_ENOUGH_AGREEMENT = 0.8
"""A start that explains this part of the verified matches needs no other."""


@dataclass(frozen=True)
class _Start:
    """One way to begin: thresholds of the first pair and of resection, and the seed."""

    min_tri_angle_deg: float
    min_inliers: int
    pnp_inliers: int
    seed: int
    focal: float | None
    """Guess of unknown focal lengths over the longer side; None: from the matches."""


@dataclass(frozen=True)
class FoundModel:
    """A reconstruction and how many of the verified matches between its views agree with it."""

    model: Any
    views: int
    agreeing: float
    count: int
    observations: int

    @property
    def agreement(self) -> float:
        """0 to 1."""
        return self.agreeing / max(self.count, 1)

    @property
    def rank(self) -> float:
        """Large where many matches agree and many of them became points.

        More views have more of both; a view that is registered wrongly adds none. Epipolar
        lines alone do not see that all centres but two have fallen into one.
        """
        return self.agreeing * self.observations

    def __str__(self) -> str:
        return (
            f"{self.views} views, {self.agreeing:.0f} of {self.count} matches, "
            f"{self.observations} observations"
        )


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
        self._write()

    def match(self) -> None:
        """Find SIFT features in all images and match all pairs."""
        pycolmap = import_pycolmap()

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
            # With two, one run of twelve on a busy machine matched 11 images differently.
            matching.num_threads = 1
            verification = pycolmap.TwoViewGeometryOptions()
            verification.ransac.random_seed = self._config.seed
            pycolmap.match_exhaustive(
                self._database,
                matching_options=matching,
                verification_options=verification,
                device=pycolmap.Device.cpu,
            )

    def verified_matches(self) -> tuple[list[Float64], dict[tuple[int, int], Any]]:
        """Keypoints per frame, pixels (n, 2), and per pair of frames rows (m, 2) into them."""
        pycolmap = import_pycolmap()

        count = len(self.frames)
        matches = {}
        with pycolmap.Database.open(self._database) as database:
            keypoints = [
                np.asarray(database.read_keypoints(k + 1))[:, :2].astype(np.float64)
                - COLMAP_PIXEL_OFFSET
                for k in range(count)
            ]
            for i, j in itertools.combinations(range(count), 2):
                rows = np.asarray(database.read_two_view_geometry(i + 1, j + 1).inlier_matches)
                if len(rows):
                    matches[i, j] = rows.reshape(-1, 2).astype(np.int64)
        return keypoints, matches

    def map(self, refine: Callable[[Any], Any]) -> FoundModel | None:
        """Incremental mapping from several starts, with fixed guesses of unknown intrinsics.

        Unknown focal lengths are tried on a grid, because a few views do not pull a wrong one
        to its place; a result counts as found where refining hardly changes the guess.

        Args:
            refine: polishes a model and returns it, or a copy with refined intrinsics.

        Returns:
            The refined model with the highest rank; None if no start gave any.
        """
        unknown = any(frame.model is None for frame in self.frames)
        with _timed(self.seconds, "mapping_s"):
            from_matches = self._focal_from_matches() if unknown else PRIOR_FOCAL
            best: FoundModel | None = None
            starts = _starts(self._config, unknown)
            if self._matches() > _MANY_MATCHES:
                starts = starts[:_STARTS_OF_MANY]
            for start in starts:
                focals = dict.fromkeys(self._groups, start.focal or from_matches)
                best, settled = self._try(start, focals, refine, best)
                if settled:
                    return best
            if unknown and best is not None:
                focals = self._focals_of(best.model)
                for start in _starts(self._config, False)[:2]:
                    best, _ = self._try(start, focals, refine, best)
        return best

    def _matches(self) -> int:
        with import_pycolmap().Database.open(self._database) as database:
            return int(database.num_inlier_matches())

    def _try(
        self,
        start: _Start,
        focals: dict[int, float],
        refine: Callable[[Any], Any],
        best: FoundModel | None,
    ) -> tuple[FoundModel | None, bool]:
        """The best model so far, and whether there is no need to look further."""
        self._set_focals(focals)
        settled = False
        for _, model in sorted(self._map_once(start).items()):
            refined = refine(model)
            if refined.num_reg_images() < 2 or not refined.num_points3D():
                continue
            found = self.judge(refined)
            _LOG.debug("sfm: %s: %s", start, found)
            if best is None or found.rank > best.rank:
                best = found
                changes = [
                    abs(math.log(focal / focals[group]))
                    for group, focal in self._focals_of(refined).items()
                    if not self._is_given(group)
                ]
                settled = self.is_convincing(found) and max(changes, default=0) < _SMALL_CHANGE
        return best, settled

    def is_convincing(self, found: FoundModel) -> bool:
        """Good enough not to look for a better one."""
        return (
            found.views == len(self.frames)
            and found.agreement > _ENOUGH_AGREEMENT
            and 2 * found.observations > found.count
        )

    def judge(self, model: Any) -> FoundModel:
        """What the matches say of a model."""
        agreeing, count = self.agreement(model)
        return FoundModel(
            model, model.num_reg_images(), agreeing, count, model.compute_num_observations()
        )

    def agreement(self, model: Any) -> tuple[float, int]:
        """How many verified matches between registered views agree with a model.

        A match counts 1 minus its squared Sampson distance (Hartley and Zisserman, 11.4.3) over
        `_AGREEMENT_PX` squared, at least 0. Other than the number of triangulated points this
        does not favour models with wide angles.

        Returns:
            The sum, and how many verified matches there are.
        """
        pycolmap = import_pycolmap()

        image_ids = sorted(model.reg_image_ids())
        total, count = 0.0, 0
        with pycolmap.Database.open(self._database) as database:
            rays, poses, focal = {}, {}, {}
            for i in image_ids:
                camera = model.camera(model.image(i).camera_id)
                keypoints = np.asarray(database.read_keypoints(i))[:, :2].astype(np.float64)
                normalised = np.asarray(camera.cam_from_img(keypoints)).reshape(-1, 2)
                rays[i] = np.column_stack([normalised, np.ones(len(normalised))])
                poses[i] = model.image(i).cam_from_world().matrix()
                focal[i] = float(camera.mean_focal_length())
            for i, j in itertools.combinations(image_ids, 2):
                matches = np.asarray(database.read_two_view_geometry(i, j).inlier_matches)
                if not len(matches):
                    continue
                squared = _sampson(
                    poses[i], poses[j], rays[i][matches[:, 0]], rays[j][matches[:, 1]]
                )
                squared_px = squared * focal[i] * focal[j]
                total += float(np.nansum(np.clip(1 - squared_px / _AGREEMENT_PX**2, 0, None)))
                count += len(matches)
        return total, count

    def _is_given(self, group: int) -> bool:
        return self.frames[self._groups.index(group)].model is not None

    def _focals_of(self, model: Any) -> dict[int, float]:
        """Focal length over the longer side of each camera; the median for those not seen."""
        seen: dict[int, float] = {}
        for image_id in sorted(model.reg_image_ids()):
            camera = model.camera(model.image(image_id).camera_id)
            focal = float(camera.mean_focal_length()) / max(camera.width, camera.height)
            seen.setdefault(self._groups[image_id - 1], focal)
        middle = float(np.median(list(seen.values())))
        return {group: seen.get(group, middle) for group in self._groups}

    def _focal_from_matches(self) -> float:
        """Unknown focal lengths over the longer side from fundamental matrices, their median.

        Sweeney et al., "Optimizing the viewing graph for structure-from-motion", ICCV 2015;
        each good to 5-30 %.
        """
        pycolmap = import_pycolmap()
        copy = self._folder / "focal.db"
        shutil.copyfile(self._database, copy)
        options = pycolmap.ViewGraphCalibrationOptions()
        options.random_seed = self._config.seed
        options.reestimate_relative_pose = False
        found: list[float] = []
        if pycolmap.calibrate_view_graph(copy, options):
            with pycolmap.Database.open(copy) as database:
                found = [
                    float(camera.mean_focal_length()) / max(camera.width, camera.height)
                    for camera in database.read_all_cameras()
                    if camera.has_prior_focal_length and not self._is_given(camera.camera_id)
                ]
        focal = float(np.median(found)) if found else PRIOR_FOCAL
        return focal if 0.2 < focal < 5 else PRIOR_FOCAL

    def _set_focals(self, focals: dict[int, float]) -> None:
        pycolmap = import_pycolmap()
        with pycolmap.Database.open(self._database) as database:
            for camera in database.read_all_cameras():
                if self._is_given(camera.camera_id):
                    continue
                focal = focals[camera.camera_id] * max(camera.width, camera.height)
                camera.params = [focal, *camera.params[1:]]
                camera.has_prior_focal_length = True  # else resection estimates it anew
                database.update_camera(camera)

    def _map_once(self, start: _Start) -> dict[int, Any]:
        pycolmap = import_pycolmap()

        options = pycolmap.IncrementalPipelineOptions()
        # Threads would make RANSAC and the solver's sums depend on timing.
        options.num_threads = 1
        options.random_seed = start.seed
        options.mapper.random_seed = start.seed
        options.triangulation.random_seed = start.seed
        options.min_model_size = 2
        options.max_num_models = 3
        options.extract_colors = False
        options.constant_cameras = set(self._groups)
        # The last bundle adjustment is ours; in between, coarser ones do (measured on 11
        # views: same poses to 0.1 mm, a quarter less time).
        # A few views do not hold unknown intrinsics; they are let free at the end.
        options.ba_refine_focal_length = False
        options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = False
        options.mapper.abs_pose_refine_extra_params = False
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

    def _write(self) -> None:
        pycolmap = import_pycolmap()

        self._images.mkdir()
        for k, frame in enumerate(self.frames):
            path = self._images / _file(k)
            grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
            try:
                path.write_bytes(b"P5\n%d %d\n255\n" % grey.shape[::-1] + grey.tobytes())
            except OSError as error:
                raise AlignmentError(
                    f"structure from motion: cannot write {path}: {error.strerror}; is the "
                    "disk full?"
                ) from error
        with pycolmap.Database.open(self._database) as database:
            self._groups = group_cameras(self.frames, shared=False)
            self._write_cameras(database)
            for k, group in enumerate(self._groups):
                image = pycolmap.Image(name=_file(k), camera_id=group, image_id=k + 1)
                database.write_image(image, use_image_id=True)
                self._write_frame(database, image, group)

    def _write_cameras(self, database: Any) -> None:
        pycolmap = import_pycolmap()

        for group in sorted(set(self._groups)):
            frame = self.frames[self._groups.index(group)]
            camera = camera_to_colmap(frame, group)
            database.write_camera(camera, use_camera_id=True)
            rig = pycolmap.Rig()
            rig.rig_id = group
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)

    def _write_frame(self, database: Any, image: Any, group: int) -> None:
        pycolmap = import_pycolmap()

        frame = pycolmap.Frame()
        frame.frame_id = image.image_id
        frame.rig_id = group
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)


def _starts(config: SfmConfig, unknown: bool) -> list[_Start]:
    """Other seeds, angles and focal lengths first, weaker thresholds at the end."""
    angles: list[float] = [1.0, 2.0, 1.0, 4.0, 1.0, 2.0]
    focals: list[float | None] = [None] * len(angles)
    if unknown:
        focals = [None, 0.6, 1.2, 0.5, 0.85, 0.72, 1.0, 0.42, 1.45, 1.7]
        angles = [1.0] * len(focals)
    starts = [
        _Start(config.min_tri_angle_deg * factor, 100, 30, config.seed + n, focal)
        for n, (factor, focal) in enumerate(zip(angles, focals, strict=True))
    ]
    for factor, inliers, pnp in ((0.5, 60, 20), (0.25, 30, 15)):
        angle = config.min_tri_angle_deg * factor
        starts.append(_Start(angle, inliers, pnp, config.seed + len(starts), None))
    return starts


def _sampson(
    first_from_world: Float64, second_from_world: Float64, rays1: Float64, rays2: Float64
) -> Float64:
    """Squared Sampson distances (N,) at z = 1 of matched rays (N, 3)."""
    rotation = second_from_world[:, :3] @ first_from_world[:, :3].T
    x, y, z = second_from_world[:, 3] - rotation @ first_from_world[:, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    lines2, lines1 = rays1 @ essential.T, rays2 @ essential
    numerator = (rays2 * lines2).sum(axis=1) ** 2
    denominator = (lines2[:, :2] ** 2).sum(axis=1) + (lines1[:, :2] ** 2).sum(axis=1)
    return np.asarray(numerator / np.maximum(denominator, 1e-300))


def _file(index: int) -> str:
    return f"{index:05d}.pgm"


def _threads() -> int:
    return min(os.cpu_count() or 1, 8)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
