"""Depth from several views of known pose, without a network.

Per view: planes of constant depth are swept through space at no more than `SWEEP_WIDTH_PX`
(ZNCC of windows, the two best sources), a semi-global sum picks one per pixel, and Gauss-Newton
steps on the images at full width make it exact (`depth_refinement_kernels`). Then the views of
the set check each other. What is left has texture, looks alike, and agrees with another view.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config, PlaneSweepConfig
from vggt_ros.errors import AlignmentError, CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline import depth_refinement_kernels as refinement
from vggt_ros.pipeline import plane_sweep_kernels as kernels
from vggt_ros.pipeline.view_selection import depth_range, inverse_depth_planes, rank_sources
from vggt_ros.types import (
    AlignedScene,
    DepthKind,
    DepthPrediction,
    Float32,
    Frame,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
)

logger = logging.getLogger(__name__)

SWEEP_WIDTH_PX = 400
"""Wider images are halved for the sweep, whose cost grows with the third power of the width;
the steps afterwards bring back what the full width can tell."""
SWEEP_RADIUS_PX = 2
REFINE_RADIUS_PX = 4
SMOOTH_RADIUS_PX = 2
COARSE_TURNS, FINE_TURNS = 1, 2
MIN_NOISE_GREY = 0.7
UNSEEN_COST = 180
P1, P2 = 25.0, 250.0
"""Semi-global penalties for costs of 0 to 254 per path."""
EDGE_GREY = 12.0
"""Grey-level step at which P2 falls to half."""
MIN_TEXTURE_GREY = 2.0
"""Windows whose grey levels vary less (standard deviation, noise taken off) become holes: on
`indoor_sequence` their median error is 24-27 %."""

CONFIDENCE = {
    "constant": -1.72,
    "first": 0.89,
    "second": 0.37,
    "third": 0.56,
    "conflict": -0.34,
    "difference": -0.46,
    "sigma": -0.38,
    "unit": -1.16,
    "margin": 1.33,
    "score": 1.35,
}
"""Logistic regression of "within 5 % of the truth" on `indoor_sequence` (refined poses, 320 px)
and the synthetic room (640 px), equal weights: one, two and three views that agree and their mean
difference, views that look through, standard deviation and step of one pixel relative to depth,
margin of the best plane, correlation."""


@dataclass(frozen=True, eq=False)
class _Image:
    """One view of a set at the two sizes of the work; grey levels are centred on zero."""

    frame: Frame
    model: CameraModel
    rgb: NDArray[np.uint8]
    grey: Float32
    noise: float
    sweep_model: CameraModel
    sweep_grey: Float32


_Stack = tuple[Float32, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Grey levels of all sources, flat; where each begins; widths; heights."""


@dataclass(frozen=True, eq=False)
class _Level:
    """A view and its sources at one size; mean and variance are those of the refined windows."""

    grey: Float32
    mean: Float32
    variance: Float32
    stack: _Stack
    transforms: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Inverse depth q of one view before the views are compared."""

    image: _Image
    q: Float32
    unit: float
    sigma: Float32
    score: Float32
    margin: Float32


class PlaneSweep:
    """`DepthEstimator` for cameras of known pose that overlap and see texture.

    Equal input gives equal bytes, whatever the number of threads.
    """

    name = "plane_sweep"

    def __init__(self, config: PlaneSweepConfig) -> None:
        self.config = config
        self._scene: AlignedScene | None = None
        self._ranges: dict[str, tuple[float, float]] = {}
        self._ranking: dict[str, list[str]] = {}
        self._planes: dict[tuple[object, ...], NDArray[np.float64]] = {}

    def set_config(self, config: Config) -> None:
        """Take over what may change while mapping (`plane_sweep.min_confidence`)."""
        self.config = config.plane_sweep

    def prepare(self, scene: AlignedScene) -> None:
        """Rank the sources of every camera, set its depth range, compile the kernels."""
        self._take_over(scene)
        _compile()

    def _take_over(self, scene: AlignedScene) -> None:
        models = {name: model.without_distortion() for name, model in scene.cameras.items()}
        poses = {name: scene.map_from_camera[name] for name in models}
        ranges: dict[str, tuple[float, float]] = {}
        ranking: dict[str, list[str]] = {}
        for name in models:
            spacing = _spacing(name, poses)
            if spacing <= 0:
                logger.warning("plane sweep: no depth for %s: no other camera stands apart", name)
                continue
            ranges[name] = depth_range(
                models[name],
                poses[name].inverse(),
                scene.points_in_map,
                spacing,
                self.config.min_depth,
                self.config.max_depth,
            )
            found = rank_sources(name, models, poses, scene.points_in_map, *ranges[name])
            if not found:
                logger.warning(
                    "plane sweep: no depth for %s: no other camera sees the same between "
                    "%.3g and %.3g, or rays are parallel",
                    name,
                    *ranges[name],
                )
                continue
            ranking[name] = found
            logger.info(
                "plane sweep: %s from %s, depth %.3g to %.3g",
                name,
                ", ".join(found[: self.config.max_sources]),
                *ranges[name],
            )
        self._scene, self._ranges, self._ranking, self._planes = scene, ranges, ranking, {}

    def estimate(self, frame_set: FrameSet) -> list[DepthPrediction]:
        """Depth [map units] of the registered cameras that overlap with another one of the set.

        Raises:
            AlignmentError: `prepare` was not called.
            CalibrationError: a frame has no camera model, or a distorted one.
        """
        if self._scene is None:
            raise AlignmentError("plane sweep: expected prepare(scene) first, got no camera poses")
        frames = [f for f in frame_set.frames if f.camera in self._scene.map_from_camera]
        present = {f.camera for f in frames}
        served = []
        for frame in frames:
            sources = [s for s in self._ranking.get(frame.camera, []) if s in present]
            if sources:
                served.append((frame.camera, sources[: self.config.max_sources]))
            else:
                logger.debug("plane sweep: no source for %s in this set", frame.camera)
        workers = max(1, min(os.cpu_count() or 1, len(frames)))
        with ThreadPoolExecutor(workers, "plane_sweep") as pool:
            loaded = pool.map(self._load, frames)
            images = {f.camera: image for f, image in zip(frames, loaded, strict=True)}
            estimates = list(pool.map(lambda job: self._estimate(job[0], job[1], images), served))
            by_camera = {e.image.frame.camera: e for e in estimates}
            return list(pool.map(lambda e: self._finish(e, by_camera), estimates))

    def _load(self, frame: Frame) -> _Image:
        model = frame.model
        if model is None or model.is_distorted:
            raise CalibrationError(
                f"plane sweep: expected an undistorted frame with its model from {frame.camera}, "
                f"got {'no model' if model is None else model.distortion_model}"
            )
        if frame.rgb.shape != (model.height, model.width, 3):
            raise CalibrationError(
                f"plane sweep: {frame.camera}: expected an image of "
                f"{(model.height, model.width, 3)} as in its model, got {frame.rgb.shape}"
            )
        width = min(self.config.width, model.width)
        rgb, model = _resized(frame.rgb, model, width)
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) - np.float32(128)
        noise = _noise_sigma(grey)
        half = (width + 1) // 2 if width > SWEEP_WIDTH_PX else width
        sweep_grey, sweep_model = _resized(grey, model, half)
        return _Image(frame, model, rgb, grey, noise, sweep_model, sweep_grey)

    def _transform(
        self, model: CameraModel, camera: str, other: CameraModel, source: str
    ) -> NDArray[np.float64]:
        assert self._scene is not None  # for the type checker; estimate() has checked
        poses = self._scene.map_from_camera
        return _transform(model, other, poses[source].inverse() @ poses[camera])

    def _depths(
        self, camera: str, sources: list[str], images: Mapping[str, _Image]
    ) -> NDArray[np.float64]:
        """Inverse depths of the planes; the same until the poses or sizes change."""
        model = images[camera].sweep_model
        others = [images[s].sweep_model for s in sources]
        key = (camera, model, *sources, *others)
        if key not in self._planes:
            assert self._scene is not None
            poses = self._scene.map_from_camera
            moved = [poses[s].inverse() @ poses[camera] for s in sources]
            self._planes[key] = inverse_depth_planes(
                model, others, moved, *self._ranges[camera], self.config.planes
            )
            logger.debug("plane sweep: %s: %d planes", camera, len(self._planes[key]))
        return self._planes[key]

    def _estimate(
        self, camera: str, sources: list[str], images: Mapping[str, _Image]
    ) -> _Estimate:
        image = images[camera]
        planes = self._depths(camera, sources, images)
        limits = float(planes[0]), float(planes[-1])
        unit = float(planes[1] - planes[0])
        noise = max(image.noise, MIN_NOISE_GREY) ** 2
        coarse = self._level(camera, sources, images, fine=False)
        q, margin = _search(coarse, planes, noise)
        q, information, score = _align(coarse, q, unit, noise, limits, COARSE_TURNS)
        fine = coarse
        if image.model != image.sweep_model:
            fine = self._level(camera, sources, images, fine=True)
            size = image.model.size
            q = _enlarged(q, size, unit)
            margin = np.asarray(
                cv2.resize(margin, size, interpolation=cv2.INTER_LINEAR), np.float32
            )
            unit *= image.sweep_model.width / image.model.width
        q, information, score = _align(fine, q, unit, noise, limits, FINE_TURNS)
        sigma = 1 / np.sqrt(information + np.float32(1e-6))
        textured = fine.variance > MIN_TEXTURE_GREY**2 + image.noise**2
        q[~textured | (score <= 0)] = np.nan
        return _Estimate(image, q, unit, sigma, score, margin)

    def _level(
        self, camera: str, sources: list[str], images: Mapping[str, _Image], fine: bool
    ) -> _Level:
        """What the kernels need of a view and its sources at one of the two sizes."""

        def at(image: _Image) -> tuple[CameraModel, Float32]:
            return (image.model, image.grey) if fine else (image.sweep_model, image.sweep_grey)

        model, grey = at(images[camera])
        others = [at(images[s]) for s in sources]
        transforms = [
            self._transform(model, camera, other, name)
            for name, (other, _) in zip(sources, others, strict=True)
        ]
        return _Level(
            grey, *_window(grey, REFINE_RADIUS_PX), _stacked([g for _, g in others]),
            np.stack(transforms),
        )  # fmt: skip

    def _finish(self, estimate: _Estimate, all_of: Mapping[str, _Estimate]) -> DepthPrediction:
        image, unit = estimate.image, estimate.unit
        q = estimate.q.copy()
        agree, conflict, difference, shift = (np.zeros_like(q) for _ in range(4))
        for other in all_of.values():
            if other is estimate:
                continue
            name = other.image.frame.camera
            transform = self._transform(image.model, image.frame.camera, other.image.model, name)
            refinement.agreement(
                q, transform, other.q, 0.01, max(unit, other.unit),
                agree, conflict, difference, shift,
            )  # fmt: skip
        difference /= np.maximum(agree, 1)
        confidence = _confidence(estimate, agree, conflict, difference)
        q += shift / (agree + 1)
        q[~(confidence >= self.config.min_confidence)] = np.nan
        smallest = max(8, image.model.width * image.model.height // 1500)
        refinement.remove_specks(q, 2 * unit, smallest)
        confidence[np.isnan(q)] = 0
        return DepthPrediction(
            camera=image.frame.camera,
            stamp_ns=image.frame.stamp_ns,
            kind=DepthKind.TRIANGULATED,
            values=1 / q,
            confidence=confidence,
            model=image.model,
            rgb=image.rgb,
        )


def _confidence(
    estimate: _Estimate, agree: Float32, conflict: Float32, difference: Float32
) -> Float32:
    """Chance that a pixel's depth is within 5 %: a logistic model, see `CONFIDENCE`."""
    q, unit = estimate.q, np.float32(estimate.unit)
    w = CONFIDENCE
    with np.errstate(invalid="ignore", divide="ignore"):
        per_unit = unit / q
        sigma = np.clip(estimate.sigma * per_unit, 3e-4, 0.1)
        x = w["constant"] + w["score"] * estimate.score + w["margin"] * np.sqrt(estimate.margin)
        x += w["first"] * (agree >= 1) + w["second"] * (agree >= 2) + w["third"] * (agree >= 3)
        x += w["conflict"] * conflict
        x += w["sigma"] * np.log(sigma / 3e-3)
        x += w["unit"] * np.log(np.clip(per_unit, 1e-3, 1) / 0.02)
        checked = np.log(np.maximum(difference, 1e-3) / 0.01)
        x += w["difference"] * np.where(agree > 0, checked, 0)
        confidence = 1 / (1 + np.exp(-x))
    return np.asarray(np.nan_to_num(confidence), np.float32)


def _search(level: _Level, planes: NDArray[np.float64], noise: float) -> tuple[Float32, Float32]:
    """The best plane of every pixel: inverse depth and margin, (H, W) each."""
    homographies = np.repeat(level.transforms[:, None, :9], len(planes), axis=1)
    homographies[:, :, 2::3] += level.transforms[:, None, 9:] * planes[None, :, None]
    mean, variance = _window(level.grey, SWEEP_RADIUS_PX)
    inverse_std = 1 / np.sqrt(variance + np.float32(noise))
    cost = kernels.planes_last(
        kernels.sweep(
            level.grey, mean, inverse_std, *level.stack, homographies, SWEEP_RADIUS_PX, noise
        ),
        np.uint8(UNSEEN_COST),
    )
    total = kernels.semi_global(cost, _edge_factor(level.grey), P1, P2)
    index, margin = kernels.winner(total)
    unit = planes[1] - planes[0]
    q = cv2.medianBlur((planes[0] + index * unit).astype(np.float32), 3)
    return refinement.smooth(q, np.zeros_like(q), float(unit), SMOOTH_RADIUS_PX), margin


def _align(
    level: _Level,
    q: Float32,
    unit: float,
    noise: float,
    limits: tuple[float, float],
    turns: int,
) -> tuple[Float32, Float32, Float32]:
    """Steps of image alignment; inverse depth, information [1/unit^2] and correlation."""
    low, high = np.float32(limits[0]), np.float32(limits[1])
    information = score = np.zeros_like(q)
    for turn in range(turns):
        if turn:
            q = refinement.smooth(q, information, unit, SMOOTH_RADIUS_PX)
        step, information, score = refinement.align_depth(
            level.grey, level.mean, level.variance, *level.stack, level.transforms, q, unit,
            REFINE_RADIUS_PX, noise,
        )  # fmt: skip
        q = np.clip(q + step * np.float32(unit), low, high)
    return q, information, score


def _enlarged(q: Float32, size: tuple[int, int], unit: float) -> Float32:
    """Inverse depth at a larger size, without new depths between two surfaces."""
    linear = cv2.resize(q, size, interpolation=cv2.INTER_LINEAR)
    nearest = cv2.resize(q, size, interpolation=cv2.INTER_NEAREST)
    return np.where(np.abs(linear - nearest) > unit, nearest, linear)


def _stacked(images: list[Float32]) -> _Stack:
    """Images of any sizes one after the other."""
    sizes = np.array([image.size for image in images], np.int64)
    return (
        np.concatenate([image.ravel() for image in images]),
        np.cumsum(sizes) - sizes,
        np.array([image.shape[1] for image in images], np.int64),
        np.array([image.shape[0] for image in images], np.int64),
    )


def _transform(
    model: CameraModel, other: CameraModel, other_from_camera: Rigid3
) -> NDArray[np.float64]:
    """(12,): `other pixel (homogeneous) = M [x y 1] + q t` with q the inverse depth."""
    m = other.matrix @ other_from_camera.rotation @ np.linalg.inv(model.matrix)
    return np.concatenate([m.ravel(), other.matrix @ other_from_camera.translation])


def _spacing(camera: str, poses: Mapping[str, Rigid3]) -> float:
    """Distance to the nearest camera that is not at the same place; 0 if there is none."""
    centre = poses[camera].translation
    distances = [float(np.linalg.norm(p.translation - centre)) for p in poses.values()]
    largest = max(distances)
    apart = [d for d in distances if d > 1e-6 * max(largest, 1e-12)]
    return min(apart, default=0.0)


def _resized(image: Any, model: CameraModel, width: int) -> tuple[Any, CameraModel]:
    if width == model.width:
        return np.ascontiguousarray(image), model
    smaller = model.resized(width, max(1, round(model.height * width / model.width)))
    return cv2.resize(image, smaller.size, interpolation=cv2.INTER_AREA), smaller


def _window(grey: Float32, radius: int) -> tuple[Float32, Float32]:
    """Mean and variance of (2 radius + 1)^2 windows, mirrored at the border."""
    size = (2 * radius + 1, 2 * radius + 1)
    border = cv2.BORDER_REFLECT_101
    mean = np.asarray(cv2.boxFilter(grey, -1, size, borderType=border), np.float32)
    square = np.asarray(cv2.sqrBoxFilter(grey, -1, size, borderType=border), np.float32)
    return mean, np.maximum(square - mean * mean, 0)


def _noise_sigma(grey: Float32) -> float:
    """Standard deviation of the noise (Immerkaer 1996, median instead of mean)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(grey, -1, kernel))[1:-1, 1:-1]
    return float(np.median(response)) * 1.4826 / 6.0 if response.size else 0.0


def _edge_factor(grey: Float32) -> Float32:
    """(H, W) in (0, 1]: low where the grey level changes, there depth may jump."""
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=0.25)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=0.25)
    return np.asarray(EDGE_GREY / (EDGE_GREY + np.abs(dx) + np.abs(dy)), np.float32)


@functools.cache
def _compile() -> None:
    """Run everything once on a tiny set, so that no frame waits for the compiler."""
    model = CameraModel(48, 36, 40.0, 40.0, 23.5, 17.5)
    cameras = ("a", "b", "c")
    rgb = np.random.default_rng(0).integers(0, 255, (36, 48, 3), np.uint8)
    for count in (2, 3):
        names = cameras[:count]
        scene = AlignedScene(
            cameras=dict.fromkeys(names, model),
            map_from_camera={
                n: Rigid3(np.eye(3), np.array([0.1 * i, 0, 0])) for i, n in enumerate(names)
            },
            points_in_map=np.zeros((0, 3)),
            colours=np.zeros((0, 3), np.uint8),
            scale=ScaleEstimate(1.0, math.inf, ScaleSource.NONE),
            map_from_scene=Sim3.identity(),
            residuals={},
            up_source="none",
            failed=(),
            bootstrapper="none",
        )
        sweep = PlaneSweep(PlaneSweepConfig())
        sweep._take_over(scene)
        sweep.estimate(FrameSet(0, tuple(Frame(n, 0, rgb, model) for n in names)))
