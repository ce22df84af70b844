"""Trajectory errors on paths whose errors are known."""

import math

import numpy as np
import pytest

from vggt_ros.errors import AlignmentError
from vggt_ros.evaluation import evaluate_trajectory
from vggt_ros.evaluation.trajectories import match_by_stamp
from vggt_ros.export.trajectory import StampedPose
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import rotation_from_vector

PERIOD_NS = 100_000_000


def path(count=50):
    """A helix, one pose each 100 ms."""
    poses = []
    for i in range(count):
        angle = 0.2 * i
        position = [math.cos(angle), math.sin(angle), 0.02 * i]
        poses.append(
            StampedPose(i * PERIOD_NS, Rigid3.from_rotation_vector([0, 0, angle], position))
        )
    return poses


def moved(poses, change, shift_ns=0):
    return [
        StampedPose(p.stamp_ns + shift_ns, change.apply_to_pose(p.map_from_body)) for p in poses
    ]


CHANGE = Sim3(2.5, rotation_from_vector([1, -0.5, 2]), np.array([3.0, -4, 5]))


def test_a_similarity_is_taken_out():
    errors = evaluate_trajectory(moved(path(), CHANGE, 5_000_000), path(), "sim3")
    assert errors.matched == 50
    assert errors.ate_max < 1e-9
    assert errors.rotation_median_deg < 1e-5
    assert errors.rpe_translation_rmse < 1e-9
    assert errors.scale == pytest.approx(0.4)
    step = math.hypot(2 * math.sin(0.1), 0.02)
    assert errors.length == pytest.approx(49 * step)


def test_rigid_alignment_keeps_the_scale_error():
    change = Sim3(1.1, CHANGE.rotation, CHANGE.translation)
    errors = evaluate_trajectory(moved(path(), change), path(), "se3")
    positions = np.array([p.map_from_body.translation for p in path()])
    spread = np.sqrt(((positions - positions.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert errors.ate_rmse == pytest.approx(0.1 * spread)
    assert errors.rpe_translation_rmse == pytest.approx(0.1 * math.hypot(2 * math.sin(0.1), 0.02))
    assert errors.rpe_rotation_rmse_deg < 1e-5


def test_one_jump_counts_once_in_rpe_and_ever_after_in_ate():
    truth = path()
    jump = Rigid3(np.eye(3), [0.3, 0, 0])
    found = [
        StampedPose(p.stamp_ns, jump @ p.map_from_body if i >= 25 else p.map_from_body)
        for i, p in enumerate(truth)
    ]
    errors = evaluate_trajectory(found, truth, "none")
    assert errors.ate_rmse == pytest.approx(0.3 * math.sqrt(0.5))
    assert errors.ate_max == pytest.approx(0.3)
    assert errors.rpe_translation_rmse == pytest.approx(0.3 / math.sqrt(49))
    errors = evaluate_trajectory(found, truth, "none", rpe_step=10)
    assert errors.rpe_translation_rmse == pytest.approx(0.3 * math.sqrt(10 / 40))


def test_matching_by_stamp():
    pose = Rigid3.identity()
    truth = [StampedPose(t, pose) for t in (300, 0, 100)]
    found = [StampedPose(t, pose) for t in (104, 98, 250, 1, 1000)]
    assert match_by_stamp(found, truth, 10) == [(3, 1), (1, 2)]
    assert match_by_stamp(found, truth, 60) == [(3, 1), (1, 2), (2, 0)]
    assert match_by_stamp([], truth, 10) == []


def test_too_few_pairs():
    with pytest.raises(AlignmentError, match=r"got 0: found 50 from 100\.000 to 104\.900 s"):
        evaluate_trajectory(moved(path(), Sim3.identity(), 100_000_000_000), path())
    still = [StampedPose(i * PERIOD_NS, Rigid3.identity()) for i in range(5)]
    assert math.isnan(evaluate_trajectory(still, path(), "se3").scale)
    with pytest.raises(AlignmentError, match="different places"):
        evaluate_trajectory(still, path(), "sim3")
