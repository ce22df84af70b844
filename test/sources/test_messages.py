"""Messages to types and back."""

import array
import types

import cv2
import numpy as np
import pytest

from vggt_ros.errors import CalibrationError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.decode import decode_rgb
from vggt_ros.sources import messages
from vggt_ros.types import StampedImage

MODEL = CameraModel(640, 480, 500.0, 510.0, 320.5, 239.5)


def info(**changes):
    message = messages.camera_info_message(MODEL, 1_500_000_000, "front_optical_frame")
    for key, value in changes.items():
        setattr(message, key, value)
    return message


def matrix(**entries):
    k = MODEL.matrix.reshape(-1).copy()
    for key, value in entries.items():
        k[int(key[1:])] = value
    return k


def roi(x, y, width, height):
    return types.SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)


@pytest.mark.parametrize(
    ("name", "coefficients"),
    [
        ("none", ()),
        ("plumb_bob", (-0.3, 0.1, 1e-3, -1e-3, 0.02)),
        ("rational_polynomial", (0.1,) * 8),
        ("equidistant", (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_camera_info_round_trip(name, coefficients):
    model = CameraModel(640, 480, 500.0, 510.0, 320.5, 239.5, name, coefficients)
    message = messages.camera_info_message(model, 7, "f")
    assert messages.model_from_camera_info(message, "c") == model


def test_zero_k_is_uncalibrated():
    assert messages.model_from_camera_info(info(k=np.zeros(9)), "c") is None


@pytest.mark.parametrize(
    "k",
    [
        matrix(k2=np.nan),
        matrix(k0=np.inf),
        matrix(k4=0.0),
        matrix(k0=0.0),
        matrix(k8=0.0),
        matrix(k0=-500.0),
        matrix(k1=3.0),
    ],
)
def test_impossible_k_is_named(k):
    with pytest.raises(CalibrationError, match=r"camera 'front': CameraInfo"):
        messages.model_from_camera_info(info(k=k), "front")


@pytest.mark.parametrize(
    "changes",
    [
        {"d": np.array([np.nan] * 5)},
        {"d": np.array([0.1, 0.2, 0.3])},
        {"distortion_model": "wobbly", "d": np.array([0.1] * 5)},
        {"width": 0},
        {"roi": roi(600, 0, 100, 480)},
    ],
)
def test_other_impossible_camera_info(changes):
    with pytest.raises(CalibrationError, match="camera 'front'"):
        messages.model_from_camera_info(info(**changes), "front")


def test_roi_moves_the_principal_point():
    model = messages.model_from_camera_info(info(roi=roi(100, 50, 320, 240)), "c")
    assert (model.size, model.cx, model.cy) == ((320, 240), 220.5, 189.5)
    assert (model.fx, model.fy) == (500.0, 510.0)


def test_binning_keeps_what_pixels_see():
    model = messages.model_from_camera_info(info(binning_x=2, binning_y=2), "c")
    point = [0.3, -0.2, 2.0]
    full, binned = MODEL.project(point), model.project(point)
    assert model.size == (320, 240)
    # a binned pixel has the centre of its 2 x 2 pixels
    np.testing.assert_allclose(2 * binned + 0.5, full, atol=1e-12)


def test_rectified_images_use_p():
    p = np.hstack([np.diag([400.0, 400.0, 1.0]), np.zeros((3, 1))])
    p[:2, 2] = 300.0, 200.0
    message = info(p=p.reshape(-1), d=np.array([0.1, 0, 0, 0, 0]))
    model = messages.model_from_camera_info(message, "c", rectified=True)
    assert model == CameraModel(640, 480, 400.0, 400.0, 300.0, 200.0)


def rgb_gradient(height=6, width=8):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 20 + 40, y * 20 + 60, 200 - x * 10], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoding", "make"),
    [
        ("rgb8", lambda rgb: rgb),
        ("bgr8", lambda rgb: rgb[..., ::-1]),
        ("rgba8", lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)])),
        ("bgra8", lambda rgb: np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 9, np.uint8)])),
    ],
)
def test_colour_encodings_are_exact(encoding, make):
    rgb = rgb_gradient()
    image = StampedImage("c", 5, np.ascontiguousarray(make(rgb)), encoding, "f")
    back = messages.image_from_message(messages.image_message(image), "c")
    assert (back.stamp_ns, back.frame_id, back.encoding) == (5, "f", encoding)
    np.testing.assert_array_equal(decode_rgb(back), rgb)


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", (1, 0)), ("yuv422_yuy2", (0, 1))])
def test_yuv_422(encoding, order):
    grey_u, grey_v = 90, 160
    luma = np.arange(100, 148, dtype=np.uint8).reshape(6, 8)
    chroma = np.tile(np.array([grey_u, grey_v], np.uint8), (6, 4))
    packed = np.stack([(luma, chroma)[k] for k in order], -1)
    rgb = decode_rgb(StampedImage("c", 0, packed, encoding)).astype(float)
    # BT.601 with the studio range, which OpenCV takes
    y, u, v = 1.164 * (luma.astype(float) - 16), grey_u - 128, grey_v - 128
    exact = np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], -1)
    assert np.abs(rgb - exact.clip(0, 255)).max() <= 2


@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns(order, bits):
    colour = {"r": 200, "g": 120, "b": 40}
    mosaic = np.zeros((8, 8), np.uint16)
    for k, letter in enumerate(order):
        mosaic[k // 2 :: 2, k % 2 :: 2] = colour[letter]
    mosaic = mosaic.astype(np.uint8) if bits == 8 else mosaic << 8
    rgb = decode_rgb(StampedImage("c", 0, mosaic, f"bayer_{order}{bits}"))
    np.testing.assert_array_equal(rgb[4, 4], [200, 120, 40])


def test_mono_and_big_endian():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (decode_rgb(StampedImage("c", 0, grey, "mono8")) == grey[..., None]).all()
    wide = (grey.astype(">u2") << 8).astype(">u2")
    back = messages.image_from_message(
        messages.image_message(StampedImage("c", 0, wide, "mono16")), "c"
    )
    np.testing.assert_array_equal(back.data, wide)
    assert (decode_rgb(back) == grey[..., None]).all()


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_has_no_colours(encoding):
    data = np.ones((4, 4), "u2" if encoding == "16UC1" else "f4")
    with pytest.raises(SourceError, match="no colours"):
        decode_rgb(StampedImage("c", 0, data, encoding))


@pytest.mark.parametrize("kind", [bytes, lambda b: array.array("B", b), np.array, memoryview])
def test_padded_rows_are_viewed_without_a_copy(kind):
    step, height = 16, 3
    raw = bytes(range(step * height))
    data = kind(np.frombuffer(raw, np.uint8)) if kind is np.array else kind(raw)
    header = types.SimpleNamespace(stamp=types.SimpleNamespace(sec=2, nanosec=3), frame_id="front")
    message = types.SimpleNamespace(
        header=header, height=height, width=4, step=step, encoding="rgb8", is_bigendian=0
    )
    message.data = data
    image = messages.image_from_message(message, "c")
    assert image.stamp_ns == 2_000_000_003
    expected = np.frombuffer(raw, np.uint8).reshape(height, step)[:, :12].reshape(height, 4, 3)
    np.testing.assert_array_equal(image.data, expected)
    assert np.shares_memory(image.data, np.frombuffer(data, np.uint8))


def test_wrong_images_are_named():
    good = messages.image_message(StampedImage("c", 0, rgb_gradient(), "rgb8"))
    good.encoding = "rgb48"
    with pytest.raises(SourceError, match="encoding 'rgb48'"):
        messages.image_from_message(good, "front")
    good.encoding, good.height = "rgb8", 60
    with pytest.raises(SourceError, match="camera 'front': image of 8x60"):
        messages.image_from_message(good, "front")
    with pytest.raises(SourceError, match="needs 3 channels"):
        messages.image_message(StampedImage("c", 0, rgb_gradient()[..., 0], "rgb8"))


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("jpeg", ".jpg"),
        ("jpg", ".jpg"),
        ("bgr8; jpeg compressed bgr8", ".jpg"),
        ("", ".jpg"),
        ("rgb8; png compressed bgr8", ".png"),
    ],
)
def test_compressed_images(text, suffix):
    rgb = np.full((32, 48, 3), (200, 120, 40), np.uint8)
    data = cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()
    name = "png" if suffix == ".png" else "jpeg"
    message = messages.compressed_image_message(StampedImage("c", 9, data, name, "f"))
    message.format = text
    back = messages.any_image_from_message(message, "c")
    assert (back.data, back.encoding, back.stamp_ns) == (data, name, 9)
    assert np.abs(decode_rgb(back).astype(int) - rgb).max() <= 3


@pytest.mark.parametrize(
    ("text", "data"),
    [("16UC1; compressedDepth png", b"\0" * 20), ("jpeg", b""), ("theora", b"abc")],
)
def test_other_compressions_are_refused(text, data):
    message = types.SimpleNamespace(format=text, data=data, header=None)
    with pytest.raises(SourceError, match="camera 'c'"):
        messages.compressed_image_from_message(message, "c")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_off_files_are_corrupt(suffix):
    rng = np.random.default_rng(0)
    data = cv2.imencode(suffix, rng.integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    for part in (data[: len(data) // 2], data[:40], b"\xff\xd8\xff" + b"x" * 100):
        with pytest.raises(SourceError, match="corrupt"):
            decode_rgb(StampedImage("c", 0, part, "png" if suffix == ".png" else "jpeg"))


def test_transforms_round_trip():
    pose = Rigid3.from_rotation_vector([0.1, -0.4, 2.0], [1.0, 2.0, 3.0])
    message = messages.tf_message([("/rig", "front", pose)], 5)
    ((parent, child, back),) = messages.transforms_from_message(message)
    assert (parent, child) == ("rig", "front")
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-12)
    message.transforms[0].transform.rotation.w = np.nan
    with pytest.raises(CalibrationError, match="transform 'rig' from 'front'"):
        list(messages.transforms_from_message(message))


def test_tf_message_hash_is_that_of_ros():
    digest = messages.typestore().hash_rihs01(messages.TF_MESSAGE)
    assert digest == "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
