"""What a ROS expert checks first. docs/conventions.md lists each convention with its tests."""

import array
import dataclasses
import importlib.util
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle.publisher import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from vggt_ros.config import CameraConfig
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.nodes.conversions import image_message, time_message, transform_message
from vggt_ros.nodes.mapper_node import Mapper
from vggt_ros.nodes.node_config import BagPlayerConfig, CameraSourceConfig, MapperConfig
from vggt_ros.nodes.transforms import StaticBroadcaster

STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
GLOBAL_TOPICS = {"/diagnostics", "/parameter_events", "/rosout", "/tf", "/tf_static"}
NAME = re.compile(r"/?[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)*")
NOT_OURS = ("qos_overrides.", "use_sim_time", "start_type_description_service")
LEFT = {"cameras": "[left]", "autostart": "true", "calibration_wait_s": 0.0}


@pytest.fixture
def mapper(build, stub):
    """A mapper of this process, configured, with the pipeline that computes nothing."""
    spec = importlib.util.spec_from_file_location("stub_pipeline", stub)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stub_pipeline"] = module
    spec.loader.exec_module(module)
    node = build(Mapper, {"cameras": "[left, right]"}, pipeline_factory=module.StubPipeline)
    node.trigger_configure()
    return node


def picture(k=0, frame="left_lens"):
    return image_message(np.zeros((48, 64, 3), np.uint8), "rgb8", 10**18 + k * 10**8, frame)


class TestNames:
    """REP-135, REP-144: relative and private names in snake_case, no namespace of our own."""

    def test_topics_and_services(self, mapper, until):
        own = mapper.get_name(), mapper.get_namespace()
        assert own == ("mapper", "/")
        until(
            lambda: "/mapper/map" in dict(mapper.get_publisher_names_and_types_by_node(*own)),
            what="own publishers in the graph",
        )
        published = dict(mapper.get_publisher_names_and_types_by_node(*own))
        services = dict(mapper.get_service_names_and_types_by_node(*own))
        for name in [*published, *services]:
            if name not in GLOBAL_TOPICS:
                assert name.startswith("/mapper/"), name
                assert NAME.fullmatch(name), name

    def test_defaults_of_inputs_are_relative(self):
        camera = CameraConfig().resolved("front")
        assert camera.image_topic == "front/image_raw"
        assert camera.info_topic == "front/camera_info"
        frame = MapperConfig().frame
        assert (frame.map, frame.base) == ("map", "base_link")  # REP-105


class TestQos:
    def profile(self, node, topic):
        (found,) = node.get_publishers_info_by_topic(topic)
        return found.qos_profile

    def test_what_late_joiners_need_is_reliable_and_transient_local(self, mapper, until):
        until(lambda: mapper.get_publishers_info_by_topic("/mapper/map"), what="own publisher")
        names = {"/mapper/map", "/mapper/cameras", "/mapper/path", "/mapper/occupancy"}
        for topic in names & {p.topic_name for p in mapper.publishers}:
            profile = self.profile(mapper, topic)
            assert profile.durability == DurabilityPolicy.TRANSIENT_LOCAL, topic
            assert profile.reliability == ReliabilityPolicy.RELIABLE, topic

    def test_every_profile_can_be_overridden_durability_too(self, mapper):
        parameters = set(mapper._parameters)
        for publisher in mapper.publishers:
            topic = publisher.topic_name
            if not topic.startswith("/mapper/") or topic.endswith("transition_event"):
                continue
            for policy in ("history", "depth", "reliability", "durability"):
                assert f"qos_overrides.{topic}.publisher.{policy}" in parameters

    def test_inputs_too(self, mapper):
        mapper.trigger_activate()
        parameters = set(mapper._parameters)
        for topic in ("/left/image_raw", "/left/camera_info"):
            assert f"qos_overrides.{topic}.subscription.reliability" in parameters

    def test_data_go_through_lifecycle_publishers(self, mapper):
        reports = {"/mapper/status", "/mapper/transition_event"}
        for publisher in mapper.publishers:
            if publisher.topic_name.startswith("/mapper/") and publisher.topic_name not in reports:
                assert isinstance(publisher, LifecyclePublisher), publisher.topic_name
                assert not publisher.is_activated


SUFFIXES = {"s": "_s", "ms": "_ms", "Hz": "_hz", "deg": "_deg", "MB": "_mb"}


def leaves(config, path=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}{field.name}.")
        elif field.metadata:
            yield f"{path}{field.name}", field.metadata, value


class TestParameters:
    @pytest.mark.parametrize("config", [MapperConfig, BagPlayerConfig, CameraSourceConfig])
    def test_names_are_snake_case_and_say_the_unit(self, config):
        for name, metadata, _ in leaves(config()):
            assert re.fullmatch(r"[a-z][a-z0-9_.]*", name)
            last = name.rsplit(".", 1)[-1]
            suffix = SUFFIXES.get(metadata["unit"])
            # frames per second have a name of their own
            assert suffix is None or last.endswith((suffix, f"{suffix}_sigma")) or last == "fps"

    def test_every_one_is_described_with_its_range(self, mapper):
        known = {name: metadata for name, metadata, _ in leaves(MapperConfig())}
        seen = 0
        for name in mapper._parameters:
            if name.startswith(NOT_OURS):
                continue
            descriptor = mapper.describe_parameter(name)
            assert descriptor.description, name
            metadata = known.get(name)
            if metadata is None:  # camera.<name>.*
                continue
            seen += 1
            is_number = metadata["low"] is not None or metadata["high"] is not None
            ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
            assert len(ranges) == is_number, name
            if is_number and metadata["low"] is not None:
                assert ranges[0].from_value == metadata["low"]
        assert seen == len(known)


def test_diagnostics_come_once_a_second_with_their_hardware(start, observer, stub, until):
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    start(stub, LEFT)
    until(lambda: len(diagnostics) >= 6, what="six messages")
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in diagnostics]
    assert np.median(np.diff(stamps)) == pytest.approx(1.0, abs=0.2)
    for status in diagnostics[-1].status:
        assert status.hardware_id in ("mapper", "left")
        assert status.name.startswith("mapper")
        assert status.message


def test_reports_go_on_while_the_simulated_clock_stands_still(start, observer, stub, until):
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    status = observer.listen(MapStatus, "/mapper/status")
    start(stub, {**LEFT, "use_sim_time": "true"})
    until(lambda: len(diagnostics) >= 2 and len(status) >= 2, what="reports without a /clock")


def test_compressed_images_are_taken_as_they_are(start, observer, stub, until):
    """A remapping of x does not remap x/compressed: it is appended to the resolved name."""
    maps = observer.listen(PointCloud2, "/mapper/map", STATIC)
    start(
        stub,
        {**LEFT, "camera.left.transport": "compressed", "publish.map_rate_hz": 10.0},
        arguments=["--ros-args", "-r", "left/image_raw:=/driver/color"],
    ).wait_for("activate: done")
    publisher = observer.node.create_publisher(CompressedImage, "/driver/color/compressed", 10)
    until(publisher.get_subscription_count, what="subscription of the remapped topic")
    message = CompressedImage(format="rgb8; jpeg compressed bgr8")
    _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))
    message.data = array.array("B", jpeg.tobytes())
    message.header.stamp, message.header.frame_id = time_message(10**18), "lens"
    publisher.publish(message)
    until(lambda: maps and maps[-1].width, what="a map from a JPEG")


def test_who_has_a_parent_gets_no_second_one(start, observer, stub, until):
    """REP-105: a URDF under base_link, odometry and a localisation of the robot's own."""
    rotation = np.eye(3)
    own = StaticBroadcaster(observer.node)
    chain = [("map", "odom"), ("odom", "base_link"), ("base_link", "left_lens")]
    own.send([transform_message(Rigid3(rotation, [1, 0, 0]), *edge, 0) for edge in chain])
    mapper = start(stub, {**LEFT, "calibration_wait_s": 3.0})
    mapper.wait_for("activate: done")
    maps = observer.listen(PointCloud2, "/mapper/map", STATIC)
    static = observer.listen(TFMessage, "/tf_static", STATIC)
    moving = observer.listen(TFMessage, "/tf")
    publisher = observer.node.create_publisher(Image, "/left/image_raw", 10)
    until(publisher.get_subscription_count, what="subscription")
    sent = iter(range(1000))

    def mapped():
        publisher.publish(picture(next(sent)))
        time.sleep(0.1)
        return maps and maps[-1].width

    until(mapped, what="a map")
    time.sleep(0.5)
    edges = {
        (t.header.frame_id, t.child_frame_id) for m in [*static, *moving] for t in m.transforms
    }
    parents = {}
    for parent, child in edges:
        assert parents.setdefault(child, parent) == parent, f"{child} has two parents"
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output


# Keys of rosdistro's rosdep/python.yaml, for Ubuntu 22.04 and later.
ROSDEP = {
    *("python3-numba", "python3-numpy", "python3-opencv", "python3-tqdm", "python3-yaml"),
    *("python3-pytest", "python3-pytest-timeout"),
}


class TestPackage:
    """package.xml format 3 with real keys, a changelog, the linters of ament."""

    def test_keys(self, repository):
        root = ElementTree.parse(repository / "package.xml").getroot()
        assert root.get("format") == "3"
        keys = {e.text for e in root if e.tag.endswith("depend")}
        assert {key for key in keys if key.startswith("python")} == ROSDEP
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in keys - ROSDEP)

    def test_linters_of_ament_run_in_colcon_test(self, repository):
        root = ElementTree.parse(repository / "package.xml").getroot()
        tests = {e.text for e in root.findall("test_depend")}
        assert {"ament_lint_auto", "ament_cmake_flake8", "ament_cmake_xmllint"} <= tests
        text = (repository / "CMakeLists.txt").read_text()
        assert "ament_lint_auto_find_test_dependencies()" in text
        assert re.search(r"ament_add_pytest_test\(pytest test TIMEOUT \d{3,}\)", text)

    def test_the_changelog_is_in_the_form_of_catkin(self, repository):
        text = (repository / "CHANGELOG.rst").read_text()
        title = "Changelog for package vggt_ros"
        lines = text.splitlines()
        assert title in lines
        assert lines[lines.index(title) + 1] == "^" * len(title)
        assert re.search(r"^(Forthcoming|\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\))\n-+$", text, re.M)


def test_every_test_that_the_conventions_name_is_there(repository):
    text = (repository / "docs" / "conventions.md").read_text()
    named = re.findall(r"`(test/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?`", text)
    assert len(named) > 40
    for file, *names in named:
        content = Path(repository / file).read_text()
        for name in names:
            assert not name or re.search(rf"^\s*(def|class) {name}\b", content, re.M), (file, name)
