"""`vggt-ros bag from-images`."""

import argparse
import json

import cv2
import numpy as np
import pytest
import yaml

from vggt_ros.cli import bag as bag_command
from vggt_ros.errors import ConfigError, ExportError
from vggt_ros.geometry import Rigid3
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagReader


def call(*words):
    parser = argparse.ArgumentParser()
    bag_command.add_parser(parser.add_subparsers(required=True))
    action = "from-images" if words[0] != "from-videos" else words[0]
    words = words if words[0] != "from-videos" else words[1:]
    args = parser.parse_args(["bag", action, *map(str, words)])
    return args.run(args)


def folder(path, suffix=".jpg"):
    rng = np.random.default_rng(0)
    for camera in ("left", "right"):
        (path / camera).mkdir(parents=True)
        for k in range(3):
            pixels = rng.integers(0, 255, (24, 32, 3), np.uint8)
            data = cv2.imencode(suffix, pixels)[1].tobytes()
            (path / camera / f"{k}{suffix}").write_bytes(data)
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_bytes_are_those_of_the_files(tmp_path, storage, suffix, capsys):
    images = folder(tmp_path / "images", suffix)
    assert call(images, "--out", tmp_path / "bag", "--fps", 4, "--storage", storage) == 0
    assert "6 images, 2 cameras, 3 sets" in capsys.readouterr().out
    with BagReader(tmp_path / "bag") as bag:
        assert list(bag.camera_topics()) == ["left", "right"]
        assert set(bag.topics) == {f"/{c}/image_raw/compressed" for c in ("left", "right")}
        for topic, stamp, message in bag.messages():
            camera = topic.split("/")[1]
            image = messages.any_image_from_message(message, camera)
            k = round((stamp - 10**9) / 0.25e9)
            assert image.data == (images / camera / f"{k}{suffix}").read_bytes()
            assert image.stamp_ns == stamp
            assert image.frame_id == f"{camera}_optical_frame"


def test_rig_gives_camera_info_and_transforms(tmp_path):
    images = folder(tmp_path / "images")
    rig = {
        "rig_frame": "base_link",
        "cameras": {
            "left": {
                "size": [32, 24],
                "intrinsics": [30.0, 30.0, 15.5, 11.5],
                "rig_from_camera": {"translation": [1, 2, 3], "rotation_xyzw": [0, 0, 0.6, 0.8]},
            },
            "right": {"frame_id": "right_eye"},
        },
    }
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig))
    call(images, "--out", tmp_path / "bag", "--rig", tmp_path / "rig.yaml")
    with BagReader(tmp_path / "bag") as bag:
        read = bag.rig()
        assert bag.topics["/left/camera_info"].count == 3
        assert "/right/camera_info" not in bag.topics
    assert read.rig_frame == "base_link"
    assert list(read.models) == list(read.poses) == ["left"]
    pose = Rigid3.from_quaternion([0, 0, 0.6, 0.8], [1, 2, 3])
    np.testing.assert_allclose(read.poses["left"].matrix, pose.matrix, atol=1e-12)
    assert [c.frame_id for c in read.cameras] == ["left_optical_frame", "right_eye"]


def test_mistakes(tmp_path, capsys):
    images = folder(tmp_path / "images")
    out = tmp_path / "bag"
    call(images, "--out", out)
    with pytest.raises(ExportError, match="exists"):
        call(images, "--out", out)
    assert call(images, "--out", out, "--overwrite") == 0
    (tmp_path / "rig.yaml").write_text("cameras: {left: {intrinsic: [1, 1, 1, 1]}}")
    with pytest.raises(ConfigError, match="did you mean 'intrinsics'"):
        call(images, "--out", tmp_path / "b", "--rig", tmp_path / "rig.yaml")
    for fps in ("0", "-1", "x", "inf"):
        with pytest.raises(SystemExit):
            call(images, "--out", tmp_path / "b", "--fps", fps)
    assert not (tmp_path / "b").exists()
    assert "expected a number > 0" in capsys.readouterr().err


def fountain_rig(folder, names):
    """RIG.yaml content of the laser ground truth; the first camera is the rig frame."""
    cameras = json.loads((folder / "cameras.json").read_text())
    entries = {}
    for camera in cameras:
        world_from_camera = Rigid3.from_matrix(
            np.column_stack([camera["R_w2c"], camera["t_w2c"]])
        ).inverse()
        k = camera["K"]
        entries[names(camera["file"])] = {
            "size": [camera["width"], camera["height"]],
            "intrinsics": [k[0][0], k[1][1], k[0][2], k[1][2]],
            "rig_from_camera": {
                "translation": world_from_camera.translation.tolist(),
                "rotation_xyzw": world_from_camera.quaternion_xyzw.tolist(),
            },
        }
    return {"rig_frame": "world", "cameras": entries}


def test_fountain(tmp_path, shared_data):
    """Real photographs, each a camera: names, bytes, intrinsics and poses come back."""
    photos = shared_data / "fountain_p11"
    rig = fountain_rig(photos, lambda file: file.removesuffix(".jpg"))
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig))
    args = ("--camera-per-image", "--rig", tmp_path / "rig.yaml")
    assert call(photos, "--out", tmp_path / "bag", *args) == 0
    with BagReader(tmp_path / "bag") as bag:
        read = bag.rig()
        stored = {
            topic.split("/")[1]: messages.any_image_from_message(message, "c").data
            for topic, _, message in bag.messages()
            if topic.endswith("/compressed")
        }
    assert read.names == tuple(f"cam_{k:04d}" for k in range(11))
    assert len(read.models) == len(read.poses) == 11
    for k in range(11):
        assert stored[f"cam_{k:04d}"] == (photos / f"{k:04d}.jpg").read_bytes()
        truth = rig["cameras"][f"{k:04d}"]
        centre = read.poses[f"cam_{k:04d}"].translation
        np.testing.assert_allclose(centre, truth["rig_from_camera"]["translation"], atol=1e-9)


def test_videos_with_calibration(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for camera in ("left", "right"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        path = str(tmp_path / "videos" / f"{camera}.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
        for _ in range(6):
            small = rng.integers(0, 255, (6, 8, 3), np.uint8)
            writer.write(cv2.resize(small, (64, 48), interpolation=cv2.INTER_LINEAR))
        writer.release()
    k = {c: [[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]] for c in ("left", "right")}
    (tmp_path / "k.json").write_text(json.dumps(k))
    words = ("--intrinsics", tmp_path / "k.json", "--frame-step", 2, "--views", "right,left")
    assert call("from-videos", tmp_path / "videos", "--out", tmp_path / "bag", *words) == 0
    said = capsys.readouterr().out
    assert "6 images, 2 cameras, 3 sets; 2 with intrinsics, 0 with poses" in said
    with BagReader(tmp_path / "bag") as bag:
        stamps = {}
        for topic, stamp, message in bag.messages():
            stamps.setdefault(topic, []).append(stamp)
            if topic == "/left/image_raw/compressed":
                image = messages.any_image_from_message(message, "left")
                assert image.encoding == "jpeg"
    for camera in ("left", "right"):
        expected = [10**9 + k * 10**8 for k in range(3)]
        assert stamps[f"/{camera}/image_raw/compressed"] == expected
        assert stamps[f"/{camera}/camera_info"] == expected
    with pytest.raises(ConfigError, match="--jpeg-quality"):
        call("from-videos", tmp_path / "videos", "--out", tmp_path / "b2", "--jpeg-quality", 101)
