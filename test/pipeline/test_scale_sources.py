"""Scale from depth in metres and from odometry, on scenes whose truth is known."""

import dataclasses
import math

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.scale_depth import depth_of_sets, scale_of_depth
from vggt_ros.pipeline.scale_drift import ScaleDrift
from vggt_ros.pipeline.scale_fusion import NoScale
from vggt_ros.pipeline.scale_odometry import scale_from_odometry
from vggt_ros.types import (
    DepthAlignment,
    DepthKind,
    DepthMap,
    Features,
    Frame,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
    UnscaledScene,
    View,
)

MODEL = CameraModel(160, 120, 130.0, 130.0, 79.5, 59.5)
UNITS_PER_METRE = 0.37


def plane_depth(pose: Rigid3, z: float = 3.0, slope: float = 0.3) -> np.ndarray:
    """Exact depth [m] of the plane z = 3 + 0.3 x of the world."""
    rays = MODEL.rays().astype(float) @ pose.rotation.T
    c = pose.translation
    return (z + slope * c[0] - c[2]) / (rays[..., 2] - slope * rays[..., 0])


def wall_scene(random, views=3, noise_px=0.0, features=True, with_depth=False, stamp_step=0):
    """Cameras before a slanted wall; the scene is smaller and turned."""
    scene_from_world = Sim3(
        UNITS_PER_METRE, Rigid3.from_rotation_vector((0.4, -0.2, 0.1)).rotation, [1.0, 2.0, 3.0]
    )
    x, y = random.uniform([-1.2, -0.8], [1.2, 0.8], (300, 2)).T
    world = np.stack([x, y, 3.0 + 0.3 * x], axis=1)
    points = scene_from_world.apply(world)
    found, depths, poses = [], {}, []
    for k in range(views):
        pose = Rigid3.from_rotation_vector((0, 0.05 * k, 0), (0.2 * k, 0.02 * k, 0))
        poses.append(pose)
        in_camera = pose.inverse().apply(world)
        pixels = MODEL.project(in_camera)
        rows = np.flatnonzero(((pixels > 2) & (pixels < [157, 117])).all(axis=1))
        seen = pixels[rows] + random.normal(size=(len(rows), 2)) * noise_px
        depth = plane_depth(pose).astype(np.float32)
        stamp = k * stamp_step
        depths[f"cam{k}", stamp] = depth
        found.append(
            View(
                f"cam{k}",
                stamp,
                MODEL,
                scene_from_world.apply_to_pose(pose),
                features=Features(rows, seen) if features else None,
                depth=depth * np.float32(UNITS_PER_METRE) if with_depth else None,
            )
        )
    colours = np.zeros((len(points), 3), np.uint8)
    return UnscaledScene(tuple(found), points, colours, (), "sfm"), depths, poses


@pytest.mark.parametrize("kind", ["features", "points", "dense"])
def test_depth_images_give_the_scale(kind):
    random = np.random.default_rng(0)
    scene, depths, _ = wall_scene(random, features=kind == "features", with_depth=kind == "dense")
    found = scale_of_depth(scene, depths)
    assert isinstance(found, ScaleEstimate)
    assert found.source is ScaleSource.DEPTH_CAMERA
    assert found.value == pytest.approx(1 / UNITS_PER_METRE, rel=0.003)
    assert found.sigma == pytest.approx(0.01 * found.value, rel=0.1)


def test_depth_of_another_size_has_its_pixels_in_the_right_place():
    """Half as many pixels: the centre of the first lies between the first four."""
    scene, depths, _ = wall_scene(np.random.default_rng(0))
    half = {k: d.reshape(60, 2, 80, 2).mean(axis=(1, 3)) for k, d in depths.items()}
    found = scale_of_depth(scene, half)
    assert found.value == pytest.approx(1 / UNITS_PER_METRE, rel=0.002)


def test_a_third_of_wrong_depth_does_not_move_the_scale():
    random = np.random.default_rng(1)
    scene, depths, _ = wall_scene(random, noise_px=0.5)
    for depth in depths.values():
        depth *= np.exp(random.normal(size=depth.shape) * 0.002).astype(np.float32)
        depth[:, :50] *= 1.5  # something stands elsewhere now
        depth[random.random(depth.shape) < 0.1] = np.nan
    found = scale_of_depth(scene, depths)
    assert found.value == pytest.approx(1 / UNITS_PER_METRE, rel=0.02)


def test_depth_in_the_wrong_place_or_of_too_few_points_gives_no_scale():
    random = np.random.default_rng(2)
    scene, depths, _ = wall_scene(random)
    noise = {k: random.uniform(0.5, 9, (12, 16)).repeat(10, 0).repeat(10, 1) for k in depths}
    found = scale_of_depth(scene, {k: d.astype(np.float32) for k, d in noise.items()})
    assert isinstance(found, NoScale)
    assert "is the depth aligned" in found.reason
    holes = {k: np.full_like(d, np.nan) for k, d in depths.items()}
    assert "0 points of the scene have a depth" in scale_of_depth(scene, holes).reason
    assert "no depth image" in scale_of_depth(scene, {}).reason


def test_sigma_covers_what_a_sensor_is_wrong_by_as_a_whole():
    """A common error of one per cent, noise of stereo, 200 scenes: 90 to 99 % within two sigma."""
    inside = 0
    for k in range(200):
        random = np.random.default_rng(100 + k)
        scene, depths, _ = wall_scene(random, noise_px=0.5)
        common = 1 + random.normal() * 0.01
        noisy = {
            key: (common * d * (1 + 0.004 * d * random.normal(size=d.shape))).astype(np.float32)
            for key, d in depths.items()
        }
        found = scale_of_depth(scene, noisy)
        inside += abs(found.value * UNITS_PER_METRE - 1) < 2 * found.sigma / found.value
    assert 0.90 <= inside / 200 <= 0.99


def test_depth_of_frame_sets_goes_by_the_stamp_of_the_set():
    rgb = np.zeros((2, 2, 3), np.uint8)
    depth = np.ones((2, 2), np.float32)
    sets = [FrameSet(7, (Frame("a", 5, rgb, None, depth), Frame("b", 7, rgb)))]
    assert list(depth_of_sets(sets)) == [("a", 7)]


# --- odometry ----------------------------------------------------------------------------


def driven(random, sets, step_m, drift=0.0, noise=0.0, turn_rad=0.1):
    """A rig of two cameras along a curve; odometry with a common error and noise of each step."""
    rig = {
        "left": Rigid3.from_rotation_vector((0.1, 0.2, 0.3), (0.3, 0.2, 0.0)),
        "right": Rigid3.from_rotation_vector((0.1, -0.2, 0.3), (0.3, -0.2, 0.0)),
    }
    scene_from_world = Sim3(
        UNITS_PER_METRE, Rigid3.from_rotation_vector((1, 2, 3)).rotation, [1, 1, 1]
    )
    true, told = Rigid3.identity(), Rigid3.identity()
    views, odometry = [], {}
    scale_error = 1 + drift * random.normal()
    for k in range(sets):
        if k:
            turn = random.normal(size=3) * turn_rad
            step = Rigid3.from_rotation_vector(turn, (step_m, 0.0, 0.0))
            true = true @ step
            wrong = step.translation * scale_error + random.normal(size=3) * noise * step_m
            told = told @ Rigid3(step.rotation, wrong)
        odometry[k * 10**9] = told
        for name, rig_from_camera in rig.items():
            pose = scene_from_world.apply_to_pose(true @ rig_from_camera)
            jitter = random.normal(size=3) * 0.001
            pose = Rigid3(pose.rotation, pose.translation + jitter)
            views.append(View(name, k * 10**9, MODEL, pose))
    empty = np.zeros((0, 3))
    return (
        UnscaledScene(tuple(views), empty, empty.astype(np.uint8), (), "sfm"),
        odometry,
        rig,
    )


def test_odometry_gives_the_scale_of_a_curve():
    scene, odometry, rig = driven(np.random.default_rng(0), 8, 0.5)
    found = scale_from_odometry(scene, odometry, rig)
    assert isinstance(found, ScaleEstimate)
    assert found.source is ScaleSource.ODOMETRY
    assert found.value == pytest.approx(1 / UNITS_PER_METRE, rel=0.01)
    assert 0.02 <= found.sigma / found.value < 0.03


@pytest.mark.parametrize("sets", [2, 4, 10])
def test_sigma_of_odometry_is_honest(sets):
    inside = 0
    for k in range(200):
        scene, odometry, rig = driven(np.random.default_rng(k), sets, 0.5, 0.02, 0.01)
        found = scale_from_odometry(scene, odometry, rig)
        inside += abs(found.value * UNITS_PER_METRE - 1) < 2 * found.sigma / found.value
    assert 0.90 <= inside / 200 <= 0.99


def test_one_leap_of_the_odometry_does_not_decide():
    scene, odometry, rig = driven(np.random.default_rng(3), 12, 0.5, 0.0, 0.005)
    leap = Rigid3(np.eye(3), np.array([2.0, 0.0, 0.0]))
    odometry = {s: (p if s < 6 * 10**9 else leap @ p) for s, p in odometry.items()}
    found = scale_from_odometry(scene, odometry, rig)
    assert found.value == pytest.approx(1 / UNITS_PER_METRE, rel=2.5 * found.sigma / found.value)


def test_without_motion_or_places_there_is_no_scale():
    random = np.random.default_rng(4)
    scene, odometry, rig = driven(random, 5, 0.005, turn_rad=0.005)
    assert "the rig moved by 0.0" in scale_from_odometry(scene, odometry, rig).reason
    scene, odometry, rig = driven(random, 1, 0.5)
    assert "one frame set shows no motion" in scale_from_odometry(scene, odometry, rig).reason
    assert "no view has" in scale_from_odometry(scene, odometry, {}).reason
    assert "no view has" in scale_from_odometry(scene, {}, rig).reason
    scene, odometry, rig = driven(random, 5, 0.08, noise=3.0)
    assert isinstance(scale_from_odometry(scene, odometry, rig), NoScale)


# --- drift -------------------------------------------------------------------------------


def mapped(depth, factor=1.0, kind=DepthKind.TRIANGULATED, scale=1.0, accepted=True):
    alignment = DepthAlignment("cam", kind, scale, 0.0, 1.0, 0.01, 500, accepted)
    return DepthMap(
        "cam",
        0,
        (depth * factor).astype(np.float32),
        np.ones_like(depth, np.float32),
        np.zeros((*depth.shape, 3), np.uint8),
        MODEL,
        Rigid3.identity(),
        alignment,
    )


def test_drift_is_the_change_since_the_bootstrap_and_not_the_error_of_the_sensor():
    depth = plane_depth(Rigid3.identity()).astype(np.float32)
    drift = ScaleDrift()
    assert math.isnan(drift.value)
    frame = Frame("cam", 0, np.zeros((120, 160, 3), np.uint8), MODEL, depth * np.float32(1.05))
    frame_set = FrameSet(0, (frame,))
    for _ in range(6):
        drift.observe(frame_set, [mapped(depth)])
    assert drift.value == pytest.approx(0.0, abs=1e-6)
    for _ in range(6):  # map units have become larger: the map's depths are smaller
        drift.observe(frame_set, [mapped(depth, 0.9)])
    assert drift.value == pytest.approx(1 / 0.9 - 1, rel=1e-4)
    drift.observe(frame_set, [mapped(depth, 0.1, accepted=False)])
    assert drift.value == pytest.approx(1 / 0.9 - 1, rel=1e-4)
    drift.reset()
    assert math.isnan(drift.value)


def test_drift_from_the_alignment_of_metric_depth():
    depth = plane_depth(Rigid3.identity()).astype(np.float32)
    nothing = FrameSet(0, ())
    drift = ScaleDrift()
    for scale in [1.1] * 5 + [1.21] * 6:
        drift.observe(nothing, [mapped(depth, kind=DepthKind.METRIC_DEPTH, scale=scale)])
    assert drift.value == pytest.approx(1 / 1.1 - 1, rel=1e-6)
    stereo = ScaleDrift()
    for _ in range(9):
        stereo.observe(nothing, [mapped(depth)])
    assert math.isnan(stereo.value)


def test_a_distorted_camera_gives_depth_to_its_raw_pixels():
    """Where intrinsics are estimated the depth image still belongs to the raw image."""
    random = np.random.default_rng(6)
    scene, depths, _ = wall_scene(random)
    lens = CameraModel(
        160, 120, 130.0, 130.0, 79.5, 59.5, "plumb_bob", (-0.25, 0.0, 0.0, 0.0, 0.0)
    )
    views = []
    raw = {}
    for view in scene.views:
        in_camera = view.scene_from_camera.inverse().apply(scene.points[view.features.rows])
        pixels = lens.project(in_camera)
        inside = ((pixels > 2) & (pixels < [157, 117])).all(axis=1)
        features = Features(view.features.rows[inside], pixels[inside])
        views.append(dataclasses.replace(view, model=lens, features=features))
        # depth of each raw pixel: that of the pinhole pixel which it shows
        grid = np.stack(np.meshgrid(np.arange(160.0), np.arange(120.0)), axis=-1)
        undistorted = undistort(grid, lens)
        x, y = np.rint(undistorted).astype(int).clip(0, [159, 119]).transpose(2, 0, 1)
        raw[view.camera, view.stamp_ns] = depths[view.camera, view.stamp_ns][y, x]
    bent = dataclasses.replace(scene, views=tuple(views))
    truth = 1 / UNITS_PER_METRE
    assert scale_of_depth(bent, raw).value == pytest.approx(truth, rel=0.005)
    assert scale_of_depth(bent, depths, undistorted=True).value == pytest.approx(truth, rel=0.005)


def undistort(pixels, model):
    """By fixed-point iteration."""
    pinhole = model.without_distortion()
    focal, centre = np.array([model.fx, model.fy]), np.array([model.cx, model.cy])
    guess = pixels.copy()
    for _ in range(30):
        rays = np.concatenate([(guess - centre) / focal, np.ones((*guess.shape[:-1], 1))], -1)
        guess = guess + pixels - model.project(rays)
    assert pinhole.size == model.size
    return guess
