"""Which depth maps `~/points` shows."""

from types import SimpleNamespace

from vggt_ros.nodes.clouds import newest_set

MS = 1_000_000


def of(camera, stamp_ms):
    return SimpleNamespace(camera=camera, stamp_ns=stamp_ms * MS)


def test_points_are_those_of_the_newest_keyframe_alone():
    old = [of("left", 1000), of("right", 1000)]
    new = [of("left", 1500), of("right", 1503), of("up", 1501)]
    found, stamp_ns = newest_set([*new[:1], *old, *new[1:]], 20 * MS)
    assert found == new
    assert stamp_ns == 1501 * MS


def test_a_single_set_is_whole():
    both = [of("left", 10), of("right", 12)]
    assert newest_set(both, 20 * MS) == (both, 10 * MS)
