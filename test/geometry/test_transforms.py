"""Group axioms of Rigid3 and Sim3, and their conversions against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.geometry import Rigid3, Sim3
from vggt_ros.geometry.rigid3 import (
    rotation_angle,
    rotation_from_vector,
    rotation_vector,
    skew,
)

coordinate = st.floats(-10, 10)
vectors = st.tuples(coordinate, coordinate, coordinate)
rotation_vectors = st.tuples(*[st.floats(-3, 3)] * 3)
rigids = st.builds(Rigid3.from_rotation_vector, rotation_vectors, vectors)
sims = st.builds(
    lambda s, r, t: Sim3(s, rotation_from_vector(r), np.array(t)),
    st.floats(0.01, 100),
    rotation_vectors,
    vectors,
)


@given(rigids, rigids, vectors)
def test_rigid_product_is_application_in_turn(a, b, point):
    assert np.allclose((a @ b).apply(point), a.apply(b.apply(point)), atol=1e-9)


@given(rigids)
def test_rigid_inverse(a):
    assert np.allclose((a @ a.inverse()).matrix, np.eye(4), atol=1e-12)


@given(rigids)
def test_rigid_round_trips(a):
    assert np.allclose(Rigid3.from_matrix(a.matrix).matrix, a.matrix, atol=1e-14)
    back = Rigid3.from_quaternion(a.quaternion_xyzw, a.translation)
    assert np.allclose(back.matrix, a.matrix, atol=1e-12)


@given(rotation_vectors)
def test_rotation_vectors_round_trip(vector):
    vector = np.array(vector) * (min(1.0, 3.1 / max(np.linalg.norm(vector), 1e-300)))
    assert np.allclose(rotation_vector(rotation_from_vector(vector)), vector, atol=1e-10)


@given(vectors, vectors)
def test_skew_is_the_cross_product(a, b):
    assert np.allclose(skew(a) @ b, np.cross(a, b), atol=1e-12)


@given(sims, sims, vectors)
def test_sim_product_and_inverse(a, b, point):
    assert np.allclose((a @ b).apply(point), a.apply(b.apply(point)), rtol=1e-9, atol=1e-6)
    assert np.allclose((a @ a.inverse()).matrix, np.eye(4), atol=1e-9)


@given(sims, rigids)
def test_sim_moves_poses_like_points(target_from_source, source_from_body):
    pose = target_from_source.apply_to_pose(source_from_body)
    centre = target_from_source.apply(source_from_body.translation)
    assert np.allclose(pose.translation, centre, atol=1e-9)
    axis = target_from_source.rotation @ source_from_body.rotation[:, 2]
    assert np.allclose(pose.rotation[:, 2], axis, atol=1e-12)


def test_quaternions_are_xyzw():
    quarter_turn_about_z = Rigid3.from_quaternion([0, 0, np.sqrt(0.5), np.sqrt(0.5)], [0, 0, 0])
    assert np.allclose(quarter_turn_about_z.apply([1, 0, 0]), [0, 1, 0])


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, np.pi - 1e-7, np.pi])
def test_rotation_angle_is_exact_at_the_ends(angle):
    assert rotation_angle(rotation_from_vector([0, angle, 0])) == pytest.approx(angle, abs=1e-12)


@pytest.mark.parametrize(
    ("rotation", "translation", "message"),
    [
        (np.diag([1.0, 1.0, -1.0]), np.zeros(3), "expected a rotation"),
        (2 * np.eye(3), np.zeros(3), "expected a rotation"),
        (np.eye(3), np.zeros(2), "translation"),
        (np.eye(3), np.array([0, np.nan, 0]), "finite"),
    ],
)
def test_what_is_no_rigid_transform_is_refused(rotation, translation, message):
    with pytest.raises(ValueError, match=message):
        Rigid3(rotation, translation)


def test_a_scaled_quaternion_is_refused():
    with pytest.raises(ValueError, match="length 1"):
        Rigid3.from_quaternion([0, 0, 0, 0], [0, 0, 0])
