"""Which transforms a moving rig gets: one parent per frame, whoever publishes the others."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from tf2_msgs.msg import TFMessage

from vggt_ros.config import Config, FrameConfig, PublishConfig
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.nodes.calibration import Calibrated, rig_from_cameras
from vggt_ros.nodes.conversions import transform_message
from vggt_ros.nodes.motion import Motion
from vggt_ros.nodes.moving_outputs import (
    MOST_POSES,
    RigPlaces,
    moved_markers,
    path_message,
)
from vggt_ros.nodes.transforms import FrameTree
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import AlignedScene, ScaleEstimate, ScaleSource

S = 10**9
MODEL = CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)


def shift(x, y=0.0, z=0.0):
    return Rigid3.from_rotation_vector([0.0, 0.0, 0.1 * x], [x, y, z])


RIG_FROM = {"left": shift(0.1, 0.2), "right": shift(0.1, -0.2)}
MAP_FROM_RIG = shift(2.0, 1.0)


class Node:
    """Publishers whose messages are kept, and a timer that is driven by hand."""

    def __init__(self):
        self.sent, self.timers, self.now_ns = [], [], 100 * S

    def create_lifecycle_publisher(self, kind, topic, qos):
        assert (kind, topic) == (TFMessage, "/tf")
        return SimpleNamespace(publish=lambda message: self.sent.extend(message.transforms))

    def destroy_lifecycle_publisher(self, publisher):
        pass

    def create_timer(self, period_s, callback, callback_group=None, clock=None):
        self.timers.append((period_s, callback))
        return self.timers[-1]

    def destroy_timer(self, timer):
        self.timers.remove(timer)

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns))


@pytest.fixture
def node():
    return Node()


@pytest.fixture
def tree():
    return FrameTree()


def add(tree, parent, child, pose, stamp_ns=0, static=True):
    transform = transform_message(pose, parent, child, stamp_ns)
    tree.add(TFMessage(transforms=[transform]), static)


def places(node, tree, motion="estimate", odom="", rate=10.0):
    frame = FrameConfig(odom=odom)
    config = Config(motion=motion, frame=frame, publish=PublishConfig(odom_rate_hz=rate))
    return RigPlaces(node, config, tree)


def calibrated(poses=RIG_FROM, rig_frame="rig", names=("left", "right")):
    cameras = [RigCamera(n, frame_id=f"{n}_optical", rig_from_camera=poses.get(n)) for n in names]
    return Calibrated(Rig(tuple(cameras), rig_frame), ())


def scene(map_from_rig=MAP_FROM_RIG, names=("left", "right"), source=ScaleSource.RIG):
    placed = {n: MAP_FROM_RIG @ RIG_FROM[n] for n in names}
    return AlignedScene(
        dict.fromkeys(names, MODEL),
        placed,
        np.zeros((0, 3)),
        np.zeros((0, 3), np.uint8),
        ScaleEstimate(1.0, 0.1, source),
        Sim3.identity(),
        {},
        "rig",
        (),
        "sfm",
        map_from_rig,
    )


def moved(*stamps_s, world=None):
    return Motion(tuple((int(s * S), shift(s, 1.0)) for s in stamps_s), world)


def edges(sent):
    return [(t.header.frame_id, t.child_frame_id) for t in sent]


def assert_sends(transform, expected, stamp_s):
    t, q = transform.transform.translation, transform.transform.rotation
    found = Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-9)
    stamp = transform.header.stamp
    assert stamp.sec + 1e-9 * stamp.nanosec == pytest.approx(stamp_s)


# --- estimate, no odometry


def test_without_any_tf_the_rig_moves_and_carries_its_cameras(node, tree):
    out = places(node, tree)
    fixed = out.fixed_transforms(calibrated(), scene(), frozenset())
    assert edges(fixed) == [("rig", "left_optical"), ("rig", "right_optical")]
    assert_sends(fixed[1], RIG_FROM["right"], 0.0)
    out.moved(moved(1.0, 2.0), calibrated(), scene())
    assert edges(node.sent) == [("map", "rig")] * 2
    for transform, s in zip(node.sent, (1.0, 2.0), strict=True):
        assert_sends(transform, shift(s, 1.0), s)
    # their echo, and a second scene, change nothing
    for transform in (*fixed, node.sent[-1]):
        tree.add(TFMessage(transforms=[transform]), transform.child_frame_id != "rig")
    ours = frozenset({"left_optical", "right_optical"})
    assert edges(out.fixed_transforms(calibrated(), scene(), ours)) == edges(fixed)
    out.moved(moved(3.0), calibrated(), scene())
    assert edges(node.sent[2:]) == [("map", "rig")]


def test_cameras_of_a_urdf_hang_below_its_root(node, tree):
    base_from_rig = shift(0.5)
    add(tree, "base_link", "rig", base_from_rig)
    for name, pose in RIG_FROM.items():
        add(tree, "rig", f"{name}_optical", pose)
    out = places(node, tree)
    assert out.fixed_transforms(calibrated(), scene(), frozenset()) == []
    out.moved(moved(1.0), calibrated(), scene())
    assert edges(node.sent) == [("map", "base_link")]
    assert_sends(node.sent[0], shift(1.0, 1.0) @ base_from_rig.inverse(), 1.0)


def test_rig_frame_of_a_file_that_tf_does_not_know(node, tree):
    for name, pose in RIG_FROM.items():
        add(tree, "base_link", f"{name}_optical", shift(3.0) @ pose)
    out = places(node, tree)
    out.moved(moved(1.0), calibrated(), scene())
    assert edges(node.sent) == [("map", "base_link")]
    assert_sends(node.sent[0], shift(1.0, 1.0) @ shift(3.0).inverse(), 1.0)


def test_one_camera_is_a_rig_of_one(node, tree):
    alone = calibrated({}, names=("left",))
    only = scene(None, ("left",))
    assert rig_from_cameras(alone, only)["left"].angle_rad == 0.0
    out = places(node, tree)
    assert edges(out.fixed_transforms(alone, only, frozenset())) == [("rig", "left_optical")]
    out.moved(moved(1.0), alone, only)
    assert edges(node.sent) == [("map", "rig")]


def test_places_of_cameras_that_nobody_gave_are_those_found():
    found = rig_from_cameras(calibrated({"left": RIG_FROM["left"]}), scene())
    np.testing.assert_allclose(found["right"].matrix, RIG_FROM["right"].matrix, atol=1e-12)


def test_odometry_that_nobody_named_is_not_doubled(node, tree, caplog):
    """odom -> base is in TF, but frame.odom is empty: map -> odom keeps one parent per frame."""
    add(tree, "base_link", "left_optical", RIG_FROM["left"])
    known = calibrated({"left": RIG_FROM["left"]}, "base_link", ("left",))
    for k in range(3):
        add(tree, "odom", "base_link", shift(0.5 * k), k * S, static=False)
    out = places(node, tree)
    out.moved(moved(1.5), known, scene(names=("left",)))
    assert edges(node.sent) == [("map", "odom")]
    odom_from_base = tree.lookup_at("odom", "base_link", int(1.5 * S))
    assert_sends(node.sent[0], shift(1.5, 1.0) @ odom_from_base.inverse(), 1.5)
    out.moved(moved(7.0), known, scene(names=("left",)))  # odometry is not there yet
    out.moved(moved(8.0), known, scene(names=("left",)))
    assert len(node.sent) == 1
    assert caplog.text.count("name the odometry's frame in frame.odom") == 1


# --- odometry


def test_map_to_odom_is_steady_and_ahead(node, tree):
    out = places(node, tree, "tf", "odom", rate=20.0)
    ((period_s, tick),) = node.timers
    assert period_s == 0.05
    tick()
    assert node.sent == []  # nothing is known yet, and nothing is the identity
    out.moved(moved(1.0, world=shift(0.3)), calibrated(), scene())
    assert node.sent == []  # the timer alone sends
    for _ in range(3):
        tick()
        node.now_ns += S // 20
    assert edges(node.sent) == [("map", "odom")] * 3
    for k, transform in enumerate(node.sent):
        assert_sends(transform, shift(0.3), 100.2 + 0.05 * k)
    # a clock that stands still: tf2 warns of a stamp that it has, so only news is sent
    for world in (shift(0.3), shift(0.4)):
        out.moved(moved(2.0, world=world), calibrated(), scene())
        for _ in range(3):
            tick()
    stamps = [t.header.stamp.sec * S + t.header.stamp.nanosec for t in node.sent]
    assert stamps[4:] == [stamps[3] + 1]
    assert_sends(node.sent[-1], shift(0.4), 100.35)
    count = len(stamps)
    out.cleared()
    tick()
    assert len(node.sent) == count
    out.close()
    assert node.timers == []


def test_found_path_beside_odometry_moves_odom_not_the_rig(node, tree, caplog):
    out = places(node, tree, "estimate", "odom")
    for k in range(3):
        add(tree, "odom", "rig", shift(0.5 * k), k * S, static=False)
    out.moved(moved(0.5, 1.5), calibrated(), scene())
    node.timers[0][1]()
    odom_from_rig = tree.lookup_at("odom", "rig", int(1.5 * S))
    assert_sends(node.sent[0], shift(1.5, 1.0) @ odom_from_rig.inverse(), 100.2)
    out.moved(moved(9.0), calibrated(), scene())
    node.now_ns += S
    node.timers[0][1]()
    assert_sends(node.sent[1], shift(1.5, 1.0) @ odom_from_rig.inverse(), 101.2)
    assert "'map' -> 'odom' is not renewed: the newest transform" in caplog.text


def test_what_is_not_in_metres_says_so_and_is_not_joined_to_what_is(node, tree, caplog):
    unscaled = scene(source=ScaleSource.NONE)
    places(node, tree).moved(moved(1.0), calibrated(), unscaled)
    assert edges(node.sent) == [("map_unscaled", "rig")]
    out = places(node, tree, "estimate", "odom")
    add(tree, "odom", "rig", shift(0.5), S, static=False)
    for _ in range(2):
        out.moved(moved(1.0), calibrated(), unscaled)
        node.timers[-1][1]()
    assert len(node.sent) == 1
    assert caplog.text.count("is in metres, and the map is not") == 1


# --- somebody else publishes the map frame


@pytest.mark.parametrize("parent", ["map", "earth"])
@pytest.mark.parametrize("motion", ["tf", "estimate"])
def test_never_a_second_parent(node, tree, caplog, parent, motion):
    child = "odom" if motion == "tf" else "rig"
    add(tree, parent, child, shift(1.0))
    out = places(node, tree, motion, "odom" if motion == "tf" else "")
    if motion == "estimate" and parent == "earth":
        add(tree, "map", "earth", shift(1.0), S, static=False)
    for k in range(3):
        out.moved(moved(1.0 + k, world=shift(0.3)), calibrated(), scene())
        for _, tick in node.timers:
            tick()
    assert node.sent == []
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "already has the parent" in warnings[0].message


def test_with_another_localiser_nothing_is_published(node, tree, caplog):
    out = places(node, tree, "tf")
    out.moved(moved(1.0, world=Rigid3.identity()), calibrated(), scene())
    assert node.timers == []
    assert node.sent == []
    assert caplog.text == ""
    out.moved(moved(2.0, world=shift(0.3)), calibrated(), scene())
    out.moved(moved(3.0, world=shift(0.3)), calibrated(), scene())
    assert caplog.text.count("no longer in it") == 1


# --- messages


def test_frusta_follow_the_rig():
    markers = moved_markers(scene(), calibrated(), shift(5.0), 7 * S, "map").markers
    left = next(m for m in markers if m.ns == "frusta" and m.id == 0)
    expected = (shift(5.0) @ RIG_FROM["left"]).translation
    np.testing.assert_allclose(
        [left.pose.position.x, left.pose.position.y, left.pose.position.z], expected
    )
    assert left.header.stamp.sec == 7
    assert left.header.frame_id == "map"


def test_long_paths_are_thinned_and_keep_their_ends():
    path = [(k, shift(0.001 * k)) for k in range(3 * MOST_POSES)]
    message = path_message(path, 5, "map")
    assert len(message.poses) == MOST_POSES
    stamps = [p.header.stamp.nanosec for p in message.poses]
    assert stamps == sorted(set(stamps))
    assert (stamps[0], stamps[-1]) == (0, 3 * MOST_POSES - 1)
    assert len(path_message(path[:7], 5, "map").poses) == 7
    assert path_message([], 5, "map").poses == []


def test_an_unscaled_map_gives_odometry_no_parent_with_tf_either(node, tree, caplog):
    out = places(node, tree, "tf", "odom")
    for _ in range(2):
        out.moved(moved(1.0, world=shift(0.3)), calibrated(), scene(source=ScaleSource.NONE))
        node.timers[0][1]()
    assert node.sent == []
    assert caplog.text.count("is in metres, and the map is not") == 1
    out.moved(moved(2.0, world=shift(0.3)), calibrated(), scene())
    node.timers[0][1]()
    assert edges(node.sent) == [("map", "odom")]


def test_nothing_is_sent_after_close(node, tree):
    out = places(node, tree, "tf", "odom")
    out.moved(moved(1.0, world=shift(0.3)), calibrated(), scene())
    tick = node.timers[0][1]
    out.close()
    tick()  # a callback that had begun to wait
    assert node.sent == []
