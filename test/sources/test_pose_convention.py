"""Poses that are given the wrong way round are named as such by the images."""

import json

import cv2
import numpy as np
import pytest

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.sources.pose_convention import check_pose_convention
from vggt_ros.types import Frame, FrameSet

FLIP = Rigid3(np.diag([1.0, -1, -1]), np.zeros(3))


@pytest.fixture(scope="module")
def fountain(shared_data):
    """Three photographs with laser-measured poses (camera to world)."""
    entries = json.loads((shared_data / "fountain_p11" / "cameras.json").read_text())[2:5]
    frames, poses = [], {}
    for entry in entries:
        rgb = cv2.imread(str(shared_data / "fountain_p11" / entry["file"]))[..., ::-1].copy()
        k = np.array(entry["K"])
        size = entry["width"], entry["height"]
        model = CameraModel(*size, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
        name = entry["file"][:4]
        frames.append(Frame(name, 0, rgb, model))
        camera_from_world = np.eye(4)
        camera_from_world[:3, :3] = np.array(entry["R_w2c"])
        camera_from_world[:3, 3] = entry["t_w2c"]
        u, _, vt = np.linalg.svd(camera_from_world[:3, :3])
        camera_from_world[:3, :3] = u @ vt
        poses[name] = Rigid3.from_matrix(camera_from_world).inverse()
    return FrameSet(0, tuple(frames)), poses


def test_right_poses(fountain):
    check = check_pose_convention(*fountain, "p.json")
    assert check.best == "given"
    assert check.shares["given"] > 0.7
    assert max(v for k, v in check.shares.items() if k != "given") < 0.5 * check.shares["given"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: p.inverse(), "world to camera: give the inverse"),
        (lambda p: p @ FLIP, "OpenGL, Blender, nerfstudio"),
        (lambda p: (p @ FLIP).inverse(), "world to camera with y up"),
    ],
)
def test_wrong_conventions_are_named(fountain, change, expected):
    frames, poses = fountain
    wrong = {name: change(pose) for name, pose in poses.items()}
    with pytest.raises(CalibrationError, match=rf"poses p\.json: .*fit if they are .*{expected}"):
        check_pose_convention(frames, wrong, "p.json")


def test_poses_of_something_else_are_only_told(fountain, caplog):
    frames, poses = fountain
    turn = Rigid3.from_rotation_vector([0.0, 0.5, 0.2], [1.0, 0, 0])
    wrong = {name: pose @ turn if k else pose for k, (name, pose) in enumerate(poses.items())}
    assert check_pose_convention(frames, wrong, "p.json") is not None
    assert "matches between the images fit them" in caplog.text


def test_nothing_to_compare(fountain):
    frames, poses = fountain
    assert check_pose_convention(frames, {}, "p.json") is None
    blank = FrameSet(
        0,
        tuple(Frame(f.camera, 0, np.full_like(f.rgb, 90), f.model) for f in frames.frames),
    )
    assert check_pose_convention(blank, poses, "p.json") is None
