"""The mapper process of a rig that moves: what it asks of TF, and what it gives to it."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagReader, BagWriter

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MANY = QoSProfile(depth=1000)
PLAYER = "vggt_ros.nodes.bag_player"
START_NS = 1_700_000_000_000_000_000
PATIENT = {
    "ingest.queue_size": 100,
    "ingest.silent_after_s": 0.0,
    "qos_overrides./left/image_raw.subscription.depth": 100,
    "qos_overrides./right/image_raw.subscription.depth": 100,
    "frame.tf_wait_ms": 3000.0,
    "publish.map_rate_hz": 10.0,
}
CAMERAS = {"cameras": "[left, right]", "autostart": "true", **PATIENT}


def drive(t):
    """1 m/s along x, 0.5 rad/s about z."""
    return Rigid3.from_rotation_vector([0, 0, 0.5 * t], [t, 0.0, 0.0])


@pytest.fixture
def driving_bag(make_bag, tmp_path):
    """Images at 10 Hz and /tf at 20 Hz, `phase_s` apart, where `known(t)` is true."""

    def make(
        sets=20, world="odom", base="base_link", known=lambda t: True, phase_s=0.013, **options
    ):
        still = make_bag(tmp_path / "still", sets=sets, start_ns=START_NS, **options)
        entries = []
        for k in range(-2, 2 * sets + 2):
            t = k / 20 + phase_s
            if known(t):
                stamp = START_NS + int(t * 1e9)
                entries.append((stamp, messages.tf_message([(world, base, drive(t))], stamp)))
        path = tmp_path / "driving"
        with BagReader(still) as bag, BagWriter(path, overwrite=True) as out:
            raw = [(m.stamp_ns, m.topic, m) for m in bag.raw_messages()]
            raw += [(stamp, "/tf", message) for stamp, message in entries]
            for stamp, topic, message in sorted(raw, key=lambda entry: entry[:2]):
                if topic == "/tf":
                    out.write(topic, message, stamp)
                else:
                    out.write_raw(topic, message.msgtype, message.data, stamp)
        return path

    return make


def pose(message):
    p, q = message.position, message.orientation
    return Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (p.x, p.y, p.z))


def edges(messages_, mine=lambda t: True):
    return {
        (t.header.frame_id, t.child_frame_id) for m in messages_ for t in m.transforms if mine(t)
    }


def seconds(stamp):
    return (stamp.sec * 10**9 + stamp.nanosec - START_NS) * 1e-9


def test_odometry_moves_the_rig_and_map_to_odom_is_published(
    start, observer, stub, driving_bag, rig_poses, until
):
    status = observer.listen(MapStatus, "/mapper/status")
    moving = observer.listen(TFMessage, "/tf", MANY)
    fixed = observer.listen(TFMessage, "/tf_static", STATIC)
    depth = observer.listen(Image, "/mapper/left/depth/image", MANY)
    mapper = start(stub, {**CAMERAS, "motion": "tf", "frame.odom": "odom"})
    mapper.wait_for("activate: done")
    player = start(PLAYER, {"bag": driving_bag()})
    assert player.wait(60.0) == 0, player.output
    until(lambda: status and status[-1].sets_used == 20, what=lambda: str(status[-1]))
    paths = observer.listen(Path, "/mapper/path", LATCHED)
    markers = observer.listen(MarkerArray, "/mapper/cameras", LATCHED)
    until(lambda: paths and len(paths[-1].poses) == 20 and markers, what="path")

    # every pose is the odometry's at the stamp of its set, in a map that lies 1 m from it
    assert paths[-1].header.frame_id == "map"
    for stamped in paths[-1].poses:
        expected = Rigid3(np.eye(3), [0, 1.0, 0]) @ drive(seconds(stamped.header.stamp))
        np.testing.assert_allclose(pose(stamped.pose).matrix, expected.matrix, atol=2e-4)
    last = status[-1]
    assert last.motion == "tf"
    assert last.keyframes == 20
    np.testing.assert_allclose(pose(last.map_from_rig).matrix, expected.matrix, atol=2e-4)
    assert not last.dropped
    camera = pose(last.cameras[1].map_from_camera)
    np.testing.assert_allclose(camera.matrix, (expected @ rig_poses["right"]).matrix, atol=2e-4)
    # the frusta are where the rig is now
    left = next(m for m in markers[-1].markers if m.ns == "frusta")
    assert seconds(left.header.stamp) == pytest.approx(1.9)
    assert np.linalg.norm(pose(left.pose).translation - expected.translation) < 0.5
    assert {round(seconds(d.header.stamp), 3) for d in depth} <= {k / 10 for k in range(20)}
    assert depth[-1].header.frame_id == "left_optical"

    # one parent per frame, none of them both on /tf and /tf_static
    on_tf, on_static = edges(moving), edges(fixed)
    assert on_tf == {("odom", "base_link"), ("map", "odom")}
    assert on_static == {("base_link", "left_optical"), ("base_link", "right_optical")}
    # steadily, ahead of now
    count = len(moving)
    until(lambda: len(moving) >= count + 5, what="map -> odom after the last set")
    ours = moving[-1].transforms[0]
    ahead = ours.header.stamp.sec + 1e-9 * ours.header.stamp.nanosec
    now = observer.node.get_clock().now().nanoseconds * 1e-9
    assert -5.0 < ahead - now < 0.2
    assert ours.transform.translation.y == 1.0
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output


@pytest.mark.slow
def test_tf_that_stops_is_named_and_mapping_goes_on_when_it_returns(
    start, observer, stub, driving_bag, until
):
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    settings = {"motion": "tf", "frame.odom": "odom", "frame.tf_wait_ms": 300.0}
    mapper = start(stub, {**CAMERAS, **settings})
    mapper.wait_for("activate: done")
    bag = driving_bag(sets=80, known=lambda t: t < 1.0 or t > 6.0)
    player = start(PLAYER, {"bag": bag, "rate": 2.0})
    assert player.wait(60.0) == 0, player.output
    until(lambda: status[-1].sets_used >= 28, what=lambda: str(status[-1]))
    dropped = {d.reason: d.count for d in status[-1].dropped}
    reason = "no transform odom -> base_link at the stamp"
    # between two transforms 5 s apart everything is a line: what still waits then is mapped
    assert list(dropped) == [reason]
    assert dropped[reason] + status[-1].sets_used == 80
    assert dropped[reason] > 40
    words = [(s.level, s.message) for d in diagnostics for s in d.status if "pipeline" in s.name]
    missing = [level for level, text in words if reason in text]
    assert b"\x02" in missing, words
    assert reason not in words[-1][1]
    said = [s.detail for s in status if reason in s.detail]
    assert "the newest transform 'odom' -> 'base_link' is" in said[0]
    assert status[-1].detail == ""


@pytest.mark.slow
def test_estimated_motion_without_any_tf(start, observer, stub, make_bag, until, tmp_path):
    """`map` -> rig moves, rig -> cameras does not, and no frame changes sides."""
    status = observer.listen(MapStatus, "/mapper/status")
    moving = observer.listen(TFMessage, "/tf", MANY)
    fixed = observer.listen(TFMessage, "/tf_static", STATIC)
    parameters = {**CAMERAS, "cameras": "[left]", "motion": "estimate"}
    parameters |= {"frame.map": "robot1/map", "frame.rig": "robot1/rig"}
    parameters["publish.depth_unscaled"] = "true"
    depth = observer.listen(Image, "/robot1/mapper/left/depth/image", MANY)
    status = observer.listen(MapStatus, "/robot1/mapper/status")
    parameters = {k.replace("/left/", "/robot1/left/"): v for k, v in parameters.items()}
    mapper = start(stub, parameters, arguments=["--ros-args", "-r", "__ns:=/robot1", "--"])
    mapper.wait_for("activate: done")
    bag = make_bag(tmp_path / "one", cameras=("left",), tf=False, frame=lambda n: f"robot1/{n}")
    player = start(PLAYER, {"bag": bag}, ["--ros-args", *remapped("left"), "--"])
    assert player.wait(60.0) == 0, player.output
    until(lambda: status and status[-1].sets_used == 20, what=lambda: str(status[-1:]))
    until(lambda: len(moving) == 20, what="map -> rig of every set")
    assert edges(moving) == {("robot1/map_unscaled", "robot1/rig")}  # nothing tells the scale
    assert edges(fixed) == {("robot1/rig", "robot1/left")}
    for k, message in enumerate(moving):
        stamped = message.transforms[0]
        assert seconds(stamped.header.stamp) == pytest.approx(k / 10)
        assert stamped.transform.translation.x == pytest.approx(0.1 * k)
    assert status[-1].map_from_rig.position.x == pytest.approx(1.9)
    assert depth


def remapped(name):
    words = []
    for topic in ("image_raw", "camera_info"):
        words += ["-r", f"/{name}/{topic}:=/robot1/{name}/{topic}"]
    return words
