"""transforms.json, by nerfstudio's documented conventions."""

import dataclasses
import json

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.nerfstudio import write_transforms
from vggt_ros.geometry import CameraModel


def project(frame, point):
    """The pixel of a point as nerfstudio casts rays: OpenGL camera, pixel centres at halves."""
    camera_from_world = np.linalg.inv(np.array(frame["transform_matrix"]))
    x, y, z = camera_from_world[:3] @ [*point, 1]
    assert z < 0  # in front
    return frame["cx"] + frame["fl_x"] * x / -z, frame["cy"] - frame["fl_y"] * y / -z


def test_a_point_projects_to_its_pixel(tmp_path, scene):
    write_transforms(tmp_path / "transforms.json", scene, image_names={"front": "0001.jpg"})
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert content["camera_model"] == "OPENCV"
    front, side = content["frames"]
    assert front["file_path"] == "images/0001.jpg"
    assert side["file_path"] == "images/side.png"
    assert (front["w"], front["h"]) == (640, 480)
    model, pose = scene.cameras["front"], scene.map_from_camera["front"]
    for pixel in ([0, 0], [100, 200], [639, 479]):
        ray = [(pixel[0] - model.cx) / model.fx, (pixel[1] - model.cy) / model.fy, 1]
        point = pose.apply(np.array([ray]) * 3.0)[0]
        np.testing.assert_allclose(project(front, point), np.add(pixel, 0.5), atol=1e-6)


def test_axes_camera_y_is_up_and_the_world_is_the_map(tmp_path, scene):
    write_transforms(tmp_path / "t.json", scene)
    matrix = np.array(
        json.loads((tmp_path / "t.json").read_text())["frames"][0]["transform_matrix"]
    )
    pose = scene.map_from_camera["front"]
    np.testing.assert_allclose(matrix[:3, 3], pose.translation)
    assert matrix[2, 1] > 0.9  # y of the camera is up, z of the map
    np.testing.assert_allclose(matrix[:3, 2], -pose.rotation[:, 2])  # looks along -z
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)


def test_unit_points_and_distortion(tmp_path, unscaled_scene):
    write_transforms(
        tmp_path / "t.json", unscaled_scene, points="p.ply", frame="odom", comments=["so"]
    )
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["ply_file_path"] == "p.ply"
    assert content["vggt_ros"] == {
        "frame": "odom",
        "unit": "unscaled",
        "up": "z",
        "comments": ["so"],
    }
    side = content["frames"][1]
    assert (side["k1"], side["k2"], side["p1"], side["p2"]) == (-0.05, 0.01, 1e-3, -1e-3)
    assert "k1" not in content["frames"][0]


def test_lenses(tmp_path, scene):
    fisheye = CameraModel(9, 9, 5, 5, 4, 4, "equidistant", (0.1, 0.2, 0.3, 0.4))
    rational = CameraModel(9, 9, 5, 5, 4, 4, "rational_polynomial", (0.1,) * 8)
    path = tmp_path / "t.json"
    all_fisheye = dataclasses.replace(scene, cameras={"front": fisheye, "side": fisheye})
    write_transforms(path, all_fisheye)
    content = json.loads(path.read_text())
    assert content["camera_model"] == "OPENCV_FISHEYE"
    assert [content["frames"][0][k] for k in ("k1", "k2", "k3", "k4")] == [0.1, 0.2, 0.3, 0.4]
    before = path.read_bytes()
    for lens, message in ((fisheye, "of one kind"), (rational, "'side'.*undistort")):
        mixed = dataclasses.replace(scene, cameras={**scene.cameras, "side": lens})
        with pytest.raises(ExportError, match=message):
            write_transforms(path, mixed)
    assert path.read_bytes() == before
    none = dataclasses.replace(scene, map_from_camera={})
    with pytest.raises(ExportError, match="got none"):
        write_transforms(path, none)
