"""A rig that drives: pictures from where it is, odometry as it was asked for."""

import itertools
import math

import numpy as np
import pytest

from vggt_ros.cli.main import main
from vggt_ros.geometry import Rigid3
from vggt_ros.sources.bag import BagReader
from vggt_ros.sources.messages import stamped_transforms_from_message
from vggt_ros.synthetic.driving import drifting, simulate_drive, swing_through_room
from vggt_ros.synthetic.record import BASE_FROM_RIG, Odometry, record
from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL, arc_rig, plane_world

START = 10**18
LOOKS_ALONG_Z = Rigid3(RIG_FROM_OPTICAL.T, np.zeros(3))


def forward(time_s):
    """1 m/s towards the plane."""
    return Rigid3(LOOKS_ALONG_Z.rotation, [0.0, 0.0, time_s])


@pytest.fixture(scope="module")
def rig():
    return arc_rig(2, 0.2, 0.0, 32, 24, pitch_rad=0.0)


def test_every_picture_is_taken_from_its_own_place(rig):
    world = plane_world(3.0)
    for taken in simulate_drive(world, rig, forward, 4, 2.0, START):
        for name in rig.names:
            time_s = (taken.stamps_ns[name] - START) * 1e-9
            np.testing.assert_allclose(taken.truth[name].depth, 3.0 - time_s, atol=1e-5)
        assert taken.stamp_ns <= min(taken.stamps_ns.values())
        assert np.ptp(list(taken.stamps_ns.values())) <= 4_000_000


def test_what_cannot_be_simulated_is_refused(rig):
    with pytest.raises(ValueError, match="rate_hz: expected > 0"):
        next(simulate_drive(plane_world(3.0), rig, forward, 1, 0.0))


def test_odometry_in_the_bag(rig, tmp_path):
    path = drifting(forward, 0.02, 0.1)
    odometry = Odometry(path, START, rate_hz=20.0, delay_s=0.03)
    sets = simulate_drive(plane_world(3.0), rig, forward, 4, 5.0, START)
    record(tmp_path / "bag", rig, sets, odometry=odometry)
    with BagReader(tmp_path / "bag") as bag:
        messages = list(bag.messages())
        fixed = bag.static_transforms()
    moved = [m for m in messages if m.topic == "/tf"]
    stamps = []
    for message in moved:
        ((parent, child, pose, stamp_ns),) = stamped_transforms_from_message(message.message)
        assert (parent, child) == ("odom", "base_link")
        assert message.stamp_ns == stamp_ns + 30_000_000  # recorded later than it is stamped
        expected = path((stamp_ns - START) * 1e-9)
        np.testing.assert_allclose(pose.matrix, expected.matrix, atol=1e-9)
        stamps.append(stamp_ns)
    assert np.unique(np.diff(stamps)).tolist() == [50_000_000]
    images = [m.stamp_ns for m in messages if m.topic == "/cam0/image_raw"]
    assert stamps[0] < images[0]  # every image lies between two transforms
    assert images[-1] < stamps[-1]
    assert [m.stamp_ns for m in messages] == sorted(m.stamp_ns for m in messages)
    np.testing.assert_allclose(fixed["rig"][1].matrix, BASE_FROM_RIG.matrix)
    assert fixed["rig"][0] == "base_link"


def test_drift_is_what_was_asked_for():
    odom = drifting(swing_through_room, 0.02, 0.05)
    np.testing.assert_allclose(odom(0.0).matrix, np.eye(4), atol=1e-12)
    steps = [k / 200 for k in range(601)]
    lengths = [
        sum(
            np.linalg.norm(path(b).translation - path(a).translation)
            for a, b in itertools.pairwise(steps)
        )
        for path in (swing_through_room, drifting(swing_through_room, 0.02))
    ]
    assert lengths[1] / lengths[0] == pytest.approx(1.02)
    assert lengths[0] == pytest.approx(1.4, abs=0.1)
    true = swing_through_room(0.0).inverse() @ swing_through_room(3.0)
    turned = odom(3.0).rotation @ true.rotation.T
    assert Rigid3(turned, np.zeros(3)).angle_rad == pytest.approx(0.15)
    assert math.degrees(true.angle_rad) == pytest.approx(24.0)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    bag = tmp_path / "bag"
    assert main(["bag", "simulate", "--out", str(bag), "--sets", "1"]) == 0
    assert "next: vggt-ros replay" in capsys.readouterr().out
    with BagReader(bag) as reader:
        assert {"/tf", "/tf_static"} < set(reader.topics)
        assert len(reader.rig().poses) == 4
    assert main(["bag", "simulate", "--out", str(bag), "--sets", "1"]) == 1
    assert "exists" in capsys.readouterr().err
