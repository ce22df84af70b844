"""Sources, depth ranges and planes of the plane sweep."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.view_selection import depth_range, inverse_depth_planes, rank_sources

MODEL = CameraModel(320, 240, 270.0, 270.0, 159.5, 119.5)


def at(x: float, turn_deg: float = 0.0) -> Rigid3:
    return Rigid3.from_rotation_vector([0, np.deg2rad(turn_deg), 0], [x, 0, 0])


def cloud(near: float, far: float, count: int = 500) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.uniform(near, far, count)
    return np.stack([rng.uniform(-0.4, 0.4, count) * z, rng.uniform(-0.3, 0.3, count) * z, z], 1)


def test_range_holds_the_points_but_not_the_wrong_ones() -> None:
    points = np.concatenate([cloud(2.0, 4.0), cloud(900.0, 1000.0, 5), cloud(0.01, 0.02, 5)])
    near, far = depth_range(MODEL, Rigid3.identity(), points, spacing=0.1)
    assert 1.0 < near < 2.0
    assert 4.0 < far < 8.0


def test_range_without_points_comes_from_the_rig() -> None:
    near, far = depth_range(MODEL, Rigid3.identity(), np.zeros((0, 3)), spacing=0.2)
    assert (near, far) == (pytest.approx(0.3), pytest.approx(12.0))


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.0), (0.0, 9.0), (0.7, 3.0), (50.0, 0.0)])
def test_parameters_win(low: float, high: float) -> None:
    near, far = depth_range(MODEL, Rigid3.identity(), cloud(2.0, 4.0), 0.1, low, high)
    assert 0 < near < far
    assert low == 0 or near == low
    assert high == 0 or far == high


def test_sources_by_overlap_and_angle() -> None:
    poses = {
        "here": at(0.0),
        "good": at(0.4),
        "close": at(0.02),
        "same": at(0.0, 5.0),
        "away": at(0.4, 120.0),
        "turned": at(0.4, 35.0),
    }
    models = dict.fromkeys(poses, MODEL)
    found = rank_sources("here", models, poses, cloud(2.0, 4.0), 1.0, 6.0)
    assert found[0] == "good"
    assert set(found) == {"good", "close", "turned"}
    assert rank_sources("here", models, poses, np.zeros((0, 3)), 1.0, 6.0)[0] == "good"


def test_neighbouring_planes_are_at_most_a_pixel_apart() -> None:
    moves = [at(0.1).inverse(), at(-0.25, 3.0).inverse()]
    q = inverse_depth_planes(MODEL, [MODEL, MODEL], moves, 1.0, 10.0, most=500)
    assert q[0] == pytest.approx(0.1)
    assert q[-1] == pytest.approx(1.0)
    assert 250 * 0.25 * 0.9 < len(q) < 2 * 270 * 0.25 * 0.9
    for move in moves:
        pixels = MODEL.project(move.apply(np.array([[0.1, 0.05, 1.0]]) / q[:, None]))
        assert np.linalg.norm(np.diff(pixels, axis=0), axis=1).max() < 1.1
    assert len(inverse_depth_planes(MODEL, [MODEL, MODEL], moves, 1.0, 10.0, most=20)) == 20
    assert len(inverse_depth_planes(MODEL, [MODEL], [at(1e-4)], 1.0, 10.0, most=20)) == 8
