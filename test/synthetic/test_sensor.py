"""Noise as stated, and the same again."""

import numpy as np
import pytest

from vggt_ros.synthetic.sensor import SensorModel, apply_sensor
from vggt_ros.synthetic.tone import DECODE, to_grey, to_linear

GREY = np.full((120, 160, 3), 128, np.uint8)
PLAIN = SensorModel(exposure_spread=0, white_balance_spread=0, vignetting=0, exposure_jitter=0)


def test_tone_tables_are_inverse():
    grey = np.arange(256, dtype=np.uint8).reshape(1, -1)
    np.testing.assert_array_equal(to_grey(to_linear(grey)), grey)


def test_noise_depends_on_seed_camera_and_frame_only():
    first = apply_sensor(GREY, "left", 3)
    np.testing.assert_array_equal(first, apply_sensor(GREY, "left", 3))
    assert (first != apply_sensor(GREY, "left", 4)).any()
    assert (first != apply_sensor(GREY, "right", 3)).any()
    assert (first != apply_sensor(GREY, "left", 3, SensorModel(seed=1))).any()


def test_shot_noise_is_that_of_the_electrons():
    noisy = to_linear(apply_sensor(GREY, "left", 0, PLAIN)).astype(float)
    electrons = DECODE[128] * PLAIN.full_well_electrons
    expected = np.sqrt(electrons + PLAIN.read_noise_electrons**2) / PLAIN.full_well_electrons
    assert noisy.mean() == pytest.approx(DECODE[128], rel=0.005)
    assert noisy.std() == pytest.approx(expected, rel=0.06)  # rounding to grey values adds some


def test_corners_are_darker_and_cameras_differ():
    image = apply_sensor(GREY, "left", 0).astype(float)
    assert image[50:70, 70:90].mean() > image[:20, :20].mean() + 5
    assert abs(image.mean() - apply_sensor(GREY, "right", 0).mean()) > 0.3
