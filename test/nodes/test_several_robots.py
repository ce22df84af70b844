"""Several robots in one domain: namespaces keep topics apart, the prefix keeps frames apart."""

import dataclasses

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from tf2_msgs.msg import TFMessage

from vggt_ros.config import CameraConfig, Config, FrameConfig
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.nodes.calibration import Calibration, with_rig_topics
from vggt_ros.nodes.conversions import image_message, transform_message
from vggt_ros.nodes.transforms import FrameTree, StaticBroadcaster
from vggt_ros.rig import Rig, RigCamera

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ROBOTS = {"robot_a": 3, "robot_b": 5}
CAMERAS = ("left", "right")


class Frames(FrameTree):
    def close(self):
        pass


def configured(**frame):
    camera = {"left": CameraConfig(), "right": CameraConfig(frame_id="right_lens")}
    return Config(cameras=list(CAMERAS), camera=camera, frame=FrameConfig(**frame))


def resolved(calibration):
    calibration.take_image("left", "", 0.0)
    return calibration.resolve(1.0)


class TestPrefix:
    """It comes before what is configured, and before nothing that was received."""

    def test_names_of_parameters(self):
        config = with_rig_topics(configured(prefix="a/", odom="odom"), None)
        frame = config.frame
        assert (frame.map, frame.rig, frame.base, frame.odom) == (
            "a/map",
            "a/rig",
            "a/base_link",
            "a/odom",
        )
        assert with_rig_topics(configured(prefix="a/"), None).frame.odom == ""
        assert config.camera["right"].frame_id == "a/right_lens"
        assert config.camera["left"].image_topic == "left/image_raw"

    def test_frames_of_cameras(self):
        config = with_rig_topics(configured(prefix="a/"), None)
        calibration = Calibration(config, None, Frames(), 0.0)
        assert calibration.frame_id("left") == "a/left_optical_frame"  # made from its name
        calibration.take_image("left", "a/from_the_driver", 0.0)
        assert calibration.frame_id("left") == "a/from_the_driver"
        calibration.take_image("right", "ignored", 0.0)
        assert calibration.frame_id("right") == "a/right_lens"

    def test_names_of_the_rig_file(self):
        rig = Rig(
            (
                RigCamera("left", frame_id="left_optical", rig_from_camera=Rigid3.identity()),
                RigCamera("right", frame_id="right_optical", rig_from_camera=Rigid3.identity()),
            ),
            "base_link",
        )
        config = with_rig_topics(configured(prefix="a/"), rig)
        found = resolved(Calibration(config, rig, Frames(), 0.0))
        assert found.rig.rig_frame == "a/base_link"
        assert [c.frame_id for c in found.rig.cameras] == ["a/left_optical", "a/right_lens"]

    def test_places_on_the_rig_are_looked_up_with_it(self):
        tree = Frames()
        for name in CAMERAS:
            transform = transform_message(
                Rigid3(np.eye(3), [0, 0, 1]), "a/base_link", f"a/{name}_optical_frame", 0
            )
            tree.add(TFMessage(transforms=[transform]), True)
        config = configured(prefix="a/")
        config = dataclasses.replace(config, camera={name: CameraConfig() for name in CAMERAS})
        found = resolved(Calibration(with_rig_topics(config, None), None, tree, 0.0))
        assert found.rig.rig_frame == "a/base_link"
        assert len(found.rig.poses) == 2

    def test_without_it_nothing_changes(self):
        assert with_rig_topics(configured(), None).frame == FrameConfig()


def test_two_mappers_in_one_domain_do_not_meet(start, observer, stub, until):
    profile = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
    shift = [Rigid3(np.eye(3), [0.0, y, 0.0]) for y in (0.1, -0.1)]
    urdf = StaticBroadcaster(observer.node)  # as robot_state_publisher with a frame_prefix
    rigs = {
        (f"{r}/base_link", f"{r}/{c}_lens"): shift[i]
        for r in ROBOTS
        for i, c in enumerate(CAMERAS)
    }
    urdf.send([transform_message(pose, *edge, 0) for edge, pose in rigs.items()])
    publishers = {
        (robot, camera): observer.node.create_publisher(
            Image, f"/{robot}/{camera}/image_raw", profile
        )
        for robot in ROBOTS
        for camera in CAMERAS
    }
    heard = {
        robot: {
            "status": observer.listen(MapStatus, f"/{robot}/mapper/status"),
            "map": observer.listen(PointCloud2, f"/{robot}/mapper/map", LATCHED),
        }
        for robot in ROBOTS
    }
    static = observer.listen(
        TFMessage, "/tf_static", QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    mappers = {
        robot: start(
            stub,
            {
                "cameras": "[left, right]",
                "autostart": "true",
                "calibration_wait_s": 2.0,  # for CameraInfo, which never comes, and TF
                "frame.prefix": f"{robot}/",
                "publish.map_rate_hz": 10.0,
                "ingest.silent_after_s": 0.0,
            },
            arguments=["--ros-args", "-r", f"__ns:=/{robot}"],
        )
        for robot in ROBOTS
    }
    for mapper in mappers.values():
        mapper.wait_for("activate: done")
    until(
        lambda: all(p.get_subscription_count() for p in publishers.values()),
        what="subscriptions of both",
    )
    pixels = np.zeros((48, 64, 3), np.uint8)
    for robot, sets in ROBOTS.items():
        for k in range(sets):
            for camera in CAMERAS:
                stamp, frame = 10**18 + k * 10**8, f"{robot}/{camera}_lens"
                publishers[robot, camera].publish(image_message(pixels, "rgb8", stamp, frame))
    for robot, sets in ROBOTS.items():
        until(
            lambda robot=robot, sets=sets: (
                heard[robot]["status"] and heard[robot]["status"][-1].sets_used == sets
            ),
            what=lambda robot=robot: f"all sets of {robot}: {heard[robot]['status'][-1:]}",
        )
        until(
            lambda robot=robot, sets=sets: (
                heard[robot]["map"] and heard[robot]["map"][-1].width == 100 * sets
            ),
            what=f"map of {robot}",
        )
        last = heard[robot]["status"][-1]
        assert last.header.frame_id == f"{robot}/map"
        assert heard[robot]["map"][-1].header.frame_id == f"{robot}/map"
        assert [c.received for c in last.cameras] == [sets, sets]
        assert not last.dropped

    def edges():
        return {
            (t.header.frame_id, t.child_frame_id) for message in static for t in message.transforms
        }

    expected = {*rigs, *((f"{robot}/map", f"{robot}/base_link") for robot in ROBOTS)}
    until(lambda: edges() >= expected, what=lambda: f"transforms of both: {edges()}")
    assert edges() == expected
    names = {status.name for message in diagnostics for status in message.status}
    assert {f"{robot}/mapper: camera left" for robot in ROBOTS} <= names
    assert all(name.startswith(tuple(ROBOTS)) for name in names)
    services = {name for name, _ in observer.node.get_service_names_and_types()}
    assert {f"/{robot}/mapper/export_map" for robot in ROBOTS} <= services
    assert "/mapper/export_map" not in services
    for mapper in mappers.values():
        mapper.interrupt()
        assert mapper.wait() == 0, mapper.output


def test_tf_may_stay_in_the_namespace(start, observer, stub, until):
    """The other usual way, that of Nav2's bring-up: /tf and /tf_static are remapped."""
    mapper = start(
        stub,
        {"cameras": "[left]", "autostart": "true", "calibration_wait_s": 0.0},
        arguments=[
            *("--ros-args", "-r", "__ns:=/robot_a"),
            *("-r", "/tf:=tf", "-r", "/tf_static:=tf_static"),
        ],
    )
    mapper.wait_for("activate: done")
    publisher = observer.node.create_publisher(Image, "/robot_a/left/image_raw", 10)
    until(publisher.get_subscription_count, what="subscription")
    publisher.publish(image_message(np.zeros((48, 64, 3), np.uint8), "rgb8", 10**18, "lens"))
    profile = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    own = observer.listen(TFMessage, "/robot_a/tf_static", profile)
    shared = observer.listen(TFMessage, "/tf_static", profile)
    until(lambda: own, what="transforms in the namespace")
    assert not shared


@pytest.mark.parametrize("prefix", ["robot_a/", "robot_a_"])
def test_camera_source_prefixes_what_it_names(start, observer, until, prefix, tmp_path, rig_poses):
    import cv2
    import yaml

    (tmp_path / "images" / "left").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "left" / "0.png"), np.zeros((48, 64, 3), np.uint8))
    pose = rig_poses["left"]
    entry = {
        "frame_id": "left_lens",
        "rig_from_camera": {
            "translation": pose.translation.tolist(),
            "rotation_xyzw": pose.quaternion_xyzw.tolist(),
        },
    }
    rig = tmp_path / "rig.yaml"
    rig.write_text(yaml.safe_dump({"rig_frame": "base_link", "cameras": {"left": entry}}))
    images = observer.listen(Image, "/left/image_raw")
    static = observer.listen(
        TFMessage, "/tf_static", QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    start(
        "vggt_ros.nodes.camera_source",
        {
            "source": tmp_path / "images",
            "rig_file": rig,
            "raw": "true",
            "compressed": "false",
            "frame_prefix": prefix,
        },
    )
    until(lambda: images and static, what="image and transform")
    assert images[0].header.frame_id == f"{prefix}left_lens"
    (transform,) = static[0].transforms
    assert transform.header.frame_id == f"{prefix}base_link"
    assert transform.child_frame_id == f"{prefix}left_lens"
