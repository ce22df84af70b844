"""Clocks that are off are named, jitter and transport are not."""

import numpy as np
import pytest

from vggt_ros.pipeline.clock_offsets import clock_offsets

LIMIT_S = 0.1


def lags(rng, offsets, jitter_s=0.2, count=50, latency_s=0.02):
    return {
        name: latency_s + offset + rng.uniform(0.0, jitter_s, count)
        for name, offset in offsets.items()
    }


@pytest.mark.parametrize("cameras", [2, 3, 4, 8])
@pytest.mark.parametrize("offset_s", [0.5, -0.5, 0.15, 3600.0])
def test_the_one_that_is_off_is_named_with_its_offset(cameras, offset_s):
    rng = np.random.default_rng(cameras)
    offsets = dict.fromkeys([f"c{k}" for k in range(cameras)], 0.0) | {"c1": offset_s}
    found = clock_offsets(lags(rng, offsets, jitter_s=0.05), LIMIT_S)
    assert list(found) == ["c1"]
    assert found["c1"] == pytest.approx(offset_s, abs=0.03)


@pytest.mark.parametrize("cameras", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("common_s", [0.0, 1e9])
def test_jitter_is_no_offset(cameras, common_s):
    """200 ms of jitter, ten images per second, 500 checks of five seconds; a bag of long ago."""
    rng = np.random.default_rng(7)
    offsets = {f"c{k}": common_s for k in range(cameras)}
    for _ in range(500):
        assert clock_offsets(lags(rng, offsets), LIMIT_S) == {}


def test_jitter_hides_no_half_second():
    rng = np.random.default_rng(8)
    for _ in range(200):
        found = clock_offsets(lags(rng, {"left": 0.5, "right": 0.0, "back": 0.0}), LIMIT_S)
        assert list(found) == ["left"]


def test_of_two_replayed_cameras_the_one_behind_is_named():
    rng = np.random.default_rng(9)
    found = clock_offsets(lags(rng, {"left": 1e9 + 0.5, "right": 1e9}, jitter_s=0.02), LIMIT_S)
    assert list(found) == ["left"]
    assert found["left"] == pytest.approx(0.5, abs=0.02)


def test_few_images_say_nothing():
    assert clock_offsets({"left": [0.5] * 4, "right": [0.0] * 50}, LIMIT_S) == {}
    assert clock_offsets({}, LIMIT_S) == {}
