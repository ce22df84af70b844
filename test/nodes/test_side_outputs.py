"""Changed blocks and grids as messages, and when they are made; without a process."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rclpy.clock import Clock, ClockType

from vggt_ros.config import Config, CropConfig, MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.occupancy import OccupancyGrid
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.updates import HEADER, UpdatePart
from vggt_ros.nodes import conversions
from vggt_ros.nodes.outputs import Outputs
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
    def __init__(self):
        self.listeners, self.messages = 0, []

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
            create_lifecycle_publisher=lambda *_, **__: Publisher(),
            destroy_lifecycle_publisher=lambda _: None,
        )
        settings = Config(map=MapConfig(min_hits=1), **config)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        outputs = SideOutputs(node, settings, lambda: worker, None, clock)
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
    outputs._tick_grid()
    wait_for(lambda: len(grids.messages) == 2)
    assert list(grids.messages[1].data).count(0) == 0


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
