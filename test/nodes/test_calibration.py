"""What is known of the rig, from file, CameraInfo and TF, and when it is enough."""

import numpy as np
import pytest
from tf2_msgs.msg import TFMessage

from vggt_ros.config import CameraConfig, Config, IngestConfig
from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.nodes.calibration import Calibrated, Calibration, with_rig_topics
from vggt_ros.nodes.conversions import camera_info_message, transform_message
from vggt_ros.nodes.transforms import FrameTree
from vggt_ros.rig import Rig, RigCamera

MODEL = CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)
LEFT = Rigid3(np.eye(3), [0.0, 0.1, 0.0])
RIGHT = Rigid3(np.eye(3), [0.0, -0.1, 0.0])


def make(tree=None, rig=None, wait_s=3.0, **config):
    cameras = ["left", "right"]
    settings = Config(cameras=cameras, camera={n: CameraConfig() for n in cameras}, **config)
    tree = tree or FrameTree()
    return Calibration(with_rig_topics(settings, rig), rig, tree, wait_s)


def tf(parent="base_link"):
    tree = FrameTree()
    for name, pose in (("left", LEFT), ("right", RIGHT)):
        message = TFMessage(transforms=[transform_message(pose, parent, f"{name}_optical", 0)])
        tree.add(message, static=True)
    return tree


def send(calibration, camera, model=MODEL, now_s=0.0, frame=None):
    frame = frame or f"{camera}_optical"
    if model is not None:
        calibration.take_info(camera, camera_info_message(model, 0, frame))
    calibration.take_image(camera, frame, now_s)


def test_all_known_resolves_at_once():
    calibration = make(tf())
    assert isinstance(calibration.resolve(0.0), str)
    send(calibration, "left")
    assert "no intrinsics of right" in calibration.resolve(0.1)
    send(calibration, "right")
    found = calibration.resolve(0.1)
    assert isinstance(found, Calibrated)
    assert found.rig.rig_frame == "base_link"
    assert found.rig.models == {"left": MODEL, "right": MODEL}
    np.testing.assert_array_equal(found.rig.poses["right"].matrix, RIGHT.matrix)
    assert [c.frame_id for c in found.rig.cameras] == ["left_optical", "right_optical"]
    assert not found.missing


def test_waits_no_longer_than_it_was_told():
    calibration = make(wait_s=2.0)
    for name in ("left", "right"):
        send(calibration, name, None, now_s=10.0)
    assert "waiting for calibration" in calibration.resolve(11.9)
    found = calibration.resolve(12.1)
    assert isinstance(found, Calibrated)
    assert not found.rig.poses
    assert len(found.missing) == 2


def test_uncalibrated_cameras_are_not_waited_for():
    calibration = make(tf())
    for name in ("left", "right"):
        message = camera_info_message(MODEL, 0, f"{name}_optical")
        message.k = [0.0] * 9
        calibration.take_info(name, message)
        calibration.take_image(name, f"{name}_optical", 0.0)
    found = calibration.resolve(0.1)
    assert isinstance(found, Calibrated)
    assert not found.rig.models


@pytest.mark.parametrize(
    "config",
    [{"bootstrap": "rig"}, {"ingest": IngestConfig(require_calibration=True)}],
)
def test_what_is_required_is_waited_for(config):
    calibration = make(**config)
    send(calibration, "left", None)
    assert isinstance(calibration.resolve(100.0), str)


def test_rig_bootstrapper_needs_poses():
    calibration = make(bootstrap="rig")
    for name in ("left", "right"):
        send(calibration, name)
    assert "no pose on the rig" in calibration.resolve(100.0)


def test_root_of_a_tree_without_base_link_is_the_rig():
    calibration = make(tf("mast"))
    for name in ("left", "right"):
        send(calibration, name)
    found = calibration.resolve(0.1)
    assert found.rig.rig_frame == "mast"
    assert len(found.rig.poses) == 2


def test_rig_file_wins():
    model = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
    rig = Rig(
        (
            RigCamera("left", "cam0/image", "cam0/info", "lens0", model, RIGHT),
            RigCamera("right", frame_id="lens1", rig_from_camera=LEFT),
        ),
        "mast",
    )
    calibration = make(tf(), rig)
    for name in ("left", "right"):
        send(calibration, name)
    found = calibration.resolve(0.1)
    assert found.rig.models == {"left": model, "right": MODEL}
    np.testing.assert_array_equal(found.rig.poses["left"].matrix, RIGHT.matrix)
    assert found.rig.rig_frame == "mast"
    assert [c.frame_id for c in found.rig.cameras] == ["lens0", "lens1"]
    cameras = {n: CameraConfig() for n in ("left", "right")}
    config = with_rig_topics(Config(cameras=["left", "right"], camera=cameras), rig)
    assert config.camera["left"].image_topic == "cam0/image"
    assert config.camera["right"].image_topic == "right/image_raw"


@pytest.mark.parametrize(("index", "value"), [(0, float("nan")), (0, -60.0), (4, 0.0)])
def test_impossible_intrinsics_are_an_error_until_right_ones_come(index, value):
    calibration = make(tf())
    send(calibration, "right")
    message = camera_info_message(MODEL, 0, "left_optical")
    message.k[index] = value
    calibration.take_info("left", message)
    with pytest.raises(CalibrationError, match="'left'"):
        calibration.resolve(0.1)
    assert list(calibration.errors) == ["left"]
    send(calibration, "left")
    assert isinstance(calibration.resolve(0.1), Calibrated)


def test_two_cameras_with_one_frame():
    calibration = make()
    send(calibration, "left", frame="camera")
    send(calibration, "right", frame="camera")
    with pytest.raises(CalibrationError, match=r"'left' and 'right': both have the frame_id"):
        calibration.resolve(0.1)


def test_a_corrected_transform_is_new_knowledge():
    tree = tf()
    calibration = make(tree)
    for name in ("left", "right"):
        send(calibration, name)
    before = calibration.resolve(0.1)
    assert calibration.resolve(0.2).key == before.key
    moved = Rigid3(np.eye(3), [0.0, -0.2, 0.0])
    message = TFMessage(transforms=[transform_message(moved, "base_link", "right_optical", 0)])
    tree.add(message, static=True)
    assert calibration.resolve(0.3).key != before.key
