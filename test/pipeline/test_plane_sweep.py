"""Plane sweep on textured planes with exact depth."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from vggt_ros.config import PlaneSweepConfig
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
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
