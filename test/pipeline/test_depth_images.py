"""Depth images beside colour images: which belongs to which, in metres, undistorted."""

import dataclasses

import cv2
import numpy as np
import pytest

from vggt_ros.config import IngestConfig
from vggt_ros.errors import SourceError
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.decode import Undistorter
from vggt_ros.pipeline.depth_images import depth_metres
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.types import StampedImage

MS = 1_000_000
MODEL = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)


def colour(camera, stamp_ns):
    return StampedImage(camera, stamp_ns, np.full((48, 64, 3), 9, np.uint8), "rgb8")


def depth(camera, stamp_ns, metres=2.0, encoding="16UC1"):
    if encoding == "32FC1":
        return StampedImage(camera, stamp_ns, np.full((48, 64), metres, np.float32), encoding)
    pixels = np.full((48, 64), round(1000 * metres), np.uint16)
    return StampedImage(camera, stamp_ns, pixels, encoding)


def ingest(**changed):
    config = dataclasses.replace(IngestConfig(), **changed)
    return Ingest(["a", "b"], {"a": MODEL, "b": MODEL}, config, ["a"])


def next_set(queue):
    chosen = queue.take()
    return None if chosen is None else queue.decode_set(chosen)


def test_millimetres_metres_and_png():
    pixels = np.array([[0, 65535, 1500]], np.uint16)
    for image in (
        StampedImage("a", 0, pixels, "16UC1"),
        StampedImage("a", 0, pixels.astype(">u2"), "mono16"),
        StampedImage("a", 0, cv2.imencode(".png", pixels)[1].tobytes(), "png"),
        StampedImage("a", 0, np.array([[np.nan, np.inf, 1.5]], np.float32), "32FC1"),
        StampedImage("a", 0, np.array([[-1.0, 0.0, 1.5]], np.float32), "32FC1"),
    ):
        found = depth_metres(image)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.array([[np.nan, np.nan, 1.5]]), rtol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        StampedImage("a", 0, np.zeros((2, 2, 3), np.uint8), "rgb8"),
        StampedImage("a", 0, b"no file", "jpeg"),
        StampedImage("a", 0, b"no file", "png"),
    ],
)
def test_what_is_no_depth_is_refused(image):
    with pytest.raises(SourceError, match="camera 'a': depth: expected"):
        depth_metres(image)


def test_a_set_waits_for_its_depth_which_comes_later():
    queue = ingest()
    queue.put(colour("a", 0))
    queue.put(colour("b", 0))
    assert queue.take() is None
    queue.put_depth(depth("a", 5 * MS))
    found = next_set(queue)
    assert found.frame("a").depth_m[3, 4] == pytest.approx(2.0)
    assert found.frame("b").depth_m is None


def test_the_nearest_depth_within_the_skew_counts():
    queue = ingest(max_skew_ms=20.0)
    for stamp, metres in ((-30, 1.0), (-8, 2.0), (12, 3.0), (60, 4.0)):
        queue.put_depth(depth("a", (100 + stamp) * MS, metres, "32FC1"))
    for name in "ab":
        queue.put(colour(name, 100 * MS))
        queue.put(colour(name, 150 * MS))
    assert next_set(queue).frame("a").depth_m[0, 0] == 2.0
    assert next_set(queue).frame("a").depth_m[0, 0] == 4.0


def test_without_depth_sets_go_on_after_a_fifth_of_a_second():
    queue = ingest()
    for k in range(3):
        for name in "ab":
            queue.put(colour(name, k * 100 * MS))
    first = next_set(queue)
    assert first.stamp_ns == 0
    assert first.frame("a").depth_m is None
    assert queue.take() is None  # the second may still get its depth
    queue.finish()
    assert next_set(queue).stamp_ns == 100 * MS


def test_a_faulty_depth_image_costs_its_depth_only():
    queue = ingest()
    queue.put_depth(StampedImage("a", 0, np.zeros((48, 64, 3), np.uint8), "rgb8"))
    for name in "ab":
        queue.put(colour(name, 0))
    found = next_set(queue)
    assert found.cameras == ("a", "b")
    assert found.frame("a").depth_m is None
    assert queue.counts == {"depth": 1}
    assert queue.camera_counts["a"] == {"depth": 1}


def test_only_cameras_with_a_depth_topic_have_depth():
    with pytest.raises(SourceError, match="without depth_topic"):
        ingest().put_depth(depth("b", 0))


def test_queues_are_bounded():
    queue = ingest(queue_size=4)
    for k in range(100):
        queue.put_depth(depth("a", k * MS))
    assert len(queue.depth._queues["a"]) == 4


def test_undistorted_depth_is_that_of_the_nearest_pixel_and_never_mixed():
    lens = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5, "plumb_bob", (-0.3, 0, 0, 0, 0))
    raw = np.full((48, 64), 1.0, np.float32)
    raw[:, 40:] = 5.0
    found = Undistorter().undistort_depth(raw, lens)
    assert set(np.unique(found[np.isfinite(found)])) == {1.0, 5.0}
    # the edge of the image of the lens, x = 40, is farther out in that of the pinhole
    row = found[24]
    edge = int(np.flatnonzero(row == 5.0)[0])
    x = lens.project(np.array([[(edge - 31.5) / 50, (24 - 23.5) / 50, 1.0]]))[0, 0]
    assert x == pytest.approx(39.5, abs=0.6)
    plain = Undistorter().undistort_depth(raw, MODEL)
    assert plain is raw


def test_the_skew_of_depth_follows_the_configuration():
    queue = ingest(max_skew_ms=5.0)
    queue.set_config(dataclasses.replace(IngestConfig(), max_skew_ms=50.0))
    queue.put_depth(depth("a", 1030 * MS))
    assert queue.depth.nearest("a", 1000 * MS) is not None
    queue.set_config(dataclasses.replace(IngestConfig(), max_skew_ms=5.0))
    assert queue.depth.nearest("a", 1000 * MS) is None
