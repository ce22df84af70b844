"""Stamps that go back: of one camera it is its own fault, of most the clock was set back."""

import logging

import numpy as np
import pytest

from vggt_ros.config import IngestConfig
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.types import StampedImage

MS = 1_000_000
START = 10**15
PIXEL = np.zeros((4, 4, 3), np.uint8)
CAMERAS = ("a", "b", "c", "d")


def shot(camera, ms):
    return StampedImage(camera, START + int(ms * MS), PIXEL, "rgb8")


def fed(ingest, shots):
    """Stamps [ms] and cameras of the sets that the images led to."""
    sets = []
    for image in shots:
        ingest.put(image)
        while (chosen := ingest.take()) is not None:
            sets.append(((chosen.stamp_ns - START) / MS, [i.camera for i in chosen.images]))
    return sets


def ticks(first, count, cameras=CAMERAS):
    return [shot(c, 100 * k) for k in range(first, first + count) for c in cameras]


@pytest.mark.parametrize("reliable", [True, False])
def test_one_camera_alone_does_not_stop_the_others(reliable, caplog):
    caplog.set_level(logging.INFO)
    ingest = Ingest(CAMERAS, {}, IngestConfig(silent_after_s=10.0 if reliable else 0.0))
    assert len(fed(ingest, ticks(0, 50))) == 50
    # "c" is 3 s behind for 3 s, then in time again
    shots = [
        shot(c, 100 * k - (3000 if c == "c" and k < 80 else 0))
        for k in range(50, 100)
        for c in CAMERAS
    ]
    sets = fed(ingest, shots)
    assert ingest.clock_resets == 0
    assert len(sets) == 50
    assert [cameras for stamp, cameras in sets if stamp < 8000] == [["a", "b", "d"]] * 30
    assert [cameras for stamp, cameras in sets if stamp >= 8100] == [list(CAMERAS)] * 19
    assert ingest.camera_counts["c"]["set_back"] == 30
    assert ingest.counts.total() - ingest.counts["set_back"] <= 1
    assert "camera 'c': its stamps went back while those of the others go on" in caplog.text
    assert "now 3.000 s old" in caplog.text
    assert "'c': its stamps are in time again" in caplog.text
    assert ingest.set_back == ()


def test_it_is_named_while_it_lasts():
    ingest = Ingest(CAMERAS, {}, IngestConfig())
    fed(ingest, ticks(0, 50))
    fed(ingest, [shot(c, 100 * k - (3000 if c == "c" else 0)) for k in (50, 51) for c in CAMERAS])
    assert ingest.set_back == ingest.left_out == ("c",)


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
@pytest.mark.parametrize("stragglers", [(), "d", "dd"])
def test_a_loop_resets_once_and_loses_little(order, stragglers, caplog):
    """The last images of a camera may come after the first ones of the next loop."""
    ingest = Ingest(CAMERAS, {}, IngestConfig())
    assert len(fed(ingest, ticks(0, 50))) == 50
    late = [shot(c, 5000 + 100 * k) for k, c in enumerate(stragglers)]
    head = [shot(c, 0) for c in order]
    sets = fed(ingest, [*head[:2], *late, *head[2:], *ticks(1, 30)])
    assert ingest.clock_resets == 1
    assert len([s for s in sets if s[0] < 4000]) >= 30
    assert all(cameras == list(CAMERAS) for stamp, cameras in sets if 0 < stamp < 4000)
    assert "look at its clock" not in caplog.text


def test_a_straggler_after_the_reset_costs_one_camera_a_few_images():
    ingest = Ingest(CAMERAS, {}, IngestConfig())
    fed(ingest, ticks(0, 50))
    head = [shot(c, 0) for c in CAMERAS]
    sets = fed(ingest, [*head[:3], shot("d", 5000), head[3], *ticks(1, 30)])
    assert ingest.clock_resets == 1
    assert len(sets) >= 29


@pytest.mark.parametrize("cameras", [("a",), ("a", "b")])
def test_small_rigs_loop_too(cameras):
    ingest = Ingest(cameras, {}, IngestConfig())
    assert len(fed(ingest, ticks(0, 50, cameras))) == 50
    assert len(fed(ingest, ticks(0, 50, cameras))) == 50
    assert ingest.clock_resets == 1


def test_a_camera_that_has_ended_does_not_hold_the_reset_up():
    ingest = Ingest(("a", "b"), {}, IngestConfig(min_cameras=1, silent_after_s=0.0))
    fed(ingest, ticks(0, 10, ("a", "b")))
    fed(ingest, ticks(10, 200, ("a",)))
    fed(ingest, ticks(0, 10, ("a", "b")))
    assert ingest.clock_resets == 1


def test_one_stamp_in_the_future_is_forgotten():
    ingest = Ingest(CAMERAS, {}, IngestConfig())
    fed(ingest, ticks(0, 10))
    ingest.put(shot("b", 10**9))
    sets = fed(ingest, ticks(10, 10))
    assert ingest.clock_resets == 0
    assert len(sets) >= 9
    assert ingest.camera_counts["b"]["clock_jump"] == 1


def test_reset_forgets_who_was_set_back():
    ingest = Ingest(("a", "b"), {}, IngestConfig())
    fed(ingest, ticks(0, 50, ("a", "b")))
    ingest.put(shot("a", 0))
    assert ingest.set_back == ("a",)
    ingest.reset()
    assert ingest.set_back == ()
    assert len(fed(ingest, ticks(0, 5, ("a", "b")))) == 5
