"""Depth Anything's pool on back ends that answer what is wanted."""

import threading

import cv2
import numpy as np
import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import TensorSpec
from vggt_ros.inference.depth_anything import (
    CONFIDENCE,
    DepthAnythingPool,
    Fit,
    fit_into,
    input_size,
    read_output,
    write_input,
)
from vggt_ros.types import DepthKind

MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])


class Grey:
    """Answers with the mean of the channels of its input: depth shows the image."""

    name, device, precision = "grey", "cpu", "fp32"

    def __init__(self, shape=(None, 3, None, None)):
        self.inputs = (TensorSpec("images", shape, "float32"),)
        self.outputs = (TensorSpec("depth", (None, None, None), "float32"),)
        self.shapes = []
        self.error = None
        self.closed = False
        self.together = self.most = 0
        self.lock = threading.Lock()
        self.hold = None

    def run(self, inputs):
        with self.lock:
            self.shapes.append(inputs["images"].shape)
            self.together += 1
            self.most = max(self.most, self.together)
        if self.hold is not None:
            self.hold.wait(5.0)
        with self.lock:
            self.together -= 1
        if self.error is not None:
            raise self.error
        return {"depth": inputs["images"].mean(axis=1)}

    def close(self):
        self.closed = True


@pytest.fixture
def pool_on(fake_engine):
    pools = []

    def make(backend, kind="disparity", normalisation="zero_to_one", **arguments):
        import dataclasses

        engine = fake_engine("depth_anything", (1, 3, 14, 14), {}, kind, normalisation)
        engine = dataclasses.replace(engine, backend=backend)
        pools.append(DepthAnythingPool(engine, **arguments))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((640, 480), (686, 518)),
        ((1920, 1080), (924, 518)),
        ((480, 640), (518, 686)),
        ((518, 518), (518, 518)),
    ],
)
def test_input_sizes_are_those_of_the_networks_own_preprocessing(image, expected):
    assert input_size(*image) == expected


def test_input_sizes_agree_with_transformers():
    """Where the shorter side decides there too, which it does for images larger than 518."""
    reason = "transformers is not installed (pip install .[depth-anything])"
    module = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt", reason=reason)
    get = getattr(module, "get_resize_output_image_size", None)
    if get is None:
        pytest.skip("this release of transformers keeps its rule elsewhere")
    for size in ((1920, 1080), (1280, 720), (640, 480), (1000, 1333)):
        image = np.zeros((3, size[1], size[0]), np.uint8)
        found = get(image, (518, 518), True, 14)
        height, width = (found.height, found.width) if hasattr(found, "height") else found
        assert input_size(*size) == (width, height)


def test_wrong_input_size():
    with pytest.raises(ValueError, match="multiple of 14 px, got 500"):
        input_size(640, 480, 500)


def test_other_aspects_are_put_in_the_middle():
    assert fit_into((640, 480), (518, 518)) == Fit(518, 388, 0, 65)
    assert fit_into((480, 640), (518, 518)) == Fit(388, 518, 65, 0)
    assert fit_into((1920, 1080), (924, 518)) == Fit(924, 518, 0, 0)


@pytest.mark.parametrize("normalisation", ["zero_to_one", "imagenet"])
def test_normalisation_is_that_of_the_passport(normalisation):
    rgb = np.random.default_rng(0).integers(0, 256, (28, 42, 3), dtype=np.uint8)
    out = np.zeros((3, 28, 42), np.float32)
    write_input(rgb, Fit(42, 28, 0, 0), normalisation, out)
    expected = rgb / 255.0
    if normalisation == "imagenet":
        expected = (expected - MEAN) / DEVIATION
    np.testing.assert_allclose(out, expected.transpose(2, 0, 1), atol=1e-6)


def test_unknown_normalisation_is_refused():
    out = np.zeros((3, 28, 42), np.float32)
    with pytest.raises(EngineError, match=r"zero_to_one, imagenet, got 'minus_one_to_one'"):
        write_input(np.zeros((28, 42, 3), np.uint8), Fit(42, 28, 0, 0), "minus_one_to_one", out)


@pytest.mark.parametrize("shape", [(None, 3, None, None), (1, 3, 70, 70), (4, 3, 56, 98)])
def test_depth_has_the_size_and_place_of_the_image(pool_on, shape):
    backend = Grey(shape)
    pool = pool_on(backend, image_px=70)
    images = []
    for height, width in ((120, 160), (120, 160), (200, 130)):
        v, u = np.mgrid[:height, :width]
        ramp = 40 + 100 * v / height + 80 * u / width
        images.append(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8))
    results = pool.infer(images)
    for image, result in zip(images, results, strict=True):
        assert result.values.shape == result.confidence.shape == image.shape[:2]
        assert result.values.dtype == result.confidence.dtype == np.float32
        np.testing.assert_allclose(result.values[8:-8, 8:-8] * 255, image[8:-8, 8:-8, 0], atol=2.5)
    assert pool.kind is DepthKind.DISPARITY


def test_results_of_another_size(pool_on):
    pool = pool_on(Grey(), image_px=70)
    image = np.full((120, 160, 3), 51, np.uint8)
    (result,) = pool.infer([image], [(80, 60)])
    assert result.values.shape == (60, 80)
    np.testing.assert_allclose(result.values, 0.2, atol=1e-6)
    with pytest.raises(ValueError, match="expected 1, one per image, got 2"):
        pool.infer([image], [(80, 60)] * 2)


def test_batches_are_as_large_as_the_engine_takes(pool_on):
    images = [np.zeros((70, 70, 3), np.uint8)] * 5
    free, pairs, single = Grey(), Grey((2, 3, 70, 70)), Grey((1, 3, 70, 70))
    for backend in (free, pairs, single):
        pool_on(backend, image_px=70).infer(images)
    assert [s[0] for s in free.shapes] == [5]
    assert [s[0] for s in pairs.shapes] == [2, 2, 2]
    assert [s[0] for s in single.shapes] == [1] * 5


def test_images_of_several_sizes_keep_their_order(pool_on):
    levels = (10, 200, 90, 30)
    sizes = ((70, 70), (70, 140), (70, 70), (70, 140))
    images = [np.full((*s, 3), v, np.uint8) for s, v in zip(sizes, levels, strict=True)]
    results = pool_on(Grey(), image_px=70).infer(images)
    assert [round(float(r.values[0, 0]) * 255) for r in results] == list(levels)


def test_contexts_work_at_the_same_time(pool_on):
    backend = Grey()
    backend.hold = threading.Event()
    pool = pool_on(backend, image_px=70, contexts=3)
    caller = threading.Thread(target=pool.infer, args=([np.zeros((70, 70, 3), np.uint8)] * 6,))
    caller.start()
    for _ in range(100):
        if backend.together == 3:
            break
        caller.join(0.05)
    backend.hold.set()
    caller.join()
    assert backend.most == 3
    assert [s[0] for s in backend.shapes] == [2, 2, 2]


def test_errors_surface_in_the_caller_and_the_pool_goes_on(pool_on):
    backend = Grey()
    pool = pool_on(backend, image_px=70, contexts=2)
    images = [np.zeros((70, 70, 3), np.uint8)] * 4
    backend.error = EngineError("the GPU fell off the bus")
    with pytest.raises(EngineError, match="fell off the bus"):
        pool.infer(images)
    backend.error = None
    assert len(pool.infer(images)) == 4


def test_what_is_not_finite_becomes_nan_without_confidence():
    values = np.ones((28, 28), np.float32)
    values[3, 4], values[9, 9] = np.inf, np.nan
    result = read_output(values, Fit(28, 28, 0, 0), (28, 28))
    assert np.isnan(result.values[3, 4])
    assert np.isnan(result.values[9, 9])
    assert result.confidence[3, 4] == result.confidence[9, 9] == 0
    assert np.isnan(result.values).sum() == 2
    assert result.confidence[20, 20] == pytest.approx(CONFIDENCE)


def test_edges_are_less_sure():
    values = np.ones((28, 28), np.float32)
    values[:, 14:] = 2.0
    confidence = read_output(values, Fit(28, 28, 0, 0), (28, 28)).confidence
    assert confidence[10, 13] < 0.1 * CONFIDENCE
    assert confidence[10, 4] == pytest.approx(CONFIDENCE)
    slope = np.tile(np.linspace(1.0, 1.2, 28, dtype=np.float32), (28, 1))
    assert read_output(slope, Fit(28, 28, 0, 0), (28, 28)).confidence.min() > 0.9 * CONFIDENCE


def test_wrong_images_and_engines(pool_on, fake_engine):
    pool = pool_on(Grey(), image_px=70)
    with pytest.raises(ValueError, match=r"image 1: expected \(H, W, 3\) uint8"):
        pool.infer([np.zeros((70, 70, 3), np.uint8), np.zeros((70, 70), np.uint8)])
    with pytest.raises(EngineError, match=r"expected a depth_kind in its passport.*got ''"):
        pool_on(Grey(), kind="")
    with pytest.raises(EngineError, match="multiples of 14, got 70x71"):
        pool_on(Grey((1, 3, 70, 71)))
    with pytest.raises(EngineError, match="expected one input"):
        pool_on(Grey((1, 1, 70, 70)))
    with pytest.raises(ValueError, match="multiple of 14"):
        pool_on(Grey(), image_px=100)
    with pytest.raises(EngineError, match="expected an engine of depth_anything, got one of vggt"):
        DepthAnythingPool(fake_engine("vggt", (1, 3, 14, 14), {}))


def test_an_answer_of_another_shape_is_an_error(pool_on):
    backend = Grey()
    backend.run = lambda inputs: {"depth": np.zeros((1, 7, 7), np.float32)}
    with pytest.raises(
        EngineError, match=r"expected depth of shape \(1, 70, 70\), got \(1, 7, 7\)"
    ):
        pool_on(backend, image_px=70).infer([np.zeros((70, 70, 3), np.uint8)])


def test_shrinking_averages(pool_on):
    """A grid of single pixels must not alias: OpenCV's linear and cubic would."""
    image = np.zeros((700, 700, 3), np.uint8)
    image[::2, ::2] = 255
    (result,) = pool_on(Grey(), image_px=70).infer([image])
    assert result.values == pytest.approx(0.25, abs=0.01)
    assert cv2.resize(image, (70, 70), interpolation=cv2.INTER_NEAREST).mean() > 200
