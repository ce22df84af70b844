"""Depth Anything: RGB in, float32 depth of the same size out, for pipelines of any kind.

    with DepthAnythingPool.open("depth_anything_small.onnx") as pool:
        for depth in pool.infer([left, right]):
            depth.values, depth.confidence        # (H, W) float32, meaning by pool.kind

What the numbers mean (disparity or depth) and how the input is normalised stand in the passport
of the engine; neither is guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import BackendOptions
from vggt_ros.inference.engine_store import Engine, open_engine
from vggt_ros.inference.passport import NORMALISATIONS
from vggt_ros.models.vggt_config import IMAGENET_MEAN, IMAGENET_STD
from vggt_ros.types import DepthKind, Float32, Image

PATCH = 14
"""Side of a patch [px]."""
TRAINING_SIZE = 518
"""Shorter side [px] of the images that Depth Anything was trained on."""

CONFIDENCE = 0.6
"""Of a pixel away from edges, as the chance of being within 5 % of the truth once it is aligned.
The network gives none. Aligned Depth Anything V2 has a median error of about 4 to 5 % indoors."""
_EDGE = 0.05
"""Relative change from pixel to pixel of the output that halves the confidence: a slope of 5 % a
pixel is an edge of two things, and what lies on it floats between them."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DepthResult:
    """Of one image, both (H, W) float32: values, NaN invalid; confidence in [0, 1], 0 there."""

    values: Float32
    confidence: Float32


@dataclass(frozen=True)
class Fit:
    """Where an image lies in the input: scaled to this size, at the middle, edges repeated."""

    width: int
    height: int
    left: int
    top: int


def input_size(width: int, height: int, shorter_px: int = TRAINING_SIZE) -> tuple[int, int]:
    """(width, height) of the input for an image, multiples of 14, aspect kept.

    The shorter side becomes `shorter_px` and the longer one is rounded, as in the networks' own
    preprocessing.

    Raises:
        ValueError: `shorter_px` is not a positive multiple of 14.
    """
    if shorter_px < PATCH or shorter_px % PATCH:
        raise ValueError(
            f"Depth Anything input: expected a multiple of {PATCH} px, got {shorter_px}"
        )
    scale = shorter_px / min(width, height)
    sides = (max(round(side * scale / PATCH), 1) * PATCH for side in (width, height))
    wide, high = sides
    return wide, high


def fit_into(size: tuple[int, int], whole: tuple[int, int]) -> Fit:
    """The largest place for an image of `size` in an input `whole`, both (width, height).

    Sides that differ by less than a patch are stretched, so that nothing is left over.
    """
    scale = min(whole[0] / size[0], whole[1] / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    width = whole[0] if whole[0] - width < PATCH else width
    height = whole[1] if whole[1] - height < PATCH else height
    return Fit(width, height, (whole[0] - width) // 2, (whole[1] - height) // 2)


def write_input(rgb: Image, fit: Fit, normalisation: str, out: Float32) -> None:
    """Scale and normalise one image into its place `out` (3, H, W) of a batch.

    Args:
        rgb: (h, w, 3).
        fit: place in the input.
        normalisation: of `passport.NORMALISATIONS`.
        out: float32.

    Raises:
        EngineError: an unknown normalisation.
    """
    if normalisation not in NORMALISATIONS:
        raise EngineError(
            f"normalisation of the passport: expected one of {', '.join(NORMALISATIONS)}, got "
            f"'{normalisation}'; make the engine anew: vggt-ros engine export"
        )
    scaled = _scaled(rgb, (fit.width, fit.height))
    height, width = out.shape[1:]
    bars = (fit.top, height - fit.top - fit.height, fit.left, width - fit.left - fit.width)
    if any(bars):
        scaled = np.asarray(cv2.copyMakeBorder(scaled, *bars, cv2.BORDER_REPLICATE), np.uint8)
    imagenet = normalisation == "imagenet"
    for channel, plane in enumerate(cv2.split(scaled)):
        mean, deviation = (
            (IMAGENET_MEAN[channel], IMAGENET_STD[channel]) if imagenet else (0.0, 1.0)
        )
        factor, shift = 1.0 / (255.0 * deviation), -mean / deviation
        _to_float(plane, np.float32(factor), np.float32(shift), out[channel])


def _scaled(rgb: Image, size: tuple[int, int]) -> Image:
    """Resize to (width, height) without aliasing.

    Halving is fast; OpenCV's averages over areas of any other size are ten times slower, and
    between 1 and 2 bilinear interpolation sees every pixel.
    """
    while not (
        rgb.shape[1] % 2
        or rgb.shape[0] % 2
        or rgb.shape[1] < 2 * size[0]
        or rgb.shape[0] < 2 * size[1]
    ):
        half = (rgb.shape[1] // 2, rgb.shape[0] // 2)
        rgb = np.asarray(cv2.resize(rgb, half, interpolation=cv2.INTER_AREA), np.uint8)
    if rgb.shape[1::-1] == size:
        return rgb
    ratio = max(rgb.shape[1] / size[0], rgb.shape[0] / size[1])
    how = cv2.INTER_CUBIC
    if ratio > 1:
        how = cv2.INTER_LINEAR if ratio <= 2 else cv2.INTER_AREA
    return np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _to_float(plane, factor, shift, out):  # type: ignore[no-untyped-def]
    """`out` = plane * factor + shift, in one pass; (H, W) uint8 to float32."""
    height, width = plane.shape
    for v in range(height):
        for u in range(width):
            out[v, u] = np.float32(plane[v, u]) * factor + shift


def read_output(values: NDArray[Any], fit: Fit, size: tuple[int, int]) -> DepthResult:
    """Depth at `size` (width, height) from what the network says of the whole input (H, W)."""
    kept: Float32 = values[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
    raw = np.array(kept, np.float32, order="C")
    holes = ~np.isfinite(raw)
    raw[holes] = np.nan
    ratio = fit.width / size[0]
    if ratio > 1:
        raw = _resized(raw, size)
        holes = np.isnan(raw) if holes.any() else np.zeros(raw.shape, np.bool_)
    confidence = np.empty_like(raw)
    _rate(raw, np.float32(0.02 * np.abs(raw[~holes]).max(initial=0.0) + 1e-12), confidence)
    if raw.shape[::-1] != size:
        raw, confidence = _resized(raw, size), _resized(confidence, size)
        if holes.any():
            confidence[np.isnan(raw)] = 0
    return DepthResult(raw, confidence)


def _resized(values: Float32, size: tuple[int, int]) -> Float32:
    how = cv2.INTER_AREA if values.shape[1] > 2 * size[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=how), np.float32)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _rate(values, floor, out):  # type: ignore[no-untyped-def]
    """Confidence `out` of `values`, both (H, W): less at steps, 0 at NaN."""
    height, width = values.shape
    for v in range(height):
        up, down = max(v - 1, 0), min(v + 1, height - 1)
        for u in range(width):
            before, after = max(u - 1, 0), min(u + 1, width - 1)
            value = values[v, u]
            if np.isnan(value):
                out[v, u] = 0
                continue
            dx = values[v, after] - values[v, before]
            dy = values[down, u] - values[up, u]
            # next to a hole nothing is known of the slope: it counts as none
            slope = (0 if np.isnan(dx) else dx * dx) + (0 if np.isnan(dy) else dy * dy)
            level = (abs(value) + floor) * np.float32(2 * _EDGE)
            out[v, u] = np.float32(CONFIDENCE) / (1 + slope / (level * level))


class DepthAnythingPool:
    """One engine, run by several threads; batches where it takes them.

    An error in a thread is raised in the caller, with all images of the call given up.

    Args:
        engine: of the family depth_anything; the pool closes it.
        image_px: shorter side of the input, for engines of free size.
        contexts: batches that are computed at the same time; the engine must be open for as many.

    Raises:
        EngineError: another family, no kind of depth in the passport, or other inputs and
            outputs than those of Depth Anything.
    """

    def __init__(self, engine: Engine, image_px: int = TRAINING_SIZE, contexts: int = 1) -> None:
        model = engine.passport.model
        if model.family != "depth_anything":
            raise EngineError(
                f"{engine.path}: expected an engine of depth_anything, got one of {model.family}"
            )
        try:
            self.kind = DepthKind(model.depth_kind)
        except ValueError as error:
            raise EngineError(
                f"{engine.path}: expected a depth_kind in its passport, one of "
                f"{', '.join(kind.value for kind in DepthKind)}, got '{model.depth_kind}'; make "
                "the engine anew: vggt-ros engine export"
            ) from error
        backend = engine.backend
        inputs, outputs = backend.inputs, backend.outputs
        shape = inputs[0].shape if len(inputs) == 1 else ()
        if len(shape) != 4 or shape[1] not in (3, None) or len(outputs) != 1:
            raise EngineError(
                f"{engine.path}: expected one input (B, 3, H, W) and one output, got "
                f"{[i.shape for i in inputs]} and {', '.join(o.name for o in outputs)}; make the "
                "engine anew: vggt-ros engine export"
            )
        if any(side is not None and side % PATCH for side in shape[2:]):
            raise EngineError(
                f"{engine.path}: expected height and width to be multiples of {PATCH}, got "
                f"{shape[2]}x{shape[3]}; make the engine anew: vggt-ros engine export"
            )
        input_size(1, 1, image_px)  # refuses what is no multiple of 14
        self.engine = engine
        self._image_px = image_px
        self._batch, _, self._height, self._width = shape
        self._threads = ThreadPoolExecutor(contexts, "depth_anything")
        self._bars_told = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        contexts: int = 1,
        image_px: int = TRAINING_SIZE,
        verify: bool = True,
    ) -> DepthAnythingPool:
        """Open an engine and put a pool around it.

        Raises:
            EngineError: it cannot be used, with what mends it.
        """
        options = BackendOptions(device, precision, contexts)
        engine = open_engine(path, backend, options, verify)
        try:
            return cls(engine, image_px, contexts)
        except BaseException:
            engine.close()
            raise

    def __enter__(self) -> DepthAnythingPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the batches in hand and free the engine."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.engine.close()

    def infer(
        self, images: Sequence[Image], sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[DepthResult]:
        """Depth of each image.

        Args:
            images: RGB (H, W, 3) uint8, of any sizes.
            sizes: (width, height) of each result instead of that of the image.

        Raises:
            ValueError: something that is no image.
            EngineError: the engine failed.
        """
        for k, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ValueError(
                    f"Depth Anything: image {k}: expected (H, W, 3) uint8, got {image.shape} "
                    f"{image.dtype}"
                )
        wanted = sizes or [(image.shape[1], image.shape[0]) for image in images]
        if len(wanted) != len(images):
            raise ValueError(f"sizes: expected {len(images)}, one per image, got {len(wanted)}")
        results: list[DepthResult | None] = [None] * len(images)
        jobs: list[tuple[list[int], Future[list[DepthResult]]]] = [
            (
                batch,
                self._threads.submit(
                    self._run, [images[k] for k in batch], [wanted[k] for k in batch], whole
                ),
            )
            for whole, batch in self._batches(images)
        ]
        try:
            for batch, job in jobs:
                for k, result in zip(batch, job.result(), strict=True):
                    results[k] = result
        finally:
            for _, job in jobs:
                job.cancel()
        return [result for result in results if result is not None]

    def warm_up(self, count: int, size: tuple[int, int] = (640, 480)) -> None:
        """Run once on `count` grey images of (width, height)."""
        self.infer([np.full((size[1], size[0], 3), 128, np.uint8)] * count)

    def _batches(self, images: Sequence[Image]) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Size of the input (width, height) and the indices of the images in it."""
        groups: dict[tuple[int, int], list[int]] = {}
        for k, image in enumerate(images):
            wide, high = input_size(image.shape[1], image.shape[0], self._image_px)
            groups.setdefault((self._width or wide, self._height or high), []).append(k)
        for whole, group in groups.items():
            # where any number goes, all contexts get their share
            share = -(-len(group) // self._threads._max_workers)
            step = self._batch or share
            for start in range(0, len(group), step):
                yield whole, group[start : start + step]

    def _run(
        self, images: list[Image], sizes: list[tuple[int, int]], whole: tuple[int, int]
    ) -> list[DepthResult]:
        backend = self.engine.backend
        spec = backend.inputs[0]
        batch = np.zeros((self._batch or len(images), 3, whole[1], whole[0]), np.float32)
        fits = [fit_into((image.shape[1], image.shape[0]), whole) for image in images]
        # not strict: a fixed batch may have room left
        for image, fit, out in zip(images, fits, batch, strict=False):
            write_input(image, fit, self.engine.passport.model.normalisation, out)
        self._tell_bars(fits[0], whole)
        answer = next(
            iter(backend.run({spec.name: batch.astype(spec.dtype, copy=False)}).values())
        )
        shape = (len(batch), whole[1], whole[0])
        if answer.size != np.prod(shape):
            raise EngineError(
                f"{self.engine.path}: expected depth of shape {shape}, got {answer.shape}; make "
                "the engine anew: vggt-ros engine export"
            )
        depths = answer.reshape(shape)
        return [read_output(d, f, s) for d, f, s in zip(depths, fits, sizes, strict=False)]

    def _tell_bars(self, fit: Fit, whole: tuple[int, int]) -> None:
        lost = 1 - fit.width * fit.height / (whole[0] * whole[1])
        if lost > 0.1 and not self._bars_told:
            self._bars_told = True
            _LOG.warning(
                "%s: %.0f %% of its input of %dx%d shows nothing, for the images have another "
                "aspect; export it for %dx%d",
                self.engine.path,
                100 * lost,
                *whole,
                *input_size(fit.width, fit.height, self._image_px),
            )
