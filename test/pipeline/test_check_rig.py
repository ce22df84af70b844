"""Bumped cameras are named, healthy rigs are left alone; the files say what was found."""

import dataclasses
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.config import CheckRigConfig, ScaleConfig
from vggt_ros.errors import AlignmentError, ExportError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.check_rig import CameraCheck, Level, RigCheck, check_rig
from vggt_ros.pipeline.check_rig_files import (
    corrected_rig,
    roll_pitch_yaw,
    urdf_joints,
    write_rig_file,
    write_urdf,
)
from vggt_ros.rig import Rig, load_rig
from vggt_ros.synthetic.correspondences import bumped, random_rig, rig_scene

CONFIG = CheckRigConfig()


def bump_trial(seed, cameras, centre_m=0.02, angle_deg=1.0):
    """One rig with a bumped camera, checked twice; its name and what the checks say."""
    random = np.random.default_rng(seed)
    before = random_rig(random, cameras)
    name = f"cam{seed % cameras}"
    now = {**before, name: bumped(before[name], random, centre_m, angle_deg)}
    checks = [
        check_rig(found.scene, found.rig, CONFIG)
        for found in (rig_scene(random, now, calibrated=before) for _ in range(2))
    ]
    return name, checks, now


@pytest.mark.parametrize("cameras", [3, 4, 6])
def test_a_camera_off_by_2_cm_and_1_degree_is_named_within_two_checks(cameras):
    for seed in range(4):
        name, checks, _ = bump_trial(seed, cameras)
        assert any(check.bumped == (name,) for check in checks)
        assert name in checks[0].message


def test_a_healthy_rig_raises_no_alarm():
    """One rig, its lenses and its calibration with their errors, checked ten times."""
    random = np.random.default_rng(3)
    truth = random_rig(random, 4)
    rig = None
    for _ in range(10):
        found = rig_scene(random, truth)
        rig = rig or found.rig
        check = check_rig(found.scene, rig, CONFIG)
        assert check.level is Level.OK, check.message
        assert check.message == "4 cameras are where the rig says"


@pytest.mark.slow
def test_hundred_checks_and_fifty_bumps():
    random = np.random.default_rng(11)
    truth = random_rig(random, 4)
    rig = rig_scene(random, truth).rig
    alarms = sum(
        bool(check_rig(rig_scene(random, truth).scene, rig, CONFIG).bumped) for _ in range(100)
    )
    assert alarms == 0
    named = [any(c.bumped == (n,) for c in checks) for n, checks, _ in map(_four, range(50))]
    assert sum(named) == 50


def _four(seed):
    return bump_trial(1000 + seed, 4)


def test_two_bumped_cameras_of_five_are_both_named():
    random = np.random.default_rng(5)
    before = random_rig(random, 5)
    now = {
        n: bumped(p, random, 0.05, 2.0) if n in ("cam1", "cam4") else p for n, p in before.items()
    }
    found = rig_scene(random, now, calibrated=before)
    check = check_rig(found.scene, found.rig, CONFIG)
    assert check.bumped == ("cam1", "cam4")
    assert check.level is Level.ERROR


def test_of_many_cameras_the_bumped_one_is_found_too():
    random = np.random.default_rng(6)
    before = random_rig(random, 8, 1.0)
    now = {**before, "cam5": bumped(before["cam5"], random, 0.02, 1.0)}
    found = rig_scene(random, now, calibrated=before)
    assert check_rig(found.scene, found.rig, CONFIG).bumped == ("cam5",)


def test_of_two_cameras_both_are_named_and_it_says_so():
    random = np.random.default_rng(7)
    before = random_rig(random, 2)
    now = {**before, "cam0": bumped(before["cam0"], random, 0.02, 3.0)}
    found = rig_scene(random, now, calibrated=before)
    check = check_rig(found.scene, found.rig, CONFIG)
    assert check.bumped == ("cam0", "cam1")
    assert "nobody can tell which one" in check.message


def test_sigmas_hold_the_truth():
    """Residuals of healthy cameras over their sigmas: centres and turns, 40 rigs."""
    centres, turns = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        truth = random_rig(random, 4)
        found = rig_scene(random, truth)
        for c in check_rig(found.scene, found.rig, CONFIG).cameras:
            off = truth[c.name].inverse() @ c.rig_from_camera
            centres.append(np.linalg.norm(off.translation) / c.centre_sigma_m)
            turns.append(off.angle_rad / c.rotation_sigma_rad)
    for ratios in (centres, turns):  # of three numbers: chi square's 95 % is at 2.8 sigma
        assert np.mean(np.array(ratios) < 2.8) > 0.88


def test_cameras_that_cannot_be_compared_are_unknown():
    random = np.random.default_rng(8)
    found = rig_scene(random, random_rig(random, 4))
    views = tuple(v for v in found.scene.views if v.camera != "cam3")
    scene = dataclasses.replace(found.scene, views=views, failed=("cam3",), pose_covariance=None)
    cameras = [
        dataclasses.replace(c, rig_from_camera=None) if c.name == "cam0" else c
        for c in found.rig.cameras
    ]
    check = check_rig(scene, Rig(tuple(cameras)), CONFIG)
    by_name = {c.name: c for c in check.cameras}
    assert by_name["cam3"].level is Level.UNKNOWN
    assert by_name["cam3"].detail == "not compared: it was not registered"
    assert by_name["cam0"].detail == "not compared: it has no place on the rig"
    assert math.isnan(by_name["cam0"].centre_m)
    only = dataclasses.replace(scene, views=views[:1])
    with pytest.raises(AlignmentError, match="two or more cameras"):
        check_rig(only, found.rig, CONFIG)


# --- how honest the published scale is ---------------------------------------------------


def scale_within_two_sigma(count):
    """Over random rigs of 2 to 6 cameras, 0.3 to 1 m; noise of pixels, lenses and calibration."""
    inside = 0
    for seed in range(count):
        random = np.random.default_rng(seed)
        cameras, size_m = int(random.integers(2, 7)), float(random.uniform(0.3, 1.0))
        found = rig_scene(random, random_rig(random, cameras, size_m))
        scale = align_scene(found.scene, found.rig, ScaleConfig()).scale
        inside += abs(scale.value - found.metres_per_unit) < 2 * scale.sigma
    return inside / count


def test_the_scale_of_random_rigs_is_within_two_sigma():
    assert scale_within_two_sigma(40) >= 0.87  # three of 40 of 95 % is 0.9; see the slow one


@pytest.mark.slow
def test_the_scale_of_200_random_rigs_is_within_two_sigma():
    assert 0.90 <= scale_within_two_sigma(200) <= 0.99


# --- files -------------------------------------------------------------------------------


def bumped_check():
    random = np.random.default_rng(9)
    before = random_rig(random, 4)
    now = {**before, "cam2": bumped(before["cam2"], random, 0.05, 4.0)}
    found = rig_scene(random, now, calibrated=before)
    return found.rig, check_rig(found.scene, found.rig, CONFIG), now


def test_the_rig_file_has_the_place_found_and_leaves_the_others(tmp_path):
    rig, check, now = bumped_check()
    path = write_rig_file(tmp_path / "new.yaml", rig, check)
    assert path == tmp_path / "new.yaml"
    assert "# 'cam2': not where the rig says" in path.read_text()
    loaded = load_rig(path)
    assert loaded.rig_frame == "base_link"
    for camera in rig.cameras:
        new = loaded.poses[camera.name]
        if camera.name == "cam2":
            off = now["cam2"].inverse() @ new
            assert np.linalg.norm(off.translation) < 0.02
            assert off.angle_rad < math.radians(0.5)
        else:
            np.testing.assert_allclose(new.matrix, camera.rig_from_camera.matrix, atol=1e-12)
    assert loaded.models == rig.models
    with pytest.raises(ExportError, match=r"expected a file that ends in \.yaml"):
        write_rig_file(tmp_path / "new.png", rig, check)


def turned(rpy):
    """Roll about x, then pitch about y, then yaw about z, all fixed: by quaternions."""
    q = np.array([0.0, 0.0, 0.0, 1.0])
    for axis, angle in enumerate(rpy):
        turn = np.zeros(4)
        turn[axis], turn[3] = math.sin(angle / 2), math.cos(angle / 2)
        (x1, y1, z1, w1), (x2, y2, z2, w2) = turn, q  # turn after q
        q = np.array(
            [
                w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
                w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
                w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
                w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            ]
        )
    return Rigid3.from_quaternion(q, np.zeros(3)).rotation


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3))
def test_roll_pitch_yaw_is_that_of_urdf(vector):
    rotation = Rigid3.from_rotation_vector(vector).rotation
    np.testing.assert_allclose(turned(roll_pitch_yaw(rotation)), rotation, atol=1e-9)


@pytest.mark.parametrize(
    "rpy", [(0.3, math.pi / 2, 0.2), (0.0, -math.pi / 2, 1.0), (-1.57, 0, -1.57)]
)
def test_roll_pitch_yaw_where_they_are_ambiguous(rpy):
    rotation = turned(rpy)
    np.testing.assert_allclose(turned(roll_pitch_yaw(rotation)), rotation, atol=1e-8)


def test_urdf_joints_compose_to_the_places_found(tmp_path):
    """With a camera_link between the robot and the optical frame, as drivers have it."""
    rig, check, _ = bumped_check()
    optical_from_link = Rigid3.from_rotation_vector((1.2, -1.2, 1.2), (0.01, 0.02, 0.03))
    mounts = {"cam2": ("cam2_link", optical_from_link)}
    path = write_urdf(tmp_path / "cameras.urdf", rig, check, mounts)
    joints = {
        joint.find("child").get("link"): joint
        for joint in ElementTree.parse(path).getroot().findall("joint")
    }
    assert set(joints) == {"cam0_optical", "cam1_optical", "cam2_link", "cam3_optical"}
    new = corrected_rig(rig, check).poses
    for camera in rig.cameras:
        child, below = mounts.get(camera.name, (camera.frame_id, Rigid3.identity()))
        joint = joints[child]
        assert joint.get("type") == "fixed"
        assert joint.find("parent").get("link") == "base_link"
        origin = joint.find("origin")
        xyz, rpy = ([float(v) for v in origin.get(key).split()] for key in ("xyz", "rpy"))
        rig_from_optical = Rigid3(turned(rpy), np.array(xyz)) @ below.inverse()
        np.testing.assert_allclose(rig_from_optical.matrix, new[camera.name].matrix, atol=1e-7)


def test_names_cannot_break_the_xml():
    check = RigCheck(
        (CameraCheck("a", Level.OK, 0.0, 0.1, 0.0, 0.1, Rigid3.identity(), "-- <x>"),), "--> & <"
    )
    rig, _, _ = bumped_check()
    strange = dataclasses.replace(
        rig.cameras[0], name="a", frame_id='"><&', rig_from_camera=Rigid3.identity()
    )
    root = ElementTree.fromstring(urdf_joints(Rig((strange,), "b<"), check))
    assert root.find("joint/child").get("link") == '"><&'
