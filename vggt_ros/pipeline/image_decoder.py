"""One stamped image to one frame, or to the reason why there is none."""

from __future__ import annotations

import logging

from vggt_ros.errors import CalibrationError, SourceError
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.decode import (
    Undistorter,
    decode_rgb,
    fit_model,
    reduced_size,
    resize_rgb,
    undistorted_frame,
)
from vggt_ros.types import Float32, Frame, StampedImage

_LOG = logging.getLogger(__name__)


class ImageDecoder:
    """Decodes, reduces and undistorts; may be called for several cameras at the same time.

    A camera's first image sets the size that all others must have.

    Args:
        max_width: wider images are reduced to it [px].
    """

    def __init__(self, max_width: int):
        self.sizes: dict[str, tuple[int, int]] = {}
        """(width, height) of the images as they come, by camera; known once one is decoded."""
        self._max_width = max_width
        self._undistorter = Undistorter()
        self._warned: set[tuple[str, str]] = set()

    def forget(self) -> None:
        """The next images may be of other sizes."""
        self.sizes.clear()
        self._warned.clear()

    def decode(
        self, image: StampedImage, model: CameraModel | None, depth: Float32 | None = None
    ) -> Frame | tuple[str, str]:
        """The frame, or why there is none: the reason and the text.

        Args:
            image: as it came.
            model: intrinsics of the camera as it is calibrated; None: not calibrated.
            depth: (H, W) [m] of the same pixels, at any size, as it came.
        """
        name = image.camera
        try:
            rgb = decode_rgb(image)
        except SourceError as error:
            return ("corrupt" if isinstance(image.data, bytes) else "encoding"), str(error)
        height, width = rgb.shape[:2]
        first = self.sizes.setdefault(name, (width, height))
        if first != (width, height):
            return "size_changed", (
                f"camera '{name}': image of {width}x{height} after {first[0]}x{first[1]}; "
                f"reset after a change of resolution"
            )
        size = reduced_size(width, height, self._max_width)
        try:
            if model is None:
                return Frame(name, image.stamp_ns, resize_rgb(rgb, size), depth_m=depth)
            if model.size != (width, height):
                fitted = fit_model(model, (width, height), name)
                self.warn_once(
                    name,
                    "scaled",
                    f"camera '{name}': calibrated at {model.width}x{model.height}, scaled to "
                    f"the images' {width}x{height}",
                )
                model = fitted
            reduced = model.resized(*size) if model.size != size else model
            rgb, pinhole = self._undistorter.undistort(resize_rgb(rgb, size), reduced)
            if depth is not None:
                depth = self._undistorter.undistort_depth(depth, reduced)
        except CalibrationError as error:
            return "calibration", str(error)
        return Frame(name, image.stamp_ns, rgb, pinhole, depth)

    def undistort(self, frame: Frame, model: CameraModel) -> Frame:
        """A frame with intrinsics that were estimated later; `model` may be distorted.

        Raises:
            CalibrationError: `model` is of another aspect than the image.
        """
        return undistorted_frame(frame, model, self._undistorter)

    def warn_once(self, camera: str, reason: str, text: str) -> None:
        """Log a fault that may be that of every image, once."""
        if (camera, reason) not in self._warned:
            self._warned.add((camera, reason))
            _LOG.warning("%s", text)
