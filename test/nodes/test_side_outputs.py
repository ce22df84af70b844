"""Changed blocks and grids as messages, and when they are made; without a process."""

import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSPolicyKind

from vggt_ros.config import Config, CropConfig, MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.occupancy import OccupancyGrid
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.updates import HEADER, UpdatePart
from vggt_ros.nodes import conversions
from vggt_ros.nodes.outputs import Outputs
from vggt_ros.nodes.qos_events import QosReport
from vggt_ros.nodes.side_outputs import SideOutputs, grid_message, update_message
from vggt_ros.types import (
    DepthAlignment,
    DepthKind,
    DepthMap,
    PointCloud,
    ScaleEstimate,
    ScaleSource,
)

MODEL = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)


def test_an_update_is_read_like_any_cloud():
    points = np.array([[np.nan, 3, np.nan], [1, 2, 3], [4, 5, 6], [np.nan] * 3], np.float32)
    colours = np.array([[0, 0, 0], [1, 2, 3], [250, 128, 7], [0, 0, 0]], np.uint8)
    sure = np.array([0, 0.25, 1, 0], np.float32)
    blocks = np.array([HEADER, 5, 5, 70000], np.uint32)
    message = update_message(UpdatePart(3, points, colours, sure, blocks), 5 * 10**9, "map")
    assert (message.width, message.point_step, message.row_step) == (4, 24, 96)
    assert not message.is_dense
    assert (message.header.frame_id, message.header.stamp.sec) == ("map", 5)
    cloud = conversions.cloud_from_message(message)
    np.testing.assert_array_equal(cloud.points, points)
    np.testing.assert_array_equal(cloud.colours, colours)
    np.testing.assert_array_equal(cloud.confidence, sure)
    assert [(f.name, f.offset, f.datatype) for f in message.fields][-1] == ("block", 20, 6)
    words = np.frombuffer(message.data, "<u4").reshape(4, 6)
    np.testing.assert_array_equal(words[:, 5], blocks)


def test_a_grid_runs_along_x_first():
    cells = np.array([[0, 100, -1], [-1, 0, 0]], np.int8)
    message = grid_message(OccupancyGrid(cells, -1.5, 0.25, 0.05, -0.4), 10**9, "map")
    assert (message.info.width, message.info.height) == (3, 2)
    assert list(message.data) == [0, 100, -1, -1, 0, 0]
    origin = message.info.origin
    assert (origin.position.x, origin.position.y, origin.position.z) == (-1.5, 0.25, -0.4)
    assert origin.orientation.w == 1.0
    assert message.info.resolution == pytest.approx(0.05)


class Publisher:
    def __init__(self, event_callbacks=None, **_):
        self.listeners, self.messages = 0, []
        self.events, self.topic_name = event_callbacks, "/mapper/topic"

    def get_subscription_count(self):
        return self.listeners

    def publish(self, message):
        self.messages.append(message)


class Worker:
    """Runs tasks at once, on a map of a plane."""

    def __init__(self, metric=True):
        self.map = SurfelMap(MapConfig(min_hits=1))
        self.metric = metric
        self.tasks = 0
        scene = SimpleNamespace(
            map_from_camera={"left": Rigid3.identity()},
            cameras={"left": MODEL},
            map_from_rig=None,
            scale=ScaleEstimate(1.0, 0.01, ScaleSource.RIG if metric else ScaleSource.NONE),
        )
        self.pipeline = SimpleNamespace(
            map=self.map, scene=scene, path=list, corrections=0, cloud=self.cloud
        )
        self.health = SimpleNamespace(stamp_ns=7)

    def cloud(self):
        cloud = self.map.cloud()
        return PointCloud(
            cloud.points, cloud.colours, cloud.normals, cloud.confidence, "map", self.metric
        )

    def see(self, depth, shift=0.0):
        depth = np.full((48, 64), depth, np.float32)
        alignment = DepthAlignment("left", DepthKind.TRIANGULATED, 1, 0, 1, 0, 0, True)
        rgb = np.full((48, 64, 3), 99, np.uint8)
        pose = Rigid3(np.eye(3), [shift, 0, 0])
        self.map.fuse(
            [DepthMap("left", 0, depth, np.ones_like(depth), rgb, MODEL, pose, alignment)]
        )

    def post(self, task):
        self.tasks += 1
        task()


@pytest.fixture
def make():
    made = []

    def side_outputs(worker, **config):
        node = SimpleNamespace(
            create_lifecycle_publisher=lambda *_, **events: Publisher(**events),
            destroy_lifecycle_publisher=lambda _: None,
        )
        settings = Config(map=MapConfig(min_hits=1), **config)
        qos_report = QosReport(logging.getLogger("test"))
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        outputs = SideOutputs(node, settings, lambda: worker, None, clock, qos_report)
        made.append(outputs)
        return outputs, outputs._update_publisher, outputs._grid_publisher

    yield side_outputs
    for outputs in made:
        assert outputs.close()


def number_of(message):
    return int(conversions.cloud_from_message(message).points[0, 1])


def wait_for(condition):
    limit = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_nothing_is_copied_without_a_subscriber_and_a_new_one_gets_everything(make):
    worker = Worker()
    worker.see(1.0)
    outputs, updates, _ = make(worker)
    outputs._tick_update()
    outputs._tick_grid()
    assert worker.tasks == 0
    updates.listeners = 1
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 1)
    assert number_of(updates.messages[0]) == 0
    assert updates.messages[0].width == 1 + worker.map.size
    outputs._tick_update()  # nothing new
    worker.see(1.0, shift=2.0)
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 2)
    assert number_of(updates.messages[1]) == 1
    assert updates.messages[1].width < 1 + worker.map.size
    updates.listeners = 2
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 3)
    assert number_of(updates.messages[2]) == 0
    outputs._complete_at_s = -1e9  # long ago
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 4)
    assert number_of(updates.messages[3]) == 0


def test_another_map_or_filter_begins_anew(make):
    worker = Worker()
    worker.see(1.0)
    outputs, updates, _ = make(worker)
    updates.listeners = 1
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 1)
    crop = CropConfig(True, -0.1, -0.1, 0.0, 0.1, 0.1, 2.0)
    outputs.set_config(Config(map=MapConfig(min_hits=1), crop=crop))
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 2)
    assert number_of(updates.messages[1]) == 0
    points = conversions.cloud_from_message(updates.messages[1]).points[1:]
    assert len(points)
    assert np.abs(points[:, :2]).max() <= 0.1
    worker.pipeline.map = SurfelMap(MapConfig(min_hits=1))  # loaded, say
    outputs._tick_update()
    wait_for(lambda: len(updates.messages) == 3)
    assert number_of(updates.messages[2]) == 0
    assert updates.messages[2].width == 1


def test_what_prevents_a_grid_is_logged_once(make, caplog):
    worker = Worker(metric=False)
    worker.see(1.0)
    outputs, _, grids = make(worker)
    grids.listeners = 1
    for _ in range(3):
        outputs._tick_grid()
        wait_for(lambda: not outputs._thread._slots)
    wait_for(lambda: caplog.text.count("~/occupancy is not published") == 1)
    assert "expected a metric map, got an unscaled one" in caplog.text
    assert not grids.messages


def test_what_was_free_is_forgotten_with_the_map(make):
    worker = Worker()
    worker.see(1.0)
    from vggt_ros.config import OccupancyConfig

    heights = OccupancyConfig(height_from="map", min_height_m=-0.2, max_height_m=0.9)
    outputs, _, grids = make(worker, occupancy=heights)
    grids.listeners = 1
    outputs._tick_grid()
    wait_for(lambda: len(grids.messages) == 1)
    assert list(grids.messages[0].data).count(0) > 0
    worker.pipeline.map.clear()
    worker.pipeline.scene.cameras.clear()
    outputs.cleared()
    wait_for(lambda: len(grids.messages) == 2)
    assert set(grids.messages[1].data) == {-1}  # what is latched is of the map before
    assert grids.messages[1].info == grids.messages[0].info
    outputs.republish()  # it may have been cleared while inactive
    wait_for(lambda: len(grids.messages) == 3)
    outputs._tick_grid()
    wait_for(lambda: len(grids.messages) == 4)
    assert list(grids.messages[3].data).count(0) == 0
    outputs.republish()
    assert not outputs._thread._slots


def test_every_keyframe_since_the_last_grid_shows_what_is_free(make, monkeypatch):
    worker = Worker()
    worker.see(1.0)
    worker.pipeline.scene = None
    outputs, _, _ = make(worker)
    path = []
    worker.pipeline.path = lambda: path
    worker.pipeline.scene = SimpleNamespace(
        cameras={}, map_from_camera={}, scale=ScaleEstimate(1.0, 0.01, ScaleSource.RIG)
    )
    used = []

    def at_the_end(scene, places):
        used.append(places[0][0])
        return scene

    monkeypatch.setattr("vggt_ros.pipeline.archive.scene_at_the_end", at_the_end)

    def stamps(*new):
        path.extend((s, Rigid3.identity()) for s in new)
        used.clear()
        outputs._copy_seen(worker)
        return sorted(used)

    assert stamps(1, 2, 3) == [1, 2, 3]
    assert stamps(4, 5) == [4, 5]
    assert stamps() == [5]
    assert len(stamps(*range(6, 206))) <= 24
    outputs.cleared()
    path.clear()
    assert stamps(2) == [2]


def test_errors_and_greedy_subscribers_are_told(make):
    outputs, _, grids = make(Worker())
    event = SimpleNamespace(last_policy_kind=QoSPolicyKind.DURABILITY)
    grids.events.incompatible_qos(event)
    assert "/mapper/topic" in outputs._qos_report.texts
    assert outputs.errors == 0
    outputs._thread.put("update", "nonsense")
    outputs._thread.put("occupancy", "nonsense")
    wait_for(lambda: outputs.errors)


def test_clouds_are_cropped():
    crop = CropConfig(True, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    points = np.float32([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [0.5, -0.5, 0.5]])
    outputs = SimpleNamespace(config=Config(crop=crop))
    cloud = Outputs._cropped(outputs, PointCloud(points, np.zeros((3, 3), np.uint8)))
    np.testing.assert_array_equal(cloud.points, points[:1])


def test_the_costmap_of_nav2_takes_what_is_published(repository):
    text = (repository / "config" / "nav2_costmap.yaml").read_text()
    content = yaml.safe_load(text)
    layers = content["global_costmap"]["global_costmap"]["ros__parameters"]
    assert layers["static_layer"]["map_topic"] == "/mapper/occupancy"
    assert layers["static_layer"]["map_subscribe_transient_local"] is True
    layers = content["local_costmap"]["local_costmap"]["ros__parameters"]
    source = layers["voxel_layer"]["cameras"]
    assert (source["topic"], source["data_type"]) == ("/mapper/points", "PointCloud2")


@pytest.mark.parametrize("slot", ["scene", "place"])
def test_the_cameras_of_a_map_that_is_no_more_are_deleted(slot):
    outputs = Outputs.__new__(Outputs)
    outputs.config, outputs._places, outputs._cameras_slot = Config(), None, slot
    outputs._scene, outputs._map, outputs._path, outputs._no_cameras = None, None, None, False
    outputs._cameras_publisher = Publisher()
    put = []
    outputs._thread = SimpleNamespace(put=lambda *what: put.append(what))
    outputs.cleared()
    assert put == []  # there were none
    scale = ScaleEstimate(1.0, 0.01, ScaleSource.RIG)
    outputs._scene = SimpleNamespace(scale=scale), 5
    outputs.cleared()
    outputs.republish()
    assert put == [(slot, None)] * 2
    {"scene": outputs._publish_scene, "place": outputs._publish_cameras}[slot](None)
    (marker,) = outputs._cameras_publisher.messages[0].markers
    assert marker.action == marker.DELETEALL
