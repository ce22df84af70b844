"""VGGT's input against the published preprocessing, and where pixels go."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.geometry import CameraModel
from vggt_ros.inference.vggt_input import prepare

RANDOM = np.random.default_rng(5)


def noise(width, height):
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_published(pillow, images, mode):
    """What `load_and_preprocess_images` does to opaque images, step by step."""
    done = []
    for image in images:
        height, width = image.shape[:2]
        if mode == "crop" or width >= height:
            size = (518, round(height * (518 / width) / 14) * 14)
        else:
            size = (round(width * (518 / height) / 14) * 14, 518)
        # in two steps, because Pillow 13 goes along the columns first where that is faster
        narrow = pillow.fromarray(image).resize((size[0], height), pillow.Resampling.BICUBIC)
        resized = narrow.resize(size, pillow.Resampling.BICUBIC)
        array = np.asarray(resized).astype(np.float32) / np.float32(255)
        if mode == "crop" and size[1] > 518:
            start = (size[1] - 518) // 2
            array = array[start : start + 518]
        done.append(array if mode == "crop" else white_around(array, 518, 518))
    height, width = (max(a.shape[k] for a in done) for k in (0, 1))
    return np.stack([white_around(a, height, width) for a in done]).transpose(0, 3, 1, 2)


def white_around(array, height, width):
    above, before = (height - array.shape[0]) // 2, (width - array.shape[1]) // 2
    whole = np.ones((height, width, 3), np.float32)
    whole[above : above + array.shape[0], before : before + array.shape[1]] = array
    return whole


SIZES = [
    [(640, 480)],
    [(1920, 1080)],
    [(480, 640)],
    [(518, 518)],
    [(100, 75)],
    [(1280, 1000), (640, 480), (333, 480), (1024, 128)],
]


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("sizes", SIZES)
def test_same_as_published(mode, sizes):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images = [noise(*size) for size in sizes]
    found = prepare(images, mode)
    np.testing.assert_array_equal(found.images, as_published(pillow, images, mode))
    assert found.images.dtype == np.float32


@pytest.mark.parametrize(
    ("size", "mode", "shape"),
    [
        ((640, 480), "crop", (392, 518)),
        ((1920, 1080), "crop", (294, 518)),
        ((480, 640), "crop", (518, 518)),
        ((640, 480), "pad", (518, 518)),
    ],
)
def test_shapes(size, mode, shape):
    assert prepare([noise(*size)], mode).images.shape == (1, 3, *shape)


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(252, 336), (336, 252), (518, 518), (140, 518)])
def test_engines_get_the_shape_they_take(mode, shape):
    images = [noise(640, 480), noise(300, 400), noise(320, 180)]
    found = prepare(images, mode, shape=shape)
    assert found.images.shape == (3, 3, *shape)
    for k, place in enumerate(found.placements):
        assert place.resized[0] % 14 == place.resized[1] % 14 == 0
        rows, columns = place.region
        outside = np.ones(shape, bool)
        outside[rows, columns] = False
        assert (found.images[k][:, outside] == 1).all()
        if mode == "pad":
            assert (place.width, place.height) == place.resized
            assert place.width == shape[1] or place.height == shape[0]


def test_kept_rgb_is_what_was_put_in():
    image = noise(518, 518)
    found = prepare([image, noise(518, 392)], "crop")
    np.testing.assert_array_equal(found.kept_rgb(0), image)
    assert found.kept_rgb(1).shape == (392, 518, 3)


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (200, 150), (1000, 400)])
def test_cameras_follow_the_pixels_to_a_fraction(mode, size):
    """The half pixel: brightness tells which column and row a pixel of the input came from."""
    width, height = size
    columns = np.arange(width) * (255.0 / (width - 1))
    rows = np.arange(height) * (255.0 / (height - 1))
    ramp = np.zeros((height, width, 3))
    ramp[..., 0], ramp[..., 1] = columns, rows[:, None]
    # dithered, so that rounding to whole grey levels averages out
    ramp += RANDOM.uniform(-0.5, 0.5, ramp.shape)
    found = prepare([np.clip(np.rint(ramp), 0, 255).astype(np.uint8)], mode)
    place = found.placements[0]
    model = CameraModel(width, height, 300.0, 310.0, 0.4 * width, 0.55 * height)
    camera = place.input_camera(model, *found.size)
    top, left = place.top + 8, place.left + 8
    region = (slice(top, top + place.height - 16), slice(left, left + place.width - 16))
    inner = found.images[0][:, region[0], region[1]].astype(np.float64)
    rays = camera.rays()[region]
    at = model.project(rays)
    shift_x = inner[0] * (width - 1) - at[..., 0]
    shift_y = inner[1] * (height - 1) - at[..., 1]
    # Pixels come in whole grey levels, so only means are sharp; a forgotten half pixel moves them
    # by 0.1 or more.
    for shift, axis, side in ((shift_x, 1, width), (shift_y, 0, height)):
        assert np.abs(shift).max() < 2.5 * side / 255
        for half in np.array_split(shift, 2, axis=axis):
            assert abs(half.mean()) < 0.04


@given(
    st.integers(40, 2000),
    st.integers(40, 2000),
    st.sampled_from(["crop", "pad"]),
    st.sampled_from([None, (28, 56), (56, 28)]),
)
def test_cameras_go_there_and_back(width, height, mode, shape):
    from vggt_ros.inference import vggt_input

    to_height, to_width = shape or (56, 56)
    if 36 * min(width, height) < 14 * max(width, height):
        return  # refused, see below
    try:
        scaled = vggt_input._scaled(width, height, mode, to_width, to_height)
    except ValueError:
        return
    place = vggt_input._place((width, height), scaled, (to_width, to_height))
    model = CameraModel(width, height, 0.9 * width, 1.1 * width, 0.3 * width, 0.6 * height)
    back = place.original_camera(place.input_camera(model, to_width, to_height))
    assert back.size == model.size
    np.testing.assert_allclose(back.matrix, model.matrix, rtol=1e-12, atol=1e-9)


def test_both_factors_are_used():
    """1920x1080 becomes 518x294: x by 0.26979, y by 0.27222."""
    place = prepare([noise(1920, 1080)]).placements[0]
    model = CameraModel(1920, 1080, 1000.0, 1000.0, 959.5, 539.5)
    camera = place.input_camera(model, 518, 294)
    assert camera.fx == pytest.approx(1000 * 518 / 1920)
    assert camera.fy == pytest.approx(1000 * 294 / 1080)
    assert (camera.cx, camera.cy) == pytest.approx((258.5, 146.5))
    back = place.original_camera(CameraModel(518, 294, 100.0, 100.0, 258.5, 146.5))
    assert back.fx == pytest.approx(100 * 1920 / 518)
    assert back.fy == pytest.approx(100 * 1080 / 294)


def test_camera_of_another_size_is_refused():
    place = prepare([noise(64, 48)], size=56).placements[0]
    with pytest.raises(ValueError, match=r"expected one for an image of \(64, 48\)"):
        place.kept_camera(CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "squeeze"}, "mode: expected crop or pad, got 'squeeze'"),
        ({"size": 500}, "height 500 and width 500"),
        ({"shape": (300, 518)}, "height 300 and width 518"),
        ({"shape": (0, 14)}, "height 0 and width 14"),
        ({"images": []}, "at least one image"),
        ({"images": [np.zeros((4, 4), np.uint8)]}, r"image 0: expected \(H, W, 3\) uint8"),
        ({"images": [np.zeros((4, 4, 3), np.float32)]}, "float32"),
        ({"images": [np.zeros((0, 4, 3), np.uint8)]}, r"\(0, 4, 3\)"),
        ({"images": [np.zeros((5, 518, 3), np.uint8)]}, "518x5"),
    ],
)
def test_bad_input(arguments, message):
    images = arguments.pop("images", [noise(28, 28)])
    with pytest.raises(ValueError, match=message):
        prepare(images, **arguments)


def test_no_torch_is_needed():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import vggt_ros, vggt_ros.inference, vggt_ros.inference.vggt, vggt_ros.models\n"
        "import vggt_ros.models.vggt_config, vggt_ros.models.safetensors_file\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
