"""Sets that wait for a transform: in order, for a bounded time, never with the identity."""

import numpy as np
import pytest

from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.ingest import ImageSet
from vggt_ros.pipeline.waiting_sets import WaitingSets

MS = 1_000_000
REASON = "no transform odom -> base at the stamp"


class Tf:
    """Knows the place at the stamps in `known`; x is the stamp [ms]."""

    def __init__(self):
        self.known = set()

    def lookup(self, target, source, stamp_ns):
        assert (target, source) == ("odom", "base")
        if stamp_ns in self.known:
            return Rigid3(np.eye(3), [stamp_ns / MS, 0.0, 0.0])
        return "TF has stopped"


@pytest.fixture
def tf():
    return Tf()


@pytest.fixture
def drops():
    return []


@pytest.fixture
def sets(tf, drops):
    return WaitingSets("odom", 100.0, tf.lookup, lambda *what: drops.append(what), most=3)


def put(sets, stamp_ms, now_ms):
    sets.put(ImageSet(stamp_ms * MS, ()), now_ms * MS, "base")


def taken(sets, now_ms):
    found = sets.take(now_ms * MS, "base")
    return found and (found[0].stamp_ns // MS, found[1].translation[0])


def test_known_at_once(sets, tf, drops):
    tf.known = {5 * MS}
    put(sets, 5, 0)
    assert taken(sets, 0) == (5, 5.0)
    assert taken(sets, 0) is None
    assert not drops


def test_waits_and_comes_in_time(sets, tf, drops):
    put(sets, 5, 0)
    assert taken(sets, 99) is None
    assert len(sets) == 1
    tf.known = {5 * MS}
    assert taken(sets, 100) == (5, 5.0)
    assert not drops
    assert not sets.fault


def test_too_long_is_a_counted_drop_that_says_why(sets, tf, drops):
    put(sets, 5, 0)
    put(sets, 6, 50)
    assert taken(sets, 100) is None
    assert drops == [(REASON, f"{REASON}: TF has stopped")]
    assert sets.fault == f"{REASON}: TF has stopped"
    tf.known = {6 * MS}
    assert taken(sets, 149) == (6, 6.0)
    assert sets.fault == ""  # TF has returned


def test_known_late_but_before_anybody_asked_is_not_dropped(sets, tf, drops):
    """Mapping a set takes longer than the wait: that is no fault of TF."""
    put(sets, 5, 0)
    tf.known = {5 * MS}
    assert taken(sets, 5000) == (5, 5.0)
    assert not drops


def test_sets_leave_in_their_order(sets, tf, drops):
    put(sets, 5, 0)
    put(sets, 6, 0)
    tf.known = {6 * MS}
    assert taken(sets, 50) is None  # the first may still come
    assert taken(sets, 100) == (6, 6.0)
    assert len(drops) == 1


def test_no_room_keeps_the_newest(sets, tf, drops):
    for k in range(5):
        put(sets, k, 0)
    assert len(sets) == 3
    assert [reason for reason, _ in drops] == [REASON] * 2
    tf.known = {k * MS for k in range(5)}
    assert [taken(sets, 0)[0] for _ in range(3)] == [2, 3, 4]


def test_a_clock_that_jumps_back_ends_the_wait(sets, drops):
    put(sets, 5, 1000)
    assert taken(sets, 10) is None
    assert len(drops) == 1
    assert len(sets) == 0


def test_finish_and_clear(sets, drops):
    put(sets, 5, 0)
    put(sets, 6, 0)
    sets.finish("base")
    assert len(drops) == 2
    put(sets, 7, 0)
    sets.clear()
    assert len(sets) == 0
    assert [reason for reason, _ in drops] == [REASON, REASON, "reset"]


def test_what_is_cleared_is_counted_and_leaves_no_fault(sets, drops):
    put(sets, 5, 0)
    assert taken(sets, 200) is None
    assert sets.fault
    put(sets, 6, 200)
    put(sets, 7, 200)
    drops.clear()
    sets.clear("paused")
    assert drops == [("paused", "")] * 2
    assert sets.fault == ""
    assert len(sets) == 0
