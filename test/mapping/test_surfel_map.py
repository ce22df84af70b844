"""Properties of the surfel map on exactly ray-cast scenes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.config import MapConfig
from vggt_ros.errors import CalibrationError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping import surfels
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap

MODEL = CameraModel(120, 90, 90.0, 90.0, 59.5, 44.5)


def of_depth(
    depth: np.ndarray, model: CameraModel = MODEL, pose: Rigid3 | None = None
) -> DepthMap:
    depth = depth.astype(np.float32)
    return DepthMap(
        "front",
        0,
        depth,
        np.ones_like(depth),
        np.full((*depth.shape, 3), 90, np.uint8),
        model,
        pose or Rigid3.identity(),
        DepthAlignment("front", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True),
    )


def plane_depth(normal, offset: float, model: CameraModel = MODEL) -> np.ndarray:
    """Depth of the plane normal . p = offset in the camera frame."""
    return offset / (model.rays() @ np.asarray(normal, np.float64))


def coverage(points: np.ndarray, by: np.ndarray, voxel: float = 0.04) -> float:
    """Share of the points with another cloud's point in their cell or one beside it."""
    taken = {tuple(cell) for cell in np.floor(by / voxel).astype(int)}
    near = {
        (i + a, j + b, k + c)
        for i, j, k in taken
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
        for c in (-1, 0, 1)
    }
    return float(np.mean([tuple(cell) in near for cell in np.floor(points / voxel).astype(int)]))


@settings(max_examples=15, deadline=None)
@given(
    tilt_x=st.floats(-0.7, 0.7),
    tilt_y=st.floats(-0.7, 0.7),
    distance=st.floats(0.6, 4.0),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_rendering_a_fused_plane_returns_the_plane(tilt_x, tilt_y, distance, turn):
    depth = plane_depth((tilt_x, tilt_y, 1.0), distance)
    depth = np.where((depth > 0) & (depth < 10), depth, np.nan)
    pose = Rigid3.from_rotation_vector(turn, (1.0, -2.0, 3.0))
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([of_depth(depth, pose=pose)])
    rendered = surfel_map.render(MODEL, pose).depth
    known = np.isfinite(depth)
    inner = known.copy()
    for shift in (-2, 2):
        inner &= np.roll(known, shift, 0) & np.roll(known, shift, 1)
    assert np.isfinite(rendered[inner]).mean() > 0.97
    both = inner & np.isfinite(rendered)
    error = np.abs(rendered[both] / depth[both] - 1)
    assert np.median(error) < 0.002
    assert np.quantile(error, 0.95) < 0.01


def test_plane_from_another_side_has_colour_normal_and_confidence(world):
    scene = world.BoxScene(boxes=())
    surfel_map = SurfelMap(MapConfig())
    maps = [world.depth_map(scene, world.model, pose) for pose in world.rig]
    for _ in range(3):
        surfel_map.fuse(maps)
    pose = world.look_at((0.0, -1.4, 1.4), (0.2, 2.0, 1.2))
    seen = surfel_map.render(world.model, pose, attributes=True)
    exact = scene.depth(world.model, pose)
    known = np.isfinite(seen.depth)
    assert known.mean() > 0.99
    assert np.quantile(np.abs(seen.depth[known] / exact[known] - 1), 0.95) < 0.01
    wall = pose.apply(world.model.unproject(exact))[..., 1] > 2.499
    normals = seen.normals_in_map[wall & np.isfinite(seen.normals_in_map[..., 0])]
    assert np.median(normals[:, 1]) < -0.99
    assert seen.confidence[known].min() > 0.5
    expected = world.depth_map(scene, world.model, pose).rgb
    drawn = seen.confidence > 0
    difference = np.abs(seen.rgb[drawn].astype(int) - expected[drawn])
    assert np.median(difference) <= 3
    plain = surfel_map.render(world.model, pose)
    assert plain.rgb is None
    np.testing.assert_allclose(plain.depth, seen.depth, rtol=1e-3)


def test_exact_depth_gives_points_on_the_surface(world):
    scene = world.BoxScene()
    surfel_map = SurfelMap(MapConfig())
    for _ in range(2):
        surfel_map.fuse([world.depth_map(scene, world.model, pose) for pose in world.rig])
    cloud = surfel_map.cloud(min_hits=2)
    distance = scene.distance(cloud.points)
    assert np.median(distance) < 1e-5
    assert np.quantile(distance, 0.99) < 0.02
    assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-3)
    assert cloud.confidence.min() > 0.5


def test_noise_averages_out_without_layers(world):
    scene = world.BoxScene()
    surfel_map = SurfelMap(MapConfig())
    for k in range(12):
        surfel_map.fuse(
            [
                world.depth_map(scene, world.model, pose, noise=0.01, seed=10 * k + i)
                for i, pose in enumerate(world.rig)
            ]
        )
    distance = scene.distance(surfel_map.cloud(min_hits=3).points)
    assert np.median(distance) < 0.004  # one depth is off by 3 cm
    assert (distance > 0.05).mean() < 0.002
    exact = scene.depth(world.model, world.rig[1])
    rendered = surfel_map.render(world.model, world.rig[1]).depth
    assert abs(np.nanmedian(rendered / exact - 1)) < 0.003


def test_same_set_twice_adds_no_points(world):
    smooth = world.BoxScene(boxes=())
    pose = world.look_at((0.0, -1.0, 1.3), (0.0, 2.0, 1.3))
    wall = of_depth(plane_depth((0.3, 0.2, 1.0), 2.0))
    surfel_map = SurfelMap(MapConfig())
    added = surfel_map.fuse([wall]).added
    assert added > 1000
    assert surfel_map.fuse([wall]).added == 0
    room = [world.depth_map(smooth, world.model, p) for p in (pose, *world.rig)]
    surfel_map = SurfelMap(MapConfig())
    added = surfel_map.fuse(room).added
    again = surfel_map.fuse(room)
    assert again.added <= 0.01 * added  # along the corners, where pixels share a plane
    assert again.carved == 0
    size = surfel_map.size
    surfel_map.fuse(room)
    assert surfel_map.size <= 1.005 * size


def test_camera_order_does_not_matter(world):
    scene = world.BoxScene()
    clouds = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        surfel_map = SurfelMap(MapConfig())
        for k in range(4):
            maps = [
                world.depth_map(scene, world.model, world.rig[i], noise=0.005, seed=10 * k + i)
                for i in order
            ]
            surfel_map.fuse(maps)
        clouds.append(surfel_map.cloud(min_hits=2).points)
    one, two = clouds
    assert abs(len(one) / len(two) - 1) < 0.03
    assert coverage(one, two) > 0.99
    assert coverage(two, one) > 0.99
    medians = [np.median(scene.distance(points)) for points in clouds]
    assert abs(medians[0] - medians[1]) < 0.001


def test_same_input_gives_the_same_bytes(world):
    scene = world.BoxScene()
    results = []
    for _ in range(2):
        surfel_map = SurfelMap(MapConfig())
        for k in range(3):
            surfel_map.fuse(
                [
                    world.depth_map(scene, world.model, pose, noise=0.01, seed=k)
                    for pose in world.rig
                ]
            )
        cloud = surfel_map.cloud(voxel_m=0.05)
        results.append(
            cloud.points.tobytes()
            + cloud.colours.tobytes()
            + surfel_map.render(world.model, world.rig[0]).depth.tobytes()
        )
    assert results[0] == results[1]


def test_what_moved_away_disappears_and_the_rest_stays(world):
    empty = world.BoxScene()
    thing = ((-0.6, 0.0, 0.0), (0.2, 0.5, 1.7))
    occupied = world.BoxScene(boxes=(*empty.boxes, thing))
    surfel_map = SurfelMap(MapConfig())

    def fuse(scene, count, seed):
        for k in range(count):
            surfel_map.fuse(
                [
                    world.depth_map(scene, world.model, pose, noise=0.01, seed=seed + 10 * k + i)
                    for i, pose in enumerate(world.rig)
                ]
            )

    fuse(empty, 3, 0)
    static_before = surfel_map.cloud(min_hits=2).points
    fuse(occupied, 60, 1000)
    points = surfel_map.cloud().points
    on_thing = empty.distance(points) > 0.15
    assert on_thing.sum() > 500
    fuse(empty, 10, 5000)
    points = surfel_map.cloud().points
    assert (empty.distance(points) > 0.15).sum() <= 0.05 * on_thing.sum()
    assert coverage(static_before, points) >= 0.99


def test_what_is_merely_unseen_stays(world):
    scene = world.BoxScene()
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([world.depth_map(scene, world.model, world.rig[0])])
    size = surfel_map.size
    away = world.look_at((0.0, 1.0, 1.3), (0.0, -2.0, 1.3))
    for _ in range(10):
        statistics = surfel_map.fuse([world.depth_map(scene, world.model, away)])
        assert statistics.carved == 0
    behind = of_depth(np.full((90, 120), 0.4), pose=world.rig[0])  # something close to the lens
    for _ in range(5):
        assert surfel_map.fuse([behind]).carved == 0
    assert surfel_map.size >= size


def test_carving_can_be_switched_off(world):
    surfel_map = SurfelMap(MapConfig(carve=False))
    near, far = of_depth(np.full((90, 120), 1.0)), of_depth(np.full((90, 120), 3.0))
    surfel_map.fuse([near])
    size = surfel_map.size
    for _ in range(8):
        assert surfel_map.fuse([far]).carved == 0
    assert surfel_map.size >= size


def test_two_sides_of_a_thin_wall_stay_apart():
    wall_z = 2.0
    front = of_depth(np.full((90, 120), wall_z))
    turned = Rigid3.from_rotation_vector((0.0, np.pi, 0.0), (0.0, 0.0, wall_z + 0.008 + 2.0))
    back = of_depth(np.full((90, 120), 2.0), pose=turned)
    surfel_map = SurfelMap(MapConfig(voxel_m=0.05))
    for _ in range(4):
        surfel_map.fuse([front, back])
    cloud = surfel_map.cloud(min_hits=2)
    towards_front = cloud.normals[:, 2] < -0.9
    towards_back = cloud.normals[:, 2] > 0.9
    assert (towards_front | towards_back).mean() > 0.99
    assert towards_front.sum() > 1000
    assert towards_back.sum() > 1000
    np.testing.assert_allclose(cloud.points[towards_front, 2], wall_z, atol=1e-3)
    np.testing.assert_allclose(cloud.points[towards_back, 2], wall_z + 0.008, atol=1e-3)


def test_budget_is_kept_and_the_bootstrap_survives(world):
    config = MapConfig(budget_mb=4.0)
    surfel_map = SurfelMap(config)
    assert 55_000 < surfel_map.capacity < 70_000
    first = of_depth(plane_depth((0.1, 0.1, 1.0), 2.0))
    surfel_map.fuse([first], bootstrap=True)
    kept = len(surfel_map.cloud().points)
    evicted = 0
    for k in range(40):  # through ten times as much space
        pose = Rigid3(np.eye(3), np.array([3.0 * (k + 2), 0.0, 0.0]))
        evicted += surfel_map.fuse(
            [of_depth(plane_depth((0.0, 0.2, 1.0), 2.0), pose=pose)]
        ).evicted
        assert surfel_map.memory_bytes <= 1.05 * config.budget_mb * 1e6
        assert surfel_map.size <= surfel_map.capacity
    assert evicted > surfel_map.capacity
    points = surfel_map.cloud().points
    assert (points[:, 0] < 3.0).sum() == kept
    assert (points[:, 0] > 3.0 * 39).sum() > 1000  # the newest is there
    rendered = surfel_map.render(MODEL, Rigid3.identity()).depth
    assert np.isfinite(rendered).mean() > 0.97


def test_memory_per_surfel(world):
    model = CameraModel(640, 480, 400.0, 400.0, 319.5, 239.5)
    surfel_map = SurfelMap(MapConfig(voxel_m=0.005))
    scene = world.BoxScene()
    for pose in world.rig[:2]:
        surfel_map.fuse([world.depth_map(scene, model, pose)])
    assert surfel_map.size > 300_000
    assert surfel_map.memory_bytes <= 72 * surfel_map.size
    assert surfels.BYTES_PER_SURFEL <= 64


def test_budget_smaller_than_one_set_is_an_error_that_changes_nothing(world):
    with pytest.raises(ConfigError, match="budget_mb"):
        SurfelMap(MapConfig(budget_mb=0.01))
    surfel_map = SurfelMap(MapConfig(budget_mb=1.0))
    surfel_map.fuse([of_depth(np.full((90, 120), 2.0))])
    before = surfel_map.cloud().points.tobytes()
    model = CameraModel(400, 300, 300.0, 300.0, 199.5, 149.5)
    with pytest.raises(ConfigError, match="raise it to 7 MB"):
        surfel_map.fuse([of_depth(np.full((300, 400), 2.0), model)])
    assert surfel_map.cloud().points.tobytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e6])
def test_impossible_depth_is_counted_and_not_fused(value):
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([of_depth(np.full((90, 120), value))])
    assert surfel_map.size == 0
    assert surfel_map.rejected["far" if value == 1e6 else "invalid"] == 90 * 120
    assert np.isnan(surfel_map.render(MODEL, Rigid3.identity()).depth).all()


def test_impossible_depth_does_not_harm_a_map():
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([of_depth(np.full((90, 120), 2.0))])
    size = surfel_map.size
    for value in (np.nan, np.inf, -np.inf, 0.0, -1.0):
        assert surfel_map.fuse([of_depth(np.full((90, 120), value))]).carved == 0
    nothing = of_depth(np.full((90, 120), 3.0))
    nothing = dataclasses.replace(nothing, confidence=np.zeros((90, 120), np.float32))
    assert surfel_map.fuse([nothing]).carved == 0
    nothing = dataclasses.replace(nothing, confidence=np.full((90, 120), np.nan, np.float32))
    surfel_map.fuse([nothing])
    assert surfel_map.size == size


def test_flat_views_are_not_fused():
    depth = plane_depth((0.0, 1.0, 0.02), 0.3)
    depth = np.where(depth > 0, depth, np.nan)
    surfel_map = SurfelMap(MapConfig(max_incidence_deg=60.0))
    surfel_map.fuse([of_depth(depth)])
    assert surfel_map.rejected["grazing"] > 3 * surfel_map.size


def test_rejected_depth_maps_are_skipped():
    depth_map = of_depth(np.full((90, 120), 2.0))
    alignment = dataclasses.replace(depth_map.alignment, accepted=False, reason="test")
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([dataclasses.replace(depth_map, alignment=alignment)])
    assert surfel_map.size == 0


def test_wrong_shapes_are_errors_that_change_nothing():
    good = of_depth(np.full((90, 120), 2.0))
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([good])
    before = surfel_map.cloud().points.tobytes()
    bad = [
        dataclasses.replace(good, depth=good.depth[:50]),
        dataclasses.replace(good, confidence=good.confidence[:, :50]),
        dataclasses.replace(good, rgb=good.rgb[..., 0]),
        dataclasses.replace(
            good,
            model=dataclasses.replace(
                MODEL, distortion_model="plumb_bob", distortion=(0.1, 0.0, 0.0, 0.0)
            ),
        ),
    ]
    for depth_map in bad:
        with pytest.raises(CalibrationError, match="camera 'front'"):
            surfel_map.fuse([good, depth_map])
        assert surfel_map.cloud().points.tobytes() == before
    with pytest.raises(CalibrationError):
        surfel_map.render(bad[-1].model, Rigid3.identity())


def test_cloud_filters(world):
    scene = world.BoxScene()
    surfel_map = SurfelMap(MapConfig())
    maps = [world.depth_map(scene, world.model, pose) for pose in world.rig]
    surfel_map.fuse(maps)
    surfel_map.fuse(maps[:1])
    everything = surfel_map.cloud()
    assert len(everything) == surfel_map.size
    often = surfel_map.cloud(min_hits=3)
    assert 0 < len(often) < len(everything)
    assert len(surfel_map.cloud(max_points=1000)) == 1000
    sure = surfel_map.cloud(min_confidence=0.85)
    assert 0 < len(sure) < len(everything)
    assert sure.confidence.min() >= 0.85
    assert len(surfel_map.cloud(min_confidence=1.0)) == 0
    thin = surfel_map.cloud(voxel_m=0.2)
    assert len(thin) < 0.2 * len(everything)
    assert np.quantile(scene.distance(thin.points), 0.9) < 0.06
    assert len(surfel_map.cloud(voxel_m=0.2, max_points=50)) == 50
    surfel_map.clear()
    assert surfel_map.size == 0
    assert len(surfel_map.cloud()) == 0
    assert len(surfel_map.cloud(voxel_m=0.1)) == 0


def test_camera_inside_the_map_and_behind_it():
    surfel_map = SurfelMap(MapConfig())
    surfel_map.fuse([of_depth(np.full((90, 120), 2.0))])
    inside = Rigid3(np.eye(3), np.array([0.0, 0.0, 1.95]))
    near = surfel_map.render(MODEL, inside).depth
    assert np.nanmin(near) > 0
    beyond = Rigid3(np.eye(3), np.array([0.0, 0.0, 3.0]))
    assert np.isnan(surfel_map.render(MODEL, beyond).depth).all()
    surfel_map.fuse([of_depth(np.full((90, 120), 1.0), pose=inside)])


def test_map_follows_the_unit():
    """The same scene ten times as large, with ten times the voxel, gives the same map."""
    clouds = []
    for scale in (1.0, 10.0):
        depth = plane_depth((0.3, 0.1, 1.0), 2.0) * scale
        noise = 1 + 0.01 * np.random.default_rng(0).normal(size=depth.shape)
        surfel_map = SurfelMap(MapConfig(voxel_m=0.02 * scale, max_depth_m=100.0))
        for _ in range(2):
            surfel_map.fuse([of_depth(depth * noise)])
        clouds.append(surfel_map.cloud().points / scale)
    assert len(clouds[0]) == pytest.approx(len(clouds[1]), rel=0.01)
