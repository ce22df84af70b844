"""The tree of frames, and look-ups over DDS."""

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from tf2_msgs.msg import TFMessage

from vggt_ros.geometry import Rigid3
from vggt_ros.nodes.conversions import transform_message
from vggt_ros.nodes.transforms import (
    FrameTree,
    StaticBroadcaster,
    Tf2Frames,
    listen,
    static_qos,
)

numbers = st.floats(-3.0, 3.0)
transforms = st.builds(
    lambda v, t: Rigid3.from_rotation_vector(v, t),
    st.tuples(numbers, numbers, numbers),
    st.tuples(numbers, numbers, numbers),
)


def tree_of(*edges, static=True):
    tree = FrameTree()
    for parent, child, transform in edges:
        tree.add(TFMessage(transforms=[transform_message(transform, parent, child, 0)]), static)
    return tree


@settings(max_examples=30)
@given(transforms, transforms, transforms)
def test_chains_through_a_common_ancestor(map_from_base, base_from_left, base_from_right):
    tree = tree_of(
        ("map", "base", map_from_base),
        ("base", "left", base_from_left),
        ("base", "right", base_from_right),
    )
    found = tree.lookup("left", "right")
    expected = base_from_left.inverse() @ base_from_right
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-9)
    found = tree.lookup("map", "left")
    np.testing.assert_allclose(found.matrix, (map_from_base @ base_from_left).matrix, atol=1e-9)
    found = tree.lookup("left", "map")
    np.testing.assert_allclose(
        found.matrix, (map_from_base @ base_from_left).inverse().matrix, atol=1e-9
    )


def test_unknown_is_none_and_never_identity():
    tree = tree_of(("base", "left", Rigid3.identity()), ("other", "right", Rigid3.identity()))
    assert tree.lookup("left", "right") is None
    assert tree.lookup("base", "nowhere") is None
    assert tree.parent("base") is None
    assert tree.parent("left") == "base"


def test_top_stops_below_the_map():
    identity = Rigid3.identity()
    tree = tree_of(("map", "odom", identity), ("odom", "base", identity), ("base", "c", identity))
    assert tree.top("c", "map") == "odom"
    assert tree.top("c", "world") == "map"
    assert tree.top("alone", "map") == "alone"


def test_a_loop_does_not_hang():
    identity = Rigid3.identity()
    tree = tree_of(("a", "b", identity), ("b", "a", identity))
    assert tree.lookup("c", "a") is None
    assert tree.top("a", "map") in ("a", "b")


def test_newest_wins_and_moving_ones_are_forgotten():
    shift = Rigid3(np.eye(3), [1.0, 0.0, 0.0])
    tree = tree_of(("map", "base", Rigid3.identity()), ("map", "base", shift), static=False)
    np.testing.assert_array_equal(tree.lookup("map", "base").translation, [1, 0, 0])
    tree.add(TFMessage(transforms=[transform_message(shift, "base", "camera", 0)]), True)
    tree.forget_moving()
    assert tree.lookup("map", "base") is None
    assert tree.lookup("base", "camera") is not None


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (float("nan"), 0.0, 0.0, 1.0)])
def test_impossible_transforms_are_left_out(quaternion):
    message = TransformStamped(child_frame_id="b")
    message.header.frame_id = "a"
    q = message.transform.rotation
    q.x, q.y, q.z, q.w = quaternion
    tree = FrameTree()
    tree.add(TFMessage(transforms=[message]), True)
    assert tree.lookup("a", "b") is None


def test_broadcast_and_lookup_over_dds(observer, until):
    shift = Rigid3(np.eye(3), [1.0, 2.0, 3.0])
    broadcaster = StaticBroadcaster(observer.node)
    broadcaster.send([transform_message(shift, "rig", "left", 0)])
    broadcaster.send([transform_message(shift, "map", "rig", 0)])
    frames = listen(observer.node)
    until(lambda: frames.lookup("map", "left") is not None, what="chain of two transforms")
    np.testing.assert_allclose(frames.lookup("map", "left").translation, [2, 4, 6])
    assert frames.top("left", "map") == "rig"
    assert frames.parent("rig") == "map"
    assert broadcaster.children == {"left", "rig"}
    # one message holds all, for a late joiner gets one
    received = observer.listen(TFMessage, "/tf_static", static_qos())
    until(lambda: received, what="latched transforms")
    assert [t.child_frame_id for t in received[-1].transforms] == ["left", "rig"]


class FakeTf2:
    """The part of tf2_ros that is used: a buffer that raises where it does not know."""

    class TransformException(Exception):
        pass

    class Buffer:
        def __init__(self, cache_time, node):
            self.cache_s = cache_time.nanoseconds * 1e-9
            self.tree = FrameTree()
            self.cleared = 0

        def lookup_transform(self, target, source, time):
            if time.nanoseconds:
                found = self.tree.lookup_at(target, source, time.nanoseconds)
            else:
                found = self.tree.lookup(target, source) or "unknown"
            if isinstance(found, str):
                raise FakeTf2.TransformException(found)
            return transform_message(found, target, source, 0)

        def all_frames_as_yaml(self):
            known = {f: self.tree.parent(f) for f in ("odom", "base", "camera")}
            return "".join(f"{c}:\n  parent: '{p}'\n" for c, p in known.items() if p) or "[]"

        def clear(self):
            self.cleared += 1

    class TransformListener:
        def __init__(self, buffer, node, spin_thread):
            assert not spin_thread

        def unregister(self):
            pass


def test_tf2_answers_the_same_questions():
    frames = Tf2Frames(None, FakeTf2, history_s=7.0)
    buffer = frames._buffer
    assert buffer.cache_s == 7.0
    assert frames.parent("base") is None
    shift = Rigid3(np.eye(3), [1.0, 0.0, 0.0])
    for k in range(2):
        stamped = transform_message(Rigid3(np.eye(3), [k, 0.0, 0.0]), "odom", "base", k * 10**9)
        buffer.tree.add(TFMessage(transforms=[stamped]), static=False)
    stamped = transform_message(shift, "base", "camera", 0)
    buffer.tree.add(TFMessage(transforms=[stamped]), static=True)
    np.testing.assert_allclose(
        frames.lookup_at("odom", "/camera", 10**9 // 4).translation, [1.25, 0, 0]
    )
    np.testing.assert_allclose(frames.lookup("odom", "camera").translation, [2, 0, 0])
    assert "older than the stamp" in frames.lookup_at("odom", "camera", 2 * 10**9)
    assert frames.lookup("odom", "nowhere") is None
    assert frames.top("camera", "map") == "odom"
    assert frames.top("camera", "map", "odom") == "base"
    frames.forget_moving()
    assert buffer.cleared == 1


def test_top_stops_below_any_of_several():
    identity = Rigid3.identity()
    tree = tree_of(("map", "odom", identity), ("odom", "base", identity), ("base", "c", identity))
    assert tree.top("c", "map", "odom") == "base"
    assert tree.top("c", "map", "") == "odom"
