"""The mapper as a process, seen by another process through rclpy alone."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from vggt_ros.msg import MapStatus
from vggt_ros.nodes.conversions import cloud_from_message, image_message
from vggt_ros.srv import ExportMap

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PLAYER = "vggt_ros.nodes.bag_player"
# Room for a whole bag: on a busy machine the images may come faster than they are taken.
PATIENT = {
    "ingest.queue_size": 100,
    "ingest.silent_after_s": 0.0,
    "qos_overrides./left/image_raw.subscription.depth": 100,
    "qos_overrides./right/image_raw.subscription.depth": 100,
}
CAMERAS = {"cameras": "[left, right]", "autostart": "true"}


def test_map_transforms_status_and_export_from_a_bag(
    start, observer, stub, make_bag, rig_poses, until, tmp_path
):
    depth = observer.listen(Image, "/mapper/left/depth/image")
    info = observer.listen(CameraInfo, "/mapper/left/depth/camera_info")
    points = observer.listen(PointCloud2, "/mapper/points")
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    mapper = start(stub, {**CAMERAS, **PATIENT, "publish.map_rate_hz": 10.0})
    mapper.wait_for("activate: done")
    player = start(PLAYER, {"bag": make_bag(tmp_path / "bag", sets=30)})
    assert player.wait(90.0) == 0, player.output
    until(lambda: status and status[-1].sets_used == 30, what="30 sets in the status")

    # all of these joined late, after everything was published
    maps = observer.listen(PointCloud2, "/mapper/map", LATCHED)
    markers = observer.listen(MarkerArray, "/mapper/cameras", LATCHED)
    static = observer.listen(TFMessage, "/tf_static", STATIC)
    until(lambda: maps and markers and static, what="latched map, markers, transforms")
    assert maps[-1].header.frame_id == "map"
    assert [f.name for f in maps[-1].fields] == ["x", "y", "z", "rgb", "confidence"]
    cloud = cloud_from_message(maps[-1])
    assert len(cloud) == 3000
    assert cloud.colours[0].tolist() == [10, 20, 30]
    assert {m.text for m in markers[-1].markers} == {"", "left", "right"}
    # map -> base_link, for the cameras have a parent in the tf of the bag
    transform = static[-1].transforms[0]
    assert (transform.header.frame_id, transform.child_frame_id) == ("map", "base_link")
    assert len(static[-1].transforms) == 1
    assert transform.transform.translation.z == pytest.approx(1.0)

    last = status[-1]
    assert last.state == MapStatus.STATE_MAPPING
    assert last.is_metric
    assert last.scale_source == "rig"
    assert [c.name for c in last.cameras] == ["left", "right"]
    assert all(c.registered and c.alignment_accepted for c in last.cameras)
    assert last.cameras[0].received == 30
    position = last.cameras[1].map_from_camera.position
    expected = rig_poses["right"].translation + [0, 0, 1]
    np.testing.assert_allclose([position.x, position.y, position.z], expected, atol=1e-9)
    assert points
    assert depth
    assert info
    assert depth[-1].encoding == "32FC1"
    values = np.frombuffer(depth[-1].data, np.float32).reshape(48, 64)
    assert np.isnan(values[0]).all()
    assert (values[1:] == 2.0).all()
    assert depth[-1].header.frame_id == info[-1].header.frame_id == "left_optical"
    assert info[-1].k[0] == 60.0
    assert diagnostics[-1].status[0].hardware_id == "mapper"

    path = tmp_path / "map.ply"
    answer = observer.call(ExportMap, "/mapper/export_map", ExportMap.Request(path=str(path)))
    assert answer.success, answer.message
    assert answer.num_points == 3000
    assert list(answer.files) == [str(path), f"{path}.config.yaml"]
    assert "cameras: [left, right]" in Path(answer.files[1]).read_text()
    assert path.read_bytes().startswith(b"ply\n")
    request = ExportMap.Request(path=str(tmp_path / "cameras.tum"), format="tum")
    answer = observer.call(ExportMap, "/mapper/export_map", request)
    assert answer.success, answer.message
    assert answer.num_points == 2
    request = ExportMap.Request(path=str(tmp_path / "report.json"), format="report")
    answer = observer.call(ExportMap, "/mapper/export_map", request)
    assert answer.success, answer.message
    assert json.loads((tmp_path / "report.json").read_text())["sets"]["received"] == 30
    request = ExportMap.Request(path=str(tmp_path / "missing" / "map.ply"))
    answer = observer.call(ExportMap, "/mapper/export_map", request)
    assert not answer.success
    assert "does not exist" in answer.message

    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output


def change(observer, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return observer.call(ChangeState, "/mapper/change_state", request, 30.0).success


def state(observer):
    return observer.call(GetState, "/mapper/get_state", GetState.Request()).current_state.label


def ask(observer, service, kind=Trigger, **fields):
    return observer.call(kind, f"/mapper/{service}", kind.Request(**fields))


def test_lifecycle_services_and_states(start, observer, stub, make_bag, until, tmp_path):
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    mapper = start(stub, {"cameras": "[left, right]", **PATIENT, "publish.map_rate_hz": 10.0})
    assert state(observer) == "unconfigured"
    for service, kind, fields in (
        ("bootstrap", Trigger, {}),
        ("reset", Trigger, {}),
        ("pause", SetBool, {"data": True}),
        ("export_map", ExportMap, {"path": str(tmp_path / "map.ply")}),
    ):
        answer = ask(observer, service, kind, **fields)
        assert not answer.success
        assert "unconfigured" in answer.message
    until(lambda: status and status[-1].state == MapStatus.STATE_UNCONFIGURED)
    assert change(observer, Transition.TRANSITION_CONFIGURE)
    for service, kind, fields in (
        ("bootstrap", Trigger, {}),
        ("pause", SetBool, {"data": True}),
    ):
        answer = ask(observer, service, kind, **fields)
        assert not answer.success
        assert "inactive" in answer.message
    answer = ask(observer, "export_map", ExportMap, path=str(tmp_path / "map.ply"))
    assert not answer.success
    assert "no map yet" in answer.message
    assert change(observer, Transition.TRANSITION_ACTIVATE)
    until(
        lambda: status and status[-1].state == MapStatus.STATE_BOOTSTRAPPING, what="bootstrapping"
    )

    # a camera that never sends is an error in the diagnostics and holds the map up
    until(
        lambda: diagnostics and diagnostics[-1].status[2].level == DiagnosticStatus.ERROR,
        what="error of a silent camera",
    )
    assert diagnostics[-1].status[2].name == "mapper: camera right"
    assert "no image ever came on /right/image_raw" in diagnostics[-1].status[2].message

    bag = make_bag(tmp_path / "bag", sets=10)
    player = start(PLAYER, {"bag": bag})
    assert player.wait(90.0) == 0, player.output
    until(lambda: status and status[-1].state == MapStatus.STATE_MAPPING, what="mapping")
    maps = observer.listen(PointCloud2, "/mapper/map", LATCHED)
    until(
        lambda: maps and maps[-1].width == 1000,
        what=lambda: f"map of all sets; the status says {status[-1]}",
    )

    assert ask(observer, "pause", SetBool, data=True).success
    until(lambda: status and status[-1].state == MapStatus.STATE_PAUSED, what="paused")
    assert ask(observer, "pause", SetBool, data=False).success
    until(lambda: status and status[-1].state == MapStatus.STATE_MAPPING, what="mapping again")

    # deactivate keeps the map, activate publishes it again
    assert change(observer, Transition.TRANSITION_DEACTIVATE)
    until(lambda: status and status[-1].state == MapStatus.STATE_INACTIVE, what="inactive")
    assert ask(
        observer, "export_map", ExportMap, path=str(tmp_path / "kept.pcd"), format="pcd"
    ).success
    count = len(maps)
    assert change(observer, Transition.TRANSITION_ACTIVATE)
    until(lambda: len(maps) > count, what="map again after activate")
    assert maps[-1].width == 1000

    # reset publishes an empty map and starts again
    assert ask(observer, "reset").success
    until(lambda: maps[-1].width == 0, what="empty map")
    until(
        lambda: status and status[-1].state == MapStatus.STATE_BOOTSTRAPPING,
        what="bootstrapping again",
    )
    assert not status[-1].cameras[0].registered

    # cleaned up, nothing stays latched; a second round works
    assert change(observer, Transition.TRANSITION_DEACTIVATE)
    assert change(observer, Transition.TRANSITION_CLEANUP)
    late = observer.listen(TFMessage, "/tf_static", STATIC)
    time.sleep(0.5)
    assert not late
    assert change(observer, Transition.TRANSITION_CONFIGURE)
    assert change(observer, Transition.TRANSITION_ACTIVATE)
    player = start(PLAYER, {"bag": bag})
    assert player.wait(90.0) == 0, player.output
    until(
        lambda: maps[-1].width == 1000,
        what=lambda: f"second map of all sets; the status says {status[-1]}",
    )
    mapper.interrupt(signal.SIGTERM)
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output


def test_failed_configure_says_why_and_can_be_repeated(start, observer, stub):
    mapper = start(stub, {"cameras": "[left]"}, env={"VGGT_ROS_STUB": "no_prepare"})
    assert not change(observer, Transition.TRANSITION_CONFIGURE)
    assert state(observer) == "unconfigured"
    mapper.wait_for("configure failed: the stub was asked not to prepare")
    assert not change(observer, Transition.TRANSITION_CONFIGURE)


def test_autostart_ends_the_process_when_configure_fails(start, stub):
    mapper = start(
        stub, {"cameras": "[left]", "autostart": "true"}, env={"VGGT_ROS_STUB": "no_prepare"}
    )
    assert mapper.wait() == 1
    assert "the stub was asked not to prepare" in mapper.output


def test_bootstrap_failure_is_shown_and_counted(start, observer, stub, make_bag, until, tmp_path):
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    start(stub, CAMERAS, env={"VGGT_ROS_STUB": "fail"}).wait_for("activate: done")
    player = start(PLAYER, {"bag": make_bag(tmp_path / "bag", sets=30)})
    until(lambda: status and status[-1].state == MapStatus.STATE_FAILED, what="failed")
    assert "1 of 2 cameras registered" in status[-1].detail
    assert any(d.reason == "bootstrap failed" and d.count for d in status[-1].dropped)
    until(
        lambda: diagnostics and diagnostics[-1].status[0].level == DiagnosticStatus.ERROR,
        what="diagnostics error",
    )
    assert "1 of 2 cameras registered" in diagnostics[-1].status[0].message
    assert player.wait(90.0) == 0


@pytest.mark.slow
def test_cameras_without_tf_hang_under_map(start, observer, stub, make_bag, until, tmp_path):
    parameters = {**CAMERAS, "calibration_wait_s": 0.5}
    start(stub, parameters).wait_for("activate: done")
    static = observer.listen(TFMessage, "/tf_static", STATIC)
    bag = make_bag(tmp_path / "bag", sets=20, tf=False, info=False)
    assert start(PLAYER, {"bag": bag}).wait(40.0) == 0
    until(lambda: static, what="transforms")
    found = {(t.header.frame_id, t.child_frame_id) for t in static[-1].transforms}
    assert found == {("map_unscaled", "left_optical"), ("map_unscaled", "right_optical")}
    maps = observer.listen(PointCloud2, "/mapper/map", LATCHED)
    markers = observer.listen(MarkerArray, "/mapper/cameras", LATCHED)
    until(lambda: maps and markers, what="latched map and markers")
    assert maps[-1].header.frame_id == "map_unscaled"
    assert markers[-1].markers[-1].header.frame_id == "map_unscaled"
    status = observer.listen(MapStatus, "/mapper/status")
    until(lambda: status, what="status")
    assert not status[-1].is_metric
    assert status[-1].scale_source == "none"
    assert status[-1].header.frame_id == "map_unscaled"


def test_looped_bag_with_sim_time_resets(start, observer, stub, make_bag, until, tmp_path):
    status = observer.listen(MapStatus, "/mapper/status")
    mapper = start(stub, {**CAMERAS, "use_sim_time": "true"})
    mapper.wait_for("activate: done")
    bag = make_bag(tmp_path / "bag", sets=15)
    player = start(PLAYER, {"bag": bag, "loop": "true", "clock": "true"})
    mapper.wait_for("jumped back: scene and map are reset", 30.0)
    until(
        lambda: status and status[-1].state == MapStatus.STATE_MAPPING,
        what="mapping after the jump",
    )
    player.interrupt()
    assert player.wait() == 0, player.output


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("INT", 0.0),
        pytest.param("INT", 0.3, marks=pytest.mark.slow),
        pytest.param("TERM", 0.05, marks=pytest.mark.slow),
    ],
)
def test_two_signals_end_with_zero(start, stub, first, second):
    mapper = start(stub, CAMERAS, env={"VGGT_ROS_STUB": "slow"})
    mapper.wait_for("activate: done")
    mapper.interrupt(getattr(signal, f"SIG{first}"))
    time.sleep(second)
    if mapper.popen.poll() is None:
        mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output


SAYS_WHEN_SIGNALS_ARE_CAUGHT = """
from vggt_ros.nodes import mapper, process
catch = process.catch_signals
def catch_and_say():
    stop = catch()
    print("signals are caught", flush=True)
    return stop
process.catch_signals = catch_and_say
mapper.main()
"""


@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_signals_while_importing_end_with_zero(start, tmp_path, delay):
    script = tmp_path / "early.py"
    script.write_text(SAYS_WHEN_SIGNALS_ARE_CAUGHT)
    mapper = start(script, {"cameras": "[left]"})
    mapper.wait_for("signals are caught")
    time.sleep(delay)
    mapper.interrupt()
    time.sleep(0.1)
    if mapper.popen.poll() is None:
        mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output


def test_signals_while_configuring_end_with_zero(start, stub):
    mapper = start(stub, CAMERAS, env={"VGGT_ROS_STUB": "slow_prepare"})
    mapper.wait_for("configuration:")
    mapper.interrupt()
    time.sleep(0.1)
    if mapper.popen.poll() is None:
        mapper.interrupt()
    assert mapper.wait(20.0) == 0, mapper.output  # earlier than the end of preparing
    assert "Traceback" not in mapper.output


def test_parameters_at_run_time(start, observer, stub):
    mapper = start(stub, CAMERAS)
    mapper.wait_for("activate: done")

    def set_parameter(name, value):
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        return observer.call(SetParameters, "/mapper/set_parameters", request).results[0]

    assert set_parameter("publish.map_rate_hz", 5.0).successful
    assert set_parameter("map.min_hits", 1).successful
    for name, value, reason in (
        ("map.voxel_m", 0.05, "cannot change while the node is configured"),
        ("publish.map_rate_hz", 1000.0, ""),
        ("cameras", ["left"], ""),
    ):
        answer = set_parameter(name, value)
        assert not answer.successful
        assert reason in answer.reason
    assert change(observer, Transition.TRANSITION_DEACTIVATE)
    assert change(observer, Transition.TRANSITION_CLEANUP)
    assert set_parameter("map.voxel_m", 0.05).successful
    request = DescribeParameters.Request(names=["map.voxel_m", "publish.points"])
    voxel, points = observer.call(
        DescribeParameters, "/mapper/describe_parameters", request
    ).descriptors
    assert voxel.description == "surfels of one cell of this size are merged [m]"
    assert voxel.floating_point_range[0].to_value == 10.0
    assert "unconfigured" in voxel.additional_constraints
    assert points.additional_constraints == ""
    assert change(observer, Transition.TRANSITION_CONFIGURE)
    mapper.wait_for("'voxel_m': 0.05")
    assert "internal error" not in mapper.output


@pytest.mark.parametrize("reliability", ["RELIABLE", "BEST_EFFORT"])
def test_drivers_of_either_reliability_are_heard(start, observer, stub, until, reliability):
    mapper = start(stub, {"cameras": "[left]", "autostart": "true"})
    mapper.wait_for("activate: done")
    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability])
    publisher = observer.node.create_publisher(Image, "/left/image_raw", profile)
    status = observer.listen(MapStatus, "/mapper/status")
    message = image_message(np.zeros((48, 64, 3), np.uint8), "rgb8", 10**9, "left_optical")

    def heard():
        publisher.publish(message)
        time.sleep(0.1)
        return status and status[-1].cameras[0].received > 2

    until(heard, what="images in the status")
    adapted = "/left/image_raw is best effort: subscribed as best effort" in mapper.output
    assert adapted == (reliability == "BEST_EFFORT")
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output


def test_an_override_of_the_reliability_is_obeyed(start, observer, stub, until):
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    override = "qos_overrides./left/image_raw.subscription.reliability"
    mapper = start(stub, {"cameras": "[left]", "autostart": "true", override: "reliable"})
    mapper.wait_for("activate: done")
    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    observer.node.create_publisher(Image, "/left/image_raw", profile)
    mapper.wait_for("a publisher of /left/image_raw offers an incompatible QoS (RELIABILITY")
    until(
        lambda: diagnostics and "incompatible QoS" in diagnostics[-1].status[1].message,
        what="incompatible QoS in the diagnostics",
    )
