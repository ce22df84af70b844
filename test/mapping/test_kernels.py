"""The kernels of rendering and of voxel averages against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.config import MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping import kernels_voxel
from vggt_ros.mapping.cloud import voxel_cell_means
from vggt_ros.mapping.kernels_fill import SAME_SURFACE, fill_holes
from vggt_ros.mapping.kernels_paint import unpacked
from vggt_ros.mapping.kernels_splat import level_offsets, splat
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.surfel_view import intrinsics_of, rotation_translation
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap


def wall(model, distance):
    shape = (model.height, model.width)
    alignment = DepthAlignment("front", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True)
    return DepthMap(
        "front", 0, np.full(shape, distance, np.float32), np.ones(shape, np.float32),
        np.full((*shape, 3), 90, np.uint8), model, Rigid3.identity(), alignment,
    )  # fmt: skip


def filled_plainly(depth):
    """The rule of `fill_holes` in numpy: what it says of each pixel, one after another."""
    height, width = depth.shape
    around = np.pad(depth, 1, constant_values=np.inf)
    out = depth.copy()
    for v in range(height):
        for u in range(width):
            nine = around[v : v + 3, u : u + 3].reshape(-1)
            beside = np.delete(nine, 4)
            needed = 5 if np.isinf(depth[v, u]) else 7
            if (beside < depth[v, u] * (1 - SAME_SURFACE)).sum() >= needed:
                out[v, u] = beside[beside <= beside.min() * (1 + SAME_SURFACE)].mean()
    return np.where(np.isinf(out), np.nan, out)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (40, 61)])
@pytest.mark.parametrize("empty", [0.0, 0.1, 0.5, 1.0])
def test_holes_are_filled_by_the_rule(shape, empty):
    random = np.random.default_rng(0)
    depth = random.choice([1.0, 1.02, 3.0], shape).astype(np.float32)
    depth[random.random(shape) < empty] = np.inf
    np.testing.assert_allclose(fill_holes(depth), filled_plainly(depth), rtol=1e-6)


def test_points_of_a_pixel_are_those_of_a_plain_z_buffer(world):
    """Far away every established surfel is a point; its pixel holds one of those in it."""
    surfel_map = SurfelMap(MapConfig())
    for _ in range(3):
        surfel_map.fuse(
            [world.depth_map(world.BoxScene(), world.model, pose) for pose in world.rig]
        )
    model = CameraModel(60, 45, 40.0, 40.0, 29.5, 22.0)
    pose = world.look_at((0.0, -12.0, 2.0), (0.0, 0.0, 1.2))
    rotation, translation = rotation_translation(pose.inverse())
    cells, young, drawn = splat(
        surfel_map._surfels.position, surfel_map._rows,
        surfel_map._visible(model, rotation, translation, 0.0), rotation, translation,
        intrinsics_of(model), 0.02, model.width, model.height,
        level_offsets(model.width, model.height), False,
    )  # fmt: skip
    assert not drawn[0].any()
    assert len(cells) == level_offsets(model.width, model.height)[-1] + 1
    depth = unpacked(cells, model.width, model.height)
    old = surfel_map._surfels.position[3, : surfel_map._rows] >= 0
    points = surfel_map._surfels.position[:3, : surfel_map._rows].T[old]
    points = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    in_camera = pose.inverse().apply(points)
    uv = np.floor(model.project(in_camera) + 0.5).astype(int)
    inside = (uv >= 0).all(1) & (uv < model.size).all(1) & (in_camera[:, 2] > 0)
    nearest = np.full((model.height, model.width), np.inf)
    np.minimum.at(nearest, (uv[inside, 1], uv[inside, 0]), in_camera[inside, 2])
    assert len(young) in (0, len(cells))
    same = np.isfinite(depth) == np.isfinite(nearest)
    assert same.mean() > 0.999  # a point on the border of a pixel may fall to either side
    both = np.isfinite(depth) & np.isfinite(nearest)
    assert both.sum() > 150
    # Of the points of a pixel the one nearest to its centre may win: by 8 % and a voxel at most.
    assert (depth[both] > nearest[both] - 1e-3).mean() > 0.999
    assert (depth[both] < 1.08 * nearest[both] + 0.021).mean() > 0.999


@pytest.mark.parametrize("distance", [0.4, 1.0, 1.9, 2.6, 6.0])
def test_a_wall_is_closed_and_in_its_place_from_any_distance(distance):
    """Surfels as points, as cells of one level or of two, and both together."""
    side = 200
    model = CameraModel(side, side, 0.8 * side, 0.8 * side, (side - 1) / 2, (side - 1) / 2)
    surfel_map = SurfelMap(MapConfig(voxel_m=0.02))
    for _ in range(3):
        surfel_map.fuse([wall(model, 3.0)])
    small = CameraModel(97, 61, 70.0, 70.0, 48.0, 30.0)
    seen = surfel_map.render(small, Rigid3(np.eye(3), np.array([0.0, 0.0, 3.0 - distance])), True)
    inner = np.s_[25:36, 40:57]
    known = np.isfinite(seen.depth)
    # Where pixels nearly as wide as a voxel beat against it, single surfels stand farther apart.
    assert known[inner].mean() > 0.8
    assert known[5:-5, 10:-10].mean() > (0.98 if distance < 2.5 else 0)
    np.testing.assert_allclose(seen.depth[inner][known[inner]], distance, rtol=1e-3)
    shown = np.isfinite(seen.normals_in_map[inner][..., 2])
    np.testing.assert_allclose(seen.normals_in_map[inner][shown][..., 2], -1, atol=0.02)
    assert (seen.rgb[inner][shown] == 90).all()


def numbered(points, voxel, by_blocks):
    n = len(points)
    arrays = np.empty(n, np.int32), np.empty(n, np.int64), np.empty((n, 4), np.float32)
    inverse = np.float32(1 / voxel)
    if by_blocks:
        count = kernels_voxel._number_by_blocks(points, inverse, *arrays)
    else:
        table = kernels_voxel.new_table(n)
        count = kernels_voxel._number_one_by_one(points, inverse, table, *arrays)
    return count, arrays


@pytest.mark.parametrize("n", [1, 255, 256, 257, 40_000])
def test_both_ways_of_numbering_cells_agree(n):
    points = np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32)
    points[:, 2] *= 0.1
    (count, mine), (other, theirs) = (numbered(points, 0.05, way) for way in (True, False))
    assert count == other
    np.testing.assert_array_equal(mine[0], theirs[0])
    for a, b in zip(mine[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(a[:count], b[:count])


def test_scattered_points_take_little_memory_and_stay_exact():
    points = np.random.default_rng(0).uniform(-50, 50, (30_000, 3)).astype(np.float32)
    assert numbered(points, 0.02, True)[0] == kernels_voxel._SPARSE
    means = voxel_cell_means(points, 0.02)
    assert len(means) == len(np.unique(np.floor(points * np.float32(50)), axis=0))
    np.testing.assert_allclose(np.sort(means, axis=0), np.sort(points, axis=0), atol=2e-4)


def test_means_stay_exact_far_from_the_origin():
    random = np.random.default_rng(0)
    points = (random.uniform(0, 0.5, (20_000, 3)) + [800.0, -600.0, 50.0]).astype(np.float32)
    means = voxel_cell_means(points, 0.1)
    cells = np.floor(points * np.float32(10)).astype(int)
    _, inverse = np.unique(cells, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse)
    exact = np.stack([np.bincount(inverse, points[:, i]) / counts for i in range(3)], axis=1)
    order = np.lexsort(np.round(exact / 0.1 - 0.5).T)
    mine = np.lexsort(np.round(means / 0.1 - 0.5).T)
    np.testing.assert_allclose(means[mine], exact[order], atol=2e-4)
