"""Which points cameras see, against worlds where it is known."""

import dataclasses

import numpy as np
import pytest

from vggt_ros.export.visibility import project, seen_points
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import PointCloud

MODEL = CameraModel(320, 240, 200.0, 200.0, 159.5, 119.5)
AHEAD = Rigid3.identity()


def plane(z, half, step, shift=(0.0, 0.0)):
    x, y = np.meshgrid(np.arange(-half, half, step) + shift[0], np.arange(-half, half, step))
    return np.stack([x.ravel(), y.ravel() + shift[1], np.full(x.size, z)], 1).astype(np.float32)


def cloud_of(*parts, normals=None):
    points = np.concatenate(parts)
    return PointCloud(points, np.zeros((len(points), 3), np.uint8), normals)


@pytest.mark.parametrize("distorted", [False, True])
def test_projection_is_that_of_the_camera(scene, wall, distorted):
    name = "side" if distorted else "front"
    model, pose = scene.cameras[name], scene.map_from_camera[name]
    pixels, depths = project(wall.points, model, pose)
    in_camera = pose.inverse().apply(wall.points.astype(float))
    expected = model.project(in_camera)
    inside = ((expected >= 0) & (expected <= model.size)).all(axis=1)
    assert inside.sum() > 100
    np.testing.assert_allclose(pixels[inside], expected[inside], atol=1e-9)
    np.testing.assert_allclose(depths, in_camera[:, 2], atol=1e-12)


@pytest.mark.parametrize("step", [0.01, 0.03, 0.1])
def test_a_plane_hides_what_is_behind(step):
    """However far apart its points are, up to some pixels."""
    front = plane(2.0, 0.5, step)
    behind = plane(3.0, 1.5, step, shift=(0.37 * step, 0.21 * step))
    cloud = cloud_of(front, behind)
    seen = seen_points(cloud, MODEL, AHEAD)
    assert np.isin(np.arange(len(front)), seen).all()
    hidden = (np.abs(behind[:, :2]) < 1.5 * (0.5 - 2 * step)).all(axis=1)
    free = (np.abs(behind[:, :2]) > 1.5 * (0.5 + 2 * step)).any(axis=1)
    free &= (np.abs(behind[:, :2] / 3 * 200) < 115).all(axis=1)
    mask = np.isin(np.arange(len(front), len(cloud)), seen)
    assert mask[hidden].mean() <= 0.02
    assert mask[free].all()


def test_a_slanted_plane_does_not_hide_itself():
    points = plane(0.0, 1.0, 0.02)
    turned = np.stack([points[:, 0], points[:, 1] * 0.34, 3 + points[:, 1] * 0.94], 1)  # 70 deg
    seen = seen_points(cloud_of(turned.astype(np.float32)), MODEL, AHEAD)
    pixels, _ = project(turned.astype(np.float32), MODEL, AHEAD)
    assert len(seen) >= 0.99 * ((np.abs(pixels - [160, 120]) < [159, 119]).all(axis=1)).sum()


def test_behind_beside_and_turned_away():
    points = np.float32([[0, 0, 2], [0, 0, -2], [5, 0, 2], [0.2, 0, 2], [0.4, 0, 2]])
    normals = np.float32([[0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, 1], [np.nan] * 3])
    assert seen_points(cloud_of(points), MODEL, AHEAD).tolist() == [0, 3, 4]
    assert seen_points(cloud_of(points, normals=normals), MODEL, AHEAD).tolist() == [0, 4]


def test_distortion_does_not_bend_far_points_into_the_image():
    barrel = dataclasses.replace(
        MODEL, distortion_model="plumb_bob", distortion=(-0.3, 0.0, 0.0, 0.0)
    )
    far = np.float32([[6.0, 0, 2]])  # ideal radius 3, where 1 - 0.3 r^2 is negative
    assert abs(barrel.project(far.astype(float))[0, 0]) < 1000
    assert len(seen_points(cloud_of(far), barrel, AHEAD)) == 0


def test_none_and_several_chunks(wall, scene, monkeypatch):
    empty = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    assert len(seen_points(empty, MODEL, AHEAD)) == 0
    model, pose = scene.cameras["front"], scene.map_from_camera["front"]
    whole = seen_points(wall, model, pose)
    monkeypatch.setattr("vggt_ros.export.visibility.CHUNK", 37)
    np.testing.assert_array_equal(seen_points(wall, model, pose), whole)
