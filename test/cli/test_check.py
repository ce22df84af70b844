"""`vggt-ros check`: tables, verdicts and exit codes."""

import argparse
import json

import cv2
import numpy as np
import pytest
import yaml

from vggt_ros.cli import check as check_command
from vggt_ros.errors import ConfigError, ExportError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagWriter
from vggt_ros.types import StampedImage

MODEL = CameraModel(320, 240, 260.0, 260.0, 159.5, 119.5)
START_NS = 10**12
PERIOD_NS = 10**8


def call(*words):
    parser = argparse.ArgumentParser()
    check_command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["check", *map(str, words)])
    return args.run(args)


def scenery(seed=0):
    rng = np.random.default_rng(seed)
    total = np.zeros((240, 960), np.float32)
    for sigma in (2, 4, 8, 16):
        noise = cv2.GaussianBlur(rng.normal(size=total.shape).astype(np.float32), None, sigma)
        total += noise / noise.std()
    return np.repeat((128 + 30 * total).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


class World:
    """Cameras side by side before one wall; each sees 320 pixels from its start."""

    def __init__(self, path, starts, sets=6):
        self.path = path
        self.images = {name: scenery()[:, x : x + 320].copy() for name, x in starts.items()}
        self.stamps = {name: [START_NS + k * PERIOD_NS for k in range(sets)] for name in starts}
        self.infos = {}
        self.frames = {name: f"{name}_optical_frame" for name in starts}
        self.transforms = []
        self.corrupt = {}

    def calibrate(self):
        for k, name in enumerate(self.images):
            self.infos[name] = MODEL
            pose = Rigid3(np.eye(3), np.array([0.2 * k, 0, 0]))
            self.transforms.append(("rig", self.frames[name], pose))
        return self

    def write(self, edit_info=lambda name, message: None):
        files = {n: cv2.imencode(".png", i)[1].tobytes() for n, i in self.images.items()}
        entries = [
            (stamp, name, k)
            for name, stamps in self.stamps.items()
            for k, stamp in enumerate(stamps)
        ]
        with BagWriter(self.path) as bag:
            if self.transforms:
                bag.write("/tf_static", messages.tf_message(self.transforms, 1), 1)
            order = entries if self.corrupt.get("order") else sorted(entries)
            for stamp, name, k in order:
                data = self.corrupt.get((name, k), files[name])
                image = StampedImage(name, stamp, data, "png", self.frames[name])
                bag.write(
                    f"/{name}/image_raw/compressed",
                    messages.compressed_image_message(image),
                    START_NS + k * PERIOD_NS + 5_000_000,
                )
                if name in self.infos:
                    info = messages.camera_info_message(MODEL, stamp, self.frames[name])
                    edit_info(name, info)
                    bag.write(f"/{name}/camera_info", info, stamp)
            for name in self.images:
                if not self.stamps[name]:
                    bag.add_topic(f"/{name}/image_raw/compressed", messages.COMPRESSED_IMAGE)
        return self.path


@pytest.fixture
def pair(tmp_path):
    return World(tmp_path / "bag", {"left": 0, "right": 120})


def figures(tmp_path, path, *words):
    code = call(path, "--json", tmp_path / "check.json", *words)
    return code, json.loads((tmp_path / "check.json").read_text())


def test_good_rig(tmp_path, pair, capsys):
    code, found = figures(tmp_path, pair.calibrate().write())
    assert code == 0
    left = found["cameras"][0]
    assert (left["name"], left["messages"], left["size"]) == ("left", 6, [320, 240])
    assert left["rate_hz"] == pytest.approx(10)
    assert left["jitter_ms"] == pytest.approx(0)
    assert left["age_ms"] == pytest.approx(5)
    assert (left["calibration"], left["has_pose"], left["problems"]) == ("pinhole", True, [])
    assert left["texture"] > 0.9
    (overlap,) = found["pairs"]
    assert overlap["skew_ms"] == 0
    assert overlap["overlap"]["share"] == pytest.approx(200 / 320, abs=0.2)
    assert found["verdicts"]["sfm"]["works"]
    assert found["verdicts"]["rig"]["works"]
    text = capsys.readouterr().out
    assert "left - right" in text
    assert "bootstrap rig: works; poses and intrinsics of 2 of 2 cameras" in text


def test_without_calibration_only_sfm(tmp_path, pair):
    code, found = figures(tmp_path, pair.write())
    assert code == 0
    assert "intrinsics will be estimated: left, right" in found["verdicts"]["sfm"]["reasons"]
    assert not found["verdicts"]["rig"]["works"]
    assert any("no pose" in reason for reason in found["verdicts"]["rig"]["reasons"])


def test_rig_file_completes_the_bag(tmp_path, pair):
    entry = {"size": [320, 240], "intrinsics": [260.0, 260.0, 159.5, 119.5]}
    cameras = {}
    for k, name in enumerate(("left", "right")):
        pose = {"translation": [0.2 * k, 0, 0], "rotation_xyzw": [0, 0, 0, 1]}
        topic = f"/{name}/image_raw/compressed"
        cameras[f"my_{name}"] = {**entry, "image": topic, "rig_from_camera": pose}
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump({"cameras": cameras}))
    code, found = figures(tmp_path, pair.write(), "--rig", tmp_path / "rig.yaml")
    assert code == 0
    assert [c["name"] for c in found["cameras"]] == ["my_left", "my_right"]
    assert found["verdicts"]["rig"]["works"]


def test_no_overlap(tmp_path, capsys):
    world = World(tmp_path / "bag", {"left": 0, "right": 600}).calibrate()
    code, found = figures(tmp_path, world.write())
    assert code == 1
    assert not found["can_map"]
    text = capsys.readouterr().out
    assert "bootstrap sfm: will not work; no two cameras overlap" in text
    assert "bootstrap rig: will not work; no two cameras with known poses overlap" in text


def test_camera_outside_the_overlap(tmp_path):
    world = World(tmp_path / "bag", {"a": 0, "b": 120, "c": 620})
    code, found = figures(tmp_path, world.write())
    assert code == 0
    assert found["groups"] == [["a", "b"], ["c"]]
    assert "cannot be registered: c" in " ".join(found["verdicts"]["sfm"]["reasons"])


def test_blank_walls(tmp_path, pair, capsys):
    for name in pair.images:
        pair.images[name][:] = 128
    assert call(pair.write()) == 1
    text = capsys.readouterr().out
    assert "left: little texture (0% of the pixels)" in text
    assert "little texture in left, right" in text


def test_camera_that_never_sends(tmp_path):
    world = World(tmp_path / "bag", {"a": 0, "b": 120, "c": 200})
    world.stamps["c"] = []
    code, found = figures(tmp_path, world.write())
    assert code == 0
    assert found["cameras"][2]["messages"] == 0
    assert "never sends" in found["cameras"][2]["problems"][0]


def test_one_camera(tmp_path):
    code, found = figures(tmp_path, World(tmp_path / "bag", {"a": 0}).write())
    assert code == 1
    assert "needs two views" in found["verdicts"]["sfm"]["reasons"][0]


def test_stamps_back_and_duplicates(tmp_path, pair):
    pair.stamps["left"] = [START_NS + k * PERIOD_NS for k in (0, 1, 1, 2, 0, 3)]
    pair.corrupt["order"] = True
    _, found = figures(tmp_path, pair.write())
    left, right = found["cameras"]
    assert (left["backwards"], left["duplicates"]) == (1, 1)
    assert "stamps go back 1 times" in left["problems"]
    assert right["problems"] == []
    assert found["dropped"]["duplicate"] == 1


def test_cameras_that_are_not_synchronised(tmp_path, pair):
    pair.stamps["right"] = [stamp + PERIOD_NS // 2 for stamp in pair.stamps["right"]]
    path = pair.write()
    code, found = figures(tmp_path, path)
    assert code == 1
    assert "ingest.max_skew_ms = 20 ms" in found["problems"][0]
    code, found = figures(tmp_path, path, "--max-skew-ms", 60)
    assert code == 0
    assert found["pairs"][0]["skew_ms"] == pytest.approx(50)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_impossible_intrinsics(tmp_path, pair, value):
    def spoil(name, message):
        if name == "left":
            message.k[4] = value

    code, found = figures(tmp_path, pair.calibrate().write(spoil))
    assert code == 0  # sfm can do without
    assert found["cameras"][0]["calibration"] == "error"
    assert "camera 'left': CameraInfo" in found["cameras"][0]["problems"][0]
    assert not found["verdicts"]["rig"]["works"]


def test_two_cameras_with_one_frame_id(tmp_path, pair):
    pair.frames = dict.fromkeys(pair.frames, "camera_optical_frame")
    code, found = figures(tmp_path, pair.calibrate().write())
    assert code == 0
    assert "'left' and 'right' both have the frame_id" in found["problems"][0]
    assert not found["verdicts"]["rig"]["works"]


def test_corrupt_images(tmp_path, pair):
    pair.corrupt = {("left", k): b"\x89PNG\r\n\x1a\n broken" for k in range(6)}
    code, found = figures(tmp_path, pair.write())
    assert code == 1
    assert "image cannot be used: corrupt" in found["cameras"][0]["problems"]


def test_cut_off_bag(tmp_path, pair):
    path = pair.write()
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-3000])
    code, found = figures(tmp_path, path)
    assert code == 0
    assert "the bag is not whole" in found["problems"][0]


def test_no_image_topics(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/tf", messages.tf_message([], 1), 1)
    with pytest.raises(SourceError, match=r"no image topics; .* got /tf \(tf2_msgs"):
        call(tmp_path / "bag")


def test_mistakes(tmp_path, pair):
    path = pair.write()
    with pytest.raises(SourceError, match="does not exist"):
        call(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot be read"):
        call(path, "--rig", tmp_path / "absent.yaml")
    with pytest.raises(ExportError, match="cannot be written"):
        call(path, "--json", tmp_path / "absent" / "x.json")
