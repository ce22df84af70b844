"""A small world with exact answers, shared by the tests of all formats."""

import math

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.types import AlignedScene, Features, PointCloud, ScaleEstimate, ScaleSource

FRONT = CameraModel(640, 480, 500.0, 510.0, 317.0, 244.0)
SIDE = CameraModel(320, 240, 260.0, 250.0, 158.5, 121.0, "plumb_bob", (-0.05, 0.01, 1e-3, -1e-3))


def looking_at(eye, target):
    """map_from_camera of an optical frame that looks at a point, the horizon level (z up)."""
    z = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    x = np.cross(z, [0, 0, 1])
    x /= np.linalg.norm(x)
    return Rigid3(np.stack([x, np.cross(z, x), z], axis=1), np.array(eye, float))


def make_scene(scale=None, points=None, features=None):
    poses = {
        "front": looking_at((0, 0, 1), (3, 0.2, 0.9)),
        "side": looking_at((0.3, -1, 1.2), (3, 0.2, 0.9)),
    }
    points = np.empty((0, 3)) if points is None else points
    return AlignedScene(
        {"front": FRONT, "side": SIDE},
        poses,
        points,
        np.full(points.shape, 7, np.uint8),
        scale or ScaleEstimate(0.5, 0.01, ScaleSource.RIG),
        Sim3.identity(),
        {},
        "rig",
        (),
        "sfm",
        features=features or {},
    )


def make_wall(step=0.05, x=3.0, half=0.6, seed=0):
    """Points of a wall across the x axis, with the normals towards the cameras."""
    rng = np.random.default_rng(seed)
    y, z = np.meshgrid(np.arange(-half, half, step), np.arange(0.5, 1.5, step))
    points = np.stack([np.full(y.size, x), y.ravel(), z.ravel()], axis=1)
    points += rng.uniform(-1e-3, 1e-3, points.shape)
    count = len(points)
    return PointCloud(
        points.astype(np.float32),
        rng.integers(0, 256, (count, 3), np.uint8),
        np.tile(np.array([-1, 0, 0], np.float32), (count, 1)),
        rng.random(count).astype(np.float32),
        "map",
        True,
    )


@pytest.fixture
def scene():
    return make_scene()


@pytest.fixture
def unscaled_scene():
    return make_scene(ScaleEstimate(1.0, math.inf, ScaleSource.NONE))


@pytest.fixture
def wall():
    return make_wall()


@pytest.fixture
def second_wall():
    """Behind the first: hidden from the cameras except at its borders."""
    return make_wall(x=4.0, half=2.0, seed=1)


@pytest.fixture
def scene_with_features():
    """Five points, the first four seen by both cameras, half a pixel beside their projection."""
    points = np.array([[3, 0, 1], [3, 0.3, 1.1], [3, -0.2, 0.8], [2.9, 0.1, 1.2], [3, 0.4, 1.3]])
    bare = make_scene(points=points)
    features = {}
    for name, rows in (("front", [0, 1, 2, 3]), ("side", [3, 2, 1, 0])):
        in_camera = bare.map_from_camera[name].inverse().apply(points[rows])
        pixels = bare.cameras[name].project(in_camera) + [0.3, -0.4]
        features[name] = Features(np.array(rows), pixels)
    return make_scene(points=points, features=features)
