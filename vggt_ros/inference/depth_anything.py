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


def write_input(rgb: Image, fit: Fit, normalisation: str, out: NDArray[Any]) -> None:
    """Scale and normalise one image into its place `out` (3, H, W) of a batch.

    Args:
        rgb: (h, w, 3).
        fit: place in the input.
        normalisation: of `passport.NORMALISATIONS`.
        out: any float type.

    Raises:
        EngineError: an unknown normalisation.
    """
    if normalisation not in NORMALISATIONS:
        raise EngineError(
            f"normalisation of the passport: expected one of {', '.join(NORMALISATIONS)}, got "
            f"'{normalisation}'; make the engine anew: vggt-ros engine export"
        )
    shrinks = fit.width < rgb.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    scaled = cv2.resize(rgb, (fit.width, fit.height), interpolation=how)
    height, width = out.shape[1:]
    bars = (fit.top, height - fit.top - fit.height, fit.left, width - fit.left - fit.width)
    if any(bars):
        scaled = cv2.copyMakeBorder(scaled, *bars, cv2.BORDER_REPLICATE)
    imagenet = normalisation == "imagenet"
    for channel, plane in enumerate(cv2.split(scaled)):
        mean, deviation = (
            (IMAGENET_MEAN[channel], IMAGENET_STD[channel]) if imagenet else (0.0, 1.0)
        )
        factor = np.float32(1.0 / (255.0 * deviation))
        np.multiply(plane, factor, out=out[channel], dtype=np.float32, casting="same_kind")
        if imagenet:
            out[channel] -= np.float32(mean / deviation)


def read_output(values: NDArray[Any], fit: Fit, size: tuple[int, int]) -> DepthResult:
    """Depth at `size` (width, height) from what the network says of the whole input (H, W)."""
    kept = values[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
    raw = np.ascontiguousarray(kept, np.float32)
    raw = np.where(np.isfinite(raw), raw, np.float32(np.nan))
    confidence = _confidence(raw)
    if size != (fit.width, fit.height):
        how = cv2.INTER_AREA if size[0] < fit.width else cv2.INTER_LINEAR
        raw = np.asarray(cv2.resize(raw, size, interpolation=how), np.float32)
        confidence = np.asarray(cv2.resize(confidence, size, interpolation=how), np.float32)
    return DepthResult(raw, np.where(np.isfinite(raw), confidence, np.float32(0)))


def _confidence(values: Float32) -> Float32:
    """Less where the output changes fast, none where it is not finite."""
    known = np.where(np.isfinite(values), values, np.float32(0))
    dx = cv2.Scharr(known, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(known, cv2.CV_32F, 0, 1, scale=1 / 32)
    level = np.abs(known) + np.float32(0.02 * np.abs(known).max() + 1e-12)
    edge = cv2.magnitude(dx, dy) / (level * np.float32(_EDGE))
    confidence = np.float32(CONFIDENCE) / (1 + edge * edge)
    return np.where(np.isfinite(values), confidence, np.float32(0)).astype(np.float32)


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
        batch = np.zeros((self._batch or len(images), 3, whole[1], whole[0]), spec.dtype)
        fits = [fit_into((image.shape[1], image.shape[0]), whole) for image in images]
        # not strict: a fixed batch may have room left
        for image, fit, out in zip(images, fits, batch, strict=False):
            write_input(image, fit, self.engine.passport.model.normalisation, out)
        self._tell_bars(fits[0], whole)
        answer = next(iter(backend.run({spec.name: batch}).values()))
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
