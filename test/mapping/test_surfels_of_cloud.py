"""A map from the points of another program: it renders as they lie, and goes on."""

import numpy as np
import pytest

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.mapping.surfels_of_cloud import estimate_normals, load_cloud
from vggt_ros.types import PointCloud

MODEL = CameraModel(160, 120, 140.0, 140.0, 79.5, 59.5)
VOXEL = 0.02


def tilted_plane(spacing=0.01):
    """z = 2 + 0.3 x, as a camera at the origin sees it."""
    x, y = np.meshgrid(np.arange(-1.5, 1.8, spacing), np.arange(-1.2, 1.2, spacing))
    points = np.stack([x, y, 2 + 0.3 * x], axis=-1).reshape(-1, 3).astype(np.float32)
    colours = np.broadcast_to(np.uint8([200, 100, 50]), points.shape)
    return PointCloud(points, np.ascontiguousarray(colours))


def test_normals_of_a_plane_and_of_a_ball():
    normals = estimate_normals(tilted_plane().points, VOXEL)
    expected = np.array([-0.3, 0, 1]) / np.hypot(0.3, 1)
    assert np.abs(normals @ expected).min() > 0.999
    directions = np.random.default_rng(0).normal(size=(40_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normals = estimate_normals((0.5 * directions).astype(np.float32), 0.01)
    assert np.median(np.abs((normals * directions).sum(axis=1))) > 0.995
    assert estimate_normals(np.zeros((1, 3), np.float32), VOXEL).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("with_normals", [False, True])
def test_it_renders_as_the_points_lie(with_normals):
    cloud = tilted_plane()
    if with_normals:
        normal = np.float32([-0.3, 0, 1]) / np.float32(np.hypot(0.3, 1))  # away from the viewer
        normals = np.broadcast_to(normal, cloud.points.shape)
        cloud = PointCloud(cloud.points, cloud.colours, np.ascontiguousarray(normals))
    map_ = SurfelMap(MapConfig(voxel_m=VOXEL))
    load_cloud(map_, cloud, [[0.0, 0.0, 0.0]])
    assert 15_000 < map_.size < 35_000
    seen = map_.render(MODEL, Rigid3.identity(), attributes=True)
    assert np.isfinite(seen.depth).mean() > 0.97
    rays = MODEL.rays()
    slope = rays[..., 0] / rays[..., 2]
    expected = 2 / (1 - 0.3 * slope)
    error = np.abs(seen.depth - expected)[np.isfinite(seen.depth)]
    assert np.median(error) < 0.002
    known = np.isfinite(seen.depth)
    assert (np.abs(seen.rgb[known].astype(int) - [200, 100, 50]) <= 1).all()
    found = map_.cloud(min_hits=2)
    assert len(found) == map_.size  # they count as seen often
    assert (found.normals[:, 2] < -0.9).all()  # towards the viewer
    np.testing.assert_allclose(found.points[:, 2], 2 + 0.3 * found.points[:, 0], atol=1e-4)


def test_points_that_are_no_map():
    map_ = SurfelMap(MapConfig(voxel_m=VOXEL))
    empty = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    with pytest.raises(SourceError, match="expected points, got none"):
        load_cloud(map_, empty, [])
    broken = PointCloud(np.full((5, 3), np.nan, np.float32), np.zeros((5, 3), np.uint8))
    with pytest.raises(SourceError, match="finite points"):
        load_cloud(map_, broken, [])
    small = SurfelMap(MapConfig(voxel_m=VOXEL, budget_mb=0.1))
    with pytest.raises(ConfigError, match=r"map\.budget_mb: the initial map has"):
        load_cloud(small, tilted_plane(), [])
