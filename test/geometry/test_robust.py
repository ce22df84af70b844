"""Closed-form fits return the transform that made the points."""

import numpy as np
import pytest

from vggt_ros.geometry import Sim3
from vggt_ros.geometry.rigid3 import rotation_from_vector
from vggt_ros.geometry.robust import fit_rigid, fit_similarity, sigma_from_mad

TRUTH = Sim3(2.5, rotation_from_vector([0.3, -1.0, 2.0]), np.array([1.0, -2.0, 3.0]))


def test_similarity_is_found_exactly():
    points = np.random.default_rng(0).normal(size=(20, 3))
    fit = fit_similarity(points, TRUTH.apply(points))
    assert np.allclose(fit.matrix, TRUTH.matrix, atol=1e-12)


def test_similarity_of_planar_points_is_no_reflection():
    points = np.random.default_rng(1).normal(size=(20, 3)) * [1, 1, 0]
    fit = fit_similarity(points, TRUTH.apply(points))
    assert np.allclose(fit.matrix, TRUTH.matrix, atol=1e-12)


def test_weights_of_zero_leave_points_out():
    points = np.random.default_rng(2).normal(size=(20, 3))
    target = TRUTH.apply(points)
    target[3] += 100
    weights = np.ones(20)
    weights[3] = 0
    assert np.allclose(fit_similarity(points, target, weights).matrix, TRUTH.matrix, atol=1e-9)


def test_rigid_fit_keeps_scale_one():
    points = np.random.default_rng(3).normal(size=(20, 3))
    moved = Sim3(1.0, TRUTH.rotation, TRUTH.translation).apply(points)
    fit = fit_rigid(points, moved)
    assert fit.scale == 1.0
    assert np.allclose(fit.apply(points), moved, atol=1e-12)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"N >= 3"):
        fit_similarity(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="coincide"):
        fit_similarity(np.zeros((4, 3)), np.ones((4, 3)))


def test_sigma_of_normal_noise():
    noise = np.random.default_rng(4).normal(scale=0.3, size=200_000)
    assert sigma_from_mad(noise) == pytest.approx(0.3, rel=0.01)
    assert np.isnan(sigma_from_mad([]))
