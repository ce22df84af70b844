"""Scale from depth images in a bag, and bumped cameras of a bag, through the command line."""

import json
import math

import numpy as np
import pytest
import yaml

from vggt_ros import results
from vggt_ros.cli.main import main
from vggt_ros.export.ply import read_ply
from vggt_ros.rig import load_rig, rig_to_dict
from vggt_ros.sources.messages import image_message, stamp_ns
from vggt_ros.synthetic.correspondences import bumped
from vggt_ros.types import StampedImage


def report_of(out):
    return json.loads((out / results.REPORT).read_text())


@pytest.fixture
def with_depth(edited, recording):
    """The recording with depth images of cam0, 5 ms after colour; `factor` is its error."""

    def make(factor=1.0, places=True, encoding="16UC1"):
        camera = recording.rig.cameras[0]
        pose = recording.world_from_rig @ camera.rig_from_camera
        depth = factor * recording.world.render(camera.model, pose, supersample=1).depth
        if encoding == "16UC1":
            pixels = np.nan_to_num(np.rint(1000 * depth)).astype(np.uint16)
        else:
            pixels = depth.astype(np.float32)

        def edit(topic, stamp, message):
            if topic == "/tf_static" and not places:
                return []
            entries = [(topic, message, stamp)]
            if topic == "/cam0/image_raw/compressed":
                later = stamp_ns(message.header) + 5_000_000
                image = StampedImage("cam0", later, pixels, encoding, camera.frame_id)
                entries.append(("/cam0/depth/image", image_message(image), stamp + 8_000_000))
            return entries

        return edited(edit)

    return make


def replay(bag, out, *words):
    depth = ("--set", "camera.cam0.depth_topic=/cam0/depth/image")
    return main(["replay", str(bag), "--out", str(out), "--max-sets", "1", *depth, *words])


@pytest.mark.parametrize("encoding", ["16UC1", pytest.param("32FC1", marks=pytest.mark.slow)])
def test_a_depth_camera_alone_makes_the_map_metric(with_depth, recording, tmp_path, encoding):
    assert replay(with_depth(places=False, encoding=encoding), tmp_path) == 0
    report = report_of(tmp_path)
    assert report["unit"] == "m"
    scale = report["scale"]
    assert scale["source"] == "depth_camera"
    assert 0.01 <= scale["sigma"] / scale["value"] < 0.02
    assert read_ply(tmp_path / results.MAP).is_metric
    centres = [
        np.array(report["cameras"][name]["map_from_camera"])[:3, 3] for name in ("cam0", "cam2")
    ]
    truth = [recording.rig.poses[name].translation for name in ("cam0", "cam2")]
    found = np.linalg.norm(centres[1] - centres[0]) / np.linalg.norm(truth[1] - truth[0])
    assert found == pytest.approx(1.0, abs=0.03)


def test_rig_and_depth_camera_are_fused(with_depth, tmp_path, capsys):
    assert replay(with_depth(), tmp_path) == 0
    scale = report_of(tmp_path)["scale"]
    assert scale["source"] == "rig+depth_camera"
    assert "contradiction" not in scale
    assert "from rig+depth_camera" in capsys.readouterr().out


def test_a_depth_camera_that_contradicts_the_rig_is_named(with_depth, tmp_path, caplog):
    assert replay(with_depth(factor=1.3), tmp_path) == 0
    scale = report_of(tmp_path)["scale"]
    assert "depth_camera (" in scale["contradiction"]
    assert scale["sigma"] / scale["value"] > 0.1  # the middle, and both within reach
    assert "contradict" in caplog.text


def test_the_source_that_is_named_is_the_only_one(with_depth, tmp_path):
    bag = with_depth(factor=1.3)
    assert replay(bag, tmp_path / "rig", "--set", "scale.source=rig") == 0
    assert report_of(tmp_path / "rig")["scale"]["source"] == "rig"
    assert replay(bag, tmp_path / "none", "--set", "scale.source=none") == 0
    assert report_of(tmp_path / "none")["unit"] == "unscaled"
    header = (tmp_path / "none" / results.MAP).read_bytes()[:400].decode("ascii", "replace")
    assert "comment frame map_unscaled\n" in header


def test_a_source_without_evidence_is_an_error_that_says_why(recording, tmp_path, capsys):
    words = ("replay", str(recording.path), "--out", str(tmp_path), "--max-sets", "1")
    assert main([*words, "--set", "scale.source=odometry"]) == 1
    assert "the odometry gives no scale: no place of the rig came" in capsys.readouterr().err


def test_require_metric_leaves_no_map(edited, tmp_path, capsys):
    bag = edited(lambda t, s, m: [] if t == "/tf_static" else [(t, m, s)])
    words = ("replay", str(bag), "--out", str(tmp_path / "out"), "--max-sets", "1")
    assert main([*words, "--set", "scale.require_metric=true"]) == 1
    assert "scale.require_metric is set, but nothing gives the scale" in capsys.readouterr().err
    assert not (tmp_path / "out" / results.MAP).exists()


# --- check-rig ---------------------------------------------------------------------------


def check(bag, *words):
    return main(["check-rig", str(bag), *map(str, words)])


@pytest.mark.slow
def test_a_healthy_rig_of_rendered_images(recording, capsys):
    assert check(recording.path, "--checks", 2) == 0
    out = capsys.readouterr().out
    assert out.count("3 cameras are where the rig says") == 2


def test_a_bumped_camera_is_named_and_the_corrected_files_are_right(recording, tmp_path, capsys):
    """The rig file says where the cameras were before one was bumped by 2 cm and 1.5 degrees."""
    wrong = rig_to_dict(recording.rig)
    moved = bumped(recording.rig.poses["cam2"], np.random.default_rng(0), 0.02, 1.5)
    wrong["cameras"]["cam2"]["rig_from_camera"] = {
        "translation": moved.translation.tolist(),
        "rotation_xyzw": moved.quaternion_xyzw.tolist(),
    }
    file, new, urdf = (tmp_path / name for name in ("rig.yaml", "new.yaml", "new.urdf"))
    file.write_text(yaml.safe_dump(wrong))
    rig = ("--set", f"rig_file={file}")
    assert check(recording.path, *rig, "--checks", 2, "--write", new, "--urdf", urdf) == 1
    out = capsys.readouterr().out
    assert out.count("'cam2': not where the rig says") == 2
    assert "'cam0'" not in out
    assert "'cam1'" not in out
    off = recording.rig.poses["cam2"].inverse() @ load_rig(new).poses["cam2"]
    assert np.linalg.norm(off.translation) < 0.01
    assert off.angle_rad < math.radians(0.3)
    assert '<child link="' in urdf.read_text()
    assert check(recording.path, "--set", f"rig_file={new}") == 0


def test_without_places_there_is_nothing_to_compare(edited, capsys):
    bag = edited(lambda t, s, m: [] if t == "/tf_static" else [(t, m, s)])
    assert check(bag) == 1
    assert "check_rig: expected two or more cameras" in capsys.readouterr().err
