"""Frame sets from delayed, dropped, doubled and wrong images."""

import dataclasses
from collections import deque

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.config import IngestConfig
from vggt_ros.errors import CalibrationError, ConfigError, SourceError
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.decode import Undistorter
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.types import Frame, StampedImage

MS = 1_000_000
PERIOD_NS = 100 * MS
PIXELS = np.zeros((12, 16, 3), np.uint8)


def shot(camera, stamp_ns, pixels=PIXELS, encoding="rgb8"):
    return StampedImage(camera, stamp_ns, pixels, encoding)


def names(count):
    return [f"c{k}" for k in range(count)]


def take_all(ingest):
    found = []
    while (chosen := ingest.take()) is not None:
        found.append(chosen)
    return found


def run(ingest, images):
    found = []
    for sent in images:
        ingest.put(sent)
        found += take_all(ingest)
    return found


@given(st.data(), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_sets_from_a_bad_network(data, count, seed):
    """Jitter, losses, doubles and delays: sets are one instant, no image is lost count of."""
    rng = np.random.default_rng(seed)
    cameras = names(count)
    needed = data.draw(st.integers(0, count))
    config = IngestConfig(max_skew_ms=20.0, queue_size=8, min_cameras=needed)
    loss, double = rng.uniform(0, 0.4, 2)
    arrivals = []
    sent_by_instant = {}
    for camera in cameras:
        ready = 0.0
        delay = rng.uniform(0, 250 * MS)
        for k in range(40):
            if rng.random() < loss:
                continue
            stamp = k * PERIOD_NS + int(rng.uniform(-10 * MS, 10 * MS)) + 10**12
            sent_by_instant.setdefault(k, set()).add(camera)
            # delays vary, but the messages of one camera stay in order
            ready = max(ready, stamp + delay + rng.exponential(20 * MS))
            arrivals.append((ready, len(arrivals), shot(camera, stamp)))
            if rng.random() < double:
                arrivals.append((ready, len(arrivals), shot(camera, stamp)))
    ingest = Ingest(cameras, {}, config)
    sets = run(ingest, [entry[2] for entry in sorted(arrivals, key=lambda e: e[:2])])
    ingest.finish()
    sets += take_all(ingest)

    used = set()
    for chosen in sets:
        stamps = [image.stamp_ns for image in chosen.images]
        assert max(stamps) - min(stamps) <= 20 * MS
        assert min(stamps) <= chosen.stamp_ns <= max(stamps)
        assert len(stamps) >= (needed or count)
        order = [cameras.index(image.camera) for image in chosen.images]
        assert order == sorted(set(order))
        for image in chosen.images:
            assert (image.camera, image.stamp_ns) not in used
            used.add((image.camera, image.stamp_ns))
    assert [s.stamp_ns for s in sets] == sorted(s.stamp_ns for s in sets)
    waiting = sum(len(queue) for queue in ingest._queues.values())
    assert len(used) + sum(ingest.counts.values()) + waiting == len(arrivals)
    assert sum(ingest.received.values()) == len(arrivals)
    if not needed or needed == count:
        complete = sum(len(sent) == count for sent in sent_by_instant.values())
        assert len(sets) == complete


class CountingDeque(deque):
    """A queue that counts how often it is looked into."""

    looks = 0

    def __getitem__(self, index):
        CountingDeque.looks += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_cost_of_a_message_is_linear_in_cameras(count):
    """Looks into queues per message stay under a constant times N, whatever the queues hold."""
    rng = np.random.default_rng(0)
    cameras = names(count)
    ingest = Ingest(cameras, {}, IngestConfig(max_skew_ms=5.0, queue_size=100))
    ingest._queues = {name: CountingDeque() for name in cameras}
    CountingDeque.looks = 0
    sent = 0
    for k in range(100):
        for camera in cameras:  # jitter beyond the skew: most heads have to be given up
            ingest.put(shot(camera, k * PERIOD_NS + int(rng.uniform(0, 30 * MS))))
            take_all(ingest)
            sent += 1
    assert CountingDeque.looks <= 8 * count * sent


def test_missing_camera_is_waited_for_once():
    ingest = Ingest(names(3), {}, IngestConfig(min_cameras=2, queue_size=4))
    sent = [shot(c, k * PERIOD_NS) for k in range(10) for c in ("c0", "c1")]
    sizes = [len(s.images) for s in run(ingest, sent)]
    assert sizes == [2] * 10
    assert ingest.silent == ("c2",)
    # it comes back: an image of a set that is gone is late, then sets are whole again
    assert run(ingest, [shot("c2", 9 * PERIOD_NS)]) == []
    assert ingest.counts["late"] == 1
    whole = run(ingest, [shot(c, 10 * PERIOD_NS) for c in ("c0", "c1", "c2")])
    assert [len(s.images) for s in whole] == [3]


def test_camera_that_never_sends_blocks_only_while_all_are_needed():
    ingest = Ingest(names(2), {}, IngestConfig(queue_size=3))
    assert run(ingest, [shot("c0", k * PERIOD_NS) for k in range(10)]) == []
    assert ingest.counts == {"overflow": 7}
    assert ingest.silent == ("c1",)


def instants(cameras, first, count, **changes):
    """Images of some cameras at one instant after the other."""
    return [
        shot(c, k * PERIOD_NS, **changes) for k in range(first, first + count) for c in cameras
    ]


def sizes(sets):
    return [len(s.images) for s in sets]


@pytest.mark.parametrize("sent_before", [0, 3])
def test_silent_camera_is_left_out_until_it_is_back(sent_before, caplog):
    config = IngestConfig(silent_after_s=2.0, queue_size=4)
    ingest = Ingest(names(3), {}, config)
    assert sizes(run(ingest, instants(names(3), 0, sent_before))) == [3] * sent_before
    waiting = run(ingest, instants(("c0", "c1"), sent_before, 20))
    assert waiting == []
    assert ingest.left_out == ()
    gone = run(ingest, instants(("c0", "c1"), sent_before + 20, 10))
    # those in the queues, in which there is room for 4, and all that follow
    assert sizes(gone) == [2] * 13
    assert ingest.left_out == ("c2",)
    assert caplog.text.count("camera 'c2': no image for 2.0 s; sets go on without it") == 1
    back = run(ingest, instants(names(3), sent_before + 30, 5))
    assert sizes(back) == [2, 3, 3, 3, 3]  # its first image is late: nobody waited for it
    assert ingest.left_out == ()
    # needed again: one missing image drops the set
    after = sent_before + 35
    partly = [*instants(("c0", "c1"), after, 1), *instants(names(3), after + 1, 2)]
    assert sizes(run(ingest, partly)) == [3, 3]


def test_silence_is_measured_by_the_clock_of_each_camera():
    """A camera whose clock is wrong by years does not make the others silent."""
    ingest = Ingest(names(2), {}, IngestConfig(silent_after_s=2.0))
    ahead = [shot("c1", 10**18 + k * PERIOD_NS) for k in range(50)]
    for k, image in enumerate(ahead):
        ingest.put(shot("c0", k * PERIOD_NS))
        ingest.put(image)
    assert ingest.left_out == ()


def test_slow_cameras_are_not_silent_for_one_image():
    ingest = Ingest(names(2), {}, IngestConfig(silent_after_s=2.0))
    minutes = [shot("c0", k * 60 * 10**9) for k in range(4)]
    assert run(ingest, minutes) == []
    assert ingest.left_out == ()
    run(ingest, [shot("c0", 4 * 60 * 10**9)])
    assert ingest.left_out == ("c1",)


def test_waiting_for_ever_on_request():
    ingest = Ingest(names(2), {}, IngestConfig(silent_after_s=0.0))
    assert run(ingest, instants(["c0"], 0, 500)) == []
    assert ingest.left_out == ()
    ingest.leave_out("c1")
    assert ingest.left_out == ("c1",)
    assert sizes(run(ingest, instants(["c0"], 500, 1))) == [1] * 8


def test_all_but_one_camera_silent():
    ingest = Ingest(names(3), {}, IngestConfig(silent_after_s=1.0))
    sets = run(ingest, instants(["c0"], 0, 30))
    assert sizes(sets)[-1] == 1
    assert ingest.left_out == ("c1", "c2")


def test_a_clock_that_goes_back_starts_the_count_again():
    ingest = Ingest(names(2), {}, IngestConfig(silent_after_s=2.0))
    run(ingest, instants(["c0"], 100, 15))
    run(ingest, instants(["c0"], 0, 15))
    assert ingest.left_out == ()
    run(ingest, instants(["c0"], 15, 10))
    assert ingest.left_out == ("c1",)
    ingest.reset()
    assert ingest.left_out == ()


def test_camera_with_faulty_images_is_left_out_until_they_are_good(caplog):
    config = IngestConfig(silent_after_s=1.0)

    def frames(ingest, first, count, data):
        found = []
        for k in range(first, first + count):
            ingest.put(shot("c0", k * PERIOD_NS))
            frame_set = ingest.add(shot("c1", k * PERIOD_NS, data, "jpeg"))
            found.append(frame_set and len(frame_set.frames))
        return found

    good = jpeg(16, 12)
    with Ingest(names(2), {}, config) as ingest:
        assert frames(ingest, 0, 2, good) == [2, 2]
        assert frames(ingest, 2, 15, good[:100]) == [None] * 10 + [1] * 5
        assert ingest.left_out == ("c1",)
        assert ingest.counts == {"corrupt": 15, "incomplete": 10}
        assert frames(ingest, 17, 2, good) == [2, 2]
        assert ingest.left_out == ()
        assert frames(ingest, 19, 1, good[:100]) == [None]
    assert caplog.text.count("camera 'c1': no usable image for 1.0 s") == 1


def test_fast_cameras_take_the_closest_images():
    ingest = Ingest(names(2), {}, IngestConfig(max_skew_ms=20.0))
    ingest.put(shot("c0", 0))
    ingest.put(shot("c0", 10 * MS))
    ingest.put(shot("c1", 9 * MS))
    chosen = ingest.take()
    assert [image.stamp_ns for image in chosen.images] == [10 * MS, 9 * MS]
    assert ingest.counts == {"unmatched": 1}


def test_out_of_order_and_duplicates_are_counted():
    ingest = Ingest(["c"], {}, IngestConfig())
    stamps = [0, 100, 50, 100, 200]
    assert len(run(ingest, [shot("c", s * MS) for s in stamps])) == 3
    assert ingest.counts == {"out_of_order": 1, "duplicate": 1}
    assert ingest.camera_counts["c"] == ingest.counts
    assert ingest.clock_resets == 0


@pytest.mark.parametrize("length", [50, 8])
def test_looped_bag_resets(length):
    """Long bags jump far back, short ones are told by a run of old stamps."""
    ingest = Ingest(names(2), {}, IngestConfig())
    loop = [shot(c, 10**12 + k * PERIOD_NS) for k in range(length) for c in names(2)]
    first, second = run(ingest, loop), run(ingest, loop)
    assert len(first) == length
    assert ingest.clock_resets >= 1
    assert len(second) >= length - 6


def test_future_stamp_does_not_block_a_camera():
    ingest = Ingest(["c"], {}, IngestConfig())
    stamps = [0, 10**15, *(k * PERIOD_NS for k in range(1, 5))]
    assert len(run(ingest, [shot("c", s) for s in stamps])) == 6


def test_reset_and_wrong_names():
    ingest = Ingest(names(2), {}, IngestConfig())
    ingest.put(shot("c0", 0))
    ingest.reset()
    assert ingest.counts == {"reset": 1}
    with pytest.raises(SourceError, match=r"camera 'c5'.*is not one of c0, c1"):
        ingest.put(shot("c5", 0))
    for cameras, config in (
        ([], IngestConfig()),
        (names(65), IngestConfig()),
        (["a", "a"], IngestConfig()),
        (["a"], IngestConfig(min_cameras=2)),
    ):
        with pytest.raises(ConfigError):
            Ingest(cameras, {}, config)


def jpeg(width, height, value=100):
    return cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def test_faulty_images_are_left_out_and_counted():
    model = CameraModel(32, 32, 20, 20, 15.5, 15.5)
    with Ingest(names(6), {"c4": model}, IngestConfig(min_cameras=1)) as ingest:
        good = [shot(c, 0, jpeg(32, 24), "jpeg") for c in names(6)]
        for image in good[:-1]:
            ingest.put(image)
        first = ingest.add(good[-1])
        assert first.cameras == ("c0", "c1", "c2", "c3", "c5")
        bad = {
            "c0": jpeg(32, 24),
            "c1": jpeg(32, 24)[:200],
            "c2": jpeg(24, 32),
            "c3": np.zeros((24, 32), np.float32),
            "c4": jpeg(32, 24),
            "c5": b"no image",
        }
        for c, data in bad.items():
            encoding = "32FC1" if c == "c3" else "jpeg"
            second = ingest.add(shot(c, PERIOD_NS, data, encoding))
        assert second.cameras == ("c0",)
        assert ingest.counts == {
            "corrupt": 2,
            "size_changed": 1,
            "encoding": 1,
            "calibration": 2,
        }


def test_set_with_too_few_good_images_is_dropped():
    with Ingest(names(2), {}, IngestConfig()) as ingest:
        ingest.put(shot("c0", 0))
        assert ingest.add(shot("c1", 0, b"broken", "jpeg")) is None
        assert ingest.counts == {"corrupt": 1, "incomplete": 1}


def test_waits_for_calibration_if_asked():
    ingest = Ingest(["c"], {}, IngestConfig(require_calibration=True))
    assert ingest.add(shot("c", 0)) is None
    assert ingest.counts == {"uncalibrated": 1}
    ingest.set_model("c", CameraModel(16, 12, 10, 10, 7.5, 5.5))
    assert ingest.add(shot("c", 1)).frames[0].model is not None


def test_mixed_resolutions_and_reduction(caplog):
    """Wide images are reduced; a calibration of another size and the same aspect is scaled."""
    models = {"c0": CameraModel(64, 48, 50, 50, 31.5, 23.5), "c1": None}
    with Ingest(names(2), models, IngestConfig(max_width=100)) as ingest:
        for stamp in (0, PERIOD_NS):
            ingest.put(shot("c0", stamp, np.zeros((240, 320, 3), np.uint8)))
            frames = ingest.add(shot("c1", stamp, np.zeros((480, 640, 3), np.uint8))).frames
    assert [f.rgb.shape for f in frames] == [(75, 100, 3), (75, 100, 3)]
    assert frames[0].model == models["c0"].resized(100, 75)
    assert frames[1].model is None
    assert caplog.text.count("calibrated at 64x48, scaled to the images' 320x240") == 1


DISTORTED = {
    "plumb_bob": (-0.25, 0.08, 1e-3, -2e-3, 0.0),
    "rational_polynomial": (0.4, -0.1, 1e-3, 5e-4, 0.01, 0.8, -0.05, 0.02),
    "equidistant": (-0.02, 0.01, -0.003, 0.0),
}


def scene(model, directions):
    """Smooth colours by direction, so that each pixel tells where it looks."""
    x, y = directions[..., 0], directions[..., 1]
    rgb = np.stack([128 + 100 * np.sin(4 * x), 128 + 100 * np.cos(5 * y), 128 + 90 * x], -1)
    return rgb.clip(0, 255).astype(np.uint8)


def distorted_directions(model):
    """Where the pixels of a distorted camera look, by OpenCV."""
    x, y = np.meshgrid(np.arange(model.width), np.arange(model.height))
    pixels = np.stack([x, y], -1).reshape(-1, 1, 2).astype(np.float64)
    k, d = model.matrix, np.array(model.distortion)
    if model.distortion_model == "equidistant":
        ideal = cv2.fisheye.undistortPoints(pixels, k, d)
    else:
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
        if hasattr(cv2, "undistortPointsIter"):
            ideal = cv2.undistortPointsIter(pixels, k, d, None, None, criteria)
        else:
            ideal = cv2.undistortPoints(pixels, k, d)
    return ideal.reshape(model.height, model.width, 2)


@pytest.mark.parametrize(
    ("name", "coefficients"), [*DISTORTED.items(), ("equidistant", (0.0, 0.0, 0.0, 0.0))]
)
def test_undistorted_pixels_look_where_the_pinhole_says(name, coefficients):
    model = CameraModel(160, 120, 110.0, 112.0, 81.0, 58.0, name, coefficients)
    raw = scene(model, distorted_directions(model))
    with Ingest(["c"], {"c": model}, IngestConfig()) as ingest:
        frame = ingest.add(shot("c", 0, raw)).frames[0]
        later = ingest.undistort(Frame("c", 0, raw), model)
    assert frame.model == model.without_distortion()
    np.testing.assert_array_equal(frame.rgb, later.rgb)
    exact = scene(model, frame.model.rays()[..., :2].astype(np.float64))
    seen = frame.rgb.any(axis=-1)
    seen = cv2.erode(seen.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert seen.mean() > 0.6
    difference = np.abs(frame.rgb.astype(int) - exact)[seen]
    assert np.percentile(difference, 99) <= 3


def test_a_camera_that_focuses_does_not_fill_the_memory():
    undistorter = Undistorter()
    model = CameraModel(16, 12, 20.0, 20.0, 7.5, 5.5, "plumb_bob", (0.1, 0.0, 0.0, 0.0))
    for k in range(200):
        focused = dataclasses.replace(model, fx=20.0 + 0.01 * k, fy=20.0 + 0.01 * k)
        undistorter.undistort(PIXELS, focused)
    assert len(undistorter._maps) <= 64


def test_intrinsics_of_another_aspect_are_refused():
    with Ingest(["c"], {}, IngestConfig()) as ingest:
        frame = ingest.add(shot("c", 0)).frames[0]
        with pytest.raises(CalibrationError, match="of another aspect"):
            ingest.undistort(frame, CameraModel(16, 16, 10, 10, 7.5, 7.5))
