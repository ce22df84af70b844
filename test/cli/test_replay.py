"""`vggt-ros replay` against the exact truth of a small world."""

import json
import math

import cv2
import numpy as np
import pytest
import yaml

from vggt_ros import preview, results
from vggt_ros.cli.main import main
from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import Rigid3
from vggt_ros.rig import rig_to_dict
from vggt_ros.synthetic.truth import distance_to_surface

RIG_BOOTSTRAP = ("--set", "bootstrap=rig", "--set", "plane_sweep.width=160")
"""The quickest way to a map."""


def replay(bag, out, *words):
    return main(["replay", str(bag), "--out", str(out), *map(str, words)])


def report_of(out):
    return json.loads((out / results.REPORT).read_text())


@pytest.fixture(scope="session")
def mapped(recording, tmp_path_factory):
    """The results of an ordinary run."""
    out = tmp_path_factory.mktemp("mapped")
    assert replay(recording.path, out, "--max-sets", 3) == 0
    return out


def test_the_report_holds_what_is_promised(mapped, recording):
    report = report_of(mapped)
    assert set(report["cameras"]) == set(recording.rig.names)
    for camera in report["cameras"].values():
        assert camera["registered"] is True
        assert np.array(camera["map_from_camera"]).shape == (4, 4)
        assert len(camera["intrinsics"]) == 4
    assert set(report["scale"]) == {"value", "sigma", "source"}
    assert report["sets"] == {"received": 3, "used": 3, "dropped": {}}
    assert report["map"]["points"] == len(read_ply(mapped / results.MAP))
    low, high = np.array(report["map"]["bounds_m"])
    assert (low < high).all()
    assert report["bootstrapper"] == "sfm"
    assert report["depth_estimator"] == "plane_sweep"
    assert {path.name for path in mapped.iterdir()} == {
        results.REPORT,
        results.TIMINGS,
        results.MAP,
        results.TRAJECTORY,
        results.PREVIEW,
        results.CONFIG,
        results.FEATURES,
    }


def test_cameras_scale_and_map_are_true(mapped, recording):
    report = report_of(mapped)
    assert report["unit"] == "m"
    assert report["scale"]["source"] == "rig"
    assert 0 < report["scale"]["sigma"] < 0.01 * report["scale"]["value"]
    for name, truth in recording.rig.poses.items():
        found = Rigid3.from_matrix(report["cameras"][name]["map_from_camera"])
        error = truth.inverse() @ found
        assert math.degrees(error.angle_rad) < 0.1
        assert np.linalg.norm(error.translation) < 2e-3
        model = recording.rig.models[name]
        assert report["cameras"][name]["intrinsics"] == [model.fx, model.fy, model.cx, model.cy]
    cloud = read_ply(mapped / results.MAP)
    assert cloud.is_metric
    points = recording.world_from_rig.apply(cloud.points)
    distance = distance_to_surface(recording.world, points)
    assert np.median(distance) < 0.01
    assert (distance < 0.05).mean() > 0.95
    # the cube and the wall, as far as the cameras see
    assert len(cloud) > 5000
    assert (np.abs(points[:, 2] - 1.6) < 0.05).mean() > 0.05
    header = (mapped / results.MAP).read_bytes()[:400].decode("ascii", "replace")
    assert "comment unit m\n" in header
    assert "m per scene unit, from rig\n" in header


def test_two_runs_are_equal_to_the_byte(mapped, recording, tmp_path):
    assert replay(recording.path, tmp_path, "--max-sets", 3) == 0
    for name in (results.MAP, results.REPORT, results.TRAJECTORY, results.PREVIEW, results.CONFIG):
        assert (tmp_path / name).read_bytes() == (mapped / name).read_bytes(), name


def test_timings_are_apart(mapped):
    timings = json.loads((mapped / results.TIMINGS).read_text())
    assert timings["depth"]["count"] == 3
    assert "timings" not in report_of(mapped)


def test_without_any_scale_nothing_claims_metres(edited, tmp_path, monkeypatch, capsys):
    bag = edited(lambda t, s, m: [] if t == "/tf_static" else [(t, m, s)])
    labels = []
    monkeypatch.setattr(
        preview, "_labelled", lambda picture, label: labels.append(label) or picture
    )
    out = tmp_path / "out"
    assert replay(bag, out, "--max-sets", 2) == 0
    report = report_of(out)
    assert report["unit"] == "unscaled"
    assert report["scale"] == {"value": None, "sigma": None, "source": "none"}
    assert report["map"]["bounds_m"] is None
    assert report["map"]["bounds"] is not None
    header = (out / results.MAP).read_bytes()[:400].decode("ascii", "replace")
    assert "comment unit unscaled\n" in header
    assert "comment scale unknown: lengths are not metres\n" in header
    assert not read_ply(out / results.MAP).is_metric
    assert "# unit unscaled" in (out / results.TRAJECTORY).read_text()
    assert sum("units (scale unknown)" in label for label in labels) == 2
    assert "unknown: lengths are not metres" in capsys.readouterr().out


def test_one_place_on_the_rig_gives_axes_but_no_scale(edited, recording, tmp_path):
    """The residual of centres has no value then, and JSON no NaN."""

    def keep_one(topic, stamp, message):
        if topic == "/tf_static":
            message.transforms = message.transforms[:1]
        return [(topic, message, stamp)]

    assert replay(edited(keep_one), tmp_path / "out", "--max-sets", 1) == 0
    report = report_of(tmp_path / "out")
    assert report["scale"]["source"] == "none"
    assert report["up_source"] == "rig"
    residual = report["cameras"]["cam0"]["rig_residual"]
    assert residual["centre"] is None
    assert residual["rotation_rad"] == pytest.approx(0.0, abs=1e-3)


def test_rig_bootstrapper_takes_the_poses_as_they_are(recording, tmp_path):
    assert replay(recording.path, tmp_path, *RIG_BOOTSTRAP, "--max-sets", 2) == 0
    report = report_of(tmp_path)
    assert report["bootstrapper"] == "rig"
    assert report["scale"] == {
        "value": 1.0,
        "sigma": pytest.approx(0.0014, rel=0.02),  # of two places, each known to 0.1 %
        "source": "rig",
    }
    for name, pose in recording.rig.poses.items():
        np.testing.assert_allclose(
            report["cameras"][name]["map_from_camera"], pose.matrix, atol=1e-12
        )
    points = recording.world_from_rig.apply(read_ply(tmp_path / results.MAP).points)
    assert np.median(distance_to_surface(recording.world, points)) < 0.01


def test_rig_file_overrules_the_bag(recording, tmp_path):
    """Twice as wide a rig makes a map twice as large; names are those of the file."""
    content = rig_to_dict(recording.rig)
    for number, entry in enumerate(content["cameras"].values()):
        entry["rig_from_camera"]["translation"] = [
            2 * t for t in entry["rig_from_camera"]["translation"]
        ]
        del entry["frame_id"], entry["camera_info"]
        entry["image"] = entry["image"].strip("/") if number else "cam0/image_raw/compressed"
    content["cameras"] = {f"my_{name}": entry for name, entry in content["cameras"].items()}
    content["rig_frame"] = "my_rig"
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    options = ("--set", f"rig_file={tmp_path / 'rig.yaml'}", "--max-sets", 2)
    assert replay(recording.path, out, *RIG_BOOTSTRAP, *options) == 0
    report = report_of(out)
    assert list(report["cameras"]) == ["my_cam0", "my_cam1", "my_cam2"]
    points = read_ply(out / results.MAP).points / 2
    distance = distance_to_surface(recording.world, recording.world_from_rig.apply(points))
    assert np.median(distance) < 0.01


def test_parameters_by_file_and_flags(recording, tmp_path):
    """A parameter file of the mapper is understood, and `--set` wins over it."""
    (tmp_path / "mapper.yaml").write_text(
        "mapper:\n  ros__parameters:\n    autostart: true\n    cameras: [second, first]\n"
        "    camera.first.image_topic: cam0/image_raw\n"
        "    camera.first.transport: compressed\n"
        "    camera.second.image_topic: /cam1/image_raw\n"
        "    bootstrap: sfm\n    map.voxel_m: 0.05\n"
    )
    out = tmp_path / "out"
    options = ("--config", tmp_path / "mapper.yaml", *RIG_BOOTSTRAP, "--max-sets", 1)
    assert replay(recording.path, out, *options) == 0
    report = report_of(out)
    assert list(report["cameras"]) == ["second", "first"]
    assert report["bootstrapper"] == "rig"
    saved = yaml.safe_load((out / results.CONFIG).read_text())
    text = json.dumps(saved)
    assert '"voxel_m": 0.05' in text
    # what was saved makes the same map again
    again = tmp_path / "again"
    assert replay(recording.path, again, "--config", out / results.CONFIG, "--max-sets", 1) == 0
    assert (again / results.MAP).read_bytes() == (out / results.MAP).read_bytes()


def test_preview_shows_images_depth_and_map(mapped):
    sheet = cv2.imread(str(mapped / results.PREVIEW))
    assert sheet.shape[1] == 1920
    assert sheet.std() > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "map.voxle_m=0.1"), "unknown parameter 'map.voxle_m' (did you mean"),
        (("--set", "map.voxel_m=huge"), "parameter 'map.voxel_m': expected"),
        (("--set", "map.voxel_m=-1"), "parameter 'map.voxel_m': expected"),
        (("--set", "map.voxel_m"), "expected NAME=VALUE"),
        (("--set", "bootstrap=rgi"), "(did you mean 'rig'?)"),
        (("--set", "rig_file=none.yaml"), "none.yaml: cannot be read: No such file"),
        (("--set", "cameras=cam0,cam9"), "camera 'cam9': the bag has no image topic for it"),
        (
            ("--set", "cameras=a", "--set", "camera.a.image_topic=/cam0/image_rav"),
            "camera.a.image_topic': the bag has no topic '/cam0/image_rav' (did you mean",
        ),
        (
            ("--set", "cameras=a", "--set", "camera.a.image_topic=/cam0/camera_info"),
            "expected a topic of sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage, but "
            "'/cam0/camera_info' has sensor_msgs/msg/CameraInfo",
        ),
        (
            ("--set", "cameras=a,b")
            + tuple(
                word
                for name in "ab"
                for word in ("--set", f"camera.{name}.image_topic=/cam1/image_raw")
            ),
            "cameras 'a' and 'b' both have the image topic /cam1/image_raw",
        ),
        (("--set", "ingest.min_cameras=4"), "ingest.min_cameras: expected at most the 3 cameras"),
        (("--set", "sfm.sets=9"), "the bag has 8 frame sets, but the bootstrap needs 9"),
        (("--config", "none.yaml"), "none.yaml: cannot be read: No such file"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_1(recording, tmp_path, capsys, words, message):
    assert replay(recording.path, tmp_path / "out", *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vggt-ros replay: ")
    assert message in error


@pytest.mark.parametrize("count", ["-1", "few"])
def test_wrong_number_of_sets_is_wrong_usage(recording, tmp_path, capsys, count):
    with pytest.raises(SystemExit) as stopped:
        replay(recording.path, tmp_path, "--max-sets", count)
    assert stopped.value.code == 2
    assert f"expected a whole number >= 0, got '{count}'" in capsys.readouterr().err
