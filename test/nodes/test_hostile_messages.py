"""Messages that are damaged or meant to harm: one kind of error each, within memory and time."""

import array
import resource
import struct
import time
import tracemalloc
import zlib
from collections import Counter

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.config import IngestConfig
from vggt_ros.errors import CalibrationError, SourceError, VggtRosError
from vggt_ros.geometry import CameraModel
from vggt_ros.nodes import conversions
from vggt_ros.pipeline.image_limits import check_file
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.sources.messages import (
    LAYOUTS,
    compressed_image_from_message,
    model_from_camera_info,
)

MODEL = CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)
PIXELS = np.random.default_rng(3).integers(0, 255, (48, 64, 3)).astype(np.uint8)


def raw(**changes):
    message = conversions.image_message(PIXELS, "rgb8", 10**18, "left_optical")
    return changed(message, **changes)


def changed(message, **changes):
    for name, value in changes.items():
        target, _, field = name.rpartition("__")
        setattr(getattr(message, target) if target else message, field, value)
    return message


def compressed(suffix=".jpg", pixels=PIXELS):
    message = CompressedImage(format=suffix[1:])
    message.header.frame_id = "left_optical"
    message.data = array.array("B", cv2.imencode(suffix, pixels)[1].tobytes())
    return message


def info(**changes):
    return changed(conversions.camera_info_message(MODEL, 10**18, "left_optical"), **changes)


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 10**9, "height": 1}, "rows of 3000000000 bytes, got step 192 and 9216 bytes"),
        ({"width": 31623, "height": 31623, "step": 94869}, "got step 94869 and 9216 bytes"),
        ({"width": HUGE, "height": HUGE, "step": HUGE}, "got step 4294967295"),
        ({"step": 191}, "rows of 192 bytes, got step 191"),
        ({"step": 0}, "got step 0"),
        ({"step": 2**31}, "got step 2147483648"),
        ({"height": 49}, "9216 bytes"),
        ({"height": 0}, "got step 192"),
        ({"width": 0}, "64x48|0x48"),
        ({"data": array.array("B")}, "0 bytes"),
        ({"encoding": ""}, "encoding ''"),
        ({"encoding": "rgb8\n" * 10**5}, r"\(500000 characters\)"),
        ({"encoding": "mono16", "width": 97}, "rows of 194 bytes"),
        ({"header__frame_id": "left\x00\x1b[2J"}, r"frame_id .* 'left\\x00"),
        ({"header__frame_id": "caf\ufffd"}, r"'caf\\ufffd'"),
        ({"header__frame_id": "f" * 10**6}, r"\(1000000 characters\)"),
    ],
)
def test_impossible_images_are_refused_in_one_line(fields, said):
    with pytest.raises(SourceError, match=said) as raised:
        conversions.stamped_image(raw(**fields), "left")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def test_one_row_with_a_huge_step_is_an_image():
    """The step of the last row is nobody's business."""
    image = conversions.stamped_image(raw(height=1, step=HUGE), "left")
    np.testing.assert_array_equal(image.data[0], PIXELS[0])


def png_bomb(width, height, length=None):
    """A PNG of a few kilobytes that declares any size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    if length is not None:
        return png_bomb(width, height).replace(
            struct.pack(">I", len(pixels)) + b"IDAT", struct.pack(">I", length) + b"IDAT"
        )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def jpeg_bomb(width, height):
    """A JPEG whose frame header declares any size."""
    data = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize(
    ("data", "encoding", "said"),
    [
        (png_bomb(50_000, 50_000), "png", "at most 134 megapixels .* got 50000x50000"),
        (jpeg_bomb(50_000, 50_000), "jpeg", "at most 134 megapixels .* got 50000x50000"),
        (png_bomb(10_000, 10_000), "png", "bytes cannot hold the 10000x10000 pixels"),
        (jpeg_bomb(10_000, 10_000), "jpeg", "bytes cannot hold the 10000x10000 pixels"),
        (png_bomb(0, 10), "png", "a pixel or more, got 0x10"),
        (jpeg_bomb(10, 0), "jpeg", "a pixel or more, got 10x0"),
        (png_bomb(10, 10, 2**31 - 1), "png", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "png", "damaged"),
        (b"\xff\xd8\xff\xe0" + bytes(8), "jpeg", "damaged"),
        (b"\xff\xd8" + b"\xff" * 10_000, "jpeg", "damaged"),
    ],
)
def test_bombs_are_refused_by_their_header(data, encoding, said):
    message = CompressedImage(format=encoding, data=array.array("B", data))
    ingest = Ingest(["left"], {}, IngestConfig())
    tracemalloc.start()
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ingest.put(compressed_image_from_message(message, "left"))
        assert ingest.decode_set(ingest.take()) is None
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    finally:
        tracemalloc.stop()
    assert ingest.counts == {"corrupt": 1}
    with pytest.raises(SourceError, match=said):
        check_file(data, encoding, "camera 'left'")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (480, 640), (2000, 3000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_flat_images_are_no_bombs(suffix, size, channels):
    """Nothing is smaller than one grey colour, which is what a covered lens sends."""
    pixels = np.full((*size, channels), 128, np.uint8)
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 9] if suffix == ".png" else []
    data = cv2.imencode(suffix, pixels, flags)[1].tobytes()
    found = check_file(data, {".jpg": "jpeg", ".png": "png"}[suffix], "here")
    assert found == (size[1], size[0])
    if suffix == ".jpg":
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        data = cv2.imencode(suffix, pixels, progressive)[1].tobytes()
        assert check_file(data, "jpeg", "here") == (size[1], size[0])


K = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "fields",
    [
        {"k": [np.nan, *K[1:]]},
        {"k": [np.inf, *K[1:]]},
        {"k": [*K[:4], -60.0, *K[5:]]},
        {"k": [0.0, *K[1:]]},
        {"k": [1e-300, *K[1:4], 1e-300, *K[5:]]},
        {"k": [1e300, *K[1:4], 1e300, *K[5:]]},
        {"k": [*K[:8], 0.0]},
        {"k": [*K[:2], np.nan, *K[3:]]},
        {"d": [np.nan] * 5},
        {"d": [0.1, -np.inf, 0.0, 0.0, 0.0]},
        {"d": [0.1] * 10**5},
        {"d": [0.1, 0.2]},
        {"distortion_model": "x" * 10**6, "d": [0.1] * 5},
        {"distortion_model": "", "d": [0.1] * 5},
        {"width": 0},
        {"height": 0},
        {"binning_x": 10**9},
        {"roi__width": HUGE},
        {"roi__x_offset": HUGE, "roi__y_offset": HUGE},
    ],
)
def test_impossible_camera_infos_are_refused_in_one_line(fields):
    with pytest.raises(CalibrationError) as raised:
        model_from_camera_info(info(**fields), "left")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "d", [[1e300] * 5, [-1e6, 1e9, 0.0, 0.0, 0.0], [0.0, 0.0, 50.0, 50.0, 0.0]]
)
def test_a_distortion_that_looks_past_the_image_is_named(d):
    model = model_from_camera_info(info(d=d), "left")
    ingest = Ingest(["left"], {"left": model}, IngestConfig())
    ingest.put(conversions.stamped_image(raw(), "left"))
    assert ingest.decode_set(ingest.take()) is None
    assert ingest.counts == {"calibration": 1}


# --- fuzzing --------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 47, 48, 49, 63, 64, 65, 255, 65535, 10**9, 2**31 - 1, 2**31, HUGE)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, np.nan, np.inf, -np.inf, 64.0, 1e-6)
TEXTS = (
    "",
    "jpeg",
    "png",
    "rgb8; jpeg compressed bgr8",
    "compressedDepth",
    "\x00",
    "\ufffd" * 9,
    "x" * 70_000,
    "fisheye",
    "equidistant",
    "rational_polynomial",
    "plumb_bob",
    *LAYOUTS,
)


def mutate_bytes(rng, data):
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        how = rng.integers(5)
        if how == 0 and data:
            data[rng.integers(len(data))] = rng.integers(256)
        elif how == 1 and data:  # headers are at the beginning
            data[rng.integers(min(len(data), 200))] = rng.integers(256)
        elif how == 2:
            del data[rng.integers(len(data) + 1) :]
        elif how == 3:
            at = rng.integers(len(data) + 1)
            data[at:at] = rng.integers(0, 256, rng.integers(1, 64)).astype(np.uint8).tobytes()
        elif data:
            at = rng.integers(len(data))
            del data[at : at + rng.integers(1, 64)]
    return bytes(data)


def mutate(rng, message, fields):
    """Change one to three of the fields, to other values of their type."""
    number = min(rng.integers(1, 4), len(fields))
    for name in rng.choice(fields, number, replace=False):
        target, _, field = str(name).rpartition("__")
        owner = getattr(message, target) if target else message
        old = getattr(owner, field)
        if isinstance(old, str):
            new = TEXTS[rng.integers(len(TEXTS))]
        elif isinstance(old, int):
            least, most = (-(2**31), 2**31 - 1) if field == "sec" else (0, HUGE)
            most = 255 if field == "is_bigendian" else most
            new = int(min(max(NUMBERS[rng.integers(len(NUMBERS))], least), most))
            new = bool(new % 2) if isinstance(old, bool) else new
        elif isinstance(old, array.array) and old.typecode == "B":
            new = array.array("B", mutate_bytes(rng, old.tobytes()))
        elif field == "d":
            new = [FLOATS[k] for k in rng.integers(0, len(FLOATS), rng.integers(0, 16))]
        else:
            new = [float(value) for value in old]
            for _ in range(rng.integers(1, 3)):
                new[rng.integers(len(new))] = FLOATS[rng.integers(len(FLOATS))]
        setattr(owner, field, new)
    return message


IMAGE_FIELDS = ("height", "width", "encoding", "is_bigendian", "step", "data", "header__frame_id")
INFO_FIELDS = (
    "height",
    "width",
    "distortion_model",
    "d",
    "k",
    "p",
    "binning_x",
    "binning_y",
    "roi__x_offset",
    "roi__y_offset",
    "roi__height",
    "roi__width",
    "header__frame_id",
)


def offer(ingest, message):
    """As the node does: convert, queue, take and decode; the reason where it is refused."""
    try:
        if isinstance(message, CameraInfo):
            ingest.set_model("left", model_from_camera_info(message, "left"))
            return "calibrated"
        if isinstance(message, CompressedImage):
            image = compressed_image_from_message(message, "left")
        else:
            image = conversions.stamped_image(message, "left")
        ingest.put(image)
    except VggtRosError as error:
        return type(error).__name__ if len(str(error)) < 1000 else "too long a text"
    done = Counter()
    while (chosen := ingest.take()) is not None:
        done["frame" if ingest.decode_set(chosen) else "left out"] += 1
    return "frame" if done["frame"] else "left out"


@pytest.mark.parametrize(
    "count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)], ids=["1000", "10000"]
)
def test_mutated_messages_never_surprise(count):
    """Only errors of our own, no more memory than a few images, no more time than decoding."""
    rng = np.random.default_rng(2026)
    ingest = Ingest(["left"], {"left": MODEL}, IngestConfig(max_width=640))
    encodings = list(LAYOUTS)
    buffers = {suffix: compressed(suffix).data for suffix in (".jpg", ".png")}
    told = Counter()
    sent = 0
    longest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for k in range(count):
        what = k % 8
        if what < 3:
            encoding = encodings[rng.integers(len(encodings))]
            kind, channels = LAYOUTS[encoding]
            size = np.dtype(kind).itemsize * channels
            step = 64 * size + int(rng.integers(0, 3))
            data = array.array("B", rng.integers(0, 256, 48 * step).astype(np.uint8).tobytes())
            message = Image(
                height=48, width=64, encoding=encoding, step=step, data=data, is_bigendian=0
            )
            message.header.frame_id = "left_optical"
            fields = IMAGE_FIELDS
        elif what < 7:
            suffix = (".jpg", ".png")[what % 2]
            message = CompressedImage(format=suffix[1:], data=buffers[suffix])
            fields = ("format", "data", "header__frame_id") if rng.random() < 0.3 else ("data",)
        else:
            message, fields = info(), INFO_FIELDS
        message.header.stamp.sec = k
        if rng.random() < 0.95:
            message = mutate(rng, message, fields)
        start = time.thread_time()
        told[offer(ingest, message)] += 1
        longest = max(longest, time.thread_time() - start)
        sent += what < 7
        if k % 50 == 0:  # or the first size would refuse all others
            ingest.reset()
            ingest.set_model("left", MODEL)
    assert set(told) == {"frame", "left out", "SourceError", "CalibrationError", "calibrated"}
    assert sum(told.values()) == count
    assert min(told.values()) > 5
    refused = told["SourceError"]
    assert told["frame"] + sum(ingest.counts.values()) + refused == sent
    assert longest < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
