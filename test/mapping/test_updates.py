"""Changed blocks in numbered parts: a receiver that knows only them has the map exactly."""

import dataclasses

import numpy as np
import pytest

from vggt_ros.config import CropConfig, MapConfig
from vggt_ros.errors import ConfigError
from vggt_ros.geometry import CameraModel
from vggt_ros.mapping.interface import MapChanges
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.updates import HEADER, MapUpdates
from vggt_ros.types import PointCloud

ALL = CropConfig()


class Receiver:
    """What docs/conventions.md asks of one, on arrays."""

    def __init__(self):
        self.blocks = {}
        self.number = None
        self.lost = False

    def take(self, part):
        assert part.blocks[0] == HEADER
        number = int(part.points[0, 1])
        if number == 0:
            self.blocks, self.lost = {}, False
        elif self.number is None or number != self.number + 1:
            self.lost = True
        self.number = number
        for block in np.unique(part.blocks[1:]):
            rows = np.flatnonzero(part.blocks == block)
            kept = rows[np.isfinite(part.points[rows, 0])]
            self.blocks.pop(block, None)
            if len(kept):
                self.blocks[block] = (
                    part.points[kept], part.colours[kept], part.confidence[kept]
                )  # fmt: skip

    def column(self, k):
        shapes = ((0, 3), (0, 3), (0,))
        parts = [self.blocks[b][k] for b in sorted(self.blocks)]
        return np.concatenate([np.zeros(shapes[k], np.float32), *parts])


def assert_same(receiver, cloud):
    assert not receiver.lost
    np.testing.assert_array_equal(receiver.column(0), cloud.points)
    np.testing.assert_array_equal(receiver.column(1), cloud.colours)
    np.testing.assert_array_equal(receiver.column(2), cloud.confidence)


def drain(updates, receiver, most=10**9):
    count = 0
    while (part := updates.next_part(most)) is not None:
        receiver.take(part)
        count += 1
    return count


@pytest.mark.parametrize("most", [1000, 10**9])
def test_a_receiver_of_updates_has_the_map_exactly(world, most):
    """While things come, go and are carved, and the budget makes blocks move."""
    thing = ((-0.6, 0.0, 0.0), (0.2, 0.5, 1.7))
    with_thing = world.BoxScene(boxes=(*world.BoxScene().boxes, thing))
    surfel_map = SurfelMap(MapConfig(budget_mb=1.2))
    updates, receiver, since = MapUpdates(), Receiver(), None
    restarts = 0
    for k in range(12):
        scene = with_thing if 3 <= k < 6 else world.BoxScene()
        pose = world.rig[k % 4]
        model = CameraModel(80, 60, 55.0, 55.0, 39.5, 29.5)
        for _ in range(2):
            surfel_map.fuse([world.depth_map(scene, model, pose, 0.01, seed=k)])
        changes = surfel_map.changes(since, min_hits=2)
        since = changes.revision
        restarts += changes.complete
        updates.add(changes, ALL, 0.0)
        parts = drain(updates, receiver, most)
        assert parts >= 1
        assert_same(receiver, surfel_map.cloud(min_hits=2))
    assert restarts >= 1
    surfel_map.clear()
    updates.add(surfel_map.changes(since, min_hits=2), ALL, 0.0)
    drain(updates, receiver)
    assert receiver.blocks == {}
    assert receiver.number == 0


def changes_of(blocks, complete=False):
    """Changes from {block: points}."""
    parts = [np.asarray(points, np.float32).reshape(-1, 3) for points in blocks.values()]
    starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    points = np.concatenate([np.zeros((0, 3), np.float32), *parts])
    cloud = PointCloud(points, np.zeros(points.shape, np.uint8))
    return MapChanges(1, complete, np.array(list(blocks), np.int64), starts, cloud)


def test_parts_are_capped_and_newer_content_replaces_what_waits():
    updates, receiver = MapUpdates(), Receiver()
    blocks = {b: np.full((10, 3), b) for b in range(6)}
    updates.add(changes_of(blocks, complete=True), ALL, 0.0)
    part = updates.next_part(25)
    assert (part.number, len(part.points)) == (0, 1 + 30)
    receiver.take(part)
    updates.add(changes_of({4: np.full((3, 3), 9.0), 1: []}), ALL, 0.0)
    assert drain(updates, receiver, 25) == 1
    assert sorted(receiver.blocks) == [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(receiver.blocks[4][0], np.full((3, 3), 9.0))
    assert updates.next_part(25) is None


def test_an_emptied_block_is_one_point_that_is_none():
    updates = MapUpdates()
    updates.add(changes_of({7: [(1, 2, 3)]}, complete=True), ALL, 0.0)
    first = updates.next_part(100)
    assert first.blocks.tolist() == [HEADER, 7]
    assert np.isnan(first.points[0, 0])
    updates.add(changes_of({7: [], 8: []}), ALL, 0.0)  # nobody knows 8
    second = updates.next_part(100)
    assert (second.number, second.blocks.tolist()) == (1, [HEADER, 7])
    assert np.isnan(second.points[1]).all()
    updates.add(changes_of({7: []}), ALL, 0.0)
    assert updates.next_part(100) is None


def test_an_empty_map_is_told_too_and_a_lost_part_is_noticed():
    updates, receiver = MapUpdates(), Receiver()
    updates.add(changes_of({}, complete=True), ALL, 0.0)
    part = updates.next_part(100)
    assert (part.number, len(part.points)) == (0, 1)
    receiver.take(part)
    for b in range(3):
        updates.add(changes_of({b: [(b, 0, 0)]}), ALL, 0.0)
        part = updates.next_part(100)
        if b != 1:
            receiver.take(part)
    assert receiver.lost
    updates.add(changes_of({5: [(0, 0, 0)]}, complete=True), ALL, 0.0)
    drain(updates, receiver)
    assert not receiver.lost
    assert list(receiver.blocks) == [5]


def test_crop_and_cells():
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (3000, 3)).astype(np.float32)
    blocks = {0: points[:1000], 3: points[1000:]}
    crop = CropConfig(True, -1.0, -1.0, -0.5, 1.0, 1.0, 0.5)
    updates, receiver = MapUpdates(), Receiver()
    updates.add(changes_of(blocks, complete=True), crop, 0.0)
    drain(updates, receiver)
    low, high = np.float32([-1, -1, -0.5]), np.float32([1, 1, 0.5])
    for block, content in blocks.items():
        kept = content[((content >= low) & (content <= high)).all(axis=1)]
        np.testing.assert_array_equal(receiver.blocks[block][0], kept)
    updates.add(changes_of(blocks, complete=True), ALL, 0.5)
    drain(updates, receiver)
    for block, content in blocks.items():
        first = np.unique(np.floor(content / 0.5), axis=0, return_index=True)[1]
        np.testing.assert_array_equal(receiver.blocks[block][0], content[np.sort(first)])
    wrong = dataclasses.replace(crop, min_y=2.0)
    updates.add(changes_of(blocks), wrong, 0.0)
    with pytest.raises(ConfigError, match=r"crop\.min_y: expected less than crop\.max_y"):
        updates.next_part(10)
