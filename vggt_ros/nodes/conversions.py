"""Messages of rclpy from and to arrays and the types of the core, without needless copies.

What only reads a message stands in `sources.messages`, for bags and topics alike.

`.data` of a message is only ever an `array.array`: a numpy array or memoryview is accepted there
too, but goes through a Python loop (8 MB: 440 ms instead of 4 ms).
"""

from __future__ import annotations

import array
import importlib

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, TransformStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from vggt_ros.errors import SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping import packing
from vggt_ros.pipeline.image_limits import check_size
from vggt_ros.sources.messages import (
    LAYOUTS,
    frame_id_of,
    image_from_message,
    quoted,
    stamp_ns,
)
from vggt_ros.types import PointCloud, StampedImage


def time_message(stamp: int) -> Time:
    """Nanoseconds to `builtin_interfaces/Time`; negative stamps become zero."""
    seconds, nanoseconds = divmod(max(stamp, 0), 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)


# --- images ---------------------------------------------------------------------------------


def stamped_image(message: Image, camera: str) -> StampedImage:
    """An `Image` as the core takes it: its pixels viewed in place, so it keeps the message alive.

    Encodings that the core does not know are handed to cv_bridge.

    Raises:
        SourceError: an unknown encoding without cv_bridge, or a size that does not fit the data.
    """
    if message.encoding in LAYOUTS:
        return image_from_message(message, camera)
    check_size(int(message.width), int(message.height), f"camera '{camera}'")
    header = message.header
    frame_id = frame_id_of(header, camera)
    return StampedImage(camera, stamp_ns(header), _by_cv_bridge(message, camera), "rgb8", frame_id)


def _by_cv_bridge(message: Image, camera: str) -> NDArray[np.generic]:
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except ImportError as error:
        raise SourceError(
            f"camera '{camera}': encoding {quoted(str(message.encoding))} needs cv_bridge, "
            f"which is not installed; without it: {', '.join(LAYOUTS)}, or a compressed topic"
        ) from error
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # cv_bridge raises its own, those of OpenCV, and KeyError
        raise SourceError(
            f"camera '{camera}': cv_bridge cannot turn {quoted(str(message.encoding))} into "
            f"rgb8: {error}"
        ) from error


def image_message(pixels: NDArray[np.generic], encoding: str, stamp: int, frame_id: str) -> Image:
    """An `Image` from (H, W) or (H, W, C); one copy.

    Raises:
        ValueError: the array does not fit the encoding.
    """
    kind, channels = LAYOUTS[encoding]
    found = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or found != channels or pixels.dtype != np.dtype(kind):
        raise ValueError(
            f"image message {encoding}: expected {channels} channels of {np.dtype(kind)}, got "
            f"shape {pixels.shape} of {pixels.dtype}"
        )
    message = Image(encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
    message.header.stamp = time_message(stamp)
    message.header.frame_id = frame_id
    message.step = pixels.shape[1] * channels * pixels.dtype.itemsize
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def depth_message(depth: NDArray[np.float32], stamp: int, frame_id: str) -> Image:
    """REP-118: 32FC1, metres along z, NaN where invalid."""
    return image_message(np.asarray(depth, np.float32), "32FC1", stamp, frame_id)


# --- cameras --------------------------------------------------------------------------------


def camera_info_message(model: CameraModel, stamp: int, frame_id: str) -> CameraInfo:
    """A `CameraInfo` for images of this camera; R is the identity and P repeats K."""
    message = CameraInfo(width=model.width, height=model.height)
    message.header.stamp = time_message(stamp)
    message.header.frame_id = frame_id
    plain = model.distortion_model == "none"
    # ROS has no name for "none": tools expect plumb_bob with zeros.
    message.distortion_model = "plumb_bob" if plain else model.distortion_model
    message.d = [0.0] * 5 if plain else [float(c) for c in model.distortion]
    message.k = [model.fx, 0.0, model.cx, 0.0, model.fy, model.cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [
        *(model.fx, 0.0, model.cx, 0.0),
        *(0.0, model.fy, model.cy, 0.0),
        *(0.0, 0.0, 1.0, 0.0),
    ]
    return message


# --- transforms -----------------------------------------------------------------------------


def transform_message(
    parent_from_child: Rigid3, parent: str, child: str, stamp: int
) -> TransformStamped:
    """`parent_from_child` as tf has it."""
    message = TransformStamped()
    message.header.stamp = time_message(stamp)
    message.header.frame_id = parent
    message.child_frame_id = child
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(v) for v in parent_from_child.translation)
    q.x, q.y, q.z, q.w = (float(v) for v in parent_from_child.quaternion_xyzw)
    return message


def pose_message(target_from_source: Rigid3) -> Pose:
    """The pose of `source` in `target`."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (
        float(v) for v in target_from_source.translation
    )
    q = pose.orientation
    q.x, q.y, q.z, q.w = (float(v) for v in target_from_source.quaternion_xyzw)
    return pose


# --- clouds ---------------------------------------------------------------------------------


def cloud_message(cloud: PointCloud, stamp: int, frame_id: str) -> PointCloud2:
    """Pack x y z rgb confidence, and the normal where there is one, in place.

    `rgb` is the three bytes 0x00RRGGBB in a float32, as PCL and RViz have it. Confidence is 1
    where the cloud has none.
    """
    normals = cloud.normals is not None
    count, size = len(cloud), packing.point_step(normals)
    message = PointCloud2(
        height=1, width=count, point_step=size, row_step=size * count, is_dense=True
    )
    message.header.stamp = time_message(stamp)
    message.header.frame_id = frame_id
    message.fields = [
        PointField(name=name, offset=offset, datatype=datatype, count=1)
        for name, offset, datatype in packing.point_fields(normals)
    ]
    buffer = array.array("B", bytes(size * count))
    if count:
        packing.pack_xyzrgb(cloud, np.frombuffer(buffer, np.uint8), normals)
    message.data = buffer
    return message


def cloud_from_message(message: PointCloud2) -> PointCloud:
    """The opposite of `cloud_message`; other fields of the message are left out.

    Raises:
        SourceError: x, y or z is missing or not float32.
    """
    offsets = {f.name: f.offset for f in message.fields if f.datatype == PointField.FLOAT32}
    if not {"x", "y", "z"} <= set(offsets):
        raise SourceError(
            f"cloud of frame '{message.header.frame_id}': expected float32 fields x, y, z, got "
            f"{[f.name for f in message.fields]}"
        )
    count = message.width * message.height
    names = list(offsets)
    order = ">" if message.is_bigendian else "<"
    dtype = np.dtype(
        {
            "names": names,
            "formats": [f"{order}f4"] * len(names),
            "offsets": [offsets[n] for n in names],
            "itemsize": message.point_step,
        }
    )
    rows = np.frombuffer(message.data, dtype, count)

    def columns(*wanted: str) -> NDArray[np.float32] | None:
        if not set(wanted) <= set(offsets):
            return None
        return np.stack([rows[n].astype(np.float32) for n in wanted], axis=-1)

    points = columns("x", "y", "z")
    assert points is not None  # checked above
    colours = np.zeros((count, 3), np.uint8)
    if "rgb" in offsets:
        packed = np.ascontiguousarray(rows["rgb"]).view(f"{order}u4")
        colours = np.stack([packed >> 16, packed >> 8, packed], axis=-1).astype(np.uint8)
    confidence = columns("confidence")
    return PointCloud(
        points,
        colours,
        columns("normal_x", "normal_y", "normal_z"),
        None if confidence is None else confidence[:, 0],
        message.header.frame_id,
    )
