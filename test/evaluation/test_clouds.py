"""Accuracy and completeness of clouds whose errors are known."""

import math

import numpy as np
import pytest

from vggt_ros.errors import AlignmentError
from vggt_ros.evaluation import evaluate_cloud


def wall(step, width=2.0, height=0.0):
    """Points of the plane z = height, 0..width in x and 0..1 in y."""
    x, y = np.meshgrid(np.arange(0, width, step), np.arange(0, 1, step))
    return np.stack([x, y, np.full_like(x, height)], axis=-1).reshape(-1, 3)


def test_half_a_wall_three_centimetres_off():
    truth = wall(0.01)
    found = wall(0.01, width=1.0, height=0.03)
    errors = evaluate_cloud(found, truth)
    assert errors.points == 10_000
    assert errors.reference_points == 20_000
    assert errors.accuracy_median == pytest.approx(0.03)
    assert errors.accuracy_mean == pytest.approx(0.03)
    assert errors.accuracy_90 == pytest.approx(0.03)
    assert errors.accuracy == {0.02: 0.0, 0.05: 1.0, 0.1: 1.0}
    # at 5 cm the strip within sqrt(0.05^2 - 0.03^2) = 4 cm of the edge is covered too
    assert errors.completeness[0.02] == 0.0
    assert errors.completeness[0.05] == pytest.approx(0.515, abs=0.006)
    assert errors.f_score[0.05] == pytest.approx(2 * 0.515 / 1.515, abs=0.006)
    assert errors.f_score[0.02] == 0.0


def test_exact_distance_function():
    found = wall(0.05, height=-0.01)
    errors = evaluate_cloud(found, distance=lambda points: points[:, 2])
    assert errors.accuracy_median == pytest.approx(0.01)
    assert errors.accuracy[0.02] == 1.0
    assert math.isnan(errors.completeness[0.02])
    assert math.isnan(errors.f_score[0.02])
    # with both, accuracy does not suffer from the spacing of the reference points
    both = evaluate_cloud(found, wall(0.5), distance=lambda points: points[:, 2])
    assert both.accuracy_median == pytest.approx(0.01)
    assert both.completeness[0.02] == 1.0


def test_thinned_queries_and_points_that_are_not_finite():
    truth = wall(0.01)
    found = np.concatenate([truth + [0, 0, 0.01], [[np.nan, 0, 0], [np.inf, 0, 0]]])
    errors = evaluate_cloud(found.astype(np.float32), truth, max_queries=500, thresholds=[0.011])
    assert errors.points == len(truth)
    assert errors.accuracy_mean == pytest.approx(0.01, rel=1e-4)
    assert errors.completeness == {0.011: 1.0}


def test_bad_input():
    with pytest.raises(AlignmentError, match="found cloud has no finite points"):
        evaluate_cloud(np.empty((0, 3)), wall(0.1))
    with pytest.raises(AlignmentError, match=r"reference points \(N, 3\), got \(4,\)"):
        evaluate_cloud(wall(0.1), np.zeros(4))
    with pytest.raises(AlignmentError, match="reference points or a distance"):
        evaluate_cloud(wall(0.1))
    with pytest.raises(AlignmentError, match="distances"):
        evaluate_cloud(wall(0.1), distance=lambda points: points)
