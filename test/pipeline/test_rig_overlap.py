"""How much cameras see of what others see."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.rig_overlap import rig_overlap
from vggt_ros.synthetic.scenes import arc_rig, demo_rig, no_overlap_rig

MODEL = CameraModel(101, 101, 100.0, 100.0, 50.0, 50.0)


def scene(poses, points=(), model=MODEL):
    points = np.asarray(points, float).reshape(-1, 3)
    return SimpleNamespace(
        map_from_camera=poses, cameras=dict.fromkeys(poses, model), points_in_map=points
    )


def of_rig(rig):
    return scene(rig.poses, model=rig.cameras[0].model)


@pytest.mark.parametrize("shift", [0.25, 0.5, 0.9])
def test_two_views_of_a_plane_share_what_they_are_not_shifted_by(shift):
    """A wall at 1 m is 1 m wide in these views: moved by a quarter, three quarters are shared."""
    rng = np.random.default_rng(0)
    wall = np.column_stack([rng.uniform(-0.5, 0.5, (500, 2)), np.ones(500)])
    poses = {"a": Rigid3.identity(), "b": Rigid3(np.eye(3), [shift, 0.0, 0.0])}
    # the grid looks from 1/1.5 to 1.5 times the distance of the wall, uniform in inverse depth
    expected = np.mean([max(0.0, 1 - shift * q) for q in np.linspace(1 / 1.5, 1.5, 6)])
    assert rig_overlap(scene(poses, wall)) == pytest.approx(expected, abs=0.08)


def test_rigs():
    assert rig_overlap(of_rig(demo_rig()[0])) > 0.7
    assert rig_overlap(of_rig(no_overlap_rig()[0])) < 0.05
    assert rig_overlap(of_rig(arc_rig(4, 0.25, 0.0))) > 0.7
    assert math.isnan(rig_overlap(scene({"a": Rigid3.identity()})))
    assert math.isnan(rig_overlap(scene({})))
