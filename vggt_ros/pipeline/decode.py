"""One stamped image to RGB, reduced and undistorted."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import CalibrationError, SourceError
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.image_limits import check_file, check_size
from vggt_ros.types import Float32, Frame, Image, StampedImage

_YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "yuy2")
_FILE_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND"}
"""Without its last marker a file was cut off; OpenCV would fill the rest with grey."""
_TAIL_BYTES = 1024
"""Where the last marker is sought: some cameras pad their files."""
_MAPS = 64
"""As many as there may be cameras."""
_LEAST_SIGHT = 0.05
"""A 200 degree fisheye keeps a tenth of its pixels in a pinhole image of the same K."""
_ASPECT_TOLERANCE_PX = 1.0
"""Calibration and image have the same aspect if scaling one to the other's width leaves a height
within this of the other's: sizes are rounded to whole pixels."""


def decode_rgb(image: StampedImage) -> Image:
    """RGB (H, W, 3) uint8 of any encoding that `sources.messages` lets in.

    EXIF orientation is ignored: calibration belongs to the pixels as they are stored.
    16 bits are reduced to the upper 8.

    Raises:
        SourceError: a corrupt or too large file, or an encoding that has no colours (depth).
    """
    import cv2

    where = f"camera '{image.camera}'"
    if isinstance(image.data, bytes):
        check_file(image.data, image.encoding, where)
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            bgr = cv2.imdecode(np.frombuffer(image.data, np.uint8), flags)
        except cv2.error as error:
            raise SourceError(f"{where}: corrupt {image.encoding}: {error}") from error
        if bgr is None or _FILE_ENDS[image.encoding] not in image.data[-_TAIL_BYTES:]:
            raise SourceError(
                f"{where}: corrupt or cut off {image.encoding} image of {len(image.data)} bytes"
            )
        return _rgb(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    pixels, encoding = image.data, image.encoding
    check_size(pixels.shape[1], pixels.shape[0], where)
    if encoding == "rgb8":
        return np.ascontiguousarray(pixels, np.uint8)
    if encoding.startswith(("bayer_", "mono")) or encoding == "8UC1":
        pixels = _eight_bits(pixels)
    codes: dict[str, int] = {
        "bgr8": cv2.COLOR_BGR2RGB,
        "8UC3": cv2.COLOR_BGR2RGB,
        "rgba8": cv2.COLOR_RGBA2RGB,
        "bgra8": cv2.COLOR_BGRA2RGB,
        "mono8": cv2.COLOR_GRAY2RGB,
        "8UC1": cv2.COLOR_GRAY2RGB,
        "mono16": cv2.COLOR_GRAY2RGB,
        "yuv422": cv2.COLOR_YUV2RGB_UYVY,
        "uyvy": cv2.COLOR_YUV2RGB_UYVY,
        "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
        "yuyv": cv2.COLOR_YUV2RGB_YUY2,
        "yuy2": cv2.COLOR_YUV2RGB_YUY2,
        # ROS names the pattern from the first pixel, OpenCV's old names from the second row's
        # second: its BayerBG is RGGB.
        "bayer_rggb": cv2.COLOR_BayerBG2RGB,
        "bayer_bggr": cv2.COLOR_BayerRG2RGB,
        "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
        "bayer_grbg": cv2.COLOR_BayerGB2RGB,
    }
    code = codes.get(
        encoding.removesuffix("16").removesuffix("8") if "bayer" in encoding else encoding
    )
    if code is None:
        raise SourceError(
            f"{where}: encoding '{encoding}' has no colours; expected one of "
            f"{', '.join(['rgb8', *codes])}"
        )
    if encoding in _YUV and pixels.shape[1] % 2:
        raise SourceError(f"{where}: {encoding} needs an even width, got {pixels.shape[1]}")
    try:
        return _rgb(cv2.cvtColor(np.ascontiguousarray(pixels), code))
    except cv2.error as error:
        raise SourceError(
            f"{where}: {encoding} of {pixels.shape[1]}x{pixels.shape[0]} pixels cannot be made "
            f"RGB: {error.err if hasattr(error, 'err') else error}"
        ) from error


def _rgb(pixels: Any) -> Image:
    return np.asarray(pixels, np.uint8)


def _eight_bits(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    if pixels.dtype.itemsize == 1:
        return pixels
    return (pixels.astype(np.uint16, copy=False) >> 8).astype(np.uint8)


def reduced_size(width: int, height: int, max_width: int) -> tuple[int, int]:
    """The size at which an image is handed on: no wider than `max_width`, same aspect."""
    if width <= max_width:
        return width, height
    return max_width, max(1, round(height * max_width / width))


def resize_rgb(rgb: Image, size: tuple[int, int]) -> Image:
    """Reduce to (width, height), averaging the pixels that fall together."""
    import cv2

    if rgb.shape[1::-1] == size:
        return rgb
    return _rgb(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def fit_model(model: CameraModel, size: tuple[int, int], camera: str) -> CameraModel:
    """The model for images of `size`, which must have the aspect of the calibration.

    Raises:
        CalibrationError: another aspect; the images are cropped in an unknown way.
    """
    if model.size == size:
        return model
    width, height = size
    if (
        abs(model.height * width / model.width - height) > _ASPECT_TOLERANCE_PX
        and abs(model.width * height / model.height - width) > _ASPECT_TOLERANCE_PX
    ):
        raise CalibrationError(
            f"camera '{camera}': calibrated at {model.width}x{model.height}, but the images are "
            f"{width}x{height}, of another aspect; calibrate at this size or set the ROI"
        )
    return model.resized(width, height)


class Undistorter:
    """Images of a distorted camera to those of the pinhole camera with the same K.

    The maps of the last `_MAPS` models are kept: a camera that focuses sends ever new ones.
    """

    def __init__(self) -> None:
        self._maps: dict[tuple[CameraModel, bool], tuple[Any, Any]] = {}
        self._lock = threading.Lock()

    def undistort(self, rgb: Image, model: CameraModel) -> tuple[Image, CameraModel]:
        """Image of the size of `model`; what the lens did not see is black.

        Raises:
            CalibrationError: a distortion that cannot be evaluated.
        """
        if not model.is_distorted:
            return rgb, model.without_distortion()
        import cv2

        first, second = self._map(model, nearest=False)
        return _rgb(cv2.remap(rgb, first, second, cv2.INTER_LINEAR)), model.without_distortion()

    def undistort_depth(self, depth: Float32, model: CameraModel) -> Float32:
        """Depth (H, W), of any size, as `undistort` turns the image; NaN outside the lens.

        Depth is never averaged: each pixel is that of the nearest.

        Raises:
            CalibrationError: a distortion that cannot be evaluated.
        """
        if not model.is_distorted:
            return depth
        import cv2

        height, width = depth.shape
        sized = model.resized(width, height) if model.size != (width, height) else model
        first, second = self._map(sized, nearest=True)
        return np.asarray(
            cv2.remap(
                depth, first, second, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, float("nan")
            ),
            np.float32,
        )

    def _map(self, model: CameraModel, nearest: bool) -> tuple[Any, Any]:
        import cv2

        maps = self._maps.get((model, nearest))
        if maps is None:
            pinhole = model.without_distortion()
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    pixels = model.project(pinhole.rays()).astype(np.float32)
            except ValueError as error:
                raise CalibrationError(str(error)) from error
            _check_sight(pixels, model)
            # maps for interpolation, used for the nearest pixel, would round down
            maps = cv2.convertMaps(
                pixels[..., 0].copy(), pixels[..., 1].copy(), cv2.CV_16SC2, nninterpolation=nearest
            )
            with self._lock:
                while len(self._maps) >= _MAPS:
                    del self._maps[next(iter(self._maps))]
                self._maps[model, nearest] = maps
        return maps


def _check_sight(pixels: NDArray[np.float32], model: CameraModel) -> None:
    """Refuse a distortion under which almost nothing of the image is left."""
    with np.errstate(invalid="ignore"):
        inside = ((pixels >= 0) & (pixels <= [model.width - 1, model.height - 1])).all(axis=-1)
    share = float(inside.mean())
    if share < _LEAST_SIGHT:
        raise CalibrationError(
            f"distortion {model.distortion_model} {_listed(model.distortion)}: expected at least "
            f"{_LEAST_SIGHT:.0%} of the image to be left when it is undistorted, got "
            f"{share:.1%}; calibrate again"
        )


def _listed(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values) + "]"


def undistorted_frame(frame: Frame, model: CameraModel, undistorter: Undistorter) -> Frame:
    """`frame` with the intrinsics `model`, which may be of another size of the same aspect."""
    height, width = frame.rgb.shape[:2]
    fitted = fit_model(model, (width, height), frame.camera)
    rgb, pinhole = undistorter.undistort(frame.rgb, fitted)
    depth = frame.depth_m
    if depth is not None:
        depth = undistorter.undistort_depth(depth, fitted)
    return dataclasses.replace(frame, rgb=rgb, model=pinhole, depth_m=depth)
