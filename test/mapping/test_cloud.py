"""Voxel averages against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.mapping.cloud import thin_to, voxel_average
from vggt_ros.types import PointCloud


def some_cloud(n: int = 20_000) -> PointCloud:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(n, 3)).astype(np.float32)
    return PointCloud(
        rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        rng.integers(0, 256, (n, 3), dtype=np.uint8),
        normals / np.linalg.norm(normals, axis=1, keepdims=True),
        rng.random(n, dtype=np.float32),
        frame="here",
        is_metric=False,
    )


def test_means_are_those_of_numpy():
    cloud, voxel = some_cloud(), 0.11
    thin = voxel_average(cloud, voxel)
    keys = np.floor(cloud.points * np.float32(1 / voxel)).astype(int)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse)
    order = np.argsort(first)  # cells in the order of their first point
    assert len(thin) == len(counts)

    def mean(values):
        return (np.bincount(inverse, values) / counts)[order]

    for i in range(3):
        np.testing.assert_allclose(thin.points[:, i], mean(cloud.points[:, i]), atol=1e-5)
        np.testing.assert_allclose(thin.colours[:, i], mean(cloud.colours[:, i]), atol=0.51)
    np.testing.assert_allclose(thin.confidence, mean(cloud.confidence), atol=1e-5)
    summed = np.column_stack([mean(cloud.normals[:, i]) for i in range(3)])
    summed /= np.linalg.norm(summed, axis=1, keepdims=True)
    np.testing.assert_allclose(thin.normals, summed, atol=1e-3)
    assert thin.frame == "here"
    assert not thin.is_metric


def test_one_voxel_and_no_points():
    cloud = some_cloud(10)
    shifted = PointCloud(np.abs(cloud.points), cloud.colours)
    assert len(voxel_average(shifted, 10.0)) == 1
    empty = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))
    assert len(voxel_average(empty, 0.1)) == 0


def test_thinning_is_even_and_repeatable():
    assert thin_to(5, 0).tolist() == [0, 1, 2, 3, 4]
    assert thin_to(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert thin_to(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert len(voxel_average(some_cloud(), 0.05, max_points=100)) == 100


@pytest.mark.parametrize("voxel", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_voxel_is_an_error(voxel):
    with pytest.raises(ValueError, match="voxel_m > 0"):
        voxel_average(some_cloud(10), voxel)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_points_without_a_cell_are_an_error(value):
    cloud = some_cloud(10)
    cloud.points[3, 1] = value
    with pytest.raises(ValueError, match="finite points"):
        voxel_average(cloud, 0.01)
