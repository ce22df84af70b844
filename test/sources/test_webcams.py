"""Live cameras through the real OpenCV: MJPEG over HTTP stands for the webcam that is not here."""

import importlib.util
import itertools
import time
from pathlib import Path

import pytest

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.rig import rig_from_dict
from vggt_ros.sources import webcams
from vggt_ros.sources.cameras import Views
from vggt_ros.sources.webcam_device import CaptureSettings, open_capture
from vggt_ros.sources.webcams import WebcamSource, drop_advice, parse_devices

_spec = importlib.util.spec_from_file_location(
    "mjpeg_camera", Path(__file__).with_name("mjpeg_camera.py")
)
mjpeg_camera = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mjpeg_camera)
MjpegCamera, number_of = mjpeg_camera.MjpegCamera, mjpeg_camera.number_of


@pytest.fixture
def plugged():
    """Make cameras that are unplugged at the end, and sources that are closed."""
    made = []

    def make(**words):
        made.append(MjpegCamera(**words))
        return made[-1]

    yield make
    for camera in made:
        camera.unplug()


@pytest.fixture
def opened():
    made = []

    def make(cameras, **words):
        devices = [f"{name}={camera.address}" for name, camera in cameras.items()]
        made.append(WebcamSource(devices, **words))
        return made[-1]

    yield make
    for source in made:
        source.close()


def test_sets_by_stamp(plugged, opened):
    """Stamped when grabbed, matched by stamp, in the order of views, no image twice."""
    cameras = {"left": plugged(), "right": plugged(phase_s=0.012, size=(320, 96))}
    source = opened(cameras, max_skew_ms=25.0)
    assert source.is_live
    assert source.set_count is None
    assert source.cameras == ("left", "right")
    assert source.sizes == {"left": (256, 64), "right": (320, 96)}
    sets = [s for s in itertools.islice(source, 40) if len(s) == 2]
    assert len(sets) >= 30
    late = []
    for images in sets:
        assert [i.camera for i in images] == ["left", "right"]
        assert abs(images[0].stamp_ns - images[1].stamp_ns) <= 25e6
        for image in images:
            assert image.encoding == "bgr8"
            sent = cameras[image.camera].sent_ns[number_of(image.data)]
            late.append((image.stamp_ns - sent) * 1e-6)
    assert min(late) > 0, "stamped after it was sent"
    assert sorted(late)[len(late) // 2] < 40.0, "and soon after it was grabbed [ms]"
    for k in range(2):
        numbers = [number_of(s[k].data) for s in sets]
        assert numbers == sorted(set(numbers))
    assert source.rate_hz == pytest.approx(30.0, rel=0.3)


def test_slow_taker_gets_the_newest(plugged, opened, caplog, monkeypatch):
    monkeypatch.setattr(webcams, "_ADVICE_PERIOD_S", 1.0)
    monkeypatch.setattr(webcams, "_ADVICE_LEAST", 10)
    camera = plugged(rate_hz=60.0)
    source = opened({"a": camera})
    ages = []
    for images in itertools.islice(source, 8):
        ages.append((time.time_ns() - images[0].stamp_ns) * 1e-6)
        time.sleep(0.25)
    assert sorted(ages)[4] < 100.0, "not what waited"
    counts = source.report()["a"]
    assert counts["dropped"] > 40
    # One may be in the slot and one on its way there.
    assert counts["dropped"] + counts["given"] + 2 >= counts["grabbed"]
    assert "images were dropped" in caplog.text
    for word in ("--depth_workers", "--frame_step", "v4l2-ctl"):
        assert word in caplog.text


def test_advice_names_the_device():
    source = webcams.WebcamDevice(
        "front", 2, CaptureSettings(), 1, time.time_ns, webcams.threading.Condition()
    )
    assert "v4l2-ctl -d /dev/video2 --set-fmt-video" in drop_advice(source, 3, 4)


def test_frame_step(plugged, opened):
    camera = plugged(rate_hz=60.0)
    source = opened({"a": camera}, frame_step=3)
    numbers = [number_of(s[0].data) for s in itertools.islice(source, 12)]
    assert min(b - a for a, b in itertools.pairwise(numbers[1:])) >= 3
    counts = source.report()["a"]
    used = counts["given"] + counts["dropped"] + 1  # and perhaps one in the slot
    assert 2 * (used - 2) <= counts["stepped_over"] <= 2 * (used + 2)
    assert source.rate_hz == pytest.approx(20.0, rel=0.4)


def test_unplugged_camera_comes_back(plugged, opened, caplog):
    cameras = {"a": plugged(), "b": plugged()}
    source = opened(cameras)
    stage, began, alone = "both", time.monotonic(), 0
    for count, images in enumerate(source):
        assert time.monotonic() - began < 20
        names = [i.camera for i in images]
        if stage == "both" and count == 15:
            cameras["a"].unplug()
            stage = "gone"
        elif stage == "gone" and names == ["b"]:
            alone += 1
            if alone == 20:
                assert source.disconnected == ("a",)
                assert not source.report()["a"]["connected"]
                cameras["a"].plug()
                stage = "back"
        elif stage == "back" and names == ["a", "b"]:
            break
    assert alone == 20
    counts = source.report()["a"]
    assert counts["reconnects"] == 1
    assert counts["failures"] >= 1
    assert source.report()["b"]["reconnects"] == 0
    assert f"camera 'a' ({cameras['a'].address}): gives no images any more" in caplog.text
    assert "is back" in caplog.text


def test_camera_that_hangs_does_not_stop_the_others(plugged, opened):
    cameras = {"a": plugged(), "b": plugged()}
    source = opened(cameras, silent_after_s=0.3)
    sets = iter(source)
    for _ in range(5):
        next(sets)
    cameras["a"].hang(True)
    began, alone = time.monotonic(), 0
    while alone < 3:
        alone += [i.camera for i in next(sets)] == ["b"]
        assert time.monotonic() - began < 10


def test_cameras_out_of_step_are_told(plugged, opened, caplog):
    cameras = {"a": plugged(rate_hz=5.0), "b": plugged(rate_hz=5.0, phase_s=0.1)}
    source = opened(cameras, max_skew_ms=20.0, silent_after_s=0.7)
    # What waited while the cameras were opened comes at once and may be in step.
    assert any(len(images) == 1 for images in itertools.islice(source, 12))
    assert "never within 20 ms of each other" in caplog.text
    assert source.skipped_for_skew >= 2


def test_all_gone_is_an_error(plugged, opened):
    camera = plugged()
    source = opened({"a": camera}, silent_after_s=0.2, give_up_s=0.6)
    sets = iter(source)
    next(sets)
    camera.unplug()
    with pytest.raises(SourceError, match=r"no image of any camera for 0\.6 s: 'a' \(http"):
        list(sets)


def test_absent_camera_is_named(plugged):
    camera = plugged()
    device = "/dev/video_that_is_not_there"
    began = time.monotonic()
    with pytest.raises(SourceError, match=rf"no image within 0\.5 s of 'b' \({device}\); dev"):
        WebcamSource([f"a={camera.address}", f"b={device}"], open_timeout_s=0.5)
    assert time.monotonic() - began < 5


def test_device_of_v4l2_that_is_absent_writes_nothing(capfd):
    assert not open_capture(63, CaptureSettings(640, 480, 15.0, "MJPG")).isOpened()
    assert capfd.readouterr().err == ""


def test_a_file_that_is_no_camera(tmp_path, capfd):
    path = tmp_path / "x"
    path.write_bytes(b"no camera")
    assert not open_capture(str(path), CaptureSettings()).isOpened()


def test_clock_rig_and_views(plugged, opened):
    cameras = {"a": plugged(), "b": plugged()}
    rig = rig_from_dict({"cameras": {"b": {"frame_id": "lens"}}}, "r")
    source = opened(cameras, rig=rig, views=Views(("b",)), clock=itertools.count(1000).__next__)
    (image,) = next(iter(source))
    assert (image.camera, image.frame_id) == ("b", "lens")
    assert 1000 <= image.stamp_ns < 1500


def test_closing_ends_threads(plugged, opened):
    source = opened({"a": plugged()})
    for count, _ in enumerate(source):
        if count == 2:
            source.close()
    names = [t.name for t in webcams.threading.enumerate()]
    assert "webcam-a" not in names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["0", "1", "2"], {"cam0": 0, "cam1": 1, "cam2": 2}),
        ([2], {"cam2": 2}),
        (["front=0", "left=1"], {"front": 0, "left": 1}),
        (["/dev/video4"], {"cam4": "/dev/video4"}),
        (["back=/dev/v4l/by-id/usb-x"], {"back": "/dev/v4l/by-id/usb-x"}),
        (["rtsp://h/s?a=b"], {"cam0": "rtsp://h/s?a=b"}),
        (["yard=http://h:80/?q=1"], {"yard": "http://h:80/?q=1"}),
    ],
)
def test_words_for_devices(words, expected):
    assert parse_devices(words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "got none"),
        (["front"], "got 'front'"),
        (["front="], "got 'front='"),
        (["-1"], "got '-1'"),
        (["a=0", "a=1"], "camera 'a' is there twice"),
        (["a=0", "0"], "device 0 is there twice"),
    ],
)
def test_words_that_are_no_devices(words, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_devices(words)


def test_numbers_out_of_range():
    with pytest.raises(ConfigError, match="frame_step"):
        WebcamSource(["0"], frame_step=0)
    with pytest.raises(ConfigError, match="max_skew_ms"):
        WebcamSource(["0"], max_skew_ms=0.0)
