"""Plane sweep on textured planes with exact depth."""

from __future__ import annotations

import dataclasses
import logging
import math

import cv2
import numpy as np
import pytest

from vggt_ros.config import Config, PlaneSweepConfig
from vggt_ros.errors import AlignmentError, CalibrationError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline import plane_sweep
from vggt_ros.pipeline.depth import make_depth_estimator
from vggt_ros.pipeline.plane_sweep import PlaneSweep
from vggt_ros.types import (
    AlignedScene,
    DepthKind,
    Frame,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
)

MODEL = CameraModel(320, 240, 270.0, 270.0, 159.5, 119.5)


def texture(seed: int = 0, size: int = 1024) -> np.ndarray:
    """Noise at several sizes, grey levels 20 to 235, like a rough wall."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size), np.float32)
    for sigma in (2.0, 5.0, 12.0):
        layer = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), sigma)
        image += layer / layer.std()
    return np.clip(128 + 45 * image, 20, 235).astype(np.float32)


class Plane:
    """n . x = d in map; texture coordinates along two axes in the plane [1/m]."""

    def __init__(self, normal, distance, seed=0, texels_per_m=160.0, limit=None):
        n = np.asarray(normal, float) / np.linalg.norm(normal)
        self.n, self.d, self.limit = n, distance, limit
        self.u = np.cross([0.0, 1.0, 0.0], n)
        self.u /= np.linalg.norm(self.u)
        self.v = np.cross(n, self.u)
        self.texture, self.density = texture(seed), texels_per_m

    def draw(self, model: CameraModel, map_from_camera: Rigid3):
        rays = model.rays().astype(float)
        directions = rays @ map_from_camera.rotation.T
        z = (self.d - self.n @ map_from_camera.translation) / (directions @ self.n)
        points = map_from_camera.translation + directions * z[..., None]
        a = (points @ self.u) * self.density + 512
        b = (points @ self.v) * self.density + 512
        grey = cv2.remap(
            self.texture, a.astype(np.float32), b.astype(np.float32), cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        if self.limit is not None:
            z = np.where(self.limit(points), z, np.inf)
        return grey, np.where(z > 0, z, np.inf)


def render(planes, model, pose, noise=1.0, seed=0, factor=3):
    """Exact depth and an image averaged over factor^2 rays per pixel."""
    fine = model.resized(model.width * factor, model.height * factor)
    drawn = [p.draw(fine, pose) for p in planes]
    nearest = np.argmin([z for _, z in drawn], axis=0)
    grey = np.choose(nearest, [g for g, _ in drawn])
    grey = cv2.resize(grey, model.size, interpolation=cv2.INTER_AREA)
    grey += np.random.default_rng(seed).normal(0, noise, grey.shape)
    depth = np.min([p.draw(model, pose)[1] for p in planes], axis=0)
    return np.repeat(np.clip(grey + 0.5, 0, 255).astype(np.uint8)[..., None], 3, 2), depth


def rig(offsets=(-0.12, 0.0, 0.12), turn_deg=0.0):
    return {
        f"cam{i}": Rigid3.from_rotation_vector([0, math.radians(turn_deg) * x, 0], [x, 0, 0])
        for i, x in enumerate(offsets)
    }


def scene_of(poses, model=MODEL, points=None) -> AlignedScene:
    return AlignedScene(
        cameras=dict.fromkeys(poses, model),
        map_from_camera=dict(poses),
        points_in_map=np.zeros((0, 3)) if points is None else points,
        colours=np.zeros((0 if points is None else len(points), 3), np.uint8),
        scale=ScaleEstimate(1.0, 0.0, ScaleSource.RIG),
        map_from_scene=Sim3.identity(),
        residuals={},
        up_source="none",
        failed=(),
        bootstrapper="rig",
    )


def views(planes, poses, model=MODEL, noise=1.0):
    """A frame set and the exact depth of each camera."""
    frames, depths = [], {}
    for i, (name, pose) in enumerate(poses.items()):
        rgb, depths[name] = render(planes, model, pose, noise, seed=i)
        frames.append(Frame(name, 7, rgb, model))
    return FrameSet(7, tuple(frames)), depths


def estimate(frame_set, poses, model=MODEL, config=None):
    sweep = PlaneSweep(config or PlaneSweepConfig(min_depth=1.0, max_depth=5.0))
    sweep.prepare(scene_of(poses, model))
    return {p.camera: p for p in sweep.estimate(frame_set)}


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.6, 0, 1), (0.3, 0.5, 1)])
def test_plane_is_exact(normal) -> None:
    poses = rig()
    frame_set, truth = views([Plane(normal, 2.0)], poses)
    found = estimate(frame_set, poses)
    assert set(found) == set(poses)
    for name, prediction in found.items():
        assert prediction.kind is DepthKind.TRIANGULATED
        assert prediction.values.dtype == np.float32
        assert prediction.model == MODEL
        assert prediction.rgb.shape == (240, 320, 3)
        error = np.abs(prediction.values / truth[name] - 1)
        valid = np.isfinite(error)
        assert valid.mean() > 0.85
        assert np.median(error[valid]) < 0.003
        assert np.quantile(error[valid], 0.95) < 0.015


def test_edge_of_a_nearer_surface() -> None:
    poses = rig()
    near = Plane((0, 0, 1), 1.5, seed=1, limit=lambda p: p[..., 0] < 0.0)
    frame_set, truth = views([near, Plane((0, 0, 1), 3.0)], poses)
    for name, prediction in estimate(frame_set, poses).items():
        error = np.abs(prediction.values / truth[name] - 1)
        valid = np.isfinite(error)
        assert valid.mean() > 0.7
        assert (error[valid] > 0.05).mean() < 0.02


def test_blank_wall_gives_holes_only() -> None:
    poses = rig()
    rng = np.random.default_rng(0)
    frames = []
    for name in poses:
        grey = np.clip(128 + rng.normal(0, 2.0, (240, 320, 1)), 0, 255)
        frames.append(Frame(name, 0, np.repeat(grey, 3, 2).astype(np.uint8), MODEL))
    for prediction in estimate(FrameSet(0, tuple(frames)), poses).values():
        assert np.isnan(prediction.values).all()
        assert (prediction.confidence == 0).all()


def test_confidence_falls_with_error() -> None:
    poses = rig()
    near = Plane((0, 0, 1), 1.5, seed=1, limit=lambda p: p[..., 0] < 0.0)
    frame_set, truth = views([near, Plane((0.5, 0, 1), 3.0)], poses)
    config = PlaneSweepConfig(min_depth=1.0, max_depth=6.0, min_confidence=0.0)
    errors, confidences = [], []
    for name, prediction in estimate(frame_set, poses, config=config).items():
        error = np.abs(prediction.values / truth[name] - 1)
        valid = np.isfinite(error)
        assert (prediction.confidence[~np.isfinite(prediction.values)] == 0).all()
        errors.append(error[valid])
        confidences.append(prediction.confidence[valid])
    error, confidence = np.concatenate(errors), np.concatenate(confidences)
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    middle = np.median(confidence)
    wrong = error > 0.05
    assert wrong[confidence > middle].mean() < 0.2 * wrong[confidence <= middle].mean() + 1e-3
    sure = confidence > 0.9
    assert sure.mean() > 0.3
    assert wrong[sure].mean() < 0.1  # of the pixels at confidence c, c are within 5 %


def test_outliers_become_holes_before_right_depth_does() -> None:
    poses = rig()
    near = Plane((0, 0, 1), 1.5, seed=1, limit=lambda p: p[..., 0] < 0.0)
    frame_set, truth = views([near, Plane((0.5, 0, 1), 3.0)], poses)
    errors = {}
    for chance in (1.0, 0.25, 0.0):
        config = PlaneSweepConfig(min_depth=1.0, max_depth=6.0, max_outlier_chance=chance)
        found = estimate(frame_set, poses, config=config)
        errors[chance] = np.stack([np.abs(found[n].values / truth[n] - 1) for n in found])
    assert np.isnan(errors[0.0]).all()
    kept = np.isfinite(errors[0.25])
    dropped = np.isfinite(errors[1.0]) & ~kept
    assert 0 < dropped.mean() < 0.1
    off = errors[1.0] > 0.25
    assert off[dropped].mean() > 5 * off[kept].mean()


def test_min_confidence_makes_holes() -> None:
    poses = rig()
    frame_set, _ = views([Plane((0, 0, 1), 2.0)], poses)
    config = PlaneSweepConfig(min_depth=1.0, max_depth=5.0, min_confidence=1.0)
    for prediction in estimate(frame_set, poses, config=config).values():
        assert np.isnan(prediction.values).all()


def test_depth_beyond_the_last_plane_is_a_hole() -> None:
    poses = rig()
    frame_set, _ = views([Plane((0, 0, 1), 8.0, texels_per_m=60.0)], poses)
    config = PlaneSweepConfig(min_depth=1.0, max_depth=3.0)
    for prediction in estimate(frame_set, poses, config=config).values():
        assert np.isfinite(prediction.values).mean() < 0.02


def test_image_scale_does_not_matter() -> None:
    poses = rig()
    large = MODEL.resized(640, 480)
    plane = Plane((0.3, 0.2, 1), 2.0)
    small_set, _ = views([plane], poses)
    large_set, _ = views([plane], poses, large)
    config = PlaneSweepConfig(width=320, min_depth=1.0, max_depth=5.0)
    small = estimate(small_set, poses, config=config)
    reduced = estimate(large_set, poses, large, config)
    for name, prediction in small.items():
        assert reduced[name].model == MODEL
        difference = np.abs(reduced[name].values / prediction.values - 1)
        assert np.nanmedian(difference) < 0.002
        assert np.isfinite(difference).mean() > 0.85


def test_images_are_never_enlarged() -> None:
    poses = rig()
    frame_set, _ = views([Plane((0, 0, 1), 2.0)], poses)
    config = PlaneSweepConfig(width=1024, min_depth=1.0, max_depth=5.0)
    for prediction in estimate(frame_set, poses, config=config).values():
        assert prediction.model == MODEL


def test_wide_images_are_exact_too() -> None:
    poses = rig()
    model = MODEL.resized(640, 480)
    frame_set, truth = views([Plane((0.4, 0.2, 1), 2.0, texels_per_m=300.0)], poses, model)
    config = PlaneSweepConfig(width=640, min_depth=1.0, max_depth=5.0)
    for name, prediction in estimate(frame_set, poses, model, config).items():
        error = np.abs(prediction.values / truth[name] - 1)
        assert np.isfinite(error).mean() > 0.8
        assert np.nanmedian(error) < 0.001


@pytest.mark.parametrize("factor", [0.05, 40.0])
def test_unit_of_length_does_not_matter(factor: float) -> None:
    poses = rig()
    frame_set, _ = views([Plane((0.3, 0.2, 1), 2.0)], poses)
    config = PlaneSweepConfig()
    scaled = {n: Rigid3(p.rotation, p.translation * factor) for n, p in poses.items()}
    one = estimate(frame_set, poses, config=config)
    other = estimate(frame_set, scaled, config=config)
    for name, prediction in one.items():
        ratio = other[name].values / prediction.values
        assert np.nanmedian(np.abs(ratio / factor - 1)) < 1e-5
        assert np.isfinite(ratio).mean() > 0.8


def test_cameras_may_differ_in_size_and_field_of_view() -> None:
    poses = rig()
    models = dict(zip(poses, (MODEL, MODEL.resized(240, 180), MODEL.resized(400, 300)),
                      strict=True))  # fmt: skip
    plane = Plane((0.3, 0, 1), 2.0)
    frames, truth = [], {}
    for name, pose in poses.items():
        rgb, truth[name] = render([plane], models[name], pose)
        frames.append(Frame(name, 0, rgb, models[name]))
    scene = dataclasses.replace(scene_of(poses), cameras=models)
    sweep = PlaneSweep(PlaneSweepConfig(min_depth=1.0, max_depth=5.0))
    sweep.prepare(scene)
    predictions = sweep.estimate(FrameSet(0, tuple(frames)))
    assert len(predictions) == 3
    for p in predictions:
        assert p.model == models[p.camera]
        assert np.nanmedian(np.abs(p.values / truth[p.camera] - 1)) < 0.003


def test_same_input_gives_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = rig()
    frame_set, _ = views([Plane((0.3, 0.2, 1), 2.0)], poses)
    first = estimate(frame_set, poses)
    second = estimate(frame_set, poses)
    monkeypatch.setattr(plane_sweep, "_cores", lambda: 1)
    third = estimate(frame_set, poses)
    for name, prediction in first.items():
        for other in (second[name], third[name]):
            assert prediction.values.tobytes() == other.values.tobytes()
            assert prediction.confidence.tobytes() == other.confidence.tobytes()


def test_camera_without_overlap_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    poses = rig()
    poses["behind"] = Rigid3.from_rotation_vector([0, math.pi, 0], [0, 0, -0.1])
    frame_set, _ = views([Plane((0, 0, 1), 2.0), Plane((0, 0, -1), 2.0)], poses)
    with caplog.at_level(logging.WARNING, logger="vggt_ros"):
        found = estimate(frame_set, poses)
    assert set(found) == {"cam0", "cam1", "cam2"}
    assert "no depth for behind" in caplog.text


def test_cameras_that_only_turn_give_no_depth(caplog: pytest.LogCaptureFixture) -> None:
    poses = {f"cam{i}": Rigid3.from_rotation_vector([0, 0.1 * i, 0], [0, 0, 0]) for i in range(3)}
    frame_set, _ = views([Plane((0, 0, 1), 2.0)], poses)
    with caplog.at_level(logging.WARNING, logger="vggt_ros"):
        assert estimate(frame_set, poses) == {}
    assert "no other camera stands apart" in caplog.text


def test_missing_and_unknown_cameras() -> None:
    poses = rig()
    frame_set, truth = views([Plane((0, 0, 1), 2.0)], poses)
    sweep = PlaneSweep(PlaneSweepConfig(min_depth=1.0, max_depth=5.0))
    sweep.prepare(scene_of(poses))
    two = sweep.estimate(FrameSet(0, frame_set.frames[1:]))
    assert [p.camera for p in two] == ["cam1", "cam2"]
    for p in two:
        assert np.nanmedian(np.abs(p.values / truth[p.camera] - 1)) < 0.003
    assert sweep.estimate(FrameSet(0, frame_set.frames[:1])) == []
    assert sweep.estimate(FrameSet(0, ())) == []
    stranger = dataclasses.replace(frame_set.frames[0], camera="stranger")
    three = sweep.estimate(FrameSet(0, (stranger, *frame_set.frames[1:])))
    assert [p.camera for p in three] == ["cam1", "cam2"]


def test_estimate_needs_poses_and_undistorted_frames() -> None:
    poses = rig()
    frame_set, _ = views([Plane((0, 0, 1), 2.0)], poses)
    sweep = PlaneSweep(PlaneSweepConfig())
    with pytest.raises(AlignmentError, match="prepare"):
        sweep.estimate(frame_set)
    sweep.prepare(scene_of(poses))
    bent = dataclasses.replace(MODEL, distortion_model="plumb_bob", distortion=(0.1, 0, 0, 0))
    for model in (None, bent):
        frames = tuple(dataclasses.replace(f, model=model) for f in frame_set.frames)
        with pytest.raises(CalibrationError, match="undistorted"):
            sweep.estimate(FrameSet(0, frames))
    wrong = tuple(dataclasses.replace(f, model=MODEL.resized(160, 120)) for f in frame_set.frames)
    with pytest.raises(CalibrationError, match="cam0"):
        sweep.estimate(FrameSet(0, wrong))
    tiny = MODEL.resized(24, 18)
    rgb = np.zeros((18, 24, 3), np.uint8)
    frames = tuple(dataclasses.replace(f, model=tiny, rgb=rgb) for f in frame_set.frames)
    with pytest.raises(CalibrationError, match="at least"):
        sweep.estimate(FrameSet(0, frames))


def test_factory() -> None:
    assert make_depth_estimator(Config()).name == "plane_sweep"
    with pytest.raises(ConfigError, match="did you mean 'plane_sweep'"):
        make_depth_estimator(dataclasses.replace(Config(), depth="planesweep"))
