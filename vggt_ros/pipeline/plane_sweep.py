"""Depth from several views of known pose, without a network.

Per view: planes of constant depth are swept through space at no more than `SWEEP_WIDTH_PX` (ZNCC
of windows, mostly of the best source), a semi-global sum picks one per pixel, and Gauss-Newton
steps on the images at full width make it exact (`depth_search`). Then the views of the set check
each other: what agrees is averaged, and what has no texture, is too likely far off
(`max_outlier_chance`) or too little likely right (`min_confidence`), becomes a hole.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config, PlaneSweepConfig
from vggt_ros.errors import AlignmentError, CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline import depth_refinement_kernels as refinement
from vggt_ros.pipeline.depth_confidence import Evidence, chances
from vggt_ros.pipeline.depth_search import (
    COARSE_TURNS,
    FINE_RADIUS_PX,
    FINE_TURNS,
    MIN_NOISE_GREY,
    REFINE_RADIUS_PX,
    Level,
    align,
    enlarged,
    noise_sigma,
    pixels_from_pixels,
    search,
    stacked,
    window,
)
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

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class _Map(Protocol):
    """`map`, or that of a pool of threads."""

    def __call__(self, work: Callable[[_In], _Out], items: Iterable[_In], /) -> Iterator[_Out]: ...


MIN_SIZE_PX = 32
"""Smaller images do not hold the windows."""
SWEEP_WIDTH_PX = 400
"""Wider images are halved for the sweep, whose cost grows with the third power of the width;
the steps afterwards bring back what the full width can tell."""
MIN_TEXTURE_GREY = 2.0
"""Windows whose grey levels vary less (standard deviation, noise taken off) become holes: on
`indoor_sequence` their median error is 24-27 %."""


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
        self._poses: dict[str, Rigid3] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._ranking: dict[str, list[str]] = {}
        self._planes: dict[tuple[object, ...], NDArray[np.float64]] = {}

    def set_config(self, config: Config) -> None:
        """Take over what may change while mapping, as `plane_sweep.min_confidence`."""
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
        self._poses, self._ranges, self._ranking, self._planes = poses, ranges, ranking, {}

    def estimate(self, frame_set: FrameSet) -> list[DepthPrediction]:
        """Depth [map units] of the registered cameras that overlap with another one of the set.

        Raises:
            AlignmentError: `prepare` was not called.
            CalibrationError: a frame has no camera model, or a distorted one.
        """
        if not self._poses:
            raise AlignmentError("plane sweep: expected prepare(scene) first, got no camera poses")
        workers = max(1, min(_cores(), len(frame_set.frames)))
        with ThreadPoolExecutor(workers, "plane_sweep") as pool:
            return self._estimate_all(frame_set, pool.map)

    def _estimate_all(self, frame_set: FrameSet, apply: _Map) -> list[DepthPrediction]:
        frames = [f for f in frame_set.frames if f.camera in self._poses]
        present = {f.camera for f in frames}
        served = []
        for frame in frames:
            sources = [s for s in self._ranking.get(frame.camera, []) if s in present]
            if sources:
                served.append((frame.camera, sources[: self.config.max_sources]))
            else:
                logger.debug("plane sweep: no source for %s in this set", frame.camera)
        images = {i.frame.camera: i for i in apply(self._load, frames)}
        estimates = list(apply(lambda job: self._estimate(job[0], job[1], images), served))
        by_camera = {e.image.frame.camera: e for e in estimates}
        return list(apply(lambda e: self._finish(e, by_camera), estimates))

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
        if min(model.size) < MIN_SIZE_PX:
            raise CalibrationError(
                f"plane sweep: {frame.camera}: expected an image of at least {MIN_SIZE_PX} px "
                f"each way, got {model.width}x{model.height}"
            )
        width = min(self.config.width, model.width)
        rgb, model = _resized(frame.rgb, model, width)
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) - np.float32(128)
        noise = noise_sigma(grey)
        half = (width + 1) // 2 if width > SWEEP_WIDTH_PX else width
        sweep_grey, sweep_model = _resized(grey, model, half)
        return _Image(frame, model, rgb, grey, noise, sweep_model, sweep_grey)

    def _transform(
        self, model: CameraModel, camera: str, other: CameraModel, source: str
    ) -> NDArray[np.float64]:
        return pixels_from_pixels(
            model, other, self._poses[source].inverse() @ self._poses[camera]
        )

    def _depths(
        self, camera: str, sources: list[str], images: Mapping[str, _Image]
    ) -> NDArray[np.float64]:
        """Inverse depths of the planes; the same until the poses or sizes change."""
        model = images[camera].sweep_model
        others = [images[s].sweep_model for s in sources]
        key = (camera, model, *sources, *others)
        if key not in self._planes:
            moved = [self._poses[s].inverse() @ self._poses[camera] for s in sources]
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
        q, margin = search(coarse, planes, noise)
        q, information, score = align(coarse, q, unit, noise, limits, COARSE_TURNS)
        fine = coarse
        if image.model != image.sweep_model:
            fine = self._level(camera, sources, images, fine=True)
            size = image.model.size
            q = enlarged(q, size, unit)
            margin = np.asarray(
                cv2.resize(margin, size, interpolation=cv2.INTER_LINEAR), np.float32
            )
            unit *= image.sweep_model.width / image.model.width
        q, information, score = align(fine, q, unit, noise, limits, FINE_TURNS)
        sigma = 1 / np.sqrt(information + np.float32(1e-6))
        textured = fine.variance > MIN_TEXTURE_GREY**2 + image.noise**2
        # The first and the last plane also catch what lies before and behind them.
        inside = (q > limits[0] + 0.25 * unit) & (q < limits[1] - 0.25 * unit)
        q[~textured | ~inside | (score <= 0)] = np.nan
        return _Estimate(image, q, unit, sigma, score, margin)

    def _level(
        self, camera: str, sources: list[str], images: Mapping[str, _Image], fine: bool
    ) -> Level:
        """What the kernels need of a view and its sources at one of the two sizes."""

        def at(image: _Image) -> tuple[CameraModel, Float32]:
            return (image.model, image.grey) if fine else (image.sweep_model, image.sweep_grey)

        radius = FINE_RADIUS_PX if fine else REFINE_RADIUS_PX
        model, grey = at(images[camera])
        others = [at(images[s]) for s in sources]
        transforms = [
            self._transform(model, camera, other, name)
            for name, (other, _) in zip(sources, others, strict=True)
        ]
        return Level(
            grey, *window(grey, radius), radius, stacked([g for _, g in others]),
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
        confidence, not_far_off = chances(
            Evidence(
                q,
                unit,
                estimate.sigma,
                estimate.score,
                estimate.margin,
                agree,
                conflict,
                difference,
            )
        )
        q += shift / (agree + 1)
        kept = (not_far_off >= 1 - self.config.max_outlier_chance) & (
            confidence >= self.config.min_confidence
        )
        q[~kept] = np.nan
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


def _spacing(camera: str, poses: Mapping[str, Rigid3]) -> float:
    """Distance to the nearest camera that is not at the same place; 0 if there is none."""
    centre = poses[camera].translation
    distances = [float(np.linalg.norm(p.translation - centre)) for p in poses.values()]
    largest = max(distances)
    apart = [d for d in distances if d > 1e-6 * max(largest, 1e-12)]
    return min(apart, default=0.0)


def _cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _resized(
    image: NDArray[Any], model: CameraModel, width: int
) -> tuple[NDArray[Any], CameraModel]:
    if width == model.width:
        return np.ascontiguousarray(image), model
    smaller = model.resized(width, max(1, round(model.height * width / model.width)))
    return cv2.resize(image, smaller.size, interpolation=cv2.INTER_AREA), smaller


@functools.cache
def _compile() -> None:
    """Run everything once on a tiny set, so that no frame waits for the compiler.

    In this thread: whoever interrupts it need not wait until all is compiled.
    """
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
        sweep._estimate_all(FrameSet(0, tuple(Frame(n, 0, rgb, model) for n in names)), map)
