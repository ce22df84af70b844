"""Distances and visible points of worlds whose answers are known."""

import math

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.synthetic.primitives import Motion, SceneObject, at, box, cylinder, sphere
from vggt_ros.synthetic.scenes import box_world, demo_rig, demo_room, plane_world
from vggt_ros.synthetic.textures import blank
from vggt_ros.synthetic.truth import (
    distance_to_moving,
    distance_to_surface,
    surface_points,
    surface_visibility,
)
from vggt_ros.synthetic.world import World

CAMERA = CameraModel(160, 120, 100.0, 100.0, 79.5, 59.5)


def test_distance_to_a_plane_and_beyond_its_edge():
    world = plane_world(2.0, size_m=2.0)
    points = [[0, 0, 0], [0.3, -0.4, 2.25], [4.0, 0, 6.0], [0.5, 0.5, 2.0]]
    np.testing.assert_allclose(distance_to_surface(world, points), [2, 0.25, 5.0, 0], atol=1e-12)


def test_distance_to_a_turned_box_from_outside_and_inside():
    part = box((2.0, 1.0, 0.5), at(1.0, 2.0, 3.0, 90), blank())
    world = World((SceneObject("box", (part,), Rigid3.identity()),))
    points = [
        [1.0, 2.0, 4.0],  # above its top at 3.5
        [1.0, 2.0, 3.4],  # inside, 0.1 below the top
        [2.5, 2.0, 3.25],  # 1 m beside: the turned box reaches x = 1.5
        [1.5 + 0.3, 3.0 + 0.4, 3.25],  # off an edge
    ]
    np.testing.assert_allclose(
        distance_to_surface(world, points), [0.5, 0.1, 1.0, 0.5], atol=1e-12
    )


def test_distance_to_round_things():
    parts = (sphere(1.0, at(0, 0, 0), blank()), cylinder(1.0, 2.0, at(5, 0, 0), blank()))
    world = World((SceneObject("round", parts, Rigid3.identity()),))
    points = [[0, 0, 2], [0.2, 0, 0], [5, 0, 3], [5 + 0.5 + 0.3, 0, 2.4], [5, 0, 1]]
    np.testing.assert_allclose(
        distance_to_surface(world, points), [1.5, 0.3, 1.0, 0.5, 0.5], atol=1e-12
    )


def test_points_have_the_stated_spacing_and_lie_in_view():
    world = plane_world(2.0, size_m=10.0)
    points = surface_points(world, [(CAMERA, Rigid3.identity())], 0.05)
    seen_area = (160 / 100 * 2.0) * (120 / 100 * 2.0)
    assert len(points) * 0.05**2 == pytest.approx(seen_area, rel=0.02)
    pixels = CAMERA.project(points)
    assert (pixels > -0.5).all()
    assert (pixels < [159.5, 119.5]).all()


def test_hidden_points_are_left_out():
    """The box of 0.6 m at 2 m hides 0.9 m of the wall at 3 m."""
    world = box_world(2.0, 3.0)
    points = surface_points(world, [(CAMERA, Rigid3.identity())], 0.02)
    wall = points[points[:, 2] > 2.99]
    assert len(wall) > 100
    assert (np.abs(wall[:, :2]).max(axis=1) >= 0.45 - 1e-6).all()
    front = points[points[:, 2] < 2.01]
    assert len(front) * 0.02**2 == pytest.approx(0.36, rel=0.01)
    assert len(front) + len(wall) == len(points)  # no side of the box is seen


def test_min_views_counts_cameras():
    world = plane_world(2.0, size_m=10.0)
    cameras = [(CAMERA, Rigid3.identity()), (CAMERA, Rigid3(np.eye(3), np.array([1.0, 0, 0])))]
    one, two = (surface_points(world, cameras, 0.05, views) for views in (1, 2))
    assert len(one) * 0.05**2 == pytest.approx(4.2 * 2.4, rel=0.02)
    assert len(two) * 0.05**2 == pytest.approx(2.2 * 2.4, rel=0.03)


def test_a_distorted_camera_sees_no_folded_rays():
    lens = CameraModel(160, 120, 100.0, 100.0, 79.5, 59.5, "plumb_bob", (-0.3, 0.08, 0, 0))
    world = plane_world(2.0, 0.0, blank(), 40.0)
    points = surface_points(world, [(lens, Rigid3.identity())], 0.1)
    depth = world.render(lens, Rigid3.identity()).depth
    assert np.isfinite(depth).all()
    assert np.abs(points[:, 0]).max() < 2.6  # 52 degrees; the polynomial folds back farther out
    assert len(points) > 100


def test_demo_truth_is_on_surfaces_and_mostly_seen_twice():
    world, (rig, map_from_rig) = demo_room(), demo_rig()
    cameras = [(c.model, map_from_rig @ c.rig_from_camera) for c in rig.cameras]
    points, views = surface_visibility(world, cameras, 0.06)
    count = views.sum(axis=1)
    assert (count >= 2).sum() >= 0.8 * (count >= 1).sum()
    assert distance_to_surface(world, points[count > 0]).max() < 1e-9
    for model, pose in cameras[:1]:
        image = world.render(model, pose, 10.0)  # the cart has left
        seen = pose.apply(model.unproject(image.depth)).reshape(-1, 3)[::97]
        assert distance_to_surface(world, seen).max() < 1e-5


def test_moving_objects_have_their_own_distance():
    motion = Motion(np.array([0.0, 2.0]), np.array([[0, 0, 0], [4.0, 0, 0]]), np.zeros(2))
    part = box((1.0, 1.0, 1.0), at(0, 0, 0), blank())
    still = SceneObject("still", (box((1.0, 1.0, 1.0), at(0, 10, 0), blank()),), at(0, 0, 0))
    world = World((still, SceneObject("moves", (part,), at(0, 0, 0), motion)))
    point = np.array([[4.0, 0.0, 2.0]])
    assert distance_to_moving(world, point, 2.0)[0] == pytest.approx(1.0)
    assert distance_to_moving(world, point, 1.0)[0] == pytest.approx(math.hypot(1.5, 1.0))
    assert distance_to_surface(world, point)[0] > 9
    assert distance_to_surface(world, point, 2.0)[0] == pytest.approx(1.0)


def test_wrong_arguments_are_named():
    world = plane_world(2.0)
    with pytest.raises(ValueError, match="points_in_map"):
        distance_to_surface(world, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="spacing_m"):
        surface_points(world, [], 0.0)
    with pytest.raises(ValueError, match="materials"):
        box((1.0, 1.0, 1.0), at(0, 0, 0), blank(), blank())
    with pytest.raises(ValueError, match="increasing"):
        Motion(np.array([1.0, 0.0]), np.zeros((2, 3)), np.zeros(2))
