"""Cameras and features from the files beside a map."""

import json
import math

import numpy as np
import pytest

from vggt_ros.errors import SourceError
from vggt_ros.export.scene_files import read_scene, write_features
from vggt_ros.export.trajectory import static_poses, write_tum
from vggt_ros.types import ScaleSource


def report(scene):
    cameras = {}
    for name, pose in scene.map_from_camera.items():
        model = scene.cameras[name]
        cameras[name] = {
            "registered": True,
            "map_from_camera": pose.matrix.tolist(),
            "size": list(model.size),
            "intrinsics": [model.fx, model.fy, model.cx, model.cy],
        }
        if model.is_distorted:
            cameras[name]["distortion"] = {
                "model": model.distortion_model,
                "coefficients": list(model.distortion),
            }
    cameras["lost"] = {"registered": False, "map_from_camera": None, "intrinsics": None}
    scale = {"value": 0.5, "sigma": 0.01, "source": "rig"}
    return {"cameras": cameras, "scale": scale, "up_source": "rig", "unit": "m"}


def test_report_and_features_come_back(tmp_path, scene_with_features):
    scene = scene_with_features
    (tmp_path / "report.json").write_text(json.dumps(report(scene)))
    write_features(tmp_path / "features.npz", scene)
    read = read_scene(tmp_path)
    assert read.cameras == scene.cameras
    assert list(read.map_from_camera) == ["front", "side"]
    for name, pose in scene.map_from_camera.items():
        np.testing.assert_allclose(read.map_from_camera[name].matrix, pose.matrix, atol=1e-15)
        np.testing.assert_array_equal(read.features[name].rows, scene.features[name].rows)
        np.testing.assert_array_equal(read.features[name].pixels, scene.features[name].pixels)
    np.testing.assert_array_equal(read.points_in_map, scene.points_in_map)
    assert read.scale == scene.scale
    assert read.failed == ("lost",)


def test_poses_alone_and_nothing(tmp_path, scene):
    assert read_scene(tmp_path) is None
    write_tum(tmp_path / "cameras.tum", static_poses(scene.map_from_camera))
    read = read_scene(tmp_path)
    assert list(read.map_from_camera) == ["front", "side"]
    assert read.cameras == {}


def test_no_scale_stays_unknown(tmp_path, scene):
    content = report(scene)
    content["scale"] = {"value": None, "sigma": None, "source": "none"}
    (tmp_path / "report.json").write_text(json.dumps(content))
    scale = read_scene(tmp_path).scale
    assert scale.source is ScaleSource.NONE
    assert math.isinf(scale.sigma)
    assert str(scale) == "unknown: lengths are not metres"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cameras": {"a": {}}, "scale": {}}'])
def test_damaged_reports(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(SourceError, match=r"report\.json: expected the report of a map"):
        read_scene(tmp_path)


def test_damaged_features(tmp_path, scene_with_features):
    path = tmp_path / "features.npz"
    (tmp_path / "report.json").write_text(json.dumps(report(scene_with_features)))
    write_features(path, scene_with_features)
    whole = path.read_bytes()
    for data in (b"", b"PK\x03\x04", whole[:200], whole[:-30]):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"features\.npz"):
            read_scene(tmp_path)
    points = np.zeros((2, 3))
    for rows, pixels in (([5], [[0, 0]]), ([-1], [[0, 0]]), ([0, 1], [[0, 0]])):
        arrays = {"rows/front": np.array(rows), "pixels/front": np.array(pixels, float)}
        np.savez(path, points_in_map=points, colours=points.astype(np.uint8), **arrays)
        with pytest.raises(SourceError, match="rows"):
            read_scene(tmp_path)
