"""The TSDF map on exactly ray-cast scenes."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from vggt_ros.config import Config, MapConfig
from vggt_ros.errors import CalibrationError, ConfigError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.make_map import make_map
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.pipeline.mapping import MappingPipeline
from vggt_ros.pipeline.warm_up import PlaneBootstrapper, plane_frame_set, warm_up_config

pytest.importorskip("open3d", exc_type=ImportError)

CONFIG = MapConfig(kind="tsdf", voxel_m=0.04)


def room(world, k=0, noise=0.0, boxes=None):
    scene = world.BoxScene() if boxes is None else world.BoxScene(boxes=boxes)
    return [
        world.depth_map(scene, world.model, pose, noise, seed=10 * k + i)
        for i, pose in enumerate(world.rig)
    ]


def sorted_points(points):
    return points[np.lexsort(points.T)]


def test_exact_depth_gives_points_and_mesh_on_the_surface(world):
    tsdf, scene = make_map(CONFIG), world.BoxScene()
    for _ in range(2):
        tsdf.fuse(room(world))
    cloud = tsdf.cloud(min_hits=2)
    assert len(cloud) > 10_000
    assert np.median(scene.distance(cloud.points)) < 0.001
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-4)
    wall = cloud.points[:, 1] > 2.47
    assert np.median(cloud.normals[wall, 1]) < -0.99
    mesh = tsdf.mesh()
    assert np.median(scene.distance(mesh.points)) < 0.001
    assert mesh.faces.max() < len(mesh.points)
    assert mesh.colours.shape == mesh.points.shape == mesh.normals.shape
    assert len(tsdf.cloud(max_points=100)) == 100
    assert len(tsdf.cloud(voxel_m=0.3)) < 0.1 * len(cloud)
    assert len(tsdf.cloud(min_hits=100)) < len(cloud)


def test_noisy_depth_stays_within_half_a_voxel(world):
    tsdf, scene = make_map(dataclasses.replace(CONFIG, voxel_m=0.02)), world.BoxScene()
    for k in range(4):
        tsdf.fuse(room(world, k, 0.01))
    assert np.median(scene.distance(tsdf.cloud(min_hits=3).points)) < 0.01


def test_rendering_has_depth_colour_and_normals(world):
    tsdf, scene = make_map(CONFIG), world.BoxScene(boxes=())
    for _ in range(3):
        tsdf.fuse(room(world, boxes=()))
    pose = world.look_at((0.0, -1.4, 1.4), (0.2, 2.0, 1.2))
    for model in (world.model, CameraModel(101, 77, 80.0, 80.0, 50.0, 38.0)):  # prime sizes
        seen = tsdf.render(model, pose, attributes=True)
        exact = scene.depth(model, pose)
        assert seen.depth.shape == exact.shape
        known = np.isfinite(seen.depth)
        assert known.mean() > 0.95
        ratio = seen.depth[known] / exact[known] - 1
        assert abs(np.median(ratio)) < 0.001
        assert np.median(np.abs(ratio)) < 0.004
        wall = known & (pose.apply(model.unproject(exact))[..., 1] > 2.499)
        assert np.median(seen.normals_in_map[wall, 1]) < -0.98
        expected = world.depth_map(scene, model, pose).rgb
        assert np.median(np.abs(seen.rgb[known].astype(int) - expected[known])) <= 4
        assert set(np.unique(seen.confidence)) <= {0.0, 1.0}
        assert tsdf.render(model, pose).depth.tobytes() == seen.depth.tobytes()
    outside = Rigid3(np.eye(3), np.array([50.0, 0.0, 0.0]))
    assert np.isnan(tsdf.render(world.model, outside).depth).all()


def test_same_input_gives_the_same_bytes(world):
    results = []
    for _ in range(2):
        tsdf = make_map(CONFIG)
        for k in range(2):
            tsdf.fuse(room(world, k, 0.01))
        cloud = tsdf.cloud()
        depth = tsdf.render(world.model, world.rig[0]).depth
        results.append(cloud.points.tobytes() + cloud.colours.tobytes() + depth.tobytes())
    assert results[0] == results[1]


def test_what_moved_away_disappears_and_the_rest_stays(world):
    empty, thing = world.BoxScene(), ((-0.6, 0.0, 0.0), (0.2, 0.5, 1.7))
    tsdf = make_map(CONFIG)
    for k in range(20):
        tsdf.fuse(room(world, k, 0.005, (*empty.boxes, thing)))
    points = tsdf.cloud(min_hits=2).points
    static = points[empty.distance(points) < 0.05]
    on_thing = (empty.distance(points) > 0.15).sum()
    assert on_thing > 500
    for k in range(10):
        tsdf.fuse(room(world, 100 + k, 0.005))
    after = tsdf.cloud(min_hits=2).points
    assert (empty.distance(after) > 0.15).sum() <= 0.05 * on_thing
    assert (empty.distance(after) < 0.05).sum() >= 0.95 * len(static)
    still = make_map(dataclasses.replace(CONFIG, carve=False))
    for k in range(3):
        still.fuse(room(world, k, 0.0, (*empty.boxes, thing)))
    for k in range(5):
        still.fuse(room(world, k))
    assert (empty.distance(still.cloud().points) > 0.15).sum() > 0.2 * on_thing


def test_budget_is_kept_and_the_bootstrap_survives(world):
    config = dataclasses.replace(CONFIG, voxel_m=0.05, budget_mb=4.0)
    tsdf = make_map(config)
    model = CameraModel(60, 45, 45.0, 45.0, 29.5, 22.0)
    first = world.depth_map(world.BoxScene(), model, Rigid3.identity())

    def wall(k):
        depth = np.full((45, 60), 2.02, np.float32)  # not on a plane of voxels
        pose = Rigid3(np.eye(3), np.array([3.0 * k, 0.0, 0.0]))
        return dataclasses.replace(first, depth=depth, map_from_camera=pose)

    tsdf.fuse([wall(0)], bootstrap=True)
    kept = len(tsdf.cloud().points)
    evicted = 0
    for k in range(2, 30):
        evicted += tsdf.fuse([wall(k)]).evicted
        assert tsdf.memory_bytes <= 1.05 * config.budget_mb * 1e6
    assert evicted > 0
    points = tsdf.cloud().points
    assert (points[:, 0] < 2.5).sum() == kept
    assert (points[:, 0] > 3 * 28.5).sum() > 500
    # A block that is used again starts from nothing.
    again = make_map(config)
    again.fuse([wall(29)])
    mine = points[points[:, 0] > 3 * 29 - 1.0]
    theirs = again.cloud().points
    theirs = theirs[theirs[:, 0] > 3 * 29 - 1.0]
    np.testing.assert_allclose(sorted_points(mine), sorted_points(theirs), atol=1e-5)


def test_budget_smaller_than_one_set_is_an_error_that_changes_nothing(world):
    with pytest.raises(ConfigError, match="budget_mb"):
        make_map(dataclasses.replace(CONFIG, budget_mb=0.1))
    tsdf = make_map(dataclasses.replace(CONFIG, voxel_m=0.01, budget_mb=5.0))
    with pytest.raises(ConfigError, match="raise it to"):
        tsdf.fuse(room(world))
    assert tsdf.size == 0


def test_saved_and_loaded_map_is_the_same_and_goes_on(world, tmp_path):
    tsdf, path = make_map(CONFIG), tmp_path / "map.npz"
    for k in range(2):
        tsdf.fuse(room(world, k, 0.01))
    tsdf.save(path)
    other = make_map(CONFIG)
    revision = other.changes(None).revision
    other.load(path)
    assert other.changes(revision).complete
    for _ in range(2):
        assert other.size == tsdf.size
        np.testing.assert_array_equal(other.cloud().points, tsdf.cloud().points)
        mine, theirs = (m.render(world.model, world.rig[0]).depth for m in (tsdf, other))
        assert mine.tobytes() == theirs.tobytes()
        for each in (tsdf, other):
            each.fuse(room(world, 7, 0.01))
    before = other.cloud().points.tobytes()
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content in (data[: len(data) // 2], bytes(flipped), b""):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(SourceError):
            other.load(tmp_path / "bad.npz")
    SurfelMap(MapConfig()).save(tmp_path / "surfel.npz")
    with pytest.raises(SourceError, match="got kind 'surfel'"):
        other.load(tmp_path / "surfel.npz")
    with pytest.raises(ConfigError, match="voxel_m"):
        make_map(dataclasses.replace(CONFIG, voxel_m=0.1)).load(path)
    assert other.cloud().points.tobytes() == before
    empty = make_map(CONFIG)
    empty.save(path)
    other.load(path)
    assert other.size == len(other.cloud()) == len(other.mesh().faces) == 0


def test_changes_are_all_or_nothing(world):
    tsdf = make_map(CONFIG)
    tsdf.fuse(room(world))
    first = tsdf.changes(None, min_hits=1)
    assert first.complete
    assert first.starts.tolist() == [0, len(first.cloud)]
    again = tsdf.changes(first.revision)
    assert not again.complete
    assert len(again.blocks) == len(again.cloud) == 0
    tsdf.clear()
    assert tsdf.size == 0
    assert tsdf.changes(first.revision).complete


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e6])
def test_impossible_depth_changes_nothing(world, value):
    tsdf = make_map(CONFIG)
    tsdf.fuse(room(world)[:1])
    before = tsdf.cloud().points.tobytes()
    bad = room(world)[0]
    tsdf.fuse([dataclasses.replace(bad, depth=np.full(bad.depth.shape, value, np.float32))])
    tsdf.fuse([dataclasses.replace(bad, confidence=np.zeros(bad.depth.shape, np.float32))])
    rejected = dataclasses.replace(bad.alignment, accepted=False, reason="test")
    tsdf.fuse([dataclasses.replace(bad, alignment=rejected)])
    assert tsdf.cloud().points.tobytes() == before


def test_wrong_shapes_and_settings_are_errors(world):
    tsdf, good = make_map(CONFIG), room(world)[0]
    distorted = dataclasses.replace(
        world.model, distortion_model="plumb_bob", distortion=(0.1, 0.0, 0.0, 0.0)
    )
    for bad in (
        dataclasses.replace(good, depth=good.depth[:50]),
        dataclasses.replace(good, model=distorted),
    ):
        with pytest.raises(CalibrationError, match="camera 'front'"):
            tsdf.fuse([good, bad])
        assert tsdf.size == 0
    with pytest.raises(CalibrationError):
        tsdf.render(distorted, Rigid3.identity())
    with pytest.raises(ConfigError, match="min_confidence"):
        make_map(dataclasses.replace(CONFIG, min_confidence=0.5))
    with pytest.raises(ConfigError, match="min_confidence"):
        tsdf.cloud(min_confidence=0.5)


def test_missing_open3d_and_cuda_are_errors_that_say_what_to_do(monkeypatch):
    import open3d

    if not open3d.core.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no CUDA"):
            make_map(dataclasses.replace(CONFIG, tsdf_device="cuda"))
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ConfigError, match="pip install open3d"):
        make_map(CONFIG)


def test_the_pipeline_takes_the_map_that_is_named():
    config = Config(map=MapConfig(kind="tsdf", voxel_m=0.02, min_hits=1))
    pipeline = MappingPipeline(warm_up_config(config), bootstrapper=PlaneBootstrapper())
    for _ in range(2):
        result = pipeline.step(plane_frame_set())
        assert result.fused.added + result.fused.updated > 0
    assert len(pipeline.cloud()) > 100
    assert isinstance(MappingPipeline(Config()).map, SurfelMap)


def test_weights_do_not_overflow(world):
    """They are 16 bits wide: four cameras at 10 Hz would fill them in half an hour."""
    tsdf = make_map(dataclasses.replace(CONFIG, carve=False))
    depth_map = room(world)[:1]
    tsdf.fuse(depth_map)
    points = len(tsdf.cloud())
    tsdf._blocks.flat("weight")[:] = 65_530
    tsdf._set = 1023
    for _ in range(8):
        tsdf.fuse(depth_map)
        assert len(tsdf.cloud()) >= 0.9 * points
