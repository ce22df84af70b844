"""Bicubic resizing against Pillow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.inference.bicubic import resize_bicubic, warm_up


def test_constant_images_stay_constant():
    warm_up()
    for value in (0, 1, 128, 254, 255):
        image = np.full((41, 67, 3), value, np.uint8)
        assert (resize_bicubic(image, 14, 28) == value).all()
        assert (resize_bicubic(image, 140, 98) == value).all()


def test_same_size_is_a_copy():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_bicubic(image, 40, 30), image.transpose(2, 0, 1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(0, 2**32 - 1),
)
def test_bit_for_bit_as_pillow(width, height, to_width, to_height, seed):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    random = np.random.default_rng(seed)
    # saturated blocks beside noise: intermediate values beyond 0 to 255 are cut by Pillow
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 2] = np.where(image[: height // 2] > 127, 255, 0)
    # in two steps, because Pillow 13 goes along the columns first where that is faster
    narrow = pillow.fromarray(image).resize((to_width, height), pillow.Resampling.BICUBIC)
    expected = narrow.resize((to_width, to_height), pillow.Resampling.BICUBIC)
    found = resize_bicubic(image, to_width, to_height)
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1))
