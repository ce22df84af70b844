"""How long an engine takes, from arrays in to arrays out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import Backend
from vggt_ros.inference.engine_store import Listed
from vggt_ros.inference.golden import DEFAULT_RECIPE, golden_input, normalise
from vggt_ros.inference.passport import Passport
from vggt_ros.types import Float32

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Timing:
    """Host times of single calls [ms]: copies to the device and back are in them."""

    iterations: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p95_ms: float

    @property
    def fps(self) -> float:
        """Calls per second at the mean."""
        return 1000.0 / self.mean_ms if self.mean_ms > 0 else float("inf")

    @staticmethod
    def of(times_ms: list[float]) -> Timing:
        """Summary of at least one time."""
        times = np.asarray(times_ms, np.float64)
        p50, p95 = np.percentile(times, [50, 95])
        return Timing(
            iterations=len(times_ms),
            mean_ms=float(times.mean()),
            std_ms=float(times.std()),
            min_ms=float(times.min()),
            max_ms=float(times.max()),
            p50_ms=float(p50),
            p95_ms=float(p95),
        )


def measure(
    backend: Backend,
    images: NDArray[Any],
    iterations: int,
    warmup: int,
    progress: Progress = iter,
) -> Timing:
    """Time calls one after the other.

    Args:
        backend: opened, with one input.
        images: that input.
        iterations: that are timed, at least one.
        warmup: calls before them that are not.
        progress: wraps the loop over the timed calls.

    Raises:
        EngineError: the input does not fit, or the runtime failed.
    """
    inputs = {backend.inputs[0].name: images}
    for _ in range(warmup):
        backend.run(inputs)
    times_ms = []
    for _ in progress(range(max(1, iterations))):
        started = time.perf_counter()
        backend.run(inputs)
        times_ms.append(1e3 * (time.perf_counter() - started))
    return Timing.of(times_ms)


def input_shape(backend: Backend, passport: Passport | None) -> tuple[int, ...]:
    """A shape without free sizes that an engine takes: its own, else that of its golden input.

    Raises:
        EngineError: neither says.
    """
    shape = backend.inputs[0].shape
    if None not in shape:
        return tuple(n for n in shape if n is not None)
    if passport is not None and passport.golden is not None:
        return passport.golden.input_shape
    raise EngineError(
        f"input {backend.inputs[0].name}: expected fixed sizes, found "
        f"{[-1 if n is None else n for n in shape]} and no golden input that names some; give "
        "--num-cams, --height and --width"
    )


def synthetic_images(shape: tuple[int, ...], normalisation: str, seed: int = 1) -> Float32:
    """Image-like noise of a shape (N, 3, H, W), the same for every run."""
    return golden_input(DEFAULT_RECIPE, shape, seed, normalisation)


def folder_images(folder: str | Path, shape: tuple[int, ...], normalisation: str) -> Float32:
    """The first N photographs of a folder by name, resized to (N, 3, H, W).

    Raises:
        EngineError: no folder, fewer than N images, or one that cannot be decoded.
    """
    import cv2

    from vggt_ros.inference.bicubic import resize_bicubic

    folder = Path(folder)
    if not folder.is_dir():
        raise EngineError(f"{folder}: expected a folder of images, found none")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    count = int(np.prod(shape[:-3], dtype=np.int64))
    if len(files) < count:
        raise EngineError(
            f"{folder}: expected {count} images ({', '.join(IMAGE_SUFFIXES)}), found "
            f"{len(files)}; add some, or use synthetic ones: --use-random"
        )
    planes = []
    for file in files[:count]:
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise EngineError(f"{file}: expected an image, got a file that cannot be decoded")
        rgb = np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)
        planes.append(resize_bicubic(rgb, shape[-1], shape[-2]))
    return normalise(np.stack(planes).reshape(shape), normalisation)


def quant_mode_of(listed: Listed, root: Path) -> str:
    """The quantisation mode: of the passport, else the folder that it lies in under the root."""
    if listed.passport is not None:
        return listed.passport.precision.quant_mode_effective
    parts = listed.path.relative_to(root).parts
    return parts[-2] if len(parts) > 1 else "none"


def precision_of(listed: Listed) -> str:
    """The effective precision: of the passport, else "unknown": a name proves nothing."""
    return listed.passport.precision.effective if listed.passport else "unknown"


def describe_output(name: str, array: NDArray[Any]) -> str:
    """Shape, type and range on one line."""
    return (
        f"name={name:<20} shape={tuple(array.shape)} dtype={array.dtype} "
        f"min={array.min():.6g} max={array.max():.6g} mean={array.mean():.6g}"
    )


def timing_record(
    quant_mode: str, precision: str, engine: str | Path, timing: Timing
) -> Mapping[str, Any]:
    """One entry of the documented `--json` list."""
    return {
        "quant_mode": quant_mode,
        "precision": precision,
        "engine": str(engine),
        "fps": timing.fps,
        "mean_ms": timing.mean_ms,
        "std_ms": timing.std_ms,
    }
