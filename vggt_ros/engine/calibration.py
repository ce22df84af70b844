"""Images to find the ranges of activations with.

A batch is what the network gets at once: (num_cams, 3, H, W) float32 RGB, in [0, 1] for VGGT,
less the ImageNet mean over the deviation for Depth Anything. A source that is wrong is an error,
never a reason to take noise instead.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.models.vggt_config import IMAGENET_MEAN, IMAGENET_STD
from vggt_ros.types import Float32

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm"})
TENSOR_SUFFIXES = frozenset({".npy", ".npz"})
DEFAULT_BATCHES = 32
DEFAULT_SEED = 1337

_TOLERANCE = 0.05
"""How far outside of [0, 1] a tensor may reach: bicubic scaling overshoots a little."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Where the batches come from; made by `open_calibration`."""

    shape: tuple[int, int, int, int]
    """Of a batch."""
    batches: int
    source: str
    """"synthetic", or the path that was given."""
    samples: int
    """Different views there are."""
    resampled: bool
    """Whether views are used more than once."""
    _order: tuple[int, ...]
    _files: tuple[Path, ...] = ()
    _views: NDArray[np.generic] | None = None
    """(N, 3, H, W), mapped from the file."""
    _seed: int = DEFAULT_SEED
    normalisation: str = "zero_to_one"
    """A value of `inference.passport.NORMALISATIONS`."""

    def __iter__(self) -> Iterator[Float32]:
        """Batches, one at a time, always the same."""
        views = self.shape[0]
        for start in range(0, self.batches * views, views):
            yield self._normalised(self._batch(self._order[start : start + views]))

    def test_batch(self) -> Float32:
        """One batch to judge with: of views that no batch has where there are enough of them."""
        used, views = set(self._order), self.shape[0]
        left = [k for k in range(self.samples) if k not in used]
        if self.source == "synthetic" or len(left) < views:
            left = list(self._order[-views:])
        return self._normalised(self._batch(left[:views]))

    def _normalised(self, batch: Float32) -> Float32:
        return normalise(batch, self.normalisation)

    def _batch(self, chosen: Sequence[int]) -> Float32:
        if self._files:
            return self._prepared([self._files[k] for k in chosen])
        if self._views is not None:
            return _in_range(np.stack([self._views[k] for k in chosen]), self.source)
        height, width = self.shape[2:]
        return np.stack([_synthetic(height, width, self._seed + k) for k in chosen])

    def _prepared(self, files: Sequence[Path]) -> Float32:
        from vggt_ros.inference.vggt_input import prepare

        images = [_read(file) for file in files]
        try:
            return prepare(images, "crop", shape=(self.shape[2], self.shape[3])).images
        except ValueError as error:
            raise EngineError(f"calibration: {files[0]} and others: {error}") from error


def open_calibration(
    source: str | Path | None,
    shape: tuple[int, int, int, int],
    batches: int = DEFAULT_BATCHES,
    seed: int = DEFAULT_SEED,
    allow_synthetic: bool = False,
    normalisation: str = "zero_to_one",
) -> Calibration:
    """Find calibration data.

    Args:
        source: a folder (searched through all levels), a glob, or an array: `.npy` or `.npz` of
            (B, num_cams, 3, H, W) or (N, 3, H, W). None is refused unless `allow_synthetic`.
        shape: of a batch: (num_cams, 3, H, W).
        batches: to use. A source with fewer views is drawn from again, with replacement.
        seed: of the order and of the drawing.
        allow_synthetic: make smooth random images where there is no source, with a warning.
        normalisation: what the network takes: "zero_to_one" or "imagenet". Arrays are in [0, 1]
            in either case.

    Raises:
        EngineError: no source, nothing there, no image in it, or an array of another shape.
    """
    if batches < 1:
        raise EngineError(f"--calib-batches: expected at least 1, got {batches}")
    needed = batches * shape[0]
    if source is None or str(source) == "":
        if not allow_synthetic:
            raise EngineError(
                "int8 and fp8 need calibration images: give --calib-data FOLDER, a glob or an "
                ".npy file with views like those the robot will see, or --allow-synthetic-calib "
                "to calibrate with made-up images"
            )
        _logger.warning(
            "calibration with synthetic images: ranges of the activations are guesses; depth may "
            "be far off"
        )
        return Calibration(
            shape, batches, "synthetic", needed, False, tuple(range(needed)), _seed=seed,
            normalisation=normalisation,
        )  # fmt: skip
    text = str(source)
    views: NDArray[np.generic] | None = None
    files: tuple[Path, ...] = ()
    if Path(text).suffix.lower() in TENSOR_SUFFIXES and not glob.has_magic(text):
        views = _load_tensor(Path(text), shape)
        count = len(views)
    else:
        files = _find_images(text)
        count = len(files)
    order, resampled = _draw(count, needed, seed)
    _logger.info(
        "calibration: %d views of %s in %d batches of %s%s",
        count, text, batches, "x".join(map(str, shape)),
        ", some more than once" if resampled else "",
    )  # fmt: skip
    return Calibration(
        shape, batches, text, count, resampled, order, files, views, seed, normalisation
    )  # fmt: skip


def normalise(images: Float32, normalisation: str) -> Float32:
    """Images (N, 3, H, W) in [0, 1] as a network takes them.

    Raises:
        EngineError: an unknown normalisation.
    """
    if normalisation == "zero_to_one":
        return images
    if normalisation != "imagenet":
        raise EngineError(
            f"normalisation: expected zero_to_one or imagenet, got '{normalisation}'"
        )
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def _draw(count: int, needed: int, seed: int) -> tuple[tuple[int, ...], bool]:
    """All views once, shuffled, then drawn with replacement."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)
    if count < needed:
        order = np.concatenate([order, generator.integers(0, count, needed - count)])
    return tuple(int(k) for k in order[:needed]), count < needed


def _find_images(text: str) -> tuple[Path, ...]:
    path = Path(text).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
        where = "in the folder and those below it"
    elif glob.has_magic(text):
        names = glob.glob(str(path), recursive=True)
        found = [Path(name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        where = "by this pattern"
    elif path.exists():
        raise EngineError(
            f"--calib-data {text}: expected a folder, a glob, or a .npy or .npz file, got another "
            "file"
        )
    else:
        raise EngineError(
            f"--calib-data {text}: no such file or folder; give a folder of images, a glob, or a "
            ".npy file"
        )
    files = tuple(sorted(file for file in found if file.is_file()))
    if not files:
        raise EngineError(
            f"--calib-data {text}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) {where}, "
            "found none"
        )
    return files


def _load_tensor(path: Path, shape: tuple[int, int, int, int]) -> NDArray[np.generic]:
    """(N, 3, H, W), mapped into memory where the file allows it."""
    if not path.is_file():
        raise EngineError(f"--calib-data {path}: no such file")
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            if len(content.files) != 1:
                raise EngineError(
                    f"--calib-data {path}: expected one array, got {len(content.files)}: "
                    f"{', '.join(content.files) or 'none'}"
                )
            content = content[content.files[0]]
    except (OSError, ValueError, EOFError) as error:
        raise EngineError(f"--calib-data {path}: not a readable array ({error})") from error
    num_cams, *view = shape
    fits = content.ndim == 4 or (content.ndim == 5 and content.shape[1] == num_cams)
    if not fits or list(content.shape[-3:]) != view or content.shape[0] == 0:
        raise EngineError(
            f"--calib-data {path}: expected shape (B, {num_cams}, 3, {view[1]}, {view[2]}) or "
            f"(N, 3, {view[1]}, {view[2]}), got {tuple(content.shape)}"
        )
    if content.dtype.kind not in "fu" or (content.dtype.kind == "u" and content.itemsize > 1):
        raise EngineError(
            f"--calib-data {path}: expected float in [0, 1] or uint8, got {content.dtype}"
        )
    reshaped: NDArray[np.generic] = content.reshape(-1, *view)
    return reshaped


def _in_range(batch: NDArray[np.generic], source: str) -> Float32:
    if batch.dtype == np.uint8:
        return batch.astype(np.float32) / np.float32(255.0)
    values = batch.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    # written so that NaN fails
    if not (low >= -_TOLERANCE and high <= 1.0 + _TOLERANCE):
        raise EngineError(
            f"--calib-data {source}: expected RGB in [0, 1], got values from {low:.4g} to "
            f"{high:.4g}; normalisation is inside the network"
        )
    return values


def _read(path: Path) -> NDArray[np.uint8]:
    """(h, w, 3) RGB."""
    import cv2

    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise EngineError(f"calibration: {path}: expected an image, got something undecodable")
    return np.ascontiguousarray(image[:, :, ::-1])


def synthetic_images(shape: tuple[int, int, int, int], seed: int = DEFAULT_SEED) -> Float32:
    """One batch (N, 3, H, W) of smooth random images in [0, 1]; the same seed gives the same."""
    views, _, height, width = shape
    return np.stack([_synthetic(height, width, seed + k) for k in range(views)])


def _synthetic(height: int, width: int, seed: int) -> Float32:
    """(3, H, W) in [0, 1] with the spectrum of photographs, whose amplitude falls as 1 / f.

    Field, Relations between the statistics of natural images, JOSA A 4 (1987).
    """
    generator = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(generator.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(height, width)
    # grey tones are shared by the channels, colours are weaker
    shared = spectrum.mean(axis=0, keepdims=True) * 3.0
    image = np.fft.irfft2((shared + 0.5 * spectrum) / frequency, s=(height, width))
    image = (image - image.mean()) / max(float(image.std()), 1e-12)
    return np.clip(0.45 + 0.22 * image, 0.0, 1.0).astype(np.float32)
