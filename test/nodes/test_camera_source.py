"""Image folders as camera topics."""

import re

import cv2
import numpy as np
import pytest
import yaml
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from vggt_ros.errors import VggtRosError
from vggt_ros.nodes.camera_source_node import CameraSource
from vggt_ros.sources.messages import stamp_ns

SOURCE = "vggt_ros.nodes.camera_source"
STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cameras of three images, and the rig file of one of them."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for camera in ("left", "right"):
        (root / "sets" / camera).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)
            cv2.imwrite(str(root / "sets" / camera / f"{i}.png"), pixels)
    rig = {
        "rig_frame": "mast",
        "cameras": {
            "left": {
                "frame_id": "left_lens",
                "size": [32, 24],
                "intrinsics": [30.0, 30.0, 15.5, 11.5],
                "rig_from_camera": {"translation": [1, 2, 3], "rotation_xyzw": [0, 0, 0, 1]},
            }
        },
    }
    (root / "rig.yaml").write_text(yaml.safe_dump(rig))
    return root


def test_compressed_raw_info_and_transforms(start, observer, folder):
    compressed = observer.listen(CompressedImage, "/left/image_raw/compressed")
    raw = observer.listen(Image, "/right/image_raw")
    info = observer.listen(CameraInfo, "/left/camera_info")
    static = observer.listen(TFMessage, "/tf_static", STATIC)
    source = start(
        SOURCE,
        {
            "source": folder / "sets",
            "rig_file": folder / "rig.yaml",
            "raw": "true",
            "fps": 10.0,
        },
    )
    assert source.wait(90.0) == 0, source.output
    assert "end of the images: 6 published" in source.output
    assert [bytes(m.data) for m in compressed] == [
        (folder / "sets" / "left" / f"{i}.png").read_bytes() for i in range(3)
    ]
    assert compressed[0].header.frame_id == "left_lens"
    expected = cv2.imread(str(folder / "sets" / "right" / "0.png"))[..., ::-1]
    found = np.frombuffer(raw[0].data, np.uint8).reshape(24, 32, 3)
    np.testing.assert_array_equal(found, expected)
    assert raw[0].encoding == "rgb8"
    assert info[0].k[0] == 30.0
    assert [stamp_ns(m.header) for m in info] == [stamp_ns(m.header) for m in compressed]
    (transform,) = static[-1].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("mast", "left_lens")
    assert transform.transform.translation.z == 3.0


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "'source': expected a folder of images"),
        ({"source": "missing"}, "folder missing: does not exist"),
        ({"source": "x", "compressed": "false"}, "expected at least one of them"),
        ({"source": "x", "fps": 10}, "'fps': expected a number with a decimal point"),
        ({"source": "x", "rig_file": "missing.yaml"}, "rig file missing.yaml"),
        ({"sorce": "x"}, "did you mean 'source'"),
    ],
)
def test_wrong_parameters(build, parameters, expected):
    with pytest.raises(VggtRosError, match=re.escape(expected)):
        build(CameraSource, parameters)


def test_a_damaged_image_ends_it_with_its_name(start, folder, tmp_path):
    for camera in ("left", "right"):
        (tmp_path / "sets" / camera).mkdir(parents=True)
        (tmp_path / "sets" / camera / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    source = start(SOURCE, {"source": tmp_path / "sets", "wait_for_subscribers_s": 0.0})
    assert source.wait(90.0) == 1
    assert "0.png" in source.output
    assert "Traceback" not in source.output
