"""Reading what can be compared."""

import json
import math

import numpy as np
import pytest

from vggt_ros.errors import SourceError
from vggt_ros.evaluation.files import load_comparable, match_names, to_json
from vggt_ros.export.pcd import write_pcd
from vggt_ros.export.ply import write_ply
from vggt_ros.export.trajectory import StampedPose, static_poses, write_tum
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.types import PointCloud

POSE = Rigid3.from_rotation_vector([0.1, 0.2, 0.3], [1, 2, 3])
CLOUD = PointCloud(np.float32([[1, 2, 3]]), np.uint8([[0, 0, 0]]))


def write_report(path, source="rig"):
    report = {
        "cameras": {
            "a": {"registered": True, "map_from_camera": POSE.matrix.tolist()},
            "b": {"registered": False, "map_from_camera": None, "intrinsics": None},
        },
        "scale": {"value": 1.0, "sigma": 0.1, "source": source},
    }
    path.write_text(json.dumps(report))


def test_report(tmp_path):
    write_report(tmp_path / "report.json")
    read = load_comparable(tmp_path / "report.json")
    assert list(read.cameras) == ["a"]
    np.testing.assert_allclose(read.cameras["a"].matrix, POSE.matrix)
    assert read.is_metric
    write_report(tmp_path / "report.json", "none")
    assert load_comparable(tmp_path / "report.json").is_metric is False


def test_world_to_camera_list(tmp_path):
    inverse = POSE.inverse()
    entry = {"R_w2c": inverse.rotation.tolist(), "t_w2c": inverse.translation.tolist()}
    (tmp_path / "c.json").write_text(json.dumps([{"file": "0000.jpg", **entry}]))
    read = load_comparable(tmp_path / "c.json")
    np.testing.assert_allclose(read.cameras["0000.jpg"].matrix, POSE.matrix, atol=1e-12)
    assert read.is_metric is None


def test_rig(tmp_path):
    (tmp_path / "RIG.yaml").write_text(
        "cameras:\n  a: {rig_from_camera: {translation: [1, 2, 3], rotation_xyzw: [0, 0, 0, 1]}}\n"
        "  b: {}\n"
    )
    read = load_comparable(tmp_path / "RIG.yaml")
    assert list(read.cameras) == ["a"]
    (tmp_path / "RIG.yaml").write_text("cameras: {a: {}}\n")
    with pytest.raises(SourceError, match="no camera has 'rig_from_camera'"):
        load_comparable(tmp_path / "RIG.yaml")


def test_poses_of_a_rig_and_of_a_path(tmp_path):
    write_tum(tmp_path / "a.tum", static_poses({"x": POSE, "y": POSE}))
    assert list(load_comparable(tmp_path / "a.tum").cameras) == ["x", "y"]
    write_tum(tmp_path / "b.txt", [StampedPose(i, POSE) for i in range(3)])
    read = load_comparable(tmp_path / "b.txt")
    assert not read.cameras
    assert len(read.trajectories[""]) == 3


def test_folder(tmp_path):
    write_report(tmp_path / "report.json")
    write_tum(tmp_path / "cameras.tum", static_poses({"a": Rigid3.identity()}))
    write_ply(tmp_path / "map.ply", CLOUD)
    read = load_comparable(tmp_path)
    assert read.kinds == "cameras, cloud"
    assert read.is_metric
    np.testing.assert_allclose(read.cameras["a"].matrix, POSE.matrix)


def test_clouds(tmp_path):
    write_pcd(tmp_path / "a.PCD", CLOUD)
    cloud = load_comparable(tmp_path / "a.PCD").cloud
    np.testing.assert_array_equal(cloud.points, CLOUD.points)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsn", "", r"expected a folder of results or a file of type .*did you mean '\.json'"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "expected 'cameras: "),
        ("a.json", '{"cameras": 3}', "expected 'cameras: "),
        ("a.json", '[{"file": "x"}]', "a camera is not understood: no 'R_w2c'"),
        ("a.json", '{"cameras": {"a": {"map_from_camera": [1]}}}', r"expected shape \(4, 4\)"),
        ("a.json", '{"cameras": {"a": 1}}', "a camera is not understood"),
        ("missing.json", None, "No such file"),
        ("missing.ply", None, "No such file"),
    ],
)
def test_wrong_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        load_comparable(tmp_path / name)


def test_folder_without_results(tmp_path):
    with pytest.raises(SourceError, match="is no folder of results"):
        load_comparable(tmp_path)


def test_names():
    assert match_names(["a", "cam_b"], ["a", "b"]) == {"a": "a"}
    truth = ["0000.jpg", "0001.JPG", "my image.png"]
    found = ["cam_0001", "cam_0000", "my_image", "cam_7"]
    expected = dict(zip(truth, ["cam_0000", "cam_0001", "my_image"], strict=True))
    assert match_names(found, truth) == expected
    with pytest.raises(SourceError, match=r"'1\.png' and 'cam_1' cannot be told apart"):
        match_names(["1.png", "cam_1"], ["x"])


def test_json():
    data = to_json({"a": (math.nan, 1.5, True), 0.02: Sim3.identity(), "p": POSE})
    assert data["a"] == [None, 1.5, True]
    assert data["0.02"] == np.eye(4).tolist()
    json.dumps(data, allow_nan=False)
