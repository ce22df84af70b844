"""`RIG.yaml`: reading, writing and mistakes."""

import copy

import numpy as np
import pytest
import yaml

from vggt_ros.errors import CalibrationError, ConfigError, VggtRosError
from vggt_ros.geometry import CameraModel
from vggt_ros.rig import Rig, load_rig, rig_from_dict, rig_to_dict

FRONT = {
    "image": "front/image_raw",
    "camera_info": "front/camera_info",
    "frame_id": "front_optical",
    "size": [640, 480],
    "intrinsics": [500.0, 501.0, 320.0, 240.0],
    "distortion": {"model": "plumb_bob", "coefficients": [-0.3, 0.1, 0.0, 0.0, 0.0]},
    "rig_from_camera": {"translation": [1.0, 2.0, 3.0], "rotation_xyzw": [0, 0, 0.6, 0.8]},
}
RIG = {"rig_frame": "base_link", "cameras": {"front": FRONT, "left": {}, "rear": None}}


def changed(path, value):
    """RIG with one entry of camera `front` replaced; None removes it."""
    rig = copy.deepcopy(RIG)
    place = rig["cameras"]["front"]
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return rig


def test_every_entry_is_read(tmp_path):
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(RIG, sort_keys=False))
    rig = load_rig(tmp_path / "rig.yaml")
    assert (rig.rig_frame, rig.names) == ("base_link", ("front", "left", "rear"))
    front = rig.cameras[0]
    assert (front.image, front.camera_info) == ("front/image_raw", "front/camera_info")
    assert front.frame_id == "front_optical"
    expected = CameraModel(
        640, 480, 500.0, 501.0, 320.0, 240.0, "plumb_bob", (-0.3, 0.1, 0.0, 0.0, 0.0)
    )
    assert rig.models == {"front": expected}
    # 0.6, 0.8: a turn about z with cosine 0.28
    np.testing.assert_allclose(rig.poses["front"].apply([1, 0, 0]), [1.28, 2.96, 3.0], atol=1e-12)
    assert rig.size_m == 0.0


def test_round_trip():
    data = rig_to_dict(rig_from_dict(RIG, "x"))
    rotation = data["cameras"]["front"]["rig_from_camera"]["rotation_xyzw"]
    data["cameras"]["front"]["rig_from_camera"]["rotation_xyzw"] = [0.0, 0.0, 0.0, 1.0]
    again = rig_to_dict(rig_from_dict(yaml.safe_load(yaml.safe_dump(data)), "x"))
    assert again == data
    np.testing.assert_allclose(rotation, FRONT["rig_from_camera"]["rotation_xyzw"], atol=1e-12)
    assert data["cameras"]["front"]["intrinsics"] == FRONT["intrinsics"]
    assert data["cameras"]["left"] == {}
    assert rig_to_dict(Rig(())) == {"rig_frame": "rig", "cameras": {}}


@pytest.mark.parametrize(
    ("path", "key", "valid"),
    [
        (["intrinsic"], "intrinsic", "intrinsics"),
        (["rig_from_cam"], "rig_from_cam", "rig_from_camera"),
        (["distortion", "coefficient"], "coefficient", "coefficients"),
        (["rig_from_camera", "rotation_xyz"], "rotation_xyz", "rotation_xyzw"),
    ],
)
def test_misspelt_key_names_the_nearest(path, key, valid):
    with pytest.raises(ConfigError, match="camera 'front'") as caught:
        rig_from_dict(changed(path, [1]), "my.yaml")
    assert f"unknown key '{key}' (did you mean '{valid}'?)" in str(caught.value)
    assert "my.yaml" in str(caught.value)


def test_misspelt_top_level_key():
    with pytest.raises(ConfigError, match=r"unknown key 'camera' \(did you mean 'cameras'"):
        rig_from_dict({"camera": {"a": {}}}, "x")


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (["size"], None, ConfigError),
        (["size"], [640], ConfigError),
        (["size"], [0, 480], CalibrationError),
        (["intrinsics"], None, ConfigError),
        (["intrinsics"], [500.0, 500.0, 320.0], ConfigError),
        (["intrinsics"], [500.0, "x", 320.0, 240.0], ConfigError),
        (["intrinsics"], [float("nan"), 500.0, 320.0, 240.0], CalibrationError),
        (["intrinsics"], [0.0, 500.0, 320.0, 240.0], CalibrationError),
        (["distortion", "model"], "fish", CalibrationError),
        (["distortion", "coefficients"], [1.0], CalibrationError),
        (["distortion", "coefficients"], [1.0, "x"], VggtRosError),
        (["distortion"], [1.0], ConfigError),
        (["rig_from_camera", "translation"], None, ConfigError),
        (["rig_from_camera", "translation"], [1.0, 2.0], ConfigError),
        (["rig_from_camera", "rotation_xyzw"], [0, 0, 0, 0], CalibrationError),
        (["rig_from_camera", "rotation_xyzw"], [0, 0, 0, float("inf")], CalibrationError),
    ],
)
def test_wrong_values_are_named(path, value, error):
    with pytest.raises(error, match=r"rig file my\.yaml: camera 'front'"):
        rig_from_dict(changed(path, value), "my.yaml")


@pytest.mark.parametrize("data", [None, [], {}, {"cameras": {}}, {"cameras": ["a"]}, "text"])
def test_no_cameras(data):
    with pytest.raises(ConfigError, match="rig file x"):
        rig_from_dict(data, "x")


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rig(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("cameras: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_rig(tmp_path / "bad.yaml")


def test_size_is_the_widest_baseline():
    def camera(x):
        return {"rig_from_camera": {"translation": [x, 0, 0], "rotation_xyzw": [0, 0, 0, 1]}}

    rig = rig_from_dict({"cameras": {"a": camera(0), "b": camera(3), "c": camera(1)}}, "x")
    assert rig.size_m == 3.0
