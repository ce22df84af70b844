"""Scene alignment on exact synthetic rigs: scale, frames, outliers, errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.config import ScaleConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.rig_fit import frame_sets_of
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import AlignedScene, ScaleSource, UnscaledScene, View

MODEL = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""rig_from_camera rotation of a camera that looks along x of the rig."""


def make_rig(centres: np.ndarray, turns: np.ndarray | None = None) -> Rig:
    """Cameras that look forward, turned by rotation vectors [rad]."""
    turns = np.zeros_like(centres) if turns is None else turns
    return Rig(
        tuple(
            RigCamera(
                f"cam{k}",
                model=MODEL,
                rig_from_camera=Rigid3(FORWARD, c) @ Rigid3.from_rotation_vector(t),
            )
            for k, (c, t) in enumerate(zip(centres, turns, strict=True))
        )
    )


def random_rig(random: np.random.Generator, cameras: int) -> Rig:
    return make_rig(
        random.uniform(-0.4, 0.4, (cameras, 3)), random.uniform(-0.4, 0.4, (cameras, 3))
    )


def points_in_rig(random: np.random.Generator, count: int = 200) -> np.ndarray:
    return np.array([3.0, 0.0, 0.0]) + random.uniform(-1, 1, (count, 3))


def make_scene(
    rig: Rig,
    scene_from_rig: Sim3,
    points: np.ndarray,
    errors: dict[str, Rigid3] | None = None,
    stamp_ns: int = 0,
) -> UnscaledScene:
    """The rig as a reconstruction in another frame; `errors` are camera_from_found_camera."""
    views = []
    for camera in rig.cameras:
        pose = camera.rig_from_camera
        assert pose is not None
        if errors and camera.name in errors:
            pose = pose @ errors[camera.name]
        views.append(View(camera.name, stamp_ns, MODEL, scene_from_rig.apply_to_pose(pose)))
    colours = np.zeros((len(points), 3), np.uint8)
    return UnscaledScene(tuple(views), scene_from_rig.apply(points), colours, (), "sfm")


def random_similarity(random: np.random.Generator) -> Sim3:
    turn = Rigid3.from_rotation_vector(random.normal(size=3)).rotation
    return Sim3(float(np.exp(random.normal())), turn, random.normal(size=3) * 5)


def without_poses(rig: Rig, *kept: str) -> Rig:
    cameras = [
        c if c.name in kept else dataclasses.replace(c, rig_from_camera=None) for c in rig.cameras
    ]
    return Rig(tuple(cameras))


def assert_on_rig(aligned: AlignedScene, rig: Rig, points: np.ndarray, tolerance: float) -> None:
    for name, pose in rig.poses.items():
        off = pose.inverse() @ aligned.map_from_camera[name]
        assert np.linalg.norm(off.translation) < tolerance
        assert off.angle_rad < tolerance
    np.testing.assert_allclose(aligned.points_in_map, points, atol=10 * tolerance)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cameras=st.integers(2, 8))
def test_any_similarity_of_the_scene_gives_the_same_map(seed: int, cameras: int) -> None:
    random = np.random.default_rng(seed)
    rig = random_rig(random, cameras)
    points = points_in_rig(random)
    scene_from_rig = random_similarity(random)
    aligned = align_scene(make_scene(rig, scene_from_rig, points), rig, ScaleConfig())
    assert_on_rig(aligned, rig, points, 1e-6)
    assert aligned.scale.source is ScaleSource.RIG
    assert aligned.scale.value == pytest.approx(1 / scene_from_rig.scale, rel=1e-6)
    assert 0 < aligned.scale.sigma < 0.02 * aligned.scale.value
    assert aligned.up_source == "rig"
    assert aligned.map_from_rig is not None
    np.testing.assert_array_equal(aligned.map_from_rig.matrix, np.eye(4))
    assert all(r.inlier and r.centre < 1e-6 for r in aligned.residuals.values())


@pytest.mark.parametrize("cameras", [2, 3, 6])
def test_cameras_in_one_line_that_all_look_the_same_way(cameras: int) -> None:
    random = np.random.default_rng(cameras)
    rig = make_rig(np.array([[0.0, 0.2 * k, 0.5] for k in range(cameras)]))
    points = points_in_rig(random)
    aligned = align_scene(
        make_scene(rig, random_similarity(random), points), rig, ScaleConfig(source="rig")
    )
    assert_on_rig(aligned, rig, points, 1e-6)


@pytest.mark.parametrize(
    "error",
    [
        Rigid3(np.eye(3), np.array([0.3, 0.0, 0.0])),
        Rigid3(np.eye(3), np.array([0.0, 0.04, 0.0])),
        Rigid3.from_rotation_vector([0.0, 0.5, 0.0]),
        Rigid3.from_rotation_vector([0.05, 0.0, 0.0]),
    ],
    ids=["far away", "4 cm", "turned by 29 degrees", "turned by 3 degrees"],
)
def test_one_wrong_camera_of_five_is_found_and_named(error: Rigid3) -> None:
    random = np.random.default_rng(5)
    rig = random_rig(random, 5)
    points = points_in_rig(random)
    for wrong in rig.names:
        scene = make_scene(rig, random_similarity(random), points, {wrong: error})
        aligned = align_scene(scene, rig, ScaleConfig())
        assert [n for n, r in aligned.residuals.items() if not r.inlier] == [wrong]
        others = without_poses(rig, *(n for n in rig.names if n != wrong))
        assert_on_rig(aligned, others, points, 1e-6)


def test_noise_alone_makes_no_outliers() -> None:
    random = np.random.default_rng(1)
    for _ in range(30):
        rig = random_rig(random, 5)
        errors = {
            n: Rigid3.from_rotation_vector(
                random.normal(size=3) * 0.004, random.normal(size=3) * 0.003
            )
            for n in rig.names
        }
        scene = make_scene(rig, random_similarity(random), points_in_rig(random), errors)
        aligned = align_scene(scene, rig, ScaleConfig())
        assert all(r.inlier for r in aligned.residuals.values())


def test_scale_from_the_only_two_cameras_whose_place_is_known() -> None:
    random = np.random.default_rng(2)
    rig = random_rig(random, 7)
    points = points_in_rig(random)
    scene_from_rig = random_similarity(random)
    scene = make_scene(rig, scene_from_rig, points)
    aligned = align_scene(scene, without_poses(rig, "cam2", "cam5"), ScaleConfig())
    assert set(aligned.residuals) == {"cam2", "cam5"}
    assert len(aligned.map_from_camera) == 7
    assert_on_rig(aligned, rig, points, 1e-6)


@pytest.mark.parametrize("cameras", [2, 3, 5])
@pytest.mark.parametrize(("centre_m", "turn_rad"), [(0.002, 0.001), (0.004, 0.004)])
def test_the_truth_is_within_two_sigma(cameras: int, centre_m: float, turn_rad: float) -> None:
    random = np.random.default_rng(cameras)
    config = ScaleConfig(max_centre_residual=0.5, max_rotation_residual_deg=20.0)
    held = 0
    for _ in range(200):
        centres = np.cumsum(random.uniform(0.1, 0.3, (cameras, 3)), axis=0)
        rig = make_rig(centres, random.uniform(-0.4, 0.4, (cameras, 3)))
        errors = {
            n: Rigid3.from_rotation_vector(
                random.normal(size=3) * turn_rad, random.normal(size=3) * centre_m
            )
            for n in rig.names
        }
        scene_from_rig = random_similarity(random)
        scene = make_scene(rig, scene_from_rig, points_in_rig(random, 4), errors)
        scale = align_scene(scene, rig, config).scale
        held += abs(scale.value - 1 / scene_from_rig.scale) < 2 * scale.sigma
    assert 0.88 * 200 <= held <= 200


def test_cameras_at_one_place_give_no_scale() -> None:
    random = np.random.default_rng(3)
    rig = make_rig(np.zeros((3, 3)), random.uniform(-0.5, 0.5, (3, 3)))
    scene = make_scene(rig, random_similarity(random), points_in_rig(random))
    with pytest.raises(AlignmentError, match="share one centre"):
        align_scene(scene, rig, ScaleConfig(source="rig"))
    aligned = align_scene(scene, rig, ScaleConfig())
    assert aligned.scale.source is ScaleSource.NONE
    assert math.isinf(aligned.scale.sigma)
    assert aligned.map_from_rig is None
    assert aligned.up_source == "rig"
    for name, pose in rig.poses.items():
        np.testing.assert_allclose(
            aligned.map_from_camera[name].rotation, pose.rotation, atol=1e-9
        )


def test_a_scene_that_only_turned_gives_no_scale() -> None:
    """The rig has a baseline, but the reconstruction's is nothing but noise."""
    random = np.random.default_rng(4)
    rig = random_rig(random, 2)
    scene = make_scene(rig, random_similarity(random), points_in_rig(random))
    covariance = np.kron(np.eye(2), np.diag([1.0, 1, 1, 1e-6, 1e-6, 1e-6]))
    scene = dataclasses.replace(scene, pose_covariance=covariance * 100)
    with pytest.raises(AlignmentError, match="lost in the noise"):
        align_scene(scene, rig, ScaleConfig(source="rig"))


def test_no_scale_makes_the_median_depth_three() -> None:
    random = np.random.default_rng(6)
    rig = without_poses(random_rig(random, 3))
    full = random_rig(np.random.default_rng(6), 3)
    scene = make_scene(full, random_similarity(random), points_in_rig(random))
    aligned = align_scene(scene, rig, ScaleConfig())
    assert aligned.scale.source is ScaleSource.NONE
    depths = []
    for name, pose in aligned.map_from_camera.items():
        in_camera = pose.inverse().apply(aligned.points_in_map)
        pixels = aligned.cameras[name].project(in_camera)
        inside = (pixels > -0.5).all(axis=1) & (pixels < [639.5, 479.5]).all(axis=1)
        depths.append(in_camera[inside, 2])
    assert np.median(np.concatenate(depths)) == pytest.approx(3.0)


def test_scale_by_parameter() -> None:
    random = np.random.default_rng(7)
    rig = random_rig(random, 3)
    scene_from_rig = random_similarity(random)
    points = points_in_rig(random)
    scene = make_scene(rig, scene_from_rig, points)
    config = ScaleConfig(
        source="parameter",
        metres_per_unit=1 / scene_from_rig.scale,
        metres_per_unit_sigma=0.01,
    )
    aligned = align_scene(scene, rig, config)
    assert aligned.scale.source is ScaleSource.PARAMETER
    assert aligned.scale.sigma == 0.01
    assert_on_rig(aligned, rig, points, 1e-6)
    alone = align_scene(scene, without_poses(rig, "cam1"), config)
    assert_on_rig(alone, rig, points, 1e-6)
    with pytest.raises(AlignmentError, match="metres_per_unit > 0"):
        align_scene(scene, None, ScaleConfig(source="parameter"))


def test_asked_for_rig_scale_without_a_rig() -> None:
    random = np.random.default_rng(8)
    scene = make_scene(random_rig(random, 3), random_similarity(random), points_in_rig(random))
    with pytest.raises(AlignmentError, match="no rig poses are given"):
        align_scene(scene, None, ScaleConfig(source="rig"))


def test_most_cameras_in_the_wrong_place_are_an_error_with_a_table() -> None:
    random = np.random.default_rng(9)
    rig = random_rig(random, 4)
    scene = make_scene(random_rig(random, 4), random_similarity(random), points_in_rig(random))
    with pytest.raises(AlignmentError, match=r"(?s)of 4 cameras.*cam0.*cam3") as caught:
        align_scene(scene, rig, ScaleConfig())
    assert "rotation [deg]" in str(caught.value)


def test_no_views() -> None:
    scene = UnscaledScene((), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), (), "sfm")
    with pytest.raises(AlignmentError, match="got none"):
        align_scene(scene, None, ScaleConfig())


def test_rig_poses_that_are_given_stay_as_they_are() -> None:
    rig = random_rig(np.random.default_rng(10), 1)
    camera = rig.cameras[0]
    assert camera.rig_from_camera is not None
    scene = UnscaledScene(
        (View("cam0", 5, MODEL, camera.rig_from_camera),),
        np.zeros((0, 3)),
        np.zeros((0, 3), np.uint8),
        (),
        "rig",
    )
    aligned = align_scene(scene, rig, ScaleConfig())
    assert aligned.scale.value == 1.0
    assert aligned.scale.source is ScaleSource.RIG
    np.testing.assert_allclose(
        aligned.map_from_camera["cam0"].matrix, camera.rig_from_camera.matrix, atol=1e-12
    )


def moved_sets(random: np.random.Generator, rig: Rig, missing: str) -> UnscaledScene:
    """Two sets of a rig that moved; a camera is missing in the newer one."""
    points = points_in_rig(random)
    scene_from_old = random_similarity(random)
    old_from_new = Sim3(1.0, Rigid3.from_rotation_vector([0, 0, 0.3]).rotation, np.ones(3) * 0.2)
    old = make_scene(rig, scene_from_old, points, stamp_ns=0)
    new = make_scene(rig, scene_from_old @ old_from_new, points, stamp_ns=100)
    views = old.views + tuple(v for v in new.views if v.camera != missing)
    return dataclasses.replace(old, views=views)


def test_several_sets_of_a_moving_rig_share_one_scale() -> None:
    random = np.random.default_rng(11)
    rig = random_rig(random, 4)
    scene = moved_sets(random, rig, "cam2")
    assert frame_sets_of(scene) == [0, 0, 0, 0, 1, 1, 1]
    aligned = align_scene(scene, rig, ScaleConfig())
    for name, pose in rig.poses.items():  # of the newer set, and cam2 through the rig
        np.testing.assert_allclose(aligned.map_from_camera[name].matrix, pose.matrix, atol=1e-6)
    unknown = align_scene(scene, None, ScaleConfig())
    a, b = (unknown.map_from_camera[n] for n in ("cam0", "cam2"))
    expected = rig.poses["cam0"].inverse() @ rig.poses["cam2"]
    np.testing.assert_allclose((a.inverse() @ b).rotation, expected.rotation, atol=1e-6)


def room(random: np.random.Generator) -> np.ndarray:
    """Floor at z = -1, a table above it, a wall."""
    floor = np.column_stack(
        [random.uniform(1, 5, (300, 1)), random.uniform(-2, 2, (300, 1)), np.full(300, -1.0)]
    )
    table = np.column_stack(
        [random.uniform(2, 3, (200, 1)), random.uniform(-1, 1, (200, 1)), np.full(200, -0.4)]
    )
    wall = np.column_stack(
        [np.full(200, 5.0), random.uniform(-2, 2, 200), random.uniform(-1, 1, 200)]
    )
    return np.concatenate([floor, table, wall]) + random.normal(size=(700, 3)) * 0.003


def test_up_from_the_ground_plane() -> None:
    random = np.random.default_rng(12)
    tilt = np.tile([[0.15, 0.0, 0.05]], (3, 1))  # all cameras look down and lean
    rig = make_rig(np.array([[0, 0.3, 0.2], [0, 0, 0.2], [0, -0.3, 0.2]]), tilt)
    scene = make_scene(rig, random_similarity(random), room(random))
    aligned = align_scene(scene, None, ScaleConfig())
    assert aligned.up_source == "ground plane"
    up_in_map = aligned.map_from_scene.rotation @ (
        scene.views[0].scene_from_camera.rotation
        @ rig.poses["cam0"].rotation.T
        @ np.array([0, 0, 1.0])
    )
    assert math.degrees(math.acos(min(1.0, up_in_map[2]))) < 0.5
    heights = aligned.points_in_map[:300, 2]
    assert np.abs(heights).max() < 0.05
    forward = aligned.map_from_camera["cam1"].rotation[:, 2]
    assert forward[0] > 0.9


def test_up_from_cameras_and_from_gravity() -> None:
    random = np.random.default_rng(13)
    rig = make_rig(np.array([[0, 0.3, 0.0], [0, 0, 0], [0, -0.3, 0]]))
    scene = make_scene(rig, random_similarity(random), points_in_rig(random, 10))
    aligned = align_scene(scene, None, ScaleConfig())
    assert aligned.up_source == "cameras"
    np.testing.assert_allclose(aligned.map_from_camera["cam0"].rotation, FORWARD, atol=1e-6)
    centres = [p.translation for p in aligned.map_from_camera.values()]
    np.testing.assert_allclose(np.mean(centres, axis=0), 0, atol=1e-9)
    down = np.array([0.0, math.cos(0.2), math.sin(0.2)])
    leaning = align_scene(scene, None, ScaleConfig(), {"cam1": 9.81 * down})
    assert leaning.up_source == "gravity"
    in_map = leaning.map_from_camera["cam1"].rotation @ down
    np.testing.assert_allclose(in_map, [0, 0, -1], atol=1e-9)
    with pytest.raises(AlignmentError, match="gravity of camera 'cam1'"):
        align_scene(scene, None, ScaleConfig(), {"cam1": [0.0, 0.0, 0.0]})
