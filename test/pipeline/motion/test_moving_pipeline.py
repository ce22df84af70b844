"""The whole pipeline on a camera that moves through a small painted room."""

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.config import Config, MapConfig, PlaneSweepConfig, TrajectoryConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.mapping import MappingPipeline, PipelineState
from vggt_ros.pipeline.motion.poses import fit_path
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL, at
from vggt_ros.types import Frame, FrameSet

MODEL = CameraModel(240, 180, 170.0, 170.0, 119.5, 89.5)
RIG_FROM_CAMERA = Rigid3(RIG_FROM_OPTICAL, np.array([0.1, 0.0, 0.2]))
RIG = Rig((RigCamera("cam", model=MODEL, rig_from_camera=RIG_FROM_CAMERA),))
CONFIG = Config(
    cameras=["cam"],
    motion="tf",
    trajectory=TrajectoryConfig(window_views=6, shared_views=2, min_displacement=0.0),
    plane_sweep=PlaneSweepConfig(width=240),
    map=MapConfig(voxel_m=0.04),
)


@pytest.fixture(scope="module")
def room():
    from vggt_ros.synthetic import furniture as f
    from vggt_ros.synthetic.primitives import SceneObject, box
    from vggt_ros.synthetic.textures import clouds
    from vggt_ros.synthetic.world import World

    paint = clouds(0.01)
    return World(
        (
            f.room((5.0, 4.0, 2.4), paint, paint, (paint,) * 4),
            SceneObject("box", (box((0.5, 0.6, 0.9), at(0, 0, 0), paint),), at(1.2, 0.5, 0, 20)),
        ),
        seed=3,
    )


def world_from_rig(k):
    return at(-1.2 + 0.04 * k, -0.8 + 0.13 * k, 0.9, -1.5 * k)


@pytest.fixture(scope="module")
def drive(room):
    """Ten sets of one camera that goes sideways before the far wall."""
    sets = []
    for k in range(10):
        pose = world_from_rig(k)
        rgb = room.render(MODEL, pose @ RIG_FROM_CAMERA).rgb
        sets.append(FrameSet(k * 10**9, (Frame("cam", k * 10**9, rgb, MODEL),), pose))
    return sets


def ran(config, sets, rig=RIG):
    pipeline = MappingPipeline(config, rig)
    results = [pipeline.step(frame_set) for frame_set in sets]
    return pipeline, [*results, pipeline.finish()]


def test_with_given_poses_the_map_lies_on_the_walls(room, drive):
    from vggt_ros.synthetic.truth import distance_to_surface

    pipeline, results = ran(CONFIG, drive)
    assert pipeline.state is PipelineState.MAPPING
    assert [stamp for stamp, _ in pipeline.path()] == [s.stamp_ns for s in drive]
    np.testing.assert_allclose(pipeline.map_from_world.matrix, np.eye(4))
    newest = next(r.map_from_rig for r in reversed(results) if r.map_from_rig is not None)
    np.testing.assert_allclose(newest.matrix, world_from_rig(9).matrix)
    cloud = pipeline.cloud()
    assert cloud.is_metric
    assert len(cloud) > 2000
    distances = distance_to_surface(room, cloud.points)
    assert np.median(distances) < 0.01
    assert np.percentile(distances, 95) < 0.06


def test_without_poses_the_path_has_the_right_form(room, drive):
    from vggt_ros.synthetic.truth import distance_to_surface

    images = [replace(s, world_from_rig=None) for s in drive]
    bare = Rig((RigCamera("cam", model=MODEL),))
    pipeline, _ = ran(replace(CONFIG, motion="estimate"), images, bare)
    path = dict(pipeline.path())
    assert sorted(path) == [s.stamp_ns for s in drive]
    assert pipeline.map_from_world is None
    truth = [world_from_rig(k) @ RIG_FROM_CAMERA for k in range(10)]
    found = [path[s.stamp_ns] for s in drive]
    world_from_map = fit_path(found, truth, 1e-3).world_from_scene
    for pose, true in zip(found, truth, strict=True):
        error = true.inverse() @ world_from_map.apply_to_pose(pose)
        assert np.linalg.norm(error.translation) < 0.02
        assert np.degrees(error.angle_rad) < 0.5
    cloud = pipeline.cloud()
    assert not cloud.is_metric
    distances = distance_to_surface(room, world_from_map.apply(cloud.points))
    assert np.median(distances) < 0.02
    assert pipeline.report()["motion"]["keyframes"] == 10
