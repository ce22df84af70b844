"""The grid for navigation, on rooms whose walls are known."""

import dataclasses
import math

import numpy as np
import pytest

from vggt_ros.config import MapConfig, OccupancyConfig
from vggt_ros.errors import AlignmentError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.occupancy import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    OccupancyMapper,
    RayView,
    floor_height,
)
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.types import PointCloud


def cloud_of(points, normals=None, metric=True):
    points = np.asarray(points, np.float32).reshape(-1, 3)
    colours = np.zeros(points.shape, np.uint8)
    if normals is not None:
        normals = np.broadcast_to(np.float32(normals), points.shape)
    return PointCloud(points, colours, normals, None, "map", metric)


FROM_MAP = OccupancyConfig(resolution_m=0.1, height_from="map", min_points=2)

AHEAD = Rigid3([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.05, 0.05, 1.0])
"""Looks along x of the map from 1 m above it."""


def one_ray(depth, pose=AHEAD):
    return RayView(np.full((1, 1), depth, np.float32), CameraModel(1, 1, 1, 1, 0, 0), pose)


def test_a_table_top_of_one_point_per_voxel_has_no_holes():
    step = 0.07  # coarser than the cells: every third is empty, the others have one or two
    x, y = np.meshgrid(np.arange(0, 2, step), np.arange(0, 2, step))
    top = np.stack([x, y, np.full_like(x, 0.7)], -1)
    grid = OccupancyMapper(dataclasses.replace(FROM_MAP, min_points=3)).update(cloud_of(top), [])
    inner = grid.cells[1:-1, 1:-1]
    assert (inner == OCCUPIED).all()


def test_points_between_the_heights_occupy():
    at = (1.25, 0.35)
    points = [
        (*at, 0.2), (*at, 1.7),  # two, within
        (0.25, 0.35, 0.5),  # one is not enough
        (0.65, 0.35, 0.05), (0.65, 0.35, 0.05),  # floor
        (0.85, 0.35, 2.5), (0.85, 0.35, 2.5),  # overhead
    ]  # fmt: skip
    grid = OccupancyMapper(FROM_MAP).update(cloud_of(points), [])
    assert grid.at(*at) == OCCUPIED
    assert (grid.cells == OCCUPIED).sum() == 1
    assert (grid.cells == UNKNOWN).sum() == grid.cells.size - 1
    assert (grid.x, grid.y) == (pytest.approx(0.2), pytest.approx(0.3))
    assert grid.cells.shape == (1, 11)


def test_a_ray_frees_the_cells_before_what_it_meets_and_no_other():
    points = [(2.05, 0.05, 1.0)] * 2 + [(3.05, 1.0, 1.0), (-1.0, -1.0, 1.0)]
    grid = OccupancyMapper(FROM_MAP).update(cloud_of(points), [one_ray(2.0)])
    row = [grid.at(0.05 + 0.1 * k, 0.05) for k in range(-3, 30)]
    assert row == [UNKNOWN] * 3 + [FREE] * 20 + [OCCUPIED] + [UNKNOWN] * 9
    assert (grid.cells == FREE).sum() == 20


def test_a_ray_that_meets_nothing_of_the_map_at_its_end_frees_no_more_than_its_way():
    grid = OccupancyMapper(FROM_MAP).update(cloud_of([(3, 1, 1), (-1, -1, 1)]), [one_ray(2.0)])
    assert grid.at(1.95, 0.05) == FREE
    assert grid.at(2.05, 0.05) == UNKNOWN
    none = OccupancyMapper(FROM_MAP).update(cloud_of([(3, 1, 1), (-1, -1, 1)]), [one_ray(np.nan)])
    assert (none.cells == UNKNOWN).all()


def test_rays_count_between_the_heights_only_and_the_floor_is_free():
    down = Rigid3.from_rotation_vector((0, math.atan(0.5), 0)) @ Rigid3(
        AHEAD.rotation, np.zeros(3)
    )
    pose = Rigid3(down.rotation, [0.05, 0.05, 1.0])
    grid = OccupancyMapper(FROM_MAP).update(
        cloud_of([(4, 1, 1), (-1, -1, 1)]),
        [one_ray(math.sqrt(5), pose)],  # the floor 2 m ahead
    )
    assert [grid.at(0.05 + 0.1 * k, 0.05) for k in range(23)] == [FREE] * 21 + [UNKNOWN] * 2
    up = Rigid3.from_rotation_vector((0, -math.atan(0.5), 0)) @ Rigid3(AHEAD.rotation, np.zeros(3))
    pose = Rigid3(up.rotation, [0.05, 0.05, 1.0])
    grid = OccupancyMapper(FROM_MAP).update(
        cloud_of([(4, 1, 1), (-1, -1, 1)]),
        [one_ray(math.sqrt(5), pose)],  # 2 m above, 2 m ahead
    )
    # 1.8 m are reached 1.6 m ahead
    assert [grid.at(0.05 + 0.1 * k, 0.05) for k in range(19)] == [FREE] * 17 + [UNKNOWN] * 2


def test_what_was_free_stays_free_until_it_is_occupied_and_the_grid_grows():
    mapper = OccupancyMapper(FROM_MAP)
    mapper.update(cloud_of([(2.05, 0.05, 1.0)] * 2), [one_ray(2.0)])
    away = one_ray(1.0, Rigid3(AHEAD.rotation, [-3.05, -2.05, 1.0]))
    grid = mapper.update(cloud_of([(1.05, 0.05, 1.0)] * 2), [away])
    assert grid.at(0.55, 0.05) == FREE
    assert grid.at(1.05, 0.05) == OCCUPIED
    assert grid.at(2.05, 0.05) == UNKNOWN  # what stood there has gone, and nobody looked
    assert grid.at(-2.55, -2.05) == FREE
    mapper.clear()
    grid = mapper.update(cloud_of([(1.05, 0.05, 1.0)] * 2), [])
    assert (grid.cells == FREE).sum() == 0


def test_the_grid_is_bounded_around_the_cameras():
    config = dataclasses.replace(FROM_MAP, max_size_m=4.0)
    mapper = OccupancyMapper(config)
    far = [(-500.0, 0.0, 1.0), (500.0, 0.0, 1.0)] + [(2.05, 0.05, 1.0)] * 2
    for _ in range(2):
        grid = mapper.update(cloud_of(far), [one_ray(2.0)])
        assert grid.cells.shape == (1, 40)
        assert grid.at(1.05, 0.05) == FREE
    moved = one_ray(2.0, Rigid3(AHEAD.rotation, [2.05, 0.05, 1.0]))
    grid = mapper.update(cloud_of(far), [moved])
    assert grid.cells.shape == (1, 40)
    assert grid.at(1.05, 0.05) == FREE
    assert grid.at(3.05, 0.05) == FREE


def test_an_unscaled_map_is_refused():
    with pytest.raises(AlignmentError, match="expected a metric map, got an unscaled one"):
        OccupancyMapper(FROM_MAP).update(cloud_of([(0, 0, 1)], metric=False), [])
    config = dataclasses.replace(FROM_MAP, min_height_m=2.0)
    with pytest.raises(ConfigError, match="min_height_m: expected less than max_height_m"):
        OccupancyMapper(config).update(cloud_of([(0, 0, 1)]), [])


def plate(z, size, up=1.0, step=0.05):
    x, y = np.meshgrid(np.arange(0, size, step), np.arange(0, size, step))
    return cloud_of(np.stack([x, y, np.full_like(x, z)], -1).reshape(-1, 3), (0, 0, up))


def together(*clouds):
    return PointCloud(
        np.concatenate([c.points for c in clouds]),
        np.concatenate([c.colours for c in clouds]),
        np.concatenate([c.normals for c in clouds]),
    )


def test_the_floor_is_the_lowest_large_surface_that_looks_up():
    floor, table, ceiling = plate(-1.03, 2.0), plate(-0.3, 2.5), plate(1.4, 5.0, up=-1.0)
    outlier = cloud_of([(0, 0, -9.0)] * 30, (0, 0, 1.0))
    eye = [one_ray(1.0)]
    whole = together(outlier, table, floor, ceiling)
    assert floor_height(whole, eye) == pytest.approx(-1.03, abs=1e-3)
    with pytest.raises(AlignmentError, match="no floor below the cameras"):
        floor_height(together(outlier, ceiling), eye)
    with pytest.raises(AlignmentError, match="no floor"):
        floor_height(cloud_of(np.zeros((0, 3))), eye)
    grid = OccupancyMapper(OccupancyConfig()).update(whole, eye)
    assert grid.floor_z == pytest.approx(-1.03, abs=1e-3)
    assert grid.at(1.0, 1.0) == OCCUPIED  # the table
    low = dataclasses.replace(OccupancyConfig(), max_height_m=0.5)
    assert OccupancyMapper(low).update(whole, eye).at(1.0, 1.0) != OCCUPIED


def test_a_mapped_room_has_walls_around_a_free_floor(world):
    """The room of `world`, 6 x 5 x 2.6 m with furniture, mapped from exact depth."""
    surfel_map = SurfelMap(MapConfig(voxel_m=0.03))
    eyes = [
        world.look_at((0.0, 0.0, 1.4), (3.0 * math.cos(a), 3.0 * math.sin(a), 0.5))
        for a in np.arange(0, 2 * math.pi, math.pi / 6)
    ]
    model = CameraModel(320, 240, 200.0, 200.0, 159.5, 119.5)
    room = world.BoxScene()
    for k, pose in enumerate(eyes):
        surfel_map.fuse([world.depth_map(room, model, pose, 0.002, seed=k)])
    views = [RayView(surfel_map.render(model, pose).depth, model, pose) for pose in eyes]
    mapper = OccupancyMapper(OccupancyConfig())
    grid = mapper.update(surfel_map.cloud(), views)
    assert grid.floor_z == pytest.approx(0.0, abs=0.01)
    names = {UNKNOWN: 0, FREE: 0, OCCUPIED: 0}
    wrong = []
    for x in np.arange(-3.48, 3.5, 0.05):
        for y in np.arange(-2.98, 3.0, 0.05):
            value = grid.at(x, y)
            names[value] += 1
            edge = max(abs(x) - 3.0, abs(y) - 2.5)
            solid = [
                max(low[0] - x, x - high[0], low[1] - y, y - high[1])
                for low, high in room.boxes
                if low[2] < 1.8 and high[2] > 0.1
            ]
            if edge > 0.06:
                expected = {UNKNOWN}
            elif edge > -0.06:
                continue  # the cell of a wall, or the one beside it
            elif min(solid) > 0.06:
                # hidden behind furniture, or beheld
                expected = {FREE, UNKNOWN} if max(room_shadow(room, x, y)) else {FREE}
            elif min(solid) < -0.06:
                expected = {OCCUPIED, UNKNOWN}  # the top, or the inside of what is higher
                if y > 1.8 and x > -0.6:
                    expected.add(FREE)  # a board 0.9 m up, under which one can look
            else:
                continue
            if value not in expected:
                wrong.append((round(x, 2), round(y, 2), value))
    assert len(wrong) <= 3, wrong[:20]
    assert names[FREE] > 5000
    assert names[OCCUPIED] > 500
    # the walls stand without a gap where the cameras see them at eye level
    for y in np.arange(-2.3, 1.0, 0.05):
        assert OCCUPIED in {grid.at(-3.0 + d, y) for d in (-0.05, 0.0, 0.05)}


def room_shadow(room, x, y):
    """Whether a piece of furniture hides the floor at (x, y) from a camera 1.4 m above the
    middle."""
    eye, target = np.array([0.0, 0.0, 1.4]), np.array([x, y, 0.0])
    for low, high in room.boxes:
        low, high = np.array(low) - 0.06, np.array(high) + 0.06
        with np.errstate(divide="ignore"):
            a, b = (low - eye) / (target - eye), (high - eye) / (target - eye)
        enter, leave = np.minimum(a, b).max(), np.maximum(a, b).min()
        yield enter < leave and leave > 0 and enter < 1
