"""Recordings with something wrong in them: replay maps what is good and says what was not."""

import json
import math
import shutil

import numpy as np
import pytest
import yaml

from vggt_ros import results
from vggt_ros.cli.main import main
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import rig_to_dict
from vggt_ros.sources.bag import BagWriter
from vggt_ros.sources.messages import camera_info_message
from vggt_ros.synthetic.primitives import SceneObject
from vggt_ros.synthetic.record import record
from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL, arc_rig, plane_world, simulate
from vggt_ros.synthetic.textures import blank
from vggt_ros.synthetic.world import World

QUICK = ("bootstrap=rig", "plane_sweep.width=80", "ingest.silent_after_s=0.4")
IMAGE = {
    "cam0": "/cam0/image_raw/compressed",
    "cam1": "/cam1/image_raw",
    "cam2": "/cam2/image_raw",
}


@pytest.fixture
def replay(tmp_path, capsys):
    """Exit code, report (None without one) and the last line of stderr."""

    def run(bag, *settings, quick=True, words=()):
        out = tmp_path / "out"
        options = [w for s in (*(QUICK if quick else ()), *settings) for w in ("--set", s)]
        code = main(["replay", str(bag), "--out", str(out), *options, *words])
        path = out / results.REPORT
        report = json.loads(path.read_text()) if path.exists() else None
        lines = capsys.readouterr().err.splitlines() or [""]
        return code, report, lines[-1]

    return run


def keep(topic, stamp, message):
    return [(topic, message, stamp)]


def of(camera, change):
    """An edit of the images of one camera; `change(message, number)` returns a message or None."""
    number = 0

    def edit(topic, stamp, message):
        nonlocal number
        if topic != IMAGE[camera]:
            return keep(topic, stamp, message)
        number += 1
        changed = change(message, number)
        return [] if changed is None else keep(topic, stamp, changed)

    return edit


def test_camera_that_never_sends(edited, replay):
    bag = edited(of("cam2", lambda message, k: None))
    code, report, _ = replay(bag)
    assert code == 0
    assert report["sets"]["used"] == 8
    assert report["cameras"]["cam1"]["registered"]
    assert report["cameras"]["cam2"] == {
        "registered": False,
        "map_from_camera": None,
        "intrinsics": None,
    }
    assert report["notes"] == ["camera 'cam2' never sent an image"]


def test_camera_that_falls_silent(edited, replay):
    bag = edited(of("cam2", lambda message, k: message if k <= 2 else None))
    code, report, _ = replay(bag)
    assert code == 0
    assert report["sets"]["used"] == 8
    assert report["cameras"]["cam2"]["registered"]
    assert report["notes"] == ["camera 'cam2' was left out at the end: no usable images"]
    # without that, the others wait for it to the end
    code, report, _ = replay(bag, "ingest.silent_after_s=0")
    assert code == 0
    assert report["sets"]["used"] == 2


def cut_jpeg(message, k):
    message.data = message.data[: len(message.data) // 2]
    return message


def test_corrupt_jpegs(edited, replay):
    bag = edited(of("cam0", lambda m, k: cut_jpeg(m, k) if k in (2, 5) else m))
    code, report, _ = replay(bag)
    assert code == 0
    assert report["sets"]["used"] == 6
    assert report["sets"]["dropped"] == {"corrupt": 2, "incomplete": 4}


def test_camera_whose_jpegs_are_all_corrupt(edited, replay):
    bag = edited(of("cam0", cut_jpeg))
    code, report, _ = replay(bag)
    assert code == 0
    assert report["sets"] == {
        "received": 4,
        "used": 4,
        "dropped": {"corrupt": 8, "incomplete": 8},
    }
    assert not report["cameras"]["cam0"]["registered"]
    assert report["notes"] == ["camera 'cam0' was left out at the end: no usable images"]
    # a bag too short for that says what to do
    code, _, error = replay(bag, "ingest.silent_after_s=10")
    assert code == 1
    assert "images dropped: corrupt 8, incomplete 16" in error
    assert "--set cameras=" in error
    code, report, _ = replay(bag, "ingest.silent_after_s=10", "cameras=cam1,cam2")
    assert code == 0
    assert report["sets"]["used"] == 8


def test_images_that_are_no_images(edited, replay):
    def empty(message, k):
        if k in (1, 3):
            message.data = message.data[:0]
        return message

    code, report, _ = replay(edited(of("cam0", empty)))
    assert code == 0
    assert report["sets"]["used"] == 6
    assert report["sets"]["dropped"]["unreadable image"] == 2
    assert report["notes"] == ["camera 'cam0': compressed image without bytes (2 images)"]

    def strange(message, k):
        message.encoding = "hsv8"
        return message

    code, report, _ = replay(edited(of("cam1", strange), "strange"))
    assert code == 0
    assert report["sets"]["dropped"]["unreadable image"] == 8
    assert "image encoding 'hsv8' is not supported" in report["notes"][0]
    assert not report["cameras"]["cam1"]["registered"]


def test_images_of_changing_size(edited, replay):
    def crop(message, k):
        if k >= 3:
            rows = message.data.reshape(240, 320, 3)[:200]
            message.height, message.data = 200, rows.reshape(-1)
        return message

    code, report, _ = replay(edited(of("cam1", crop)))
    assert code == 0
    assert report["sets"]["dropped"]["size_changed"] == 6
    # the two before, and those after it was given up
    assert 4 <= report["sets"]["used"] < 8


def set_k(value):
    def edit(topic, stamp, message):
        if topic == "/cam1/camera_info":
            message.k = np.array(value, np.float64)
        return keep(topic, stamp, message)

    return edit


GOOD_K = [250.0, 0, 159.5, 0, 250.0, 119.5, 0, 0, 1]


@pytest.mark.parametrize(
    ("k", "message"),
    [
        ([math.nan, *GOOD_K[1:]], "camera 'cam1': CameraInfo: K has NaN"),
        ([0.0, *GOOD_K[1:]], "camera 'cam1': CameraInfo: expected K = "),
        ([*GOOD_K[:8], 0.0], "camera 'cam1': CameraInfo: expected K = "),
    ],
)
def test_impossible_intrinsics(edited, replay, recording, tmp_path, k, message):
    bag = edited(set_k(k))
    code, report, error = replay(bag)
    assert (code, report) == (1, None)
    assert error.startswith("vggt-ros replay: ")
    assert message in error
    # leaving the camera out or giving its intrinsics mends it
    code, report, _ = replay(bag, "cameras=cam0,cam2", words=("--max-sets", "1"))
    assert code == 0
    content = rig_to_dict(recording.rig)
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(content))
    code, report, _ = replay(bag, f"rig_file={tmp_path / 'rig.yaml'}", words=("--max-sets", "1"))
    assert code == 0
    model = recording.rig.models["cam1"]
    assert report["cameras"]["cam1"]["intrinsics"][0] == model.fx


def test_zero_intrinsics_are_an_uncalibrated_camera(edited, replay):
    """REP-104: K is zero where nobody calibrated."""
    code, report, _ = replay(edited(set_k([0.0] * 9)), words=("--max-sets", "2"))
    assert code == 0
    assert not report["cameras"]["cam1"]["registered"]
    assert report["cameras"]["cam0"]["registered"]


def test_calibration_of_other_images(edited, replay, recording):
    """CameraInfo of another aspect than the images: an error of this camera alone."""

    def other_size(topic, stamp, message):
        if topic == "/cam1/camera_info":
            model = recording.rig.models["cam1"].resized(320, 320)
            message = camera_info_message(model, stamp, "cam1_optical_frame")
        return keep(topic, stamp, message)

    code, report, _ = replay(edited(other_size))
    assert code == 0
    assert report["sets"]["dropped"]["calibration"] == 8
    assert not report["cameras"]["cam1"]["registered"]


def test_stamps_that_go_back(edited, replay):
    """A clock that is set back by hours in the middle: both halves reach the map."""
    hours = 3 * 3600
    number = 0

    def edit(topic, stamp, message):
        nonlocal number
        if topic == "/tf_static":
            return keep(topic, stamp, message)
        number += 1
        if stamp >= 10**18 + 4 * 10**8:
            message.header.stamp.sec -= hours
        return keep(topic, stamp, message)

    code, report, _ = replay(edited(edit))
    assert code == 0
    assert report["sets"]["used"] == 8
    assert report["notes"] == ["stamps went back 1 times"]


def test_one_stamp_out_of_order_and_duplicates(edited, replay):
    def twice(topic, stamp, message):
        return keep(topic, stamp, message) * (2 if topic == IMAGE["cam1"] else 1)

    code, report, _ = replay(edited(twice))
    assert code == 0
    assert report["sets"]["used"] == 8
    assert report["sets"]["dropped"] == {"duplicate": 8}

    def early(message, k):
        if k == 4:
            message.header.stamp.nanosec -= 250_000_000
        return message

    code, report, _ = replay(edited(of("cam1", early), "early"))
    assert code == 0
    assert report["sets"]["used"] == 7
    assert report["sets"]["dropped"]["out_of_order"] == 1


def test_two_cameras_with_one_frame_id(edited, replay, recording, tmp_path):
    def same(topic, stamp, message):
        if topic.startswith("/cam1"):
            message.header.frame_id = "cam0_optical_frame"
        return keep(topic, stamp, message)

    bag = edited(same)
    code, report, error = replay(bag)
    assert (code, report) == (1, None)
    assert "cameras 'cam0' and 'cam1' both have the frame_id 'cam0_optical_frame'" in error
    assert "camera.cam1.frame_id" in error
    # what the message says helps
    frame = ("cameras=cam0,cam1,cam2", "camera.cam1.frame_id=cam1_optical_frame")
    code, report, _ = replay(bag, *frame, words=("--max-sets", "1"))
    assert code == 0
    expected = recording.rig.poses["cam1"].matrix
    np.testing.assert_allclose(report["cameras"]["cam1"]["map_from_camera"], expected, atol=1e-12)
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig_to_dict(recording.rig)))
    code, report, _ = replay(bag, f"rig_file={tmp_path / 'rig.yaml'}", words=("--max-sets", "1"))
    assert code == 0


@pytest.mark.parametrize("field", ["translation", "rotation"])
def test_impossible_transforms(edited, replay, field):
    def spoil(topic, stamp, message):
        if topic == "/tf_static":
            getattr(message.transforms[1].transform, field).x = math.nan
        return keep(topic, stamp, message)

    code, report, error = replay(edited(spoil))
    assert (code, report) == (1, None)
    assert "transform 'rig' from 'cam1_optical_frame'" in error


def test_bag_that_was_cut_off(recording, replay, tmp_path):
    bag = tmp_path / "cut"
    shutil.copytree(recording.path, bag)
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, report, _ = replay(bag)
    assert code == 0
    assert 2 <= report["sets"]["used"] <= 5
    assert any("cut off" in note for note in report["notes"])


def test_no_image_topics(edited, replay):
    bag = edited(lambda t, s, m: keep(t, s, m) if t == "/tf_static" else [], "empty")
    code, report, error = replay(bag)
    assert (code, report) == (1, None)
    assert "no complete frame set of cam0, cam1, cam2" in error
    assert "camera 'cam0' never sent an image" in error

    bag = bag.with_name("transforms")
    with BagWriter(bag) as out:
        out.add_topic("/tf_static", "tf2_msgs/msg/TFMessage")
    code, report, error = replay(bag)
    assert (code, report) == (1, None)
    assert "no image topics" in error or "nothing can be read" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["cameras"]["cam1"].update(intrinsic=[1, 1, 0, 0]), "'intrinsic' (did you"),
        (lambda c: c.update(rigframe="rig"), "unknown key 'rigframe' (did you mean 'rig_frame'?)"),
    ],
)
def test_rig_file_with_a_typo(recording, replay, tmp_path, change, message):
    content = rig_to_dict(recording.rig)
    change(content)
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(content))
    code, report, error = replay(recording.path, f"rig_file={tmp_path / 'rig.yaml'}")
    assert (code, report) == (1, None)
    assert message in error


def test_rig_file_with_a_camera_that_is_not_there(recording, replay, tmp_path):
    content = rig_to_dict(recording.rig)
    content["cameras"]["cam22"] = content["cameras"].pop("cam2")
    del content["cameras"]["cam22"]["image"]
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(content))
    code, report, _ = replay(recording.path, f"rig_file={tmp_path / 'rig.yaml'}")
    assert code == 0
    assert not report["cameras"]["cam2"]["registered"]  # the file's frame is another one
    assert report["notes"] == [
        "camera 'cam22' of the rig file is not in the bag (did you mean 'cam2'?)"
    ]


def bag_of(path, world, rig, map_from_rig, sets=3):
    record(path, rig, simulate(world, rig, map_from_rig, sets, 10.0, start_ns=10**18))
    return path


def test_blank_walls(replay, tmp_path):
    rig = arc_rig(3, 0.25, math.radians(10), 160, 120, pitch_rad=0.0)
    world = plane_world(2.0, material=blank((188, 186, 180)))
    bag = bag_of(tmp_path / "blank", world, rig, Rigid3(RIG_FROM_OPTICAL.T, np.zeros(3)))
    code, report, error = replay(bag, quick=False)
    assert (code, report) == (1, None)
    assert "registered 0 of 3 views" in error
    assert "texture and overlap" in error
    # poses that are given do not help either: the map stays empty, and that is no success
    code, report, error = replay(bag)
    assert code == 1
    assert "the map is empty: no depth was accepted" in error
    assert report["map"]["points"] == 0
    assert report["sets"]["used"] == 0


def test_no_overlap(replay, tmp_path):
    """Two cameras back to back, each before a textured wall."""
    rig = arc_rig(2, 0.3, math.pi, 160, 120, math.radians(60), pitch_rad=0.0)
    (wall,) = plane_world(2.0).objects
    behind = SceneObject("behind", wall.primitives, Rigid3.from_rotation_vector((0, math.pi, 0)))
    world = World((wall, behind))
    map_from_rig = Rigid3(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.zeros(3))
    bag = bag_of(tmp_path / "apart", world, rig, map_from_rig)
    code, report, error = replay(bag, quick=False)
    assert (code, report) == (1, None)
    assert "of 2 views" in error
    code, report, error = replay(bag)
    assert code == 1
    assert "the map is empty" in error
    assert "overlap" in error


@pytest.mark.parametrize("kind", ["missing", "file", "read-only", "full"])
def test_places_that_cannot_be_written(recording, replay, tmp_path, monkeypatch, kind, capsys):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "read-only":

        def refuse(self, data):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr("pathlib.Path.write_bytes", refuse)  # root may write everywhere
    elif kind == "full":
        assert replay(recording.path, words=("--max-sets", "1"))[0] == 0
        before = {p.name: p.read_bytes() for p in out.iterdir()}

        def full(path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("vggt_ros.export.files._sync", full)
    else:
        code, _, _ = replay(recording.path, words=("--max-sets", "1"))
        assert code == 0  # a missing folder is made
        return
    code, _, error = replay(recording.path, words=("--max-sets", "2"))
    assert code == 1
    if kind == "full":
        assert "no space left" in error
        assert "the previous file is untouched" in error
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    else:
        assert f"output folder {out}: cannot be written" in error
    if kind == "file":
        assert out.read_text() == "mine"
