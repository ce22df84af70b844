"""Messages to arrays and back, exactly; nothing but `array.array` reaches `.data`."""

import array
import ast
import importlib.util
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from vggt_ros.errors import SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.nodes import conversions
from vggt_ros.sources.messages import (
    LAYOUTS,
    compressed_image_from_message,
    model_from_camera_info,
    stamp_ns,
)
from vggt_ros.types import PointCloud

HAS_CV_BRIDGE = importlib.util.find_spec("cv_bridge") is not None
STAMP = 1_700_000_000_123_456_789


def pixels_of(encoding, height=6, width=8):
    kind, channels = LAYOUTS[encoding]
    shape = (height, width) if channels == 1 else (height, width, channels)
    values = np.random.default_rng(0).integers(0, 255, shape)
    return values.astype(kind) * (3 if kind == "u2" else 1)


@pytest.mark.parametrize("encoding", LAYOUTS)
def test_every_encoding_there_and_back(encoding):
    pixels = pixels_of(encoding)
    message = conversions.image_message(pixels, encoding, STAMP, "optical")
    assert isinstance(message.data, array.array)
    received = deserialize_message(serialize_message(message), Image)
    image = conversions.stamped_image(received, "front")
    assert (image.camera, image.stamp_ns, image.encoding) == ("front", STAMP, encoding)
    assert image.frame_id == "optical"
    np.testing.assert_array_equal(image.data, pixels)


def test_pixels_are_viewed_not_copied():
    message = conversions.image_message(pixels_of("bgr8"), "bgr8", STAMP, "optical")
    image = conversions.stamped_image(message, "front")
    message.data[0] = (message.data[0] + 1) % 256
    assert image.data[0, 0, 0] == message.data[0]


def test_padded_rows_and_big_endian_samples():
    pixels = pixels_of("mono16")
    padded = np.zeros((6, 20), np.uint8)
    padded[:, :16] = pixels.astype(">u2").view(np.uint8).reshape(6, 16)
    message = Image(height=6, width=8, step=20, encoding="mono16", is_bigendian=1)
    message.data = array.array("B", padded.tobytes())
    np.testing.assert_array_equal(conversions.stamped_image(message, "a").data, pixels)


def test_too_few_bytes_and_wrong_arrays():
    message = conversions.image_message(pixels_of("rgb8"), "rgb8", STAMP, "optical")
    message.height = 7
    with pytest.raises(SourceError, match="camera 'front'"):
        conversions.stamped_image(message, "front")
    with pytest.raises(ValueError, match="expected 3 channels"):
        conversions.image_message(pixels_of("mono8"), "rgb8", STAMP, "optical")


@pytest.mark.skipif(HAS_CV_BRIDGE, reason="cv_bridge is installed")
def test_unknown_encoding_names_cv_bridge():
    message = Image(height=1, width=1, step=4, encoding="nv21")
    with pytest.raises(SourceError, match="'nv21' needs cv_bridge"):
        conversions.stamped_image(message, "front")


@pytest.mark.skipif(not HAS_CV_BRIDGE, reason="cv_bridge is not installed")
def test_unknown_encoding_goes_to_cv_bridge():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint16) * 256
    message = Image(height=4, width=4, step=24, encoding="rgb16")
    message.data = array.array("B", pixels.astype(np.uint16).tobytes())
    assert conversions.stamped_image(message, "front").encoding == "rgb8"


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0rest", b"\x89PNG\r\n\x1a\nrest"])
def test_compressed_bytes_stay_as_they_are(data):
    message = CompressedImage(format="bgr8; jpeg compressed bgr8")
    message.data = array.array("B", data)
    received = deserialize_message(serialize_message(message), CompressedImage)
    assert compressed_image_from_message(received, "front").data == data


def test_depth_is_float_metres_with_nan():
    depth = np.array([[1.5, np.nan]], np.float32)
    message = conversions.depth_message(depth, STAMP, "optical")
    assert (message.encoding, message.step, message.height) == ("32FC1", 8, 1)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32), depth[0])


@pytest.mark.parametrize(
    "model",
    [
        CameraModel(64, 48, 60.0, 61.0, 31.5, 23.5),
        CameraModel(64, 48, 60.0, 61.0, 30.0, 22.0, "plumb_bob", (0.1, -0.2, 0.01, 0.02, 0.03)),
        CameraModel(64, 48, 60.0, 61.0, 30.0, 22.0, "equidistant", (0.1, 0.2, 0.0, 0.0)),
    ],
)
def test_camera_info_there_and_back(model):
    message = conversions.camera_info_message(model, STAMP, "optical")
    received = deserialize_message(serialize_message(message), CameraInfo)
    assert model_from_camera_info(received, "front") == model
    assert stamp_ns(received.header) == STAMP
    assert received.p[0] == model.fx


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps(stamp):
    assert stamp_ns(type("Header", (), {"stamp": conversions.time_message(stamp)})) == stamp


def test_transform_and_pose():
    transform = Rigid3.from_rotation_vector([0.3, -0.2, 0.9], [1.0, 2.0, 3.0])
    message = conversions.transform_message(transform, "map", "camera", STAMP)
    q, t = message.transform.rotation, message.transform.translation
    found = Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
    np.testing.assert_allclose(found.matrix, transform.matrix, atol=1e-12)
    pose = conversions.pose_message(transform)
    assert pose.orientation.w == q.w
    assert pose.position.z == 3.0


def cloud_of(count, normals=True):
    rng = np.random.default_rng(count)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    colours = rng.integers(0, 256, (count, 3)).astype(np.uint8)
    confidence = rng.random(count).astype(np.float32)
    return PointCloud(points, colours, points[::-1].copy() if normals else None, confidence)


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("normals", [True, False])
def test_cloud_there_and_back(count, normals):
    cloud = cloud_of(count, normals)
    message = conversions.cloud_message(cloud, STAMP, "map")
    assert isinstance(message.data, array.array)
    assert len(message.data) == message.row_step == count * message.point_step
    received = deserialize_message(serialize_message(message), PointCloud2)
    found = conversions.cloud_from_message(received)
    np.testing.assert_array_equal(found.points, cloud.points)
    np.testing.assert_array_equal(found.colours, cloud.colours)
    np.testing.assert_array_equal(found.confidence, cloud.confidence)
    assert (found.normals is not None) == normals
    if normals:
        np.testing.assert_array_equal(found.normals, cloud.normals)


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, (5, 3)))
def test_every_colour_survives(colours):
    cloud = PointCloud(np.zeros((5, 3), np.float32), colours)
    found = conversions.cloud_from_message(conversions.cloud_message(cloud, STAMP, "map"))
    np.testing.assert_array_equal(found.colours, colours)


def test_cloud_agrees_with_sensor_msgs_py():
    point_cloud2 = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="needs sensor_msgs_py of a ROS distribution"
    )
    cloud = cloud_of(50)
    message = conversions.cloud_message(cloud, STAMP, "map")
    found = point_cloud2.read_points(message, ["x", "y", "z", "confidence"])
    np.testing.assert_array_equal(np.stack([found[n] for n in "xyz"], axis=1), cloud.points)
    np.testing.assert_array_equal(found["confidence"], cloud.confidence)


def test_cloud_is_packed_fast():
    # 16 MB. An element-wise copy takes over 400 ms, packing in place about 20.
    cloud = cloud_of(500_000)
    conversions.cloud_message(cloud, STAMP, "map")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        conversions.cloud_message(cloud, STAMP, "map")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.25


def test_only_array_array_is_assigned_to_data(repository):
    """`.data = <ndarray or memoryview>` is accepted by rclpy, and takes a hundred times longer."""
    assigned = []
    for path in sorted((repository / "vggt_ros" / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Attribute) and t.attr == "data" for t in node.targets
            ):
                assigned.append((path.name, ast.unparse(node.value)))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("Image", "PointCloud2")
            ):
                assert "data" not in [k.arg for k in node.keywords], path.name
    assert assigned
    for name, value in assigned:
        assert value.startswith(("array.array('B'", "array.array('b'")) or value == "buffer", (
            name,
            value,
        )
