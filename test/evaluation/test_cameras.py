"""Camera errors on rigs whose errors are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.errors import AlignmentError
from vggt_ros.evaluation import align_poses, evaluate_cameras
from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import rotation_from_vector
from vggt_ros.geometry.robust import fit_similarity


def rig(count, rng, shape="space"):
    centres = rng.normal(0, 1, (count, 3))
    if shape == "line":
        centres = np.outer(np.arange(count) * 0.25, [0.6, 0.8, 0.0]) + [1.0, 2.0, 3.0]
    return {
        f"c{i}": Rigid3.from_rotation_vector(rng.normal(0, 1, 3), centres[i]) for i in range(count)
    }


def moved(poses, found_from_truth):
    return {name: found_from_truth.apply_to_pose(pose) for name, pose in poses.items()}


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 8),
    shape=st.sampled_from(["space", "line"]),
    log_scale=st.floats(-5, 5),
)
def test_sim3_is_found_exactly_for_any_rig_of_two_or_more(seed, count, shape, log_scale):
    rng = np.random.default_rng(seed)
    truth = rig(count, rng, shape)
    scale = math.exp(log_scale)
    change = Sim3(scale, rotation_from_vector(rng.normal(0, 2, 3)), rng.normal(0, 10, 3))
    errors = evaluate_cameras(moved(truth, change), truth, "sim3")
    assert errors.scale == pytest.approx(1 / scale)
    assert errors.scale_error == pytest.approx(scale - 1, abs=1e-9)
    assert errors.centre_max < 1e-8
    assert errors.rotation_max_deg < 1e-5
    assert errors.pairwise_rotation_max_deg < 1e-5
    np.testing.assert_allclose((errors.truth_from_found @ change).matrix, np.eye(4), atol=1e-7)


def test_se3_leaves_the_scale_error_in_the_centres():
    truth = {"a": Rigid3(np.eye(3), [-1, 0, 0]), "b": Rigid3(np.eye(3), [1, 0, 0])}
    change = Sim3(1.1, rotation_from_vector([0, 0, 1]), np.array([5.0, 6, 7]))
    errors = evaluate_cameras(moved(truth, change), truth, "se3")
    assert errors.centre_rmse == pytest.approx(0.1)
    assert errors.centre_max == pytest.approx(0.1)
    assert errors.scale_error == pytest.approx(0.1)
    assert errors.rig_size == pytest.approx(2)
    assert errors.centre_rmse_fraction == pytest.approx(0.05)
    assert errors.rotation_max_deg == pytest.approx(0, abs=1e-6)


def test_none_compares_as_it_is():
    truth = {"a": Rigid3.identity(), "b": Rigid3(np.eye(3), [1, 0, 0])}
    found = {"a": Rigid3(np.eye(3), [0, 0, 3]), "b": Rigid3(np.eye(3), [1, 4, 0])}
    errors = evaluate_cameras(found, truth, "none")
    assert errors.centre == {"a": 3.0, "b": 4.0}
    assert errors.centre_rmse == pytest.approx(math.sqrt(12.5))
    assert errors.centre_median == pytest.approx(3.5)


def test_pairwise_rotation_needs_no_alignment():
    """One of three cameras is turned by 3 degrees: two of three pairs are wrong by that."""
    rng = np.random.default_rng(0)
    truth = rig(3, rng)
    found = moved(truth, Sim3(2.0, rotation_from_vector([1, 2, 3]), np.zeros(3)))
    found["c1"] = found["c1"] @ Rigid3.from_rotation_vector([0, math.radians(3), 0])
    errors = evaluate_cameras(found, truth, "none")
    assert errors.pairwise_rotation_median_deg == pytest.approx(3)
    assert errors.pairwise_rotation_max_deg == pytest.approx(3)


def test_centres_decide_where_they_can():
    """With wrong orientations the centre error stays that of a fit to the centres alone."""
    rng = np.random.default_rng(1)
    truth = rig(11, rng)
    found = {}
    for name, pose in truth.items():
        turn = Rigid3.from_rotation_vector(rng.normal(0.005, 0.005, 3), rng.normal(0, 0.003, 3))
        found[name] = pose @ turn
    errors = evaluate_cameras(found, truth, "sim3")
    a = np.array([pose.translation for pose in found.values()])
    b = np.array([pose.translation for pose in truth.values()])
    best = np.sqrt(((fit_similarity(a, b).apply(a) - b) ** 2).sum(axis=1).mean())
    assert best <= errors.centre_rmse < 1.01 * best


def test_one_camera():
    truth = {"a": Rigid3.from_rotation_vector([0, 1, 0], [1, 2, 3])}
    errors = evaluate_cameras({"a": Rigid3.identity()}, truth, "se3")
    assert errors.centre_max == pytest.approx(0, abs=1e-12)
    assert math.isnan(errors.scale)
    assert math.isnan(errors.pairwise_rotation_median_deg)
    assert math.isnan(errors.centre_rmse_fraction)
    with pytest.raises(AlignmentError, match="two cameras at different places"):
        evaluate_cameras({"a": Rigid3.identity()}, truth, "sim3")


def test_missing_and_foreign_cameras():
    truth = {"a": Rigid3.identity(), "b": Rigid3(np.eye(3), [1, 0, 0])}
    errors = evaluate_cameras({"b": Rigid3.identity(), "z": Rigid3.identity()}, truth, "se3")
    assert errors.cameras == ("b",)
    assert errors.missing == ("a",)
    with pytest.raises(AlignmentError, match="no camera in common: found z, truth a, b"):
        evaluate_cameras({"z": Rigid3.identity()}, truth)
    with pytest.raises(AlignmentError, match="at least one"):
        align_poses([], [], "se3")


def test_swapped_names_show_as_rotation_errors():
    """Two cameras that look the same way: the centres fit after half a turn."""
    truth = {"a": Rigid3(np.eye(3), [-1, 0, 0]), "b": Rigid3(np.eye(3), [1, 0, 0])}
    found = {"a": truth["b"], "b": truth["a"]}
    errors = evaluate_cameras(found, truth, "sim3")
    assert errors.rotation_max_deg == pytest.approx(180)
