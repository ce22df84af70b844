"""Videos: the right frame at the right time, and what damaged files do."""

import importlib.util
import logging
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.pipeline.decode import decode_rgb
from vggt_ros.rig import rig_from_dict
from vggt_ros.sources.cameras import Views
from vggt_ros.sources.source import START_NS
from vggt_ros.sources.video_file import VideoFile
from vggt_ros.sources.videos import VideoSource, plan_sets

# The conftest beside this file; with import-mode importlib it is no module of a package.
_spec = importlib.util.spec_from_file_location(
    "numbered_videos", Path(__file__).with_name("conftest.py")
)
numbered_videos = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numbered_videos)
number_of = numbered_videos.number_of


def numbers(source):
    """Per set the numbers in the images by camera."""
    return [{image.camera: number_of(image.data) for image in images} for images in source]


@pytest.mark.parametrize(
    ("suffix", "fourcc"),
    [
        (".avi", "MJPG"),
        (".mp4", "mp4v"),
        (".mov", "mp4v"),
        (".mkv", "MJPG"),
        (".mkv", "VP80"),
        (".mp4", "VP90"),
        (".mpg", "MPG1"),
        (".mpeg", "mpg2"),
    ],
)
def test_every_frame_by_its_number(tmp_path, video, suffix, fourcc):
    path = video(tmp_path / f"a{suffix}", range(60), 25.0, fourcc)
    file = VideoFile(path)
    assert len(file) == 60
    assert file.size == (256, 64)
    assert file.rate_hz == pytest.approx(25.0, rel=2e-3)
    np.testing.assert_allclose(file.stamps_ns, np.arange(60) * 40e6, atol=1.01e6)
    assert not file.is_variable
    # Forwards, the same again, steps, back, and a seek.
    for k in (0, 1, 2, 2, 5, 31, 30, 59, 3, 58, 0):
        assert number_of(file.read(k)) == k
    with pytest.raises(IndexError):
        file.read(60)


@pytest.mark.parametrize(
    ("suffix", "fourcc"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "VP80")]
)
def test_seeks_are_exact(tmp_path, video, suffix, fourcc):
    file = VideoFile(video(tmp_path / f"a{suffix}", range(700), 29.97, fourcc))
    for k in (699, 0, 350, 351, 200, 690, 130, 12, 500):
        assert number_of(file.read(k)) == k


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".mp4", ["libx264", "-bf", "3"]),
        (".mkv", ["libx264", "-x264-params", "open-gop=1:keyint=40:bframes=5"]),
        (".mov", ["libx265", "-x265-params", "log-level=error"]),
        (".avi", ["libx264", "-bf", "2"]),
        (".avi", ["mpeg4", "-bf", "2", "-q:v", "3"]),
        (".mpg", ["mpeg2video", "-bf", "2", "-q:v", "3"]),
    ],
)
def test_frames_that_are_stored_out_of_order(tmp_path, suffix, words):
    """What phones and cameras write; OpenCV's wheels cannot, so an ffmpeg is needed here."""
    program = shutil.which("ffmpeg")
    if program is None:
        program = pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg").get_ffmpeg_exe()
    path = tmp_path / f"a{suffix}"
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "256x64", "-r", "30", "-i", "-"]
    coded = ["-pix_fmt", "yuv420p", "-c:v", *words, str(path)]
    pixels = b"".join(numbered_videos.numbered(k).tobytes() for k in range(200))
    done = subprocess.run(
        [program, "-loglevel", "error", *raw, *coded], input=pixels, stderr=subprocess.PIPE
    )
    if done.returncode:
        pytest.skip(f"this ffmpeg cannot write {words[0]}: {done.stderr[-200:]}")
    file = VideoFile(path)
    assert len(file) == 200
    assert file.rate_hz == pytest.approx(30.0, rel=1e-3)
    for k in (*range(200), 17, 180, 3, 199, 42, 41):
        assert number_of(file.read(k)) == k


def test_flat_folder_and_sub_folders(tmp_path, video):
    for name in ("cam10", "cam2"):
        video(tmp_path / "flat" / f"{name}.mp4", range(4))
        video(tmp_path / "nested" / name / "b_second.mp4", range(100, 104))
        video(tmp_path / "nested" / name / "a_first.avi", range(4))
    (tmp_path / "flat" / "notes.txt").write_text("x")
    for layout in ("flat", "nested"):
        source = VideoSource(tmp_path / layout)
        assert source.cameras == ("cam2", "cam10")
        assert source.set_count == len(source) == 4
        assert not source.is_live
        assert numbers(source) == [{"cam2": k, "cam10": k} for k in range(4)]
    single = VideoSource(tmp_path / "flat" / "cam2.mp4")
    assert single.cameras == ("cam2",)
    assert numbers(single) == numbers(single), "a second time the same"


def test_images_of_a_set(tmp_path, video):
    video(tmp_path / "a.mp4", range(6), 20.0)
    video(tmp_path / "b.mp4", range(6), 20.0, size=(320, 96))
    rig = rig_from_dict({"rig_frame": "mast", "cameras": {"b": {"frame_id": "lens"}}}, "r")
    source = VideoSource(tmp_path, rig)
    assert source.cameras == ("b", "a")
    assert source.rate_hz == pytest.approx(20.0)
    assert source.sizes == {"b": (320, 96), "a": (256, 64)}
    sets = list(source)
    assert [s[0].stamp_ns - START_NS for s in sets] == [k * 50_000_000 for k in range(6)]
    assert [[i.frame_id for i in s] for s in sets[:1]] == [["lens", "a_optical_frame"]]
    assert sets[0][0].encoding == "bgr8"
    assert decode_rgb(sets[0][0]).shape == (96, 320, 3)


@pytest.mark.parametrize("step", [2, 3])
def test_frame_step(tmp_path, video, step):
    video(tmp_path / "a.mp4", range(20))
    video(tmp_path / "b.avi", range(20))
    source = VideoSource(tmp_path, frame_step=step)
    assert numbers(source) == [{"a": k, "b": k} for k in range(0, 20, step)]
    assert source.rate_hz == pytest.approx(30 / step)


def test_resumes_at_a_set(tmp_path, video):
    video(tmp_path / "a.mp4", range(300))
    video(tmp_path / "b.avi", range(300))
    whole = list(VideoSource(tmp_path, frame_step=2))
    resumed = list(VideoSource(tmp_path, frame_step=2, start_set=140))
    assert len(resumed) == 10
    for first, second in zip(whole[140:], resumed, strict=True):
        assert [i.stamp_ns for i in first] == [i.stamp_ns for i in second]
        for a, b in zip(first, second, strict=True):
            assert number_of(a.data) == number_of(b.data)
    with pytest.raises(ConfigError, match="start_set: expected 0 to 149, got 150"):
        VideoSource(tmp_path, frame_step=2, start_set=150)


@pytest.mark.parametrize(("slow", "fast"), [(10.0, 30.0), (24.0, 30.0), (25.0, 29.97)])
def test_different_rates_are_resampled_by_time(tmp_path, video, slow, fast):
    seconds = 4
    video(tmp_path / "slow.mp4", range(int(slow * seconds)), slow)
    video(tmp_path / "fast.mp4", range(round(fast * seconds)), fast)
    source = VideoSource(tmp_path)
    sets = numbers(source)
    assert len(sets) == int(slow * seconds)
    for k, found in enumerate(sets):
        assert found["slow"] == k
        assert abs(found["fast"] / fast - k / slow) <= 0.5 / fast + 1e-6, "the nearest frame"
    assert source.report()["fast"]["largest_offset_ms"] <= 1000 * 0.5 / slow


def test_one_video_ends_before_the_other(tmp_path, video, caplog):
    video(tmp_path / "long.mp4", range(10))
    video(tmp_path / "short.mp4", range(6))
    source = VideoSource(tmp_path)
    sets = numbers(source)
    assert [len(s) for s in sets] == [2] * 6 + [1] * 4
    assert "long: 0.30 s, short: 0.17 s" in caplog.text
    assert source.report()["short"]["missing"] == 4


def variable_rate(path, numbers, ticks):
    """A Matroska file whose frames have the given stamps [ms], written by hand."""

    def element(identity, body):
        size = len(body) | 1 << 56
        return bytes.fromhex(identity) + size.to_bytes(8, "big") + body

    def number(identity, value):
        return element(identity, value.to_bytes(4, "big"))

    frames = [cv2.imencode(".jpg", numbered_videos.numbered(n))[1].tobytes() for n in numbers]
    video = element("e0", number("b0", 256) + number("ba", 64))
    track = number("d7", 1) + number("73c5", 1) + number("83", 1)
    track += element("86", b"V_MJPEG") + video
    clusters = b"".join(
        element("1f43b675", number("e7", t) + element("a3", b"\x81\0\0\x80" + frame))
        for t, frame in zip(ticks, frames, strict=True)
    )
    head = number("4286", 1) + number("42f7", 1) + number("42f2", 4) + number("42f3", 8)
    head += element("4282", b"matroska") + number("4287", 4) + number("4285", 2)
    info = element("1549a966", number("2ad7b1", 1_000_000))
    segment = element("18538067", info + element("1654ae6b", element("ae", track)) + clusters)
    path.write_bytes(element("1a45dfa3", head) + segment)
    return path


def test_variable_rate_goes_by_stamps(tmp_path, video, caplog):
    ticks = [0, 33, 67, 300, 333, 367, 400, 800, 833, 867, 900, 933, 967]
    variable_rate(tmp_path / "phone.mkv", range(len(ticks)), ticks)
    video(tmp_path / "steady.mp4", range(10), 10.0)
    file = VideoFile(tmp_path / "phone.mkv")
    assert file.is_variable
    assert "variable frame rate (gaps of 33.0 to 400.0 ms)" in caplog.text
    np.testing.assert_array_equal(file.stamps_ns, np.array(ticks) * 1_000_000)
    source = VideoSource(tmp_path)
    for k, found in enumerate(numbers(source)):
        assert found["steady"] == k
        near = [n for n, t in enumerate(ticks) if abs(t - 100 * k) <= 51]
        if near:
            assert found["phone"] == min(near, key=lambda n: abs(ticks[n] - 100 * k))
        else:
            assert "phone" not in found
    assert source.report()["phone"]["variable_rate"]


def test_views(tmp_path, video):
    for k in range(5):
        video(tmp_path / f"cam{k}.avi", range(2))
    assert VideoSource(tmp_path, views=Views(("cam3", "cam1"))).cameras == ("cam3", "cam1")
    assert VideoSource(tmp_path, views=Views(limit=2)).cameras == ("cam0", "cam1")
    drawn = VideoSource(tmp_path, views=Views(random_count=3)).cameras
    assert drawn == VideoSource(tmp_path, views=Views(random_count=3)).cameras
    assert list(drawn) == sorted(drawn)
    others = {VideoSource(tmp_path, views=Views(random_count=3, seed=s)).cameras for s in range(8)}
    assert len(others) > 1
    with pytest.raises(SourceError, match="no camera for view 'cam7'"):
        VideoSource(tmp_path, views=Views(("cam7",)))


def test_wrong_folders(tmp_path, video):
    with pytest.raises(SourceError, match="no such folder"):
        VideoSource(tmp_path / "absent")
    with pytest.raises(SourceError, match=r"no videos \(\.mp4"):
        VideoSource(tmp_path)
    video(tmp_path / "a.mp4", range(2))
    video(tmp_path / "cam" / "b.mp4", range(2))
    with pytest.raises(SourceError, match=r"has videos \(a\.mp4, .*cam, .*one or the other"):
        VideoSource(tmp_path)
    with pytest.raises(ConfigError, match="frame_step"):
        VideoSource(tmp_path / "cam", frame_step=0)
    video(tmp_path / "cam" / "b.avi", range(2))
    with pytest.raises(SourceError, match=r"b\.avi and b\.mp4 would all be camera 'b'"):
        VideoSource(tmp_path / "cam")


def test_empty_and_foreign_files(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a\.mp4: the file is empty \(0 bytes\)"):
        VideoSource(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 99)
    with pytest.raises(SourceError, match=r"a\.mp4: cannot be opened: it has no index"):
        VideoSource(tmp_path)
    (tmp_path / "a.mp4").rename(tmp_path / "a.avi")
    with pytest.raises(SourceError, match=r"a\.avi: cannot be opened: damaged, not a video"):
        VideoSource(tmp_path)


def test_mp4_without_its_index(tmp_path, video):
    path = video(tmp_path / "a.mp4", range(90))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(SourceError, match=r"no index \('moov'\).*repair"):
        VideoFile(path)


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mpg"])
def test_cut_off_video_gives_what_is_there(tmp_path, video, suffix, caplog):
    path = video(tmp_path / f"a{suffix}", range(100))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    file = VideoFile(path)
    assert 30 < len(file) < 80
    if suffix != ".mpg":  # which promises nothing
        assert f"ends early: {len(file)} of the 100 frames" in caplog.text
    for k in range(len(file) - 2):  # the last one was cut in two
        assert number_of(file.read(k)) == k


def test_cut_off_mp4_with_its_index_in_front(tmp_path, video, caplog):
    """As a download that broke off: all stamps are there, the frames are not."""
    path = video(tmp_path / "a.mp4", range(100))
    file = VideoFile(front_index(path, cut=0.5))
    assert 20 < len(file) < 80
    assert "ends early" in caplog.text
    for k in range(len(file) - 2):
        assert number_of(file.read(k)) == k


def front_index(path, cut):
    """Move `moov` before `mdat`, and cut off a part of the latter."""
    data = path.read_bytes()
    boxes, at = {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes[data[at + 4 : at + 8]] = data[at : at + size]
        start = at + size
        at = start
    moov, mdat = bytearray(boxes[b"moov"]), boxes[b"mdat"]
    shift = len(moov)
    at = moov.index(b"stco") + 8
    for k in range(int.from_bytes(moov[at : at + 4], "big")):
        place = at + 4 + 4 * k
        offset = int.from_bytes(moov[place : place + 4], "big") + shift
        moov[place : place + 4] = offset.to_bytes(4, "big")
    rest = b"".join(boxes[k] for k in boxes if k not in (b"moov", b"mdat", b"ftyp"))
    moved = boxes[b"ftyp"] + bytes(moov) + rest + mdat[: int(len(mdat) * cut)]
    path.write_bytes(moved)
    return path


@pytest.mark.parametrize("bad", [[40, 41, 42], [0, 1], [117, 118, 119]])
def test_damaged_frames_shift_no_other(tmp_path, video, caplog, bad):
    path = video(tmp_path / "a.avi", range(120))
    data = bytearray(path.read_bytes())
    starts = [k for k in range(len(data) - 4) if data[k : k + 4] == b"00dc"][:121]
    for k in (k + 1 for k in bad):  # the first hit is in the header
        size = int.from_bytes(data[starts[k] + 4 : starts[k] + 8], "little")
        data[starts[k] + 8 : starts[k] + 8 + size] = bytes(size)
    path.write_bytes(bytes(data))
    file = VideoFile(path)
    assert len(file) == 120
    found = [file.read(k) for k in range(120)]
    assert [k for k, pixels in enumerate(found) if pixels is None] == bad
    for k, pixels in enumerate(found):
        assert pixels is None or number_of(pixels) == k
    sets = list(VideoSource(path))
    assert len(sets) == 120 - len(bad)
    assert f"frame {bad[1]} cannot be decoded" in caplog.text


def test_no_stamps(tmp_path, video, monkeypatch, caplog):
    """A container whose stamps all are the same counts its frames."""
    path = video(tmp_path / "a.avi", range(12), 25.0)
    same = np.zeros(12)
    monkeypatch.setattr(VideoFile, "_packet_stamps", lambda self: same)
    monkeypatch.setattr(VideoFile, "_decoded_stamps", lambda self: same)
    caplog.set_level(logging.WARNING)
    file = VideoFile(path)
    assert "taken to be 25 per second" in caplog.text
    assert [number_of(file.read(k)) for k in (0, 5, 11, 2)] == [0, 5, 11, 2]
    monkeypatch.setattr(cv2, "CAP_PROP_FPS", cv2.CAP_PROP_SAR_NUM)
    monkeypatch.setattr("vggt_ros.sources.video_file._plausible", lambda *_: 0.0)
    with pytest.raises(SourceError, match="neither stamps nor a frame rate"):
        VideoFile(path)


def test_videos_of_a_turned_phone_are_upright(tmp_path, video):
    path = video(tmp_path / "a.mp4", range(5))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    words = (0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)  # a quarter turn clockwise
    for k, word in enumerate(words):
        data[matrix + 4 * k : matrix + 4 * k + 4] = word.to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))
    file = VideoFile(path)
    assert file.size == (64, 256)
    assert [number_of(np.rot90(file.read(k))) for k in range(5)] == list(range(5))


class Stamps:
    """The stamps of a video that is not there."""

    nearest = VideoFile.nearest

    def __init__(self, rate_hz, count):
        self.stamps_ns = np.round(np.arange(count) * 1e9 / rate_hz).astype(np.int64)
        self.rate_hz = rate_hz
        self.period_ns = round(1e9 / rate_hz)

    def __len__(self):
        return len(self.stamps_ns)


@given(
    st.lists(st.tuples(st.floats(1, 120), st.integers(1, 80)), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_sets_of_any_rates(videos, step):
    """The nearest frame of each within half a period of the slowest, no frame twice."""
    made = {f"c{k}": Stamps(*video) for k, video in enumerate(videos)}
    plan = plan_sets(made, step)
    period = max(video.period_ns for video in made.values())
    end = max(int(video.stamps_ns[-1]) for video in made.values())
    times = [time for time, _ in plan]
    assert times == sorted(times)
    assert times[-1] <= end + 2e6
    for name, video in made.items():
        numbers = [n[name] for _, n in plan if name in n]
        assert numbers[0] == 0
        assert len(set(numbers)) == len(numbers)
        for time, found in plan:
            offsets = np.abs(video.stamps_ns - time)
            if name in found:
                assert offsets[found[name]] == offsets.min() <= period / 2 + 2e6
            else:
                assert offsets.min() > period // 2


def test_closing_ends_the_iteration(tmp_path, video):
    source = VideoSource(video(tmp_path / "a.avi", range(50)))
    taken = 0
    for _ in source:
        taken += 1
        if taken == 3:
            source.close()
    assert taken == 3
