"""The whole pipeline on a camera that moves through a small painted room."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vggt_ros.config import (
    CameraConfig,
    Config,
    FrameConfig,
    MapConfig,
    PlaneSweepConfig,
    SelfFilterConfig,
    TrajectoryConfig,
)
from vggt_ros.errors import ConfigError
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
    np.testing.assert_allclose(results[9].map_from_rig.matrix, world_from_rig(9).matrix)
    cloud = pipeline.cloud()
    assert cloud.is_metric
    assert len(cloud) > 2000
    distances = distance_to_surface(room, cloud.points)
    assert np.median(distances) < 0.01
    assert np.percentile(distances, 95) < 0.06


@pytest.mark.slow  # two structures from motion: 20 s of CPU
def test_without_poses_the_path_has_the_right_form(room, drive):
    from vggt_ros.synthetic.truth import distance_to_surface

    images = [replace(s, world_from_rig=None) for s in drive]
    bare = Rig((RigCamera("cam", model=MODEL),))
    pipeline, results = ran(replace(CONFIG, motion="estimate"), images, bare)
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
    tracked = 0
    for k, result in enumerate(results[:10]):  # between the windows, by what is seen of the map
        if result.map_from_rig is not None:
            error = truth[k].inverse() @ world_from_map.apply_to_pose(result.map_from_rig)
            assert np.linalg.norm(error.translation) < 0.05
            tracked += 1
    assert tracked >= 4
    cloud = pipeline.cloud()
    assert not cloud.is_metric
    distances = distance_to_surface(room, world_from_map.apply(cloud.points))
    assert np.median(distances) < 0.02
    assert pipeline.report()["motion"]["keyframes"] == 10


@pytest.mark.slow
def test_the_map_of_a_drive_is_saved_and_gone_on_with(room, drive, tmp_path):
    from vggt_ros.export.archive_file import read_members
    from vggt_ros.pipeline.archive import load_archive, save_archive
    from vggt_ros.pipeline.reanchor import reanchor

    pipeline, _ = ran(CONFIG, drive[:8])
    path = tmp_path / "map.vggtmap"
    save_archive(path, pipeline, drive[7].stamp_ns)
    places = json.loads(read_members(path).content["path.json"])
    assert [stamp for stamp, _ in places] == [s.stamp_ns for s in drive[:8]]
    np.testing.assert_allclose(places[-1][1], world_from_rig(7).matrix)

    # where it stood last, for a robot that stands there still; found wherever it was
    static = replace(CONFIG, motion="static")
    saved = load_archive(path, static)
    expected = world_from_rig(7) @ RIG_FROM_CAMERA
    np.testing.assert_allclose(saved.scene.map_from_camera["cam"].matrix, expected.matrix)
    assert len(saved.landmarks) == 8
    for k in (0, 9):
        found = reanchor(saved, drive[k]).saved.scene.map_from_camera["cam"]
        error = (world_from_rig(k) @ RIG_FROM_CAMERA).inverse() @ found
        assert np.linalg.norm(error.translation) < 0.02
        assert np.degrees(error.angle_rad) < 0.4

    # another drive in the frame of the same localiser
    other = MappingPipeline(CONFIG, RIG)
    other.take_over(load_archive(path, CONFIG))
    assert other.map.size == pipeline.map.size
    for frame_set in drive[4:]:
        assert other.scene is not None
        other.step(frame_set)
    other.finish()
    assert other.state is PipelineState.MAPPING
    assert other.map.size > 0.9 * pipeline.map.size
    for config in (
        replace(CONFIG, motion="estimate"),
        replace(CONFIG, frame=FrameConfig(odom="o")),
    ):
        with pytest.raises(ConfigError, match="motion: a saved map is gone on with where"):
            load_archive(path, config)


@pytest.mark.slow
def test_the_robot_is_not_in_the_map_of_a_drive(drive, tmp_path):
    mask = np.zeros((180, 240), np.uint8)
    mask[120:] = 255  # a bumper
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    masked = replace(CONFIG, camera={"cam": CameraConfig(mask=str(tmp_path / "mask.png"))})
    box = SelfFilterConfig(True, 0.0, -9.0, -9.0, 1.0, 9.0, 9.0)  # 0.9 m before the camera
    for config in (masked, replace(CONFIG, self_filter=box)):
        _, results = ran(config, drive[:7])
        depth_maps = [d for r in results if r is not None for d in r.depth_maps]
        assert depth_maps
        for depth_map in depth_maps:
            lower = depth_map.depth[depth_map.depth.shape[0] * 2 // 3 + 1 :]
            if config is masked:
                assert np.isnan(lower).all()
            else:
                assert not (depth_map.depth < 0.9).any()
        assert any(np.isfinite(d.depth).any() for d in depth_maps)
