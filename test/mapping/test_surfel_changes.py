"""Snapshots of what changed, files, and bounded growth of the surfel map."""

from __future__ import annotations

import dataclasses
import io
import json
import tracemalloc

import numpy as np
import pytest

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError, ExportError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.interface import MapChanges
from vggt_ros.mapping.map_file import read_map, write_map
from vggt_ros.mapping.surfel_map import SurfelMap


class Follower:
    """Keeps a copy of a map from its changes alone."""

    def __init__(self) -> None:
        self.blocks: dict[int, np.ndarray] = {}
        self.since: int | None = None

    def take(self, changes: MapChanges) -> None:
        if changes.complete:
            self.blocks.clear()
        for block, start, stop in zip(
            changes.blocks, changes.starts, changes.starts[1:], strict=False
        ):
            self.blocks[int(block)] = changes.cloud.points[start:stop]
        assert changes.starts[0] == 0
        assert changes.starts[-1] == len(changes.cloud)
        self.since = changes.revision

    @property
    def points(self) -> np.ndarray:
        parts = [self.blocks[block] for block in sorted(self.blocks)]
        return np.concatenate([np.zeros((0, 3), np.float32), *parts])


def room(world, k, noise=0.01):
    return [
        world.depth_map(world.BoxScene(), world.model, pose, noise, seed=10 * k + i)
        for i, pose in enumerate(world.rig)
    ]


def test_changes_alone_keep_an_exact_copy(world):
    thing = ((-0.6, 0.0, 0.0), (0.2, 0.5, 1.7))
    with_thing = world.BoxScene(boxes=(*world.BoxScene().boxes, thing))
    surfel_map, follower = SurfelMap(MapConfig()), Follower()
    follower.take(surfel_map.changes(None))
    assert len(follower.points) == 0
    for k in range(14):
        scene = with_thing if 3 <= k < 6 else world.BoxScene()
        for i, pose in enumerate(world.rig):  # one at a time, so that not all is always seen
            one = world.depth_map(scene, world.model, pose, 0.01, seed=10 * k + i)
            surfel_map.fuse([one])
            follower.take(surfel_map.changes(follower.since, min_hits=2))
            expected = surfel_map.cloud(min_hits=2).points
            np.testing.assert_array_equal(follower.points, expected)


def test_what_is_not_seen_is_not_sent_again(world):
    scene = world.BoxScene()
    surfel_map = SurfelMap(MapConfig())
    for _ in range(2):
        surfel_map.fuse([world.depth_map(scene, world.model, pose) for pose in world.rig])
    everything = surfel_map.changes(None)
    assert everything.complete
    assert len(everything.cloud) == surfel_map.size
    none = surfel_map.changes(everything.revision)
    assert not none.complete
    assert len(none.blocks) == len(none.cloud) == 0
    away = world.look_at((0.0, 1.0, 1.3), (0.0, -2.0, 1.3))
    added = surfel_map.fuse([world.depth_map(scene, world.model, away)]).added
    seen = surfel_map.changes(everything.revision)
    assert not seen.complete
    assert added <= len(seen.cloud) <= added + 2 * 256 + 0.2 * surfel_map.size
    surfel_map.clear()
    cleared = surfel_map.changes(seen.revision)
    assert cleared.complete
    assert len(cleared.cloud) == 0
    assert cleared.revision > seen.revision


def test_eviction_makes_the_next_changes_complete():
    surfel_map, follower = SurfelMap(MapConfig(budget_mb=1.0)), Follower()
    model = CameraModel(60, 45, 45.0, 45.0, 29.5, 22.0)
    complete = 0
    for k in range(30):
        pose = Rigid3(np.eye(3), np.array([3.0 * k, 0.0, 0.0]))
        surfel_map.fuse([of_depth(np.full((45, 60), 2.0), model, pose)])
        changes = surfel_map.changes(follower.since)
        complete += changes.complete
        follower.take(changes)
        np.testing.assert_array_equal(follower.points, surfel_map.cloud().points)
    assert 2 < complete < 30


def of_depth(depth, model, pose):
    from vggt_ros.types import DepthAlignment, DepthKind, DepthMap

    return DepthMap(
        "front", 0, depth.astype(np.float32), np.ones(depth.shape, np.float32),
        np.full((*depth.shape, 3), 90, np.uint8), model, pose,
        DepthAlignment("front", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True),
    )  # fmt: skip


def test_a_loaded_map_goes_on_as_the_saved_one(world, tmp_path):
    surfel_map = SurfelMap(MapConfig())
    for k in range(3):
        surfel_map.fuse(room(world, k), bootstrap=k == 0)
    path = tmp_path / "map.npz"
    surfel_map.save(path)
    other = SurfelMap(MapConfig())
    other.fuse(room(world, 50))
    before = other.changes(None).revision
    other.load(path)
    changes = other.changes(before)
    assert changes.complete
    np.testing.assert_array_equal(changes.cloud.points, surfel_map.cloud().points)
    for k in (3, 4):
        for each in (surfel_map, other):
            each.fuse(room(world, k))
    assert other.size == surfel_map.size
    mine, theirs = surfel_map.cloud(), other.cloud()
    for name in ("points", "colours", "normals", "confidence"):
        assert getattr(mine, name).tobytes() == getattr(theirs, name).tobytes()
    pose = world.rig[1]
    mine, theirs = (m.render(world.model, pose).depth for m in (surfel_map, other))
    assert mine.tobytes() == theirs.tobytes()
    with np.load(path) as archive:  # numpy alone can read it
        assert json.loads(archive["header"].tobytes())["kind"] == "surfel"
        assert archive["position"].shape[0] == 4


def test_empty_map_is_saved_and_loaded(tmp_path):
    surfel_map = SurfelMap(MapConfig())
    surfel_map.save(tmp_path / "map.npz")
    surfel_map.load(tmp_path / "map.npz")
    assert surfel_map.size == 0


def test_bad_files_are_errors_that_change_nothing(world, tmp_path):
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse(room(world, 0))
    good = tmp_path / "map.npz"
    surfel_map.save(good)
    data = good.read_bytes()
    before = surfel_map.cloud().points.tobytes()
    revision = surfel_map.revision

    def refused(error, match, content=None):
        path = tmp_path / "bad.npz"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(error, match=match):
            surfel_map.load(path)
        assert surfel_map.cloud().points.tobytes() == before
        assert surfel_map.revision == revision

    refused(SourceError, "no such file")
    refused(SourceError, "cut off", b"")
    refused(SourceError, "cut off", b"no map at all")
    for other in (np.zeros(3), [1]):  # one array alone, and a header that is no header
        file = io.BytesIO()
        if isinstance(other, list):
            np.savez(file, header=np.frombuffer(json.dumps(other).encode(), np.uint8))
        else:
            np.save(file, other)
        refused(SourceError, "something else", file.getvalue())
    for length in (100, len(data) // 2, len(data) - 10):
        refused(SourceError, "cut off", data[:length])
    for at in (1000, len(data) // 3, len(data) // 2):
        flipped = bytearray(data)
        flipped[at] ^= 0x40
        refused(SourceError, "cut off|damaged", bytes(flipped))
    header, arrays = read_map(good, "surfel", 1)
    bad = tmp_path / "bad.npz"
    rest = {key: value for key, value in header.items() if key not in ("kind", "version")}
    write_map(bad, "surfel", 2, rest, arrays)
    refused(SourceError, "version 1, got kind 'surfel' version 2")
    write_map(bad, "tsdf", 1, rest, arrays)
    refused(SourceError, "got kind 'tsdf'")
    write_map(bad, "surfel", 1, {**rest, "voxel_m": 0.5}, arrays)
    refused(ConfigError, "map.voxel_m")
    write_map(bad, "surfel", 1, {**rest, "view": "x"}, arrays)
    refused(SourceError, "count of views")
    write_map(bad, "surfel", 1, rest, {**arrays, "nx": arrays["nx"][:-1]})
    refused(SourceError, "'nx'")
    infinite = arrays["position"].copy()
    infinite[1, 5] = np.inf
    write_map(bad, "surfel", 1, rest, {**arrays, "position": infinite})
    refused(SourceError, "finite")
    small = SurfelMap(MapConfig(budget_mb=1.0))
    with pytest.raises(ConfigError, match="budget_mb"):
        small.load(good)


def test_failed_save_leaves_the_previous_file(world, tmp_path):
    surfel_map = SurfelMap(MapConfig())
    with pytest.raises(ExportError):
        surfel_map.save(tmp_path / "missing" / "map.npz")


def drive(sets: int) -> None:
    """Fuse sets while moving through far more space than the budget holds."""
    model = CameraModel(48, 36, 36.0, 36.0, 23.5, 17.5)
    config = MapConfig(budget_mb=2.0)
    surfel_map = SurfelMap(config)
    rng = np.random.default_rng(0)
    first = of_depth(np.full((36, 48), 2.0), model, Rigid3.identity())
    surfel_map.fuse([first], bootstrap=True)
    kept = len(surfel_map.cloud().points)
    sizes, peaks = [], []
    reached, _ = 0.0, tracemalloc.start()
    for k in range(sets):
        reached += 0.1
        noise = 1 + 0.01 * rng.normal(size=(36, 48))
        pose = Rigid3(np.eye(3), np.array([5.0 + reached % 200, 0.0, 0.0]))
        surfel_map.fuse([of_depth(2.0 * noise, model, pose)])
        assert surfel_map.memory_bytes <= 1.05 * config.budget_mb * 1e6
        if k % (sets // 20) == 0:
            sizes.append(surfel_map.size)
            surfel_map.render(model, pose)
            peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    half = len(peaks) // 2
    assert max(peaks[half:]) <= 1.05 * max(peaks[:half]) + 100_000
    assert max(sizes) <= surfel_map.capacity
    assert (surfel_map.cloud().points[:, 0] < 3).sum() == kept  # the bootstrap


def test_nothing_grows_with_the_sets():
    drive(600)


@pytest.mark.slow
def test_nothing_grows_over_five_thousand_sets():
    drive(5000)


def test_edges_are_counted_and_leave_no_points_between():
    """A near square before a wall, with pixels at its rim that lie half-way."""
    model = CameraModel(120, 90, 90.0, 90.0, 59.5, 44.5)
    depth = np.full((90, 120), 3.0)
    depth[30:60, 40:80] = 1.5
    depth[30:60, 39] = depth[30:60, 80] = 2.2  # mixed pixels
    surfel_map = SurfelMap(MapConfig())
    for _ in range(3):
        surfel_map.fuse([of_depth(depth, model, Rigid3.identity())])
    z = surfel_map.cloud().points[:, 2]
    assert ((z > 1.55) & (z < 2.9)).sum() == 0
    assert (np.abs(z - 1.5) < 0.01).sum() > 700
    assert (np.abs(z - 3.0) < 0.01).sum() > 4000
    assert surfel_map.rejected["edge"] > 3 * 60
    surfel_map.clear()
    assert surfel_map.rejected["edge"] == 0


def test_a_slanted_plane_and_a_hole_have_no_edges():
    model = CameraModel(120, 90, 90.0, 90.0, 59.5, 44.5)
    rays = model.rays()
    depth = 1.0 / (rays @ np.array([0.6, 0.3, 1.0]))
    depth[40:50, 50:60] = np.nan
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([of_depth(depth, model, Rigid3.identity())])
    assert surfel_map.rejected["edge"] == 0
    noisy = depth * (1 + 0.01 * np.random.default_rng(0).normal(size=depth.shape))
    surfel_map.fuse([of_depth(noisy, model, Rigid3.identity())])
    assert surfel_map.rejected["edge"] < 0.02 * depth.size


def test_doubtful_depth_needs_a_larger_step_to_be_an_edge():
    model = CameraModel(120, 90, 90.0, 90.0, 59.5, 44.5)
    depth = np.full((90, 120), 3.0)
    depth[:, 60:] = 2.7
    counts = []
    for confidence in (1.0, 0.6):
        surfel_map = SurfelMap(MapConfig())
        one = of_depth(depth, model, Rigid3.identity())
        one = dataclasses.replace(one, confidence=np.full(depth.shape, confidence, np.float32))
        surfel_map.fuse([one])
        counts.append(surfel_map.rejected["edge"])
    assert counts == [90, 0]
