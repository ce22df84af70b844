"""Mapping a rig that moves, with stages that know the answers: quick and exact."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.config import (
    AlignConfig,
    CameraConfig,
    Config,
    MapConfig,
    ScaleConfig,
    TrajectoryConfig,
)
from vggt_ros.errors import AlignmentError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.mapping import MappingPipeline, PipelineState
from vggt_ros.pipeline.motion.kept_depth import KeptDepth
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import (
    DepthAlignment,
    DepthKind,
    DepthMap,
    DepthPrediction,
    Frame,
    FrameSet,
    ScaleSource,
    UnscaledScene,
    View,
)

MODEL = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
WALL_Z = 2.0
"""The world: a wall at this z; all cameras look along z."""
CONFIG = Config(
    cameras=["cam"],
    motion="estimate",
    trajectory=TrajectoryConfig(
        window_views=4, shared_views=2, min_displacement=0.0, max_loops=0, calibration_views=4
    ),
    map=MapConfig(voxel_m=0.05, min_hits=1),
)
NAMES = ("cam", "second")
RIG_FROM_CAMERA = {
    "cam": Rigid3(np.eye(3), np.zeros(3)),
    "second": Rigid3(np.eye(3), np.array([0.2, 0.0, 0.0])),
}


def truth(k):
    return Rigid3(np.eye(3), np.array([0.1 * k, 0.02 * math.sin(k), 0.03 * k]))


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def frame_set(k, world=None, names=("cam",), model=MODEL):
    frames = tuple(Frame(name, k, picture(k), model) for name in names)
    return FrameSet(k, frames, world)


def rig(names=("cam",), poses=True):
    return Rig(
        tuple(
            RigCamera(n, model=MODEL, rig_from_camera=RIG_FROM_CAMERA[n] if poses else None)
            for n in names
        )
    )


class Knowing:
    """Finds the true poses, each window in a frame and unit of its own."""

    name = "knowing"
    sets_needed = 1

    def __init__(self, similarity):
        self.similarity = similarity
        self.broken = False
        self.calls = 0

    def bootstrap(self, frame_sets):
        self.calls += 1
        if self.broken:
            raise AlignmentError("no texture")
        scene_from_world = self.similarity(self.calls)
        grid = np.linspace(-1.5, 3.5, 30)
        x, y = np.meshgrid(grid, grid)
        # a little relief, so that the points do not lie in a plane
        points = np.stack([x, y, WALL_Z + 0.05 * np.sin(7 * x) * np.cos(5 * y)], -1)
        points = points.reshape(-1, 3)
        views = []
        for s in frame_sets:
            for frame in s.frames:
                pose = truth(s.stamp_ns) @ RIG_FROM_CAMERA[frame.camera]
                pose = scene_from_world.apply_to_pose(pose)
                views.append(View(frame.camera, s.stamp_ns, MODEL, pose))
        colours = np.zeros(points.shape, np.uint8)
        return UnscaledScene(tuple(views), scene_from_world.apply(points), colours, (), self.name)


class Wall:
    """Stereo that is right: the depth of the wall, in the unit of the map."""

    name = "wall"

    def __init__(self, kind=DepthKind.TRIANGULATED, factor=1.0):
        self.kind, self.factor = kind, factor
        self.scene = None
        self.served = []

    def set_config(self, config):
        pass

    def prepare(self, scene):
        self.scene = scene

    def estimate(self, frames):
        found = []
        for frame in frames.frames:
            self.served.append(frame.camera)
            stamp = int(frame.camera.split("@")[1])
            # map units per metre, by the distance of two cameras
            names = sorted(self.scene.map_from_camera, key=lambda n: int(n.split("@")[1]))
            unit = 1.0
            if len(names) > 1 and names[0].split("@")[0] == names[-1].split("@")[0]:
                a, b = (self.scene.map_from_camera[n].translation for n in (names[0], names[-1]))
                p, q = (truth(int(n.split("@")[1])).translation for n in (names[0], names[-1]))
                unit = np.linalg.norm(a - b) / np.linalg.norm(p - q)
            depth = np.full(
                (48, 64), self.factor * unit * (WALL_Z - truth(stamp).translation[2]), np.float32
            )
            found.append(
                DepthPrediction(
                    frame.camera, stamp, self.kind, depth,
                    np.ones_like(depth), MODEL, frame.rgb,
                )
            )  # fmt: skip
        return found


def pipeline_of(config, bootstrapper=None, given=None):
    return MappingPipeline(config, given or rig(poses=False), bootstrapper, Wall())


def exact(similarity):
    return Knowing(lambda n: similarity(n))


def test_windows_become_one_map(similarity):
    pipeline = pipeline_of(CONFIG, exact(similarity))
    results = [pipeline.step(frame_set(k)) for k in range(9)]
    results.append(pipeline.finish())
    assert [r.bootstrapped for r in results].count(True) == 1
    assert pipeline.state is PipelineState.MAPPING
    assert pipeline.keyframes == 9
    path = dict(pipeline.path())
    assert results[2].map_from_rig is None
    np.testing.assert_allclose(results[7].map_from_rig.matrix, path[7].matrix, atol=1e-6)
    unit = np.linalg.norm(path[8].translation - path[0].translation) / np.linalg.norm(
        truth(8).translation
    )
    for k in range(9):
        moved = path[0].inverse() @ path[k]
        np.testing.assert_allclose(
            moved.translation, unit * (truth(k).translation - truth(0).translation), atol=1e-6
        )
    wall = path[0].inverse().apply(pipeline.cloud().points)
    np.testing.assert_allclose(wall[:, 2], unit * WALL_Z, atol=0.01)
    assert pipeline.report()["motion"]["path_length"] > 0
    assert {d.camera for r in results for d in r.depth_maps} == {"cam"}


def test_a_failed_window_keeps_the_map(similarity):
    knowing = exact(similarity)
    trajectory = replace(CONFIG.trajectory, min_loop_matches=8)
    pipeline = pipeline_of(replace(CONFIG, trajectory=trajectory), knowing)
    for k in range(4):
        pipeline.step(frame_set(k))
    size = pipeline.map.size
    assert size
    knowing.broken = True
    for k in (4, 5):
        result = pipeline.step(frame_set(k))
    assert not result.depth_maps
    assert pipeline.map.size == size
    assert pipeline.state is PipelineState.MAPPING
    assert pipeline.failure == "no texture"
    assert pipeline.dropped["window failed"] == 1
    knowing.broken = False
    for k in (6, 7):  # the camera is back where it was
        seen = replace(frame_set(k).frames[0], rgb=picture(3))
        pipeline.step(FrameSet(k, (seen,)))
    assert pipeline.keyframes == 6
    assert pipeline.failure == ""


def test_without_a_first_window_there_is_no_map(similarity):
    knowing = exact(similarity)
    knowing.broken = True
    pipeline = pipeline_of(CONFIG, knowing)
    for k in range(3):
        pipeline.step(frame_set(k))
    with pytest.raises(AlignmentError, match="no texture"):
        pipeline.step(frame_set(3))
    assert pipeline.state is PipelineState.FAILED
    assert pipeline.scene is None
    knowing.broken = False
    for k in range(4, 8):
        pipeline.step(frame_set(k))
    assert pipeline.state is PipelineState.MAPPING


def test_reset_forgets_the_path(similarity):
    pipeline = pipeline_of(CONFIG, exact(similarity))
    for k in range(6):
        pipeline.step(frame_set(k))
    pipeline.reset()
    assert (pipeline.scene, pipeline.path(), pipeline.keyframes) == (None, [], 0)
    assert pipeline.map.size == 0
    results = [pipeline.step(frame_set(k)) for k in range(4)]
    assert results[-1].bootstrapped
    assert pipeline.keyframes == 4


def test_a_map_that_must_be_metric_is_refused(similarity):
    config = replace(CONFIG, scale=ScaleConfig(require_metric=True))
    pipeline = pipeline_of(config, exact(similarity))
    for k in range(3):
        pipeline.step(frame_set(k))
    with pytest.raises(AlignmentError, match="require_metric"):
        pipeline.step(frame_set(3))
    assert pipeline.map.size == 0


def test_a_known_rig_gives_every_window_its_metre(similarity):
    config = replace(CONFIG, cameras=list(NAMES))
    pipeline = pipeline_of(config, exact(similarity), rig(NAMES))
    for k in range(5):
        pipeline.step(frame_set(k, names=NAMES))
    assert pipeline.scene.scale.source is ScaleSource.RIG
    path = dict(pipeline.path())
    step = path[0].inverse() @ path[3]
    np.testing.assert_allclose(step.translation, truth(3).translation, atol=1e-3)
    assert pipeline.cloud().is_metric


def test_a_set_without_transform_is_dropped_and_counted():
    for odom in ("", "odom"):
        frame = replace(CONFIG.frame, odom=odom)
        config = replace(CONFIG, motion="tf", bootstrap="rig", frame=frame)
        pipeline = pipeline_of(config, given=rig())
        for k in range(5):
            result = pipeline.step(frame_set(k))
            assert not result.depth_maps
        assert pipeline.dropped == {"no transform": 5}
        assert pipeline.path() == []
        assert pipeline.scene is None
        assert pipeline.report()["sets"]["used"] == 0


def test_given_poses_are_taken_as_they_are():
    config = replace(CONFIG, motion="tf", bootstrap="rig")
    pipeline = pipeline_of(config, given=rig())
    place = Rigid3.from_rotation_vector((0.1, 0.2, 0.3), (4.0, 5.0, 6.0))
    for k in range(4):
        pipeline.step(frame_set(k, place @ truth(k)))
    assert pipeline.scene.scale.source is ScaleSource.ODOMETRY
    np.testing.assert_allclose(pipeline.path()[3][1].matrix, (place @ truth(3)).matrix)
    points = place.inverse().apply(pipeline.cloud().points)
    np.testing.assert_allclose(points[:, 2], WALL_Z, atol=0.01)


def test_a_rig_of_several_cameras_is_mapped_while_it_stands():
    trajectory = replace(CONFIG.trajectory, min_displacement=0.03)
    config = replace(
        CONFIG, motion="tf", bootstrap="rig", cameras=list(NAMES), trajectory=trajectory
    )
    pipeline = pipeline_of(config, given=rig(NAMES))
    pipeline.step(frame_set(0, truth(0), NAMES))
    pipeline.step(frame_set(1, truth(1), NAMES))
    standing = replace(frame_set(1, truth(1), NAMES), stamp_ns=2)
    assert len(pipeline.step(standing).depth_maps) == 2


def test_odometry_gives_the_metre_and_is_corrected(similarity):
    """Odometry that counts lengths right but turns: the images know better."""
    config = replace(CONFIG, motion="tf", frame=replace(CONFIG.frame, odom="odom"))
    config = replace(config, scale=ScaleConfig(odometry_sigma=1e-3))
    pipeline = pipeline_of(config, exact(similarity), rig())
    odometry = [truth(0)]
    for k in range(1, 10):
        step = truth(k - 1).inverse() @ truth(k)
        wrong = Rigid3.from_rotation_vector((0, 0.01, 0))
        odometry.append(odometry[-1] @ Rigid3(wrong.rotation, step.translation))
    for k, world in enumerate(odometry):
        pipeline.step(frame_set(k, world))
    pipeline.finish()
    assert pipeline.scene.scale.source is ScaleSource.ODOMETRY
    corrected = pipeline.map_from_world @ odometry[-1]
    error = np.linalg.norm(corrected.translation - truth(9).translation)
    assert error < 0.4 * np.linalg.norm(odometry[-1].translation - truth(9).translation)


def test_unknown_intrinsics_are_found_again_over_more_keyframes(similarity):
    class Learning(Knowing):
        """The focal length that it finds comes nearer to the truth with every call."""

        def bootstrap(self, frame_sets):
            scene = super().bootstrap(frame_sets)
            if all(f.model is not None for s in frame_sets for f in s.frames):
                return scene
            focal = 40.0 if len({s.stamp_ns for s in frame_sets}) and self.calls == 1 else 50.0
            model = replace(MODEL, fx=focal, fy=focal)
            views = tuple(replace(v, model=model) for v in scene.views)
            return replace(scene, views=views)

    pipeline = pipeline_of(CONFIG, Learning(similarity), Rig((RigCamera("cam"),)))
    results = [pipeline.step(frame_set(k, model=None)) for k in range(8)]
    assert pipeline.keyframes == 8
    assert [r.bootstrapped for r in results].count(True) == 2  # the map began again
    assert pipeline.scene.cameras["cam"].fx == 50.0


def depth_map(stamp, pose, value=2.0):
    depth = np.full((48, 64), value, np.float32)
    alignment = DepthAlignment("cam", DepthKind.TRIANGULATED, 1, 0, 1, 0, 0, True)
    return DepthMap(
        "cam", stamp, depth, np.ones_like(depth), picture(stamp), MODEL, pose, alignment
    )


def test_a_corrected_path_moves_the_map():
    """A loop halves the second window and sets it aside: its part of the map follows."""
    from vggt_ros.mapping.make_map import make_map

    where = {0: Sim3.identity(), 1: Sim3(1.0, np.eye(3), np.array([5.0, 0, 0]))}
    map_ = make_map(CONFIG.map)
    kept = KeptDepth(100.0)
    for k, (number, map_from_window) in enumerate(where.items()):
        pose = map_from_window.apply_to_pose(Rigid3.identity())
        one = depth_map(k, pose)
        map_.fuse([one])
        kept.add(one, number, map_from_window, False)
    assert kept.largest_move(where.__getitem__) == 0
    where[1] = Sim3(0.5, np.eye(3), np.array([5.0, 1.0, 0]))
    assert kept.largest_move(where.__getitem__) == pytest.approx(math.hypot(1, 1), rel=1e-3)
    kept.fuse_again(map_, where.__getitem__)
    assert kept.largest_move(where.__getitem__) == 0
    points = map_.cloud().points
    second = points[:, 0] > 2.5
    np.testing.assert_allclose(points[~second, 2], 2.0, atol=2e-3)
    np.testing.assert_allclose(points[second, 2], 1.0, atol=2e-3)
    assert points[second, 1].mean() == pytest.approx(1.0, abs=0.02)


def test_kept_depth_stays_within_its_budget():
    kept = KeptDepth(0.1)
    for k in range(60):
        kept.add(depth_map(k, Rigid3.identity()), 0, Sim3.identity(), False)
        assert kept.memory_bytes <= 0.1e6
    assert 4 < len(kept) < 20
    kept.clear()
    assert (len(kept), kept.memory_bytes) == (0, 0)


def test_drops_are_counted_once(similarity):
    trajectory = replace(CONFIG.trajectory, min_displacement=0.03)
    pipeline = pipeline_of(replace(CONFIG, trajectory=trajectory), exact(similarity))
    for _ in range(3):
        pipeline.step(frame_set(0))
    assert pipeline.dropped == Counter({"too little motion": 2})


def test_depth_of_single_images_is_fitted_to_what_the_window_knows(similarity):
    config = replace(CONFIG, align=AlignConfig(min_pixels=50))
    estimator = Wall(DepthKind.METRIC_DEPTH, 0.6)
    pipeline = MappingPipeline(config, rig(poses=False), exact(similarity), estimator)
    results = [pipeline.step(frame_set(k)) for k in range(4)]
    assert len(results[-1].depth_maps) == 4
    for depth_map in results[-1].depth_maps:
        assert depth_map.alignment.accepted
        assert depth_map.alignment.scale == pytest.approx(1 / 0.6, rel=0.03)


def test_the_places_of_sets_that_are_no_keyframes_are_forgotten(similarity):
    trajectory = replace(CONFIG.trajectory, min_displacement=0.03)
    frame = replace(CONFIG.frame, odom="odom")
    config = replace(CONFIG, motion="tf", frame=frame, trajectory=trajectory)
    pipeline = pipeline_of(config, exact(similarity), rig())
    for k in range(50):
        seen = replace(frame_set(0).frames[0], stamp_ns=k)
        pipeline.step(FrameSet(k, (seen,), truth(0)))
    assert len(pipeline._moving.locator._world_from_rig) == 1


def test_what_is_unknown_of_the_rig_is_found_along_the_given_path(similarity):
    config = replace(CONFIG, motion="tf", cameras=list(NAMES))
    known, unknown = rig(NAMES).cameras
    half = Rig((known, replace(unknown, rig_from_camera=None)))
    pipeline = pipeline_of(config, exact(similarity), half)
    place = Rigid3.from_rotation_vector((0.1, 0.2, 0.3), (4.0, 5.0, 6.0))
    for k in range(3):
        pipeline.step(frame_set(k, place @ truth(k), NAMES))
    found = pipeline.scene.map_from_camera["second"]
    newest = place @ truth(1) @ RIG_FROM_CAMERA["second"]
    np.testing.assert_allclose(found.matrix, newest.matrix, atol=1e-6)
    scale = pipeline.scene.scale
    assert scale.source is ScaleSource.ODOMETRY
    assert scale.sigma / scale.value == pytest.approx(config.scale.odometry_sigma, rel=0.05)


def test_without_a_bootstrapper_the_rig_must_be_known():
    config = replace(CONFIG, motion="tf", bootstrap="rig")
    pipeline = pipeline_of(config, given=rig(poses=False))
    for k in range(3):
        pipeline.step(frame_set(k, truth(k)))
    with pytest.raises(AlignmentError, match="bootstrap: sfm"):
        pipeline.step(frame_set(3, truth(3)))
    assert pipeline.state is PipelineState.FAILED


def test_a_path_from_images_needs_a_bootstrapper():
    with pytest.raises(ConfigError, match="sfm or vggt"):
        pipeline_of(replace(CONFIG, bootstrap="rig"))


def test_a_window_without_texture_goes_by_odometry(similarity):
    frame = replace(CONFIG.frame, odom="odom")
    config = replace(CONFIG, motion="tf", frame=frame)
    knowing = exact(similarity)
    pipeline = pipeline_of(config, knowing, rig())
    for k in range(4):
        pipeline.step(frame_set(k, truth(k)))
    knowing.broken = True
    for k in (4, 5):
        pipeline.step(frame_set(k, truth(k)))
    knowing.broken = False
    for k in range(6, 10):
        pipeline.step(frame_set(k, truth(k)))
    assert pipeline.dropped["window by odometry"] == 1
    assert pipeline.keyframes == 10
    for k, (_, pose) in enumerate(pipeline.path()):
        np.testing.assert_allclose(pose.translation, truth(k).translation, atol=2e-3)


def test_a_map_becomes_metric_when_a_later_window_knows_its_metre(similarity):
    """A depth camera that comes late; what was mapped before is brought to metres."""
    pipeline = pipeline_of(CONFIG, exact(similarity))
    for k in range(4):
        pipeline.step(frame_set(k))
    assert not pipeline.cloud().is_metric
    for k in range(4, 8):
        depth = np.full((48, 64), WALL_Z - truth(k).translation[2], np.float32)
        frame = replace(frame_set(k).frames[0], depth_m=depth)
        pipeline.step(FrameSet(k, (frame,)))
    assert pipeline.scene.scale.source is ScaleSource.DEPTH_CAMERA
    assert pipeline.cloud().is_metric
    path = dict(pipeline.path())
    moved = path[0].inverse() @ path[7]
    # the relief of the wall is not in the depth
    np.testing.assert_allclose(
        np.linalg.norm(moved.translation), np.linalg.norm(truth(7).translation), rtol=0.02
    )
    points = path[0].inverse().apply(pipeline.cloud().points)
    assert np.median(points[:, 2]) == pytest.approx(WALL_Z, rel=0.02)
    assert pipeline.report()["motion"]["corrections"] >= 1
    scene = pipeline.scene
    np.testing.assert_allclose(
        scene.map_from_rig.matrix, scene.map_from_camera["cam"].matrix, atol=1e-6
    )


def test_what_the_robot_sees_of_itself_stays_out(tmp_path):
    import cv2

    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    camera = {"cam": CameraConfig(mask=str(tmp_path / "mask.png"))}
    config = replace(CONFIG, motion="tf", bootstrap="rig", camera=camera)
    pipeline = pipeline_of(config, given=rig())
    for k in range(4):
        result = pipeline.step(frame_set(k, truth(k)))
    assert len(result.depth_maps) == 4
    for depth_map in result.depth_maps:
        assert np.isnan(depth_map.depth[:, :32]).all()
        assert np.isfinite(depth_map.depth[:, 32:]).all()


class Falling(Wall):
    """Fails at a call."""

    calls = 0

    def estimate(self, frames):
        self.calls += 1
        if self.calls == self.fails_at:
            raise AlignmentError("the network is gone")
        return super().estimate(frames)


def test_a_first_window_that_fails_half_way_leaves_no_ghost(similarity):
    knowing = exact(similarity)  # intrinsics are found first: two windows come at once
    estimator = Falling()
    estimator.fails_at = 2
    trajectory = replace(CONFIG.trajectory, calibration_views=6)
    pipeline = MappingPipeline(
        replace(CONFIG, trajectory=trajectory), Rig((RigCamera("cam"),)), knowing, estimator
    )
    for k in range(5):
        pipeline.step(frame_set(k, model=None))
    with pytest.raises(AlignmentError, match="the network is gone"):
        pipeline.step(frame_set(5, model=None))
    assert estimator.calls == 2
    assert pipeline.scene is None
    assert pipeline.map.size == 0
    assert pipeline.aligner.known == 0
    for k in range(6, 12):
        pipeline.step(frame_set(k, model=None))
    assert pipeline.map.size > 0


def test_a_map_that_was_there_before_stays_when_the_first_window_fails():
    estimator = Falling()
    config = replace(CONFIG, motion="tf", bootstrap="rig")
    pipeline = MappingPipeline(config, rig(), None, estimator)
    estimator.fails_at = 1
    pipeline.map.fuse([depth_map(0, Rigid3.identity())])
    size = pipeline.map.size
    for k in range(3):
        pipeline.step(frame_set(k, truth(k)))
    with pytest.raises(AlignmentError, match="the network is gone"):
        pipeline.step(frame_set(3, truth(3)))
    assert pipeline.map.size == size


def test_without_a_metre_nothing_is_said_in_the_metres_of_the_odometry(similarity):
    frame = replace(CONFIG.frame, odom="odom")
    config = replace(CONFIG, motion="tf", frame=frame, scale=ScaleConfig(source="none"))
    pipeline = pipeline_of(config, exact(similarity), rig())
    results = [pipeline.step(frame_set(k, truth(k))) for k in range(6)]
    assert pipeline.keyframes
    assert not pipeline.cloud().is_metric
    assert pipeline.map_from_world is None
    assert results[4].map_from_rig is None


@pytest.mark.parametrize(
    ("motion", "odom", "refused"),
    [
        ("tf", "", ("none", "parameter", "depth_camera", "rig", "metric_model")),
        ("tf", "odom", ("metric_model",)),
        ("estimate", "", ("metric_model", "odometry")),
    ],
)
def test_a_scale_that_a_moving_rig_cannot_have_is_refused(motion, odom, refused, similarity):
    frame = replace(CONFIG.frame, odom=odom)
    for source in ("auto", "rig", "odometry", "depth_camera", "metric_model", "parameter", "none"):
        scale = ScaleConfig(source=source, metres_per_unit=1.0)
        config = replace(CONFIG, motion=motion, frame=frame, scale=scale)
        if source in refused:
            with pytest.raises(ConfigError, match=r"scale.source: expected one of auto"):
                pipeline_of(config, exact(similarity), rig())
        else:
            pipeline_of(config, exact(similarity), rig())


def test_every_camera_with_a_place_is_in_the_scene(tmp_path):
    """The newest set of the first window lacks one; it comes back, and has a mask."""
    import cv2

    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    camera = {"second": CameraConfig(mask=str(tmp_path / "mask.png"))}
    config = replace(CONFIG, motion="tf", bootstrap="rig", cameras=list(NAMES), camera=camera)
    places = tuple(replace(c, model=None) for c in rig(NAMES).cameras)
    pipeline = pipeline_of(config, given=Rig(places))
    for k in range(4):
        pipeline.step(frame_set(k, truth(k), NAMES if k in (0, 4) else ("cam",)))
    assert set(pipeline.scene.cameras) == set(NAMES)
    result = pipeline.step(frame_set(4, truth(4), NAMES))
    result = pipeline.step(frame_set(5, truth(5), NAMES))
    assert "second" in {d.camera for d in result.depth_maps}


def test_finish_may_be_called_at_any_time(similarity):
    assert MappingPipeline(replace(CONFIG, motion="static")).finish() is None
    pipeline = pipeline_of(CONFIG, exact(similarity))
    pipeline.finish()
    for k in range(12):
        pipeline.step(frame_set(k))
        if k in (5, 6):
            pipeline.finish()
            pipeline.finish()
            assert pipeline.keyframes == k + 1
    pipeline.finish()
    assert pipeline.keyframes == 12
    given = pipeline_of(replace(CONFIG, motion="tf", bootstrap="rig"), given=rig())
    given.finish()
    for k in range(8):
        given.step(frame_set(k, truth(k)))
        if k > 2:
            given.finish()
            given.finish()
    assert given.keyframes == 8


def test_drift_of_the_scale_is_seen_on_the_way(similarity):
    pipeline = pipeline_of(CONFIG, exact(similarity))
    for k in range(16):
        wrong = 1.0 if k < 7 else 1.1
        depth = np.full((48, 64), wrong * (WALL_Z - truth(k).translation[2]), np.float32)
        frame = replace(frame_set(k).frames[0], depth_m=depth)
        pipeline.step(FrameSet(k, (frame,)))
    assert math.isfinite(pipeline.scale_drift)


def test_the_memory_of_a_moving_rig_is_counted_and_bounded(similarity, monkeypatch):
    far = truth  # eighty steps of the usual length lead out of the world
    monkeypatch.setitem(globals(), "truth", lambda k: Rigid3(np.eye(3), 0.2 * far(k).translation))
    config = replace(CONFIG, map=replace(CONFIG.map, budget_mb=1.0))
    pipeline = pipeline_of(config, exact(similarity))
    for k in range(80):
        pipeline.step(frame_set(k))
        assert pipeline.memory_bytes > pipeline.map.memory_bytes or k < 1
    estimator = pipeline._moving.locator._estimator
    assert len(estimator.keyframes) < 60
    assert len(estimator._places) == len(estimator.keyframes)
    assert estimator.keyframes.compressed_bytes <= 0.25e6
    assert pipeline.keyframes == 80
    assert pipeline._moving._kept.memory_bytes <= 1e6
    path = dict(pipeline.path())
    whole = np.linalg.norm((path[0].inverse() @ path[79]).translation)
    unit = whole / np.linalg.norm((truth(0).inverse() @ truth(79)).translation)
    for k in range(0, 80, 9):  # where the path is, it has stayed
        expected = unit * (truth(k).translation - truth(0).translation)
        np.testing.assert_allclose(
            (path[0].inverse() @ path[k]).translation, expected, atol=1e-3 * whole
        )


def test_a_camera_that_the_first_window_lacked_may_have_a_mask(similarity, tmp_path):
    import cv2

    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    camera = {"second": CameraConfig(mask=str(tmp_path / "mask.png"))}
    config = replace(CONFIG, cameras=list(NAMES), camera=camera)
    pipeline = MappingPipeline(config, None, exact(similarity), Wall())
    seen = []
    for k in range(8):
        result = pipeline.step(frame_set(k, names=NAMES if k > 3 else ("cam",)))
        seen += [d for d in result.depth_maps if d.camera == "second"]
    assert seen
    for one in seen:
        assert np.isnan(one.depth[:, :32]).all()
