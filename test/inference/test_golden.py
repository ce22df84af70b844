"""Golden inputs are the same everywhere; errors mean what they say."""

import numpy as np
import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference import golden

SHAPE = (1, 3, 3, 28, 42)
# Written down once: another NumPy, processor or order of operations must not change them.
DIGESTS = {
    "zero_to_one": "8a40e7cf",
    "imagenet": "11d1bbce",
}


@pytest.mark.parametrize("normalisation", sorted(DIGESTS))
def test_the_recipe_draws_the_same_bytes_for_ever(normalisation):
    images = golden.golden_input(golden.DEFAULT_RECIPE, SHAPE, 1, normalisation)
    assert images.dtype == np.float32
    assert images.shape == SHAPE
    assert golden.array_sha256(images)[:8] == DIGESTS[normalisation]


def test_views_look_like_photographs_of_one_scene():
    images = golden.golden_input(golden.DEFAULT_RECIPE, (3, 3, 140, 196), 7, "zero_to_one")
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    assert images.std() > 0.08
    np.testing.assert_array_equal(images[0, :, :, 6:], images[1, :, :, :-6])
    steps = np.abs(np.diff(images, axis=-1))
    assert steps.max() < 0.1  # smooth: neighbours differ little
    other = golden.golden_input(golden.DEFAULT_RECIPE, (3, 3, 140, 196), 8, "zero_to_one")
    assert np.abs(images - other).mean() > 0.05


def test_imagenet_is_the_same_picture():
    plain = golden.golden_input(golden.DEFAULT_RECIPE, (1, 3, 14, 14), 1, "zero_to_one")
    imagenet = golden.golden_input(golden.DEFAULT_RECIPE, (1, 3, 14, 14), 1, "imagenet")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        imagenet[0], (plain[0] - mean[:, None, None]) / std[:, None, None], atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shifted_noise", SHAPE, 1, "zero_to_one"), "did you mean 'shifted_noise_1'"),
        (("shifted_noise_1", (1, 4, 14, 14), 1, "zero_to_one"), "shape of images"),
        (("shifted_noise_1", (-1, 3, 14, 14), 1, "zero_to_one"), "shape of images"),
        (("shifted_noise_1", SHAPE, 1, "minus_one_to_one"), "normalisation: expected"),
    ],
)
def test_wrong_recipes_are_named(arguments, message):
    with pytest.raises(EngineError, match=r"golden|normalisation") as caught:
        golden.golden_input(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("size", [1, 9, 255, 256, 257, 8 * 518 * 518])
def test_samples_are_even_and_inside(size):
    indices = golden.sample_indices(size)
    assert len(indices) == min(size, golden.SAMPLES)
    assert indices[0] >= 0
    assert indices[-1] < size
    steps = np.diff(indices)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1
    assert len(set(indices.tolist())) == len(indices)


def test_relative_error():
    expected = np.array([3.0, 4.0])
    assert golden.relative_error(expected, expected) == 0.0
    assert golden.relative_error(expected + [0.0, 0.5], expected) == pytest.approx(0.1)
    assert golden.relative_error(np.array([np.nan, 4.0]), expected) == float("inf")
    assert golden.relative_error(np.array([np.inf, 4.0]), expected) == float("inf")
    assert golden.relative_error(np.zeros(2), np.zeros(2)) == 0.0


def test_golden_of_a_reference_and_its_errors():
    def answer(images):
        return {"depth": images[0, :, 0] + 1, "pose_enc": images[0, :, :, 0, :3]}

    made = golden.make_golden(SHAPE, "zero_to_one", "test", answer, "fp16", seed=3)
    images = golden.golden_input(made.recipe, made.input_shape, made.seed, "zero_to_one")
    assert made.input_sha256 == golden.array_sha256(images)
    assert {o.tolerance for o in made.outputs} == {golden.TOLERANCE["fp16"]}
    right = answer(images)
    assert golden.golden_errors(made, right) == {"depth": 0.0, "pose_enc": 0.0}
    wrong = {"depth": right["depth"] * 1.02}
    errors = golden.golden_errors(made, wrong)
    assert errors["depth"] == pytest.approx(0.02, rel=1e-3)
    assert errors["pose_enc"] == float("inf")
    assert golden.golden_errors(made, {"depth": np.ones(3)})["depth"] == float("inf")


def test_a_reference_that_answers_nan_is_refused():
    with pytest.raises(EngineError, match=r"golden output depth.*NaN"):
        golden.make_golden(SHAPE, "zero_to_one", "test", lambda x: {"depth": x * np.nan})


def test_unknown_precision():
    with pytest.raises(EngineError, match=r"precision: .*got 'fp17' \(did you mean 'fp16'"):
        golden.tolerance_of("fp17")
