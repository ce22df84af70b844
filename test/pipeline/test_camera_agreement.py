"""Cameras that see the same surface must agree about its depth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from vggt_ros.config import AlignConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.align_depth import DepthAligner
from vggt_ros.pipeline.camera_agreement import agrees, contradictions, log_difference
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction

MODEL = CameraModel(160, 120, 130.0, 130.0, 79.5, 59.5)
POSES = {
    "left": Rigid3.from_rotation_vector((0.0, 0.1, 0.0), (-0.2, 0.0, 0.0)),
    "middle": Rigid3.from_rotation_vector((0.02, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "right": Rigid3.from_rotation_vector((0.0, -0.1, 0.0), (0.2, 0.05, 0.0)),
}


def plane_depth(pose: Rigid3, box: bool = False) -> np.ndarray:
    """Exact depth of the plane z = 3 - 0.3 x in map; with a box at z = 1.5 before it."""
    directions = MODEL.rays().astype(float) @ pose.rotation.T
    n = np.array([0.3, 0.0, 1.0])
    z = (3.0 - n @ pose.translation) / (directions @ n)
    if box:
        near = (1.5 - pose.translation[2]) / directions[..., 2]
        points = pose.translation + directions * near[..., None]
        z = np.where((np.abs(points[..., :2]) < 0.25).all(axis=-1), near, z)
    return z.astype(np.float32)


def depth_map(camera: str, factor: float = 1.0, residual: float = 0.01, box=False) -> DepthMap:
    depth = plane_depth(POSES[camera], box) * np.float32(factor)
    return DepthMap(
        camera, 0, depth, np.ones_like(depth), np.zeros((*depth.shape, 3), np.uint8), MODEL,
        POSES[camera],
        DepthAlignment(camera, DepthKind.DISPARITY, 1.0, 0.0, 1.0, residual, 1000, True),
    )  # fmt: skip


@pytest.mark.parametrize("box", [False, True])
def test_difference_is_the_ratio_of_the_depths(box):
    one, two = depth_map("left", box=box), depth_map("right", box=box)
    assert log_difference(one, two) == pytest.approx(0.0, abs=2e-3)
    farther = depth_map("left", 1.05, box=box)
    # A scaled depth map is no shifted one, so the turned camera sees a little more or less.
    assert log_difference(farther, two) == pytest.approx(math.log(1.05), abs=5e-3)
    assert log_difference(two, farther) == -log_difference(farther, two)


def test_cameras_without_common_view_cannot_be_compared():
    away = dataclasses.replace(
        depth_map("right"), map_from_camera=Rigid3.from_rotation_vector((0, math.pi, 0), (0, 0, 0))
    )
    assert math.isnan(log_difference(depth_map("left"), away))
    assert contradictions([depth_map("left", 1.5), away], 0.1) == {}
    assert not agrees(depth_map("left"), [away], 0.1)


def test_the_one_against_the_others_is_wrong():
    maps = [depth_map("left"), depth_map("middle", 1.3, residual=0.001), depth_map("right")]
    found = contradictions(maps, 0.1)
    assert list(found) == ["middle"]
    assert set(found["middle"]) == {"left", "right"}
    assert found["middle"]["left"] == pytest.approx(0.3, abs=0.03)


def test_of_two_the_one_that_fits_the_map_worse_is_wrong():
    maps = [depth_map("left", 0.8, residual=0.03), depth_map("right", residual=0.02)]
    assert list(contradictions(maps, 0.1)) == ["left"]
    assert contradictions(maps, 0.3) == {}


def prediction(camera: str, scale: float, seed: int = 0) -> DepthPrediction:
    inverse = 1 / plane_depth(POSES[camera]).astype(np.float64)
    noise = 1 + 0.01 * np.random.default_rng(seed).normal(size=inverse.shape)
    values = ((inverse * noise - 0.05) / scale).astype(np.float32)
    return DepthPrediction(
        camera, 0, DepthKind.DISPARITY, values, np.ones(values.shape, np.float32), MODEL,
        np.zeros((*values.shape, 3), np.uint8),
    )  # fmt: skip


def jobs(middle_reference: float = 1.0, scales=(0.4, 0.5, 0.6)):
    """The map is wrong by a factor where the middle camera looks."""
    out = []
    for (camera, pose), scale in zip(POSES.items(), scales, strict=True):
        factor = middle_reference if camera == "middle" else 1.0
        out.append((prediction(camera, scale), plane_depth(pose) * np.float32(factor), pose))
    return out


def test_cameras_that_agree_are_accepted():
    maps = DepthAligner(AlignConfig()).align_set(jobs())
    assert [m.alignment.reason for m in maps] == ["", "", ""]
    for m in maps:
        assert np.nanmedian(np.abs(m.depth / plane_depth(POSES[m.camera]) - 1)) < 0.01


def test_camera_that_contradicts_is_rejected_and_not_remembered():
    aligner = DepthAligner(AlignConfig())
    left, middle, right = aligner.align_set(jobs(middle_reference=1.3))
    assert left.alignment.accepted
    assert right.alignment.accepted
    assert not middle.alignment.accepted
    assert middle.alignment.reason.startswith("contradicts left (")
    assert "farther" in middle.alignment.reason
    assert np.isnan(middle.depth).all()
    assert set(aligner.state()) == {"left", "right", "_meta"}
    tolerant = DepthAligner(AlignConfig(max_disagreement=0.0))
    assert all(m.alignment.accepted for m in tolerant.align_set(jobs(middle_reference=1.3)))


def test_camera_that_contradicts_is_held_if_its_old_fit_agrees():
    aligner = DepthAligner(AlignConfig(max_residual=0.2, inlier_threshold=0.25))
    aligner.align_set(jobs())
    before = aligner.state()["middle"]
    middle = aligner.align_set(jobs(middle_reference=1.16))[1]
    assert middle.alignment.accepted
    assert middle.alignment.reason.startswith("held: contradicts left (")
    assert np.nanmedian(np.abs(middle.depth / plane_depth(POSES["middle"]) - 1)) < 0.01
    assert aligner.state()["middle"] == before


def test_stereo_is_left_to_its_own_checks():
    stereo = [
        (dataclasses.replace(p, kind=DepthKind.TRIANGULATED, values=r * np.float32(f)), None, pose)
        for (p, r, pose), f in zip(jobs(), (1.0, 1.5, 1.0), strict=True)
    ]
    assert all(m.alignment.accepted for m in DepthAligner(AlignConfig()).align_set(stereo))
