"""Images into VGGT's input, and where each of their pixels went.

Two ways, both as `load_and_preprocess_images` of facebookresearch/vggt does them: "crop" makes
the image as wide as the input and cuts what is too high; "pad" makes it fit and fills the rest
with white. Sides are rounded to multiples of 14, so that x and y are scaled by slightly different
factors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vggt_ros.geometry import CameraModel
from vggt_ros.inference.bicubic import resize_into
from vggt_ros.types import Float32, Image

PATCH = 14
"""Side of a patch [px]."""
TRAINING_SIZE = 518
"""Longer side [px] of the images that VGGT was trained on."""

Mode = Literal["crop", "pad"]
Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Placement:
    """Where one image lies in the input; the rest of the input is white. All in pixels."""

    original: tuple[int, int]
    """Width and height as the camera gave it."""
    resized: tuple[int, int]
    """Width and height after scaling, before anything is cut."""
    cut_left: int
    cut_top: int
    """Columns and rows of the resized image that are left out before the first kept one."""
    left: int
    top: int
    """Place of the first kept pixel in the input."""
    width: int
    height: int
    """Kept part."""

    @property
    def region(self) -> Slices:
        """Rows and columns of the input that show the image."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)

    def kept_camera(self, model: CameraModel) -> CameraModel:
        """The camera of the kept part, from that of the original image.

        Raises:
            ValueError: `model` is for an image of another size.
        """
        if model.size != self.original:
            raise ValueError(
                f"camera: expected one for an image of {self.original}, got {model.size}"
            )
        resized = model.resized(*self.resized)
        return dataclasses.replace(
            resized,
            width=self.width,
            height=self.height,
            cx=resized.cx - self.cut_left,
            cy=resized.cy - self.cut_top,
        )

    def input_camera(self, model: CameraModel, width: int, height: int) -> CameraModel:
        """The camera of the whole input, width x height, from that of the original image."""
        kept = self.kept_camera(model)
        return dataclasses.replace(
            kept, width=width, height=height, cx=kept.cx + self.left, cy=kept.cy + self.top
        )

    def original_camera(self, input_model: CameraModel) -> CameraModel:
        """The camera of the original image, from that of the whole input.

        The reverse of `input_camera`: x and y are scaled back by their own factors.
        """
        width, height = self.resized
        resized = dataclasses.replace(
            input_model,
            width=width,
            height=height,
            cx=input_model.cx - self.left + self.cut_left,
            cy=input_model.cy - self.top + self.cut_top,
        )
        return resized.resized(*self.original)


@dataclass(frozen=True, eq=False)
class VggtInput:
    """Images (S, 3, H, W) float32 RGB in [0, 1], as the network wants them."""

    images: Float32
    placements: tuple[Placement, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the input."""
        return self.images.shape[3], self.images.shape[2]

    def kept_rgb(self, view: int) -> Image:
        """(h, w, 3) uint8 of what is kept of a view."""
        rows, columns = self.placements[view].region
        kept = self.images[view][:, rows, columns].transpose(1, 2, 0)
        return np.rint(kept * 255.0).astype(np.uint8)


def prepare(
    images: Sequence[Image],
    mode: Mode = "crop",
    size: int = TRAINING_SIZE,
    shape: tuple[int, int] | None = None,
) -> VggtInput:
    """Scale images by antialiased bicubic and put them into one array.

    Args:
        images: RGB (h, w, 3) uint8 each; sizes may differ. Order is kept: the first is the
            network's reference.
        mode: "crop" makes the width of the image that of the input, keeps the middle of what
            is too high and pads what is too low; "pad" keeps every pixel.
        size: side of the input. With "crop" it is the width, and the height is the largest
            that any image needs up to `size`; with "pad" the input is size x size.
        shape: height and width of the input instead, for an engine that takes no others.

    Raises:
        ValueError: no image, an array that is no image, an unknown mode, a size that is not a
            multiple of 14, or an image that is 37 times as long as wide.
    """
    if mode not in ("crop", "pad"):
        raise ValueError(f"mode: expected crop or pad, got '{mode}'")
    height, width = shape or (size, size)
    if min(height, width) < PATCH or height % PATCH or width % PATCH:
        raise ValueError(
            f"VGGT input: expected height and width to be multiples of {PATCH}, got height "
            f"{height} and width {width}"
        )
    if not images:
        raise ValueError("VGGT input: expected at least one image, got none")
    for k, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"VGGT input: image {k}: expected (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
    sizes = [_scaled(image.shape[1], image.shape[0], mode, width, height) for image in images]
    if shape is None and mode == "crop":
        height = min(max(scaled[1] for scaled in sizes), height)
    batch = np.empty((len(images), 3, height, width), np.float32)
    placements = []
    for image, scaled, out in zip(images, sizes, batch, strict=True):
        place = _place((image.shape[1], image.shape[0]), scaled, (width, height))
        placements.append(place)
        to_rows, to_columns = place.region
        if (place.width, place.height) != (width, height):
            out.fill(1.0)
        if scaled[0] == place.width:
            resize_into(image, *scaled, out[:, to_rows, to_columns], place.cut_top)
            continue
        # "pad" with another shape of engine cuts columns: the whole first, then its part
        whole = np.empty((3, place.height, scaled[0]), np.float32)
        resize_into(image, *scaled, whole, place.cut_top)
        columns = slice(place.cut_left, place.cut_left + place.width)
        out[:, to_rows, to_columns] = whole[:, :, columns]
    return VggtInput(batch, tuple(placements))


def _scaled(width: int, height: int, mode: Mode, to_width: int, to_height: int) -> tuple[int, int]:
    """Width and height that an image is scaled to, both multiples of 14."""
    # round() to even and this order of operations as in the original: half a patch decides
    if mode == "crop" or to_width * height <= to_height * width:
        scaled = (to_width, round(height * (to_width / width) / PATCH) * PATCH)
    else:
        scaled = (round(width * (to_height / height) / PATCH) * PATCH, to_height)
    if min(scaled) < PATCH:
        raise ValueError(
            f"VGGT input: an image of {width}x{height} becomes narrower than a patch of {PATCH} "
            "pixels; cut it to a more usual shape"
        )
    return scaled


def _place(
    original: tuple[int, int], resized: tuple[int, int], whole: tuple[int, int]
) -> Placement:
    """Middle on middle; of an odd difference the smaller half is before."""
    kept = (min(resized[0], whole[0]), min(resized[1], whole[1]))
    return Placement(
        original,
        resized,
        (resized[0] - kept[0]) // 2,
        (resized[1] - kept[1]) // 2,
        (whole[0] - kept[0]) // 2,
        (whole[1] - kept[1]) // 2,
        *kept,
    )
