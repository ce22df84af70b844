"""ROS messages to the types of this package and back; the one place for each conversion.

Reading is duck-typed: messages of `rosbags` and of rclpy have the same attributes. Writing makes
`rosbags` messages of the Jazzy type store.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import CalibrationError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.image_limits import check_size
from vggt_ros.types import StampedImage

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

NANOSECONDS = 1_000_000_000

MAX_FRAME_ID = 256
"""The longest name of a topic in DDS; frames follow the same habits."""
_QUOTED = 60
"""Characters that a message quotes of what others wrote."""
_MAX_COEFFICIENTS = 14
"""Of a distortion model (OpenCV calib3d)."""
_FOCAL_WIDTHS = (0.01, 10_000.0)
"""Focal length in image widths: from a 178 degree pinhole to a telescope of 20 arc seconds."""

LAYOUTS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    "yuv422": ("u1", 2),
    "uyvy": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
    "yuyv": ("u1", 2),
    "yuy2": ("u1", 2),
    **{f"bayer_{order}8": ("u1", 1) for order in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{order}16": ("u2", 1) for order in ("rggb", "bggr", "gbrg", "grbg")},
}
"""Scalar type and channels per pixel of the encodings that are viewed without a copy
(sensor_msgs/image_encodings.hpp; `yuy2` and `yuyv` are what drivers call `yuv422_yuy2`)."""

_DISTORTION_NAMES = {"fisheye": "equidistant", "radtan": "plumb_bob"}
"""What some drivers write for the names of sensor_msgs/distortion_models.hpp."""


@functools.cache
def typestore() -> Any:
    """The `rosbags` type store of ROS 2 Jazzy, made once."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def stamp_ns(header: Any) -> int:
    """Nanoseconds of `std_msgs/Header.stamp`."""
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec)


def frame_id_of(header: Any, camera: str) -> str:
    """`std_msgs/Header.frame_id`, which goes on into transforms and messages of our own.

    Raises:
        SourceError: longer than `MAX_FRAME_ID`, or with bytes that are no text.
    """
    name = str(header.frame_id)
    # U+FFFD is what rclpy reads for bytes that are not UTF-8.
    if len(name) > MAX_FRAME_ID or not name.isprintable() or "\ufffd" in name:
        raise SourceError(
            f"camera '{camera}': expected a frame_id of at most {MAX_FRAME_ID} printable "
            f"characters, got {quoted(name)}"
        )
    return name


def quoted(text: str) -> str:
    """Text of a stranger for a message: one line, not long."""
    shown = ascii(text[:_QUOTED])
    return shown if len(text) <= _QUOTED else f"{shown}... ({len(text)} characters)"


# ---------------------------------------------------------------------------- images


def image_from_message(message: Any, camera: str) -> StampedImage:
    """View a `sensor_msgs/Image`; the pixels are not copied.

    Returns:
        `data` (H, W) or (H, W, C) of the encoding's scalar type and byte order; rows may be
        padded.

    Raises:
        SourceError: unknown encoding, or fewer bytes than size and step promise.
    """
    encoding = str(message.encoding)
    if encoding not in LAYOUTS:
        raise SourceError(
            f"camera '{camera}': image encoding {quoted(encoding)} is not supported; expected one "
            f"of {', '.join(LAYOUTS)}, or a compressed topic"
        )
    kind, channels = LAYOUTS[encoding]
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * channels * dtype.itemsize
    data = np.frombuffer(memoryview(message.data), np.uint8)
    if height < 1 or width < 1 or step < row or len(data) < step * (height - 1) + row:
        raise SourceError(
            f"camera '{camera}': image of {width}x{height} {encoding} needs rows of {row} bytes, "
            f"got step {step} and {len(data)} bytes"
        )
    check_size(width, height, f"camera '{camera}'")
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, channels * dtype.itemsize)
    if channels > 1:
        shape, strides = (*shape, channels), (*strides, dtype.itemsize)
    pixels: NDArray[np.generic] = np.ndarray(shape, dtype, data, strides=strides)
    header = message.header
    return StampedImage(camera, stamp_ns(header), pixels, encoding, frame_id_of(header, camera))


def compressed_image_from_message(message: Any, camera: str) -> StampedImage:
    """Take a `sensor_msgs/CompressedImage`; `data` is the JPEG or PNG file as it is.

    Raises:
        SourceError: another format (compressedDepth, theora, ...), or no bytes.
    """
    data = bytes(message.data)
    text = str(message.format)
    if not data:
        raise SourceError(f"camera '{camera}': compressed image without bytes")
    encoding = sniff_encoding(data)
    if "compressedDepth" in text or (not encoding and not _named_encoding(text)):
        raise SourceError(
            f"camera '{camera}': compressed image format {quoted(text)} is not supported; "
            f"expected jpeg or png"
        )
    header = message.header
    return StampedImage(
        camera,
        stamp_ns(header),
        data,
        encoding or _named_encoding(text),
        frame_id_of(header, camera),
    )


def sniff_encoding(data: bytes) -> str:
    """Tell "jpeg", "png" or "" by the first bytes of a file."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    return "png" if data[:8] == b"\x89PNG\r\n\x1a\n" else ""


def _named_encoding(text: str) -> str:
    lower = text.lower()
    if "jpeg" in lower or "jpg" in lower:
        return "jpeg"
    return "png" if "png" in lower else ""


def any_image_from_message(message: Any, camera: str) -> StampedImage:
    """`Image` or `CompressedImage`, told apart by their attributes."""
    if hasattr(message, "format"):
        return compressed_image_from_message(message, camera)
    return image_from_message(message, camera)


def image_message(image: StampedImage) -> Any:
    """A `sensor_msgs/Image` of an uncompressed image, rows without padding.

    Raises:
        SourceError: compressed data or an array that does not fit the encoding.
    """
    if image.encoding not in LAYOUTS or isinstance(image.data, bytes):
        raise SourceError(
            f"camera '{image.camera}': expected an array of encoding {', '.join(LAYOUTS)}, got "
            f"'{image.encoding}'"
        )
    kind, channels = LAYOUTS[image.encoding]
    pixels = np.ascontiguousarray(image.data)
    shape = pixels.shape + ((1,) if pixels.ndim == 2 else ())
    if len(shape) != 3 or shape[2] != channels or pixels.dtype.str[1:] != kind:
        raise SourceError(
            f"camera '{image.camera}': {image.encoding} needs {channels} channels of {kind}, got "
            f"{pixels.dtype} of shape {pixels.shape}"
        )
    return typestore().types[IMAGE](
        header=_header(image.stamp_ns, image.frame_id),
        height=shape[0],
        width=shape[1],
        encoding=image.encoding,
        is_bigendian=int(pixels.dtype.byteorder == ">"),
        step=shape[1] * channels * pixels.dtype.itemsize,
        data=pixels.reshape(-1).view(np.uint8),
    )


def compressed_image_message(image: StampedImage) -> Any:
    """A `sensor_msgs/CompressedImage` with the bytes of a JPEG or PNG file as they are."""
    if not isinstance(image.data, bytes) or image.encoding not in ("jpeg", "png"):
        raise SourceError(
            f"camera '{image.camera}': expected bytes of encoding jpeg or png, got "
            f"{type(image.data).__name__} of '{image.encoding}'"
        )
    return typestore().types[COMPRESSED_IMAGE](
        header=_header(image.stamp_ns, image.frame_id),
        format=image.encoding,
        data=np.frombuffer(image.data, np.uint8),
    )


# ---------------------------------------------------------------------------- camera info


def model_from_camera_info(
    message: Any, camera: str, *, rectified: bool = False
) -> CameraModel | None:
    """Intrinsics of the images that come with a `sensor_msgs/CameraInfo`.

    ROI and binning are applied: the model has the size of the images, not of the sensor. A
    binned pixel covers the pixels it is made of, so the principal point moves by half pixels.

    Args:
        message: the CameraInfo.
        camera: name for messages.
        rectified: the images are those of `image_rect*`: P without distortion is used.

    Returns:
        None where the camera is not calibrated (REP-104: `K[0] == 0`).

    Raises:
        CalibrationError: NaN, zero focal length in one axis, singular or skewed K, unknown
            distortion model, ROI outside the image.
    """
    where = f"camera '{camera}': CameraInfo"
    k = np.asarray(message.k, np.float64).reshape(-1)
    if rectified:
        p = np.asarray(message.p, np.float64).reshape(-1)
        if p.size == 12 and p[0] != 0:
            k = p.reshape(3, 4)[:, :3].reshape(-1)
    if k.size != 9:
        raise CalibrationError(f"{where}: expected 9 numbers in K, got {k.size}")
    if not np.isfinite(k).all():
        raise CalibrationError(f"{where}: K has NaN or infinity: {k.tolist()}; calibrate again")
    if k[0] == 0 and k[4] == 0:
        return None
    fx, skew, cx, _, fy, cy = k[:6]
    if fx <= 0 or fy <= 0 or k[3] or k[6] or k[7] or k[8] != 1 or abs(skew) > 1e-6 * fx:
        raise CalibrationError(
            f"{where}: expected K = [fx 0 cx; 0 fy cy; 0 0 1] with fx, fy > 0, got {k.tolist()}"
        )
    width, height = int(message.width), int(message.height)
    least, most = (bound * max(width, 1) for bound in _FOCAL_WIDTHS)
    if not (least <= fx <= most and least <= fy <= most):
        raise CalibrationError(
            f"{where}: expected a focal length between {least:g} and {most:g} px for images "
            f"{width} px wide, got {fx:g} and {fy:g}; calibrate again"
        )
    name, coefficients = ("none", ()) if rectified else _distortion(message, where)
    try:
        model = CameraModel(
            width, height, float(fx), float(fy), float(cx), float(cy), name, coefficients
        )
        return _bin(_crop(model, message, where), message)
    except ValueError as error:
        raise CalibrationError(f"{where}: {error}") from error


def _distortion(message: Any, where: str) -> tuple[str, tuple[float, ...]]:
    if len(message.d) > _MAX_COEFFICIENTS:
        raise CalibrationError(
            f"{where}: expected at most {_MAX_COEFFICIENTS} numbers in D, got {len(message.d)}"
        )
    coefficients = tuple(float(c) for c in message.d)
    name = str(message.distortion_model)
    name = _DISTORTION_NAMES.get(name, name)
    if len(name) > _QUOTED or not name.isprintable():
        raise CalibrationError(f"{where}: distortion model {quoted(name)} is unknown")
    if not all(math.isfinite(c) for c in coefficients):
        raise CalibrationError(f"{where}: D has NaN or infinity: {list(coefficients)}")
    # An equidistant lens without coefficients is still a fisheye; the others are then pinholes.
    if name != "equidistant" and not any(coefficients):
        return "none", ()
    if name == "rational_polynomial" and len(coefficients) == 14 and not any(coefficients[12:]):
        coefficients = coefficients[:12]
    return name, coefficients


def _crop(model: CameraModel, message: Any, where: str) -> CameraModel:
    roi = message.roi
    if not (roi.width or roi.height or roi.x_offset or roi.y_offset):
        return model
    width = int(roi.width) or model.width - int(roi.x_offset)
    height = int(roi.height) or model.height - int(roi.y_offset)
    x, y = int(roi.x_offset), int(roi.y_offset)
    if width < 1 or height < 1 or x + width > model.width or y + height > model.height:
        raise CalibrationError(
            f"{where}: ROI {width}x{height} at ({x}, {y}) is not inside {model.width}x"
            f"{model.height}"
        )
    return dataclasses.replace(model, width=width, height=height, cx=model.cx - x, cy=model.cy - y)


def _bin(model: CameraModel, message: Any) -> CameraModel:
    bin_x, bin_y = max(1, int(message.binning_x)), max(1, int(message.binning_y))
    if bin_x == 1 and bin_y == 1:
        return model
    return model.resized(model.width // bin_x, model.height // bin_y)


def camera_info_message(model: CameraModel, stamp_ns: int, frame_id: str) -> Any:
    """A `sensor_msgs/CameraInfo` of the whole image; R is the identity, P is K."""
    types = typestore().types
    k = model.matrix
    name = "plumb_bob" if model.distortion_model == "none" else model.distortion_model
    distortion = model.distortion or (0.0,) * (4 if name == "equidistant" else 5)
    return types[CAMERA_INFO](
        header=_header(stamp_ns, frame_id),
        height=model.height,
        width=model.width,
        distortion_model=name,
        d=np.array(distortion, np.float64),
        k=k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([k, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )


# ---------------------------------------------------------------------------- transforms


def transforms_from_message(message: Any) -> Iterable[tuple[str, str, Rigid3]]:
    """(parent, child, `parent_from_child`) of each transform of a `TFMessage`.

    Raises:
        CalibrationError: NaN or a quaternion that is not of length 1.
    """
    for parent, child, pose, _ in stamped_transforms_from_message(message):
        yield parent, child, pose


def stamped_transforms_from_message(message: Any) -> Iterable[tuple[str, str, Rigid3, int]]:
    """As `transforms_from_message`, with the stamp [ns] of each.

    Raises:
        CalibrationError: NaN or a quaternion that is not of length 1.
    """
    for stamped in message.transforms:
        parent = str(stamped.header.frame_id).lstrip("/")
        child = str(stamped.child_frame_id).lstrip("/")
        t, q = stamped.transform.translation, stamped.transform.rotation
        try:
            pose = Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
        except ValueError as error:
            raise CalibrationError(f"transform '{parent}' from '{child}': {error}") from error
        yield parent, child, pose, stamp_ns(stamped.header)


def tf_message(transforms: Iterable[tuple[str, str, Rigid3]], stamp_ns: int) -> Any:
    """A `tf2_msgs/TFMessage` of (parent, child, `parent_from_child`)."""
    types = typestore().types
    return types[TF_MESSAGE](
        transforms=[
            types["geometry_msgs/msg/TransformStamped"](
                header=_header(stamp_ns, parent),
                child_frame_id=child,
                transform=types["geometry_msgs/msg/Transform"](
                    translation=types["geometry_msgs/msg/Vector3"](
                        *(float(v) for v in pose.translation)
                    ),
                    rotation=types["geometry_msgs/msg/Quaternion"](
                        *(float(v) for v in pose.quaternion_xyzw)
                    ),
                ),
            )
            for parent, child, pose in transforms
        ]
    )


def _header(stamp: int, frame_id: str) -> Any:
    types = typestore().types
    return types["std_msgs/msg/Header"](
        stamp=types["builtin_interfaces/msg/Time"](
            sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS
        ),
        frame_id=frame_id,
    )
