"""Moving transforms: interpolated exactly where the answer is known, never extrapolated."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.geometry import Rigid3
from vggt_ros.geometry.rigid3 import interpolate
from vggt_ros.sources.transform_buffer import TransformBuffer

S = 1_000_000_000
numbers = st.floats(-3.0, 3.0)
vectors = st.tuples(numbers, numbers, numbers)
poses = st.builds(Rigid3.from_rotation_vector, vectors, vectors)
unit = st.floats(0.0, 1.0)


def assert_same(found, expected, atol=1e-9):
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=atol)


@settings(max_examples=60)
@given(poses, vectors, vectors, unit)
def test_a_constant_twist_is_met_exactly(start, velocity, spin, fraction):
    """Constant velocity in the parent, constant rate of turn about an axis of the body."""
    spin = np.array(spin) * min(1.0, 3.1 / max(np.linalg.norm(spin), 1e-9))  # below half a turn

    def at(t):
        turn = Rigid3.from_rotation_vector(t * spin)
        return Rigid3(start.rotation @ turn.rotation, start.translation + t * np.array(velocity))

    assert_same(interpolate(at(0.0), at(1.0), fraction), at(fraction), 1e-7)


@given(poses, poses, unit)
def test_forwards_is_backwards(a, b, fraction):
    if (a.inverse() @ b).angle_rad < 3.1:  # at half a turn both ways are as short
        assert_same(interpolate(a, b, fraction), interpolate(b, a, 1 - fraction), 1e-7)


@given(poses, poses)
def test_the_ends_are_the_poses_themselves(a, b):
    assert interpolate(a, b, 0.0) is a
    assert interpolate(a, b, 1.0) is b


@pytest.mark.parametrize("fraction", [-0.001, 1.001, math.nan])
def test_nothing_is_extrapolated(fraction):
    with pytest.raises(ValueError, match="fraction"):
        interpolate(Rigid3.identity(), Rigid3.identity(), fraction)


def drive(t):
    """1 m/s along x, 0.5 rad/s about z."""
    return Rigid3.from_rotation_vector([0, 0, 0.5 * t], [t, 0.0, 0.0])


def driven(seconds, rate=10, **limits):
    buffer = TransformBuffer(**limits)
    camera = Rigid3.from_rotation_vector([0.1, 0.2, 0.3], [0.4, 0.0, 1.0])
    buffer.insert("base", "camera", camera, 0, static=True)
    for k in range(int(seconds * rate) + 1):
        buffer.insert("odom", "base", drive(k / rate), 100 * S + k * S // rate, static=False)
    return buffer, camera


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 2.0))
def test_chain_at_a_stamp(t):
    buffer, camera = driven(2.0)
    stamp = 100 * S + int(t * S)
    assert_same(buffer.lookup_at("odom", "camera", stamp), drive(t) @ camera, 1e-7)
    assert_same(buffer.lookup_at("camera", "odom", stamp), (drive(t) @ camera).inverse(), 1e-7)
    assert_same(buffer.lookup_at("base", "camera", stamp), camera)


def test_outside_of_what_is_known_is_a_sentence_and_never_a_pose():
    buffer, camera = driven(2.0)
    assert buffer.lookup_at("odom", "camera", 102 * S + 1_000_000) == (
        "the newest transform 'odom' -> 'base' is 0.001 s older than the stamp"
    )
    assert "0.500 s newer" in buffer.lookup_at("odom", "base", 100 * S - S // 2)
    assert buffer.lookup_at("map", "base", 101 * S) == "TF knows no frame 'map'"
    buffer.insert("world", "table", Rigid3.identity(), 0, static=True)
    assert "does not connect" in buffer.lookup_at("table", "base", 101 * S)
    # what is fixed holds at all times
    assert_same(buffer.lookup_at("base", "camera", 0), camera)


def test_one_transform_is_known_at_its_stamp_alone():
    buffer = TransformBuffer()
    buffer.insert("odom", "base", drive(1.0), 5 * S, static=False)
    assert_same(buffer.lookup_at("odom", "base", 5 * S), drive(1.0))
    assert isinstance(buffer.lookup_at("odom", "base", 5 * S + 1), str)
    assert isinstance(buffer.lookup_at("odom", "base", 5 * S - 1), str)
    assert_same(buffer.lookup("odom", "base"), drive(1.0))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_arrival_does_not_matter(order):
    buffer = TransformBuffer()
    for k in order:
        buffer.insert("odom", "base", drive(k / 10), k * S // 10, static=False)
    assert_same(buffer.lookup_at("odom", "base", int(0.55 * S)), drive(0.55), 1e-9)
    assert_same(buffer.lookup("odom", "base"), drive(1.1))


def test_history_is_bounded_by_time_and_number():
    buffer, _ = driven(30.0, history_s=10.0)
    assert buffer.size("base") == 101
    assert isinstance(buffer.lookup_at("odom", "base", 119 * S), str)
    assert_same(buffer.lookup_at("odom", "base", 120 * S), drive(20.0))
    buffer, _ = driven(30.0, history_s=1000.0, max_entries=50)
    assert buffer.size("base") == 50
    assert_same(buffer.lookup_at("odom", "base", 130 * S), drive(30.0))


def test_a_clock_that_was_set_back_begins_anew():
    buffer, _ = driven(30.0)
    buffer.insert("odom", "base", drive(7.0), 50 * S, static=False)
    assert buffer.size("base") == 1
    assert_same(buffer.lookup("odom", "base"), drive(7.0))


def test_a_parent_that_changes_is_not_bridged():
    buffer = TransformBuffer()
    buffer.insert("a", "base", drive(0.0), 0, static=False)
    buffer.insert("b", "base", drive(1.0), S, static=False)
    assert "changed" in buffer.lookup_at("b", "base", S // 2)
    assert_same(buffer.lookup_at("b", "base", S), drive(1.0))


def test_fixed_takes_the_place_of_moving_and_survives():
    buffer, camera = driven(1.0)
    buffer.insert("odom", "base", drive(3.0), 0, static=True)
    assert_same(buffer.lookup_at("odom", "base", 12345), drive(3.0))
    buffer.forget_moving()
    assert_same(buffer.lookup("odom", "camera"), drive(3.0) @ camera)


@pytest.mark.parametrize(("parent", "child"), [("", "base"), ("odom", ""), ("odom", "odom")])
def test_frames_without_a_place_are_left_out(parent, child):
    buffer = TransformBuffer()
    buffer.insert(parent, child, Rigid3.identity(), 0, static=True)
    assert buffer.parent(child) is None
