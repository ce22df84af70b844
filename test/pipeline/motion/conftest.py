"""A drive along a wall of points, cut into windows of unknown place, turn and size."""

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.types import UnscaledScene, View

MODEL = CameraModel(320, 240, 200.0, 200.0, 159.5, 119.5)


class Drive:
    """A camera that goes round a square of walls and looks outwards, 24 poses a round."""

    def __init__(self, poses=24, points=4000):
        random = np.random.default_rng(1)
        angle = random.uniform(0, 2 * np.pi, points)
        radius = 4 + 0.5 * np.cos(3 * angle) + random.uniform(-0.1, 0.1, points)
        self.points = np.stack(
            [radius * np.cos(angle), random.uniform(-1.5, 1.5, points), radius * np.sin(angle)], 1
        )
        self.poses = []
        for k in range(poses):
            a = 2 * np.pi * k / 24
            rotation = Rigid3.from_rotation_vector([0.0, -a, 0.0], np.zeros(3)).rotation
            centre = [np.cos(a), 0.1 * np.sin(5 * a), np.sin(a)]
            # looks along +x turned by a: the axes of a camera whose z is outwards
            outwards = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
            self.poses.append(Rigid3(rotation @ outwards @ np.eye(3), centre))

    def window(self, members, scene_from_world, noise=0.0, seed=0, dense=False):
        """An `UnscaledScene` of some poses; noise is relative to the distance."""
        random = np.random.default_rng(seed)
        views, visible = [], np.zeros(len(self.points), bool)
        for k in members:
            in_camera = self.poses[k % len(self.poses)].inverse().apply(self.points)
            pixels = MODEL.project(in_camera)
            inside = ((pixels > 0) & (pixels < [319, 239])).all(axis=1) & (in_camera[:, 2] > 0)
            visible |= inside
            pose = scene_from_world.apply_to_pose(self.poses[k % len(self.poses)])
            depth = confidence = None
            if dense:
                depth = np.full((240, 320), np.nan, np.float32)
                at = np.rint(pixels[inside]).astype(int)
                depth[at[:, 1], at[:, 0]] = scene_from_world.scale * in_camera[inside, 2]
                confidence = np.ones_like(depth)
            views.append(View("cam", k, MODEL, pose, depth, confidence, MODEL))
        points = self.points[visible]
        points = points * (1 + noise * random.standard_normal((len(points), 1)))
        points = scene_from_world.apply(points)
        colours = np.zeros(points.shape, np.uint8)
        return UnscaledScene(tuple(views), points, colours, (), "synthetic")


@pytest.fixture(scope="session")
def drive():
    return Drive()


def random_similarity(seed):
    random = np.random.default_rng(seed)
    pose = Rigid3.from_rotation_vector(random.uniform(-1, 1, 3), random.uniform(-3, 3, 3))
    return Sim3(float(np.exp(random.uniform(-1, 1))), pose.rotation, pose.translation)


@pytest.fixture(scope="session")
def similarity():
    return random_similarity
