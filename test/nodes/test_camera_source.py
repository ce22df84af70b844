"""Folders, videos and webcams as camera topics."""

import importlib.util
import json
import re
import time
from pathlib import Path

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


def helper(name):
    path = Path(__file__).parents[1] / "sources" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"sources_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


numbered_videos, mjpeg_camera = helper("conftest"), helper("mjpeg_camera")
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
        ({"kind": "video", "source": "x"}, "images, videos, webcams"),
        ({"kind": "videos"}, "'source': expected a folder of videos"),
        ({"kind": "videos", "source": "missing"}, "videos missing: there is no such folder"),
        ({"kind": "webcams"}, "'webcams': expected devices"),
        ({"kind": "webcams", "webcams": "[front]"}, "webcams: expected a number"),
        ({"source": "x", "intrinsics": "missing.json"}, "intrinsics missing.json: cannot be read"),
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


def test_videos_with_calibration_files(start, observer, tmp_path):
    """Published at the rate of the container, frame for frame."""
    for camera in ("left", "right"):
        numbered_videos.write_video(tmp_path / "v" / f"{camera}.mp4", range(8), 20.0)
    k = [[200.0, 0, 127.5], [0, 200.0, 31.5], [0, 0, 1]]
    (tmp_path / "k.json").write_text(json.dumps({"left": k}))
    np.savez(tmp_path / "p.npz", **{"left/0": np.eye(4), "right/0": np.eye(4)})
    raw = observer.listen(Image, "/left/image_raw")
    compressed = observer.listen(CompressedImage, "/right/image_raw/compressed")
    info = observer.listen(CameraInfo, "/left/camera_info")
    static = observer.listen(TFMessage, "/tf_static", STATIC)
    source = start(
        SOURCE,
        {
            "kind": "videos",
            "source": tmp_path / "v",
            "intrinsics": tmp_path / "k.json",
            "poses": tmp_path / "p.npz",
            "frame_step": 2,
            "raw": "true",
        },
    )
    assert source.wait(30.0) == 0, source.output
    assert "end of the images: 8 published" in source.output
    pixels = [np.frombuffer(m.data, np.uint8).reshape(64, 256, 3) for m in raw]
    assert [numbered_videos.number_of(p) for p in pixels] == [0, 2, 4, 6]
    decoded = [cv2.imdecode(np.frombuffer(bytes(m.data), np.uint8), 1) for m in compressed]
    assert [numbered_videos.number_of(p) for p in decoded] == [0, 2, 4, 6]
    assert (raw[0].encoding, compressed[0].format) == ("bgr8", "jpeg")
    stamps = np.diff([stamp_ns(m.header) for m in raw]) * 1e-6
    assert np.median(stamps) == pytest.approx(100.0, abs=30.0)
    assert info[0].k[0] == 200.0
    assert {t.child_frame_id for t in static[-1].transforms} == {
        "left_optical_frame",
        "right_optical_frame",
    }


def test_webcams_through_a_reconnect(start, observer, tmp_path):
    """Stamped with the time of the grab; an unplugged camera does not end the node."""
    cameras = {name: mjpeg_camera.MjpegCamera() for name in ("a", "b")}
    got = {n: observer.listen(CompressedImage, f"/{n}/image_raw/compressed") for n in cameras}
    devices = ", ".join(f"'{name}={camera.address}'" for name, camera in cameras.items())
    source = start(SOURCE, {"kind": "webcams", "webcams": f"[{devices}]"})
    try:
        wait_for(lambda: all(len(messages) > 20 for messages in got.values()), source)
        message = got["a"][-1]
        pixels = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), 1)
        sent = cameras["a"].sent_ns[mjpeg_camera.number_of(pixels)]
        assert 0 < stamp_ns(message.header) - sent < 500e6
        cameras["a"].unplug()
        wait_for(lambda: "gives no images any more" in source.output, source)
        before = len(got["b"])
        wait_for(lambda: len(got["b"]) > before + 10, source)
        cameras["a"].plug()
        wait_for(lambda: "is back" in source.output, source)
        before = len(got["a"])
        wait_for(lambda: len(got["a"]) > before + 5, source)
    finally:
        source.interrupt()
        for camera in cameras.values():
            camera.unplug()
    assert source.wait(20.0) == 0, source.output
    assert "Traceback" not in source.output


def wait_for(condition, source, limit_s=25.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, source.output
        time.sleep(0.02)


def test_absent_webcam_ends_it(start):
    source = start(SOURCE, {"kind": "webcams", "webcams": "['front=63']", "open_timeout_s": 0.5})
    assert source.wait(30.0) == 2
    assert "'front' (/dev/video63)" in source.output
    assert "Traceback" not in source.output


def test_the_first_cameras(build, folder):
    """As the flags of `reconstruct` choose them."""
    node = build(CameraSource, {"source": folder / "sets", "num_cams": 1})
    assert node._source.rig.names == ("left",)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"random_views": 3}, "at least the 3 cameras of random_views"),
        ({"start_set": 3}, "start_set: means nothing with source images"),
    ],
)
def test_cameras_and_sets_that_are_not_there(build, folder, parameters, expected):
    with pytest.raises(VggtRosError, match=expected):
        build(CameraSource, {"source": folder / "sets", **parameters})
