"""`vggt-ros evaluate` on results whose errors are known."""

import argparse
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from vggt_ros.cli import evaluate
from vggt_ros.errors import AlignmentError, ConfigError
from vggt_ros.export.ply import write_ply
from vggt_ros.export.trajectory import StampedPose, write_tum
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import rotation_from_vector
from vggt_ros.types import PointCloud

FOUND_FROM_TRUTH = Sim3(2.0, rotation_from_vector([0.3, -0.2, 1.0]), np.array([1.0, 2, 3]))


def run(*arguments):
    parser = argparse.ArgumentParser()
    evaluate.add_parser(parser.add_subparsers())
    args = parser.parse_args(["evaluate", *map(str, arguments)])
    assert args.run is evaluate.run
    return args.run(args)


def printed(capsys):
    """What was printed, with single blanks."""
    return " ".join(capsys.readouterr().out.split())


def cloud(points, metric=True):
    points = np.asarray(points, np.float32)
    return PointCloud(points, np.zeros(points.shape, np.uint8), is_metric=metric)


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return {
        f"000{i}.jpg": Rigid3.from_rotation_vector(rng.normal(0, 1, 3), rng.normal(0, 1, 3))
        for i in range(4)
    }


@pytest.fixture
def folder(tmp_path, truth):
    """An unscaled result: twice as large and moved, one of four cameras not found."""
    names = list(truth)
    cameras = {
        f"cam_{name[:4]}": {
            "registered": True,
            "map_from_camera": FOUND_FROM_TRUTH.apply_to_pose(truth[name]).matrix.tolist(),
        }
        for name in names[:3]
    }
    cameras["cam_0003"] = {"registered": False, "map_from_camera": None}
    result = tmp_path / "result"
    result.mkdir()
    report = {"cameras": cameras, "scale": {"source": "none"}}
    (result / "report.json").write_text(json.dumps(report))
    x, y = np.meshgrid(np.arange(0, 1, 0.02), np.arange(0, 1, 0.02))
    plane = np.stack([x, y, np.full_like(x, 0.01)], -1).reshape(-1, 3)
    write_ply(result / "map.ply", cloud(FOUND_FROM_TRUTH.apply(plane), metric=False))
    reference = [
        {
            "file": name,
            "R_w2c": pose.inverse().rotation.tolist(),
            "t_w2c": pose.inverse().translation.tolist(),
        }
        for name, pose in truth.items()
    ]
    (tmp_path / "cameras.json").write_text(json.dumps(reference))
    write_ply(tmp_path / "scan.ply", cloud(plane - [0, 0, 0.01]))
    return result


def test_cameras_and_the_cloud_that_they_carry_along(folder, tmp_path, capsys):
    code = run(
        folder,
        *("--reference", tmp_path / "cameras.json", "--reference", tmp_path / "scan.ply"),
        *("--json", tmp_path / "out.json"),
    )
    assert code == 0
    text = printed(capsys)
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["align"] == "sim3"  # since the result says that it is not metric
    assert data["cameras"]["missing"] == ["0003.jpg"]
    assert data["cameras"]["centre_max"] < 1e-9
    assert data["cameras"]["scale_error"] == pytest.approx(1.0)
    assert data["cloud"]["accuracy_median"] == pytest.approx(0.01, rel=1e-3)
    assert data["cloud"]["accuracy"]["0.02"] == 1.0
    assert "cameras 3 of 4 missing 0003.jpg pairwise" in text
    assert "+100.000 % (truth / found 0.5)" in text
    assert "100.0 % at 2 cm" in text


def test_rigid_alignment_on_request(folder, tmp_path):
    run(
        folder,
        *("--reference", tmp_path / "cameras.json", "--align", "se3"),
        *("--json", tmp_path / "out.json"),
    )
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["align"] == "se3"
    assert data["cameras"]["centre_rmse"] > 0.1
    assert data["cloud"] is None


def test_clouds_alone(tmp_path, folder, capsys):
    write_ply(tmp_path / "found.ply", cloud([[0, 0, 0], [0, 0, 1]]))
    write_ply(tmp_path / "true.ply", cloud([[0, 0, 0.04]]))
    run(tmp_path / "found.ply", "--reference", tmp_path / "true.ply")
    text = printed(capsys)
    assert "50.0 % at 5 cm" in text
    assert "compared as they are" in text
    with pytest.raises(ConfigError, match="aligned by their cameras"):
        run(folder, "--reference", tmp_path / "scan.ply", "--align", "sim3")


def path(change=None, name=""):
    poses = []
    for i in range(20):
        pose = Rigid3.from_rotation_vector([0, 0, 0.1 * i], [math.cos(i / 3), math.sin(i / 3), 0])
        pose = change.apply_to_pose(pose) if change else pose
        poses.append(StampedPose(i * 100_000_000, pose, name))
    return poses


def test_trajectories(tmp_path, capsys):
    write_tum(tmp_path / "true.tum", path())
    write_tum(tmp_path / "found.tum", path(FOUND_FROM_TRUTH))
    arguments = (tmp_path / "found.tum", "--reference", tmp_path / "true.tum")
    run(*arguments, "--align", "sim3")
    assert "ATE RMSE 0.0000 m" in printed(capsys)
    run(*arguments)
    text = printed(capsys)
    assert text.startswith("alignment se3 trajectory 20 poses")
    assert "does not say whether it is metric" in text


def test_several_trajectories(tmp_path, capsys):
    write_tum(tmp_path / "true.tum", path())
    write_tum(tmp_path / "found.tum", [*path(name="a"), *path(FOUND_FROM_TRUTH, "b")])
    arguments = [tmp_path / "found.tum", "--reference", tmp_path / "true.tum", "--align", "none"]
    with pytest.raises(ConfigError, match=r"has a, b, .* has one without a name; choose one"):
        run(*arguments)
    with pytest.raises(ConfigError, match="no such trajectory"):
        run(*arguments, "--camera", "c")
    run(*arguments, "--camera", "a")
    assert "trajectory a" in printed(capsys)
    write_tum(tmp_path / "true.tum", [*path(name="b"), *path(name="a")])
    run(*arguments)
    text = printed(capsys)
    assert text.count("ATE") == 2


def test_nothing_in_common(folder, tmp_path):
    write_tum(tmp_path / "true.tum", path())
    with pytest.raises(ConfigError, match=r"holds cameras, cloud, .*true\.tum holds trajectory"):
        run(folder, "--reference", tmp_path / "true.tum")
    (tmp_path / "RIG.yaml").write_text(
        "cameras: {z: {rig_from_camera: {translation: [1, 2, 3], rotation_xyzw: [0, 0, 0, 1]}}}\n"
    )
    with pytest.raises(AlignmentError, match="no camera in common: found cam_0000"):
        run(folder, "--reference", tmp_path / "RIG.yaml")


def test_help_needs_no_numba():
    script = "import sys, vggt_ros.cli.evaluate; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_real_camera_list_against_itself(shared_data, tmp_path):
    reference = shared_data / "fountain_p11" / "cameras.json"
    run(reference, "--reference", reference, "--align", "sim3", "--json", tmp_path / "out.json")
    errors = json.loads((tmp_path / "out.json").read_text())["cameras"]
    assert len(errors["cameras"]) == 11
    assert errors["centre_max"] < 1e-9
    assert errors["rig_size"] == pytest.approx(17.9, abs=5)
