"""Bags written and read back, whole, cut off, and wrong."""

import contextlib
import io
import sqlite3
import struct

import lz4.frame
import numpy as np
import pytest

from vggt_ros.errors import (
    CalibrationError,
    ConfigError,
    ExportError,
    SourceError,
    VggtRosError,
)
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagReader, BagWriter
from vggt_ros.types import StampedImage

STORAGES = ("mcap", "sqlite3")
START_NS = 1_700_000_000_000_000_000
MODEL = CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)
LEFT = Rigid3.from_rotation_vector([0.0, 0.3, 0.0], [0.0, 0.1, 0.0])
RIGHT = Rigid3.from_rotation_vector([0.0, -0.3, 0.0], [0.0, -0.1, 0.0])


def image(camera, stamp, rng, frame_id=None):
    pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
    return StampedImage(camera, stamp, pixels, "rgb8", frame_id or f"{camera}_optical_frame")


def write_bag(path, storage="mcap", sets=30, cameras=("left", "right"), frame_id=None):
    rng = np.random.default_rng(1)
    with BagWriter(path, storage) as bag:
        poses = dict(zip(cameras, (LEFT, RIGHT), strict=True))
        frames = [("rig", f"{c}_optical_frame", pose) for c, pose in poses.items()]
        if frame_id:
            frames = [("rig", frame_id, LEFT)]
        bag.write("/tf_static", messages.tf_message(frames, START_NS), START_NS)
        for k in range(sets):
            stamp = START_NS + k * 100_000_000
            for camera in cameras:
                sent = image(camera, stamp, rng, frame_id)
                bag.write(f"/{camera}/image_raw", messages.image_message(sent), stamp)
                info = messages.camera_info_message(MODEL, stamp, sent.frame_id)
                bag.write(f"/{camera}/camera_info", info, stamp)
    return path


def data_file(bag):
    return next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))


def cut(bag, part):
    file = data_file(bag)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip(tmp_path, storage):
    path = write_bag(tmp_path / "bag", storage)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bag"]
    for source in (path, data_file(path)):
        with BagReader(source) as bag:
            assert not bag.truncated
            assert {t: (i.msgtype, i.count) for t, i in bag.topics.items()} == {
                "/left/camera_info": (messages.CAMERA_INFO, 30),
                "/left/image_raw": (messages.IMAGE, 30),
                "/right/camera_info": (messages.CAMERA_INFO, 30),
                "/right/image_raw": (messages.IMAGE, 30),
                "/tf_static": (messages.TF_MESSAGE, 1),
            }
            rng = np.random.default_rng(1)
            stamps = []
            for topic, stamp, message in bag.messages(["/left/image_raw", "/right/image_raw"]):
                camera = topic.split("/")[1]
                read = messages.any_image_from_message(message, camera)
                stamps.append(stamp)
                assert read.stamp_ns == stamp
                np.testing.assert_array_equal(read.data, image(camera, stamp, rng).data)
            assert stamps == sorted(stamps)
            assert len(stamps) == 60


@pytest.mark.parametrize("storage", STORAGES)
def test_raw_bytes_are_cdr(tmp_path, storage):
    with BagReader(write_bag(tmp_path / "bag", storage, sets=2)) as bag:
        raw = list(bag.raw_messages(["/left/camera_info"]))
        decoded = [m for _, _, m in bag.messages(["/left/camera_info"])]
    store = messages.typestore()
    assert [r.msgtype for r in raw] == [messages.CAMERA_INFO] * 2
    for bytes_, message in zip(raw, decoded, strict=True):
        assert bytes(store.serialize_cdr(message, messages.CAMERA_INFO)) == bytes_.data


def test_rig_from_the_bag(tmp_path):
    with BagReader(write_bag(tmp_path / "bag", sets=1)) as bag:
        rig = bag.rig()
        assert bag.rig(["right"]).names == ("right",)
        with pytest.raises(SourceError, match=r"no camera 'lefd' \(did you mean 'left'"):
            bag.rig(["lefd"])
    assert (rig.names, rig.rig_frame) == (("left", "right"), "rig")
    assert rig.models == {"left": MODEL, "right": MODEL}
    assert rig.cameras[0].image == "/left/image_raw"
    assert rig.cameras[0].frame_id == "left_optical_frame"
    np.testing.assert_allclose(rig.poses["right"].matrix, RIGHT.matrix, atol=1e-12)


def test_two_cameras_with_one_frame_id(tmp_path):
    path = write_bag(tmp_path / "bag", sets=1, frame_id="camera")
    with BagReader(path) as bag, pytest.raises(CalibrationError, match="'left' and 'right' both"):
        bag.rig()


def test_moving_frames_are_not_static(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for k in range(5):
            odometry = Rigid3.from_rotation_vector([0, 0, 0.1 * k], [k, 0, 0])
            tree = [("odom", "base_link", odometry), ("base_link", "left", LEFT)]
            bag.write("/tf", messages.tf_message(tree, k), k)
    with BagReader(tmp_path / "bag") as bag:
        assert set(bag.static_transforms()) == {"left"}


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        ({"/front/image_raw": "raw"}, {"front": ("/front/image_raw", "")}),
        (
            {"/front/image_raw": "raw", "/front/image_raw/compressed": "compressed"},
            {"front": ("/front/image_raw", "/front/image_raw/compressed")},
        ),
        ({"/a/b/image": "raw"}, {"a_b": ("/a/b/image", "")}),
        ({"/image_raw": "raw"}, {"camera": ("/image_raw", "")}),
        (
            {"/c/image_rect": "raw", "/c/image_raw": "raw", "/c/image_color": "raw"},
            {"c": ("/c/image_raw", "")},
        ),
        ({"/c/depth/image_raw": "raw", "/c/image/compressedDepth": "compressed"}, {}),
    ],
)
def test_names_of_cameras(tmp_path, topics, expected):
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / "bag") as bag:
        for topic, kind in topics.items():
            sent = image("c", 1, rng)
            message = (
                messages.image_message(sent)
                if kind == "raw"
                else messages.compressed_image_message(StampedImage("c", 1, b"x", "jpeg"))
            )
            bag.write(topic, message, 1)
    with BagReader(tmp_path / "bag") as bag:
        found = {c.name: (c.image, c.compressed) for c in bag.camera_topics().values()}
        assert found == expected
        if not expected:
            with pytest.raises(SourceError, match="no image topics"):
                bag.rig()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_cut_off_bag_is_played_and_told(tmp_path, storage, part, caplog):
    path = write_bag(tmp_path / "bag", storage)
    with BagReader(path) as bag:
        whole = [tuple(m) for m in bag.raw_messages()]
    cut(path, part)
    with BagReader(path) as bag:
        rest = [tuple(m) for m in bag.raw_messages()]
        assert bag.truncated
        assert bag.rig().names == ("left", "right")
    assert 0.9 * part * len(whole) - 6 <= len(rest) <= len(whole)
    assert set(rest) <= set(whole)
    assert [m[2] for m in rest] == sorted(m[2] for m in rest)
    assert "played what is there" in caplog.text


@pytest.mark.parametrize("storage", STORAGES)
def test_missing_metadata(tmp_path, storage):
    path = write_bag(tmp_path / "bag", storage, sets=3)
    (path / "metadata.yaml").unlink()
    with BagReader(path) as bag:
        assert "metadata.yaml" in bag.truncated
        assert len(list(bag.messages())) == 13


def test_unmerged_write_ahead_log_is_told(tmp_path):
    path = write_bag(tmp_path / "bag", "sqlite3", sets=1)
    (path / "bag.db3-wal").write_bytes(b"x")
    for source in (path, data_file(path)):
        with BagReader(source) as bag:
            assert "bag.db3-wal holds messages" in bag.truncated


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_never_surprise(tmp_path, storage, seed):
    """Wrong bytes anywhere give messages, a note or one of our errors, nothing else."""
    rng = np.random.default_rng(seed)
    path = write_bag(tmp_path / "bag", storage, sets=2)
    file = data_file(path)
    content = bytearray(file.read_bytes())
    zone = (len(content), 3000)[seed % 2]
    for _ in range(20):
        content[rng.integers(zone) * (1, -1)[seed % 3 == 0]] = rng.integers(256)
    file.write_bytes(content)
    with contextlib.suppress(VggtRosError), BagReader(path) as bag:
        list(bag.messages())
        bag.rig()


def mcap_records(file):
    """(opcode, content) of an MCAP file."""
    data = io.BytesIO(file.read_bytes())
    data.read(8)
    while head := data.read(9):
        if len(head) < 9 or head[0] == 0x89:
            return
        yield head[0], data.read(int.from_bytes(head[1:], "little"))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_cut_off_compressed_chunks(tmp_path, compression):
    if compression == "zstd":
        zstd = pytest.importorskip("backports.zstd")
        compress = zstd.compress
    else:
        compress = lz4.frame.compress
    path = write_bag(tmp_path / "bag", sets=60)
    file = data_file(path)
    out = io.BytesIO(b"\x89MCAP0\r\n")
    out.seek(8)
    for opcode, content in mcap_records(file):
        if opcode == 0x06:
            packed = compress(content[28 + 4 + 8 :])
            name = compression.encode()
            content = content[:28] + struct.pack("<I", len(name)) + name
            content += struct.pack("<Q", len(packed)) + packed
        if opcode in (0x01, 0x06):
            out.write(bytes([opcode]) + struct.pack("<Q", len(content)) + content)
    file.write_bytes(out.getvalue()[:-2000])
    with BagReader(path) as bag:
        assert bag.truncated
        played = list(bag.messages(["/left/image_raw"]))
    assert 50 <= len(played) <= 60
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(
        messages.any_image_from_message(played[0][2], "left").data, image("left", 0, rng).data
    )


@pytest.mark.parametrize("size", [0, 5, 30])
@pytest.mark.parametrize("storage", STORAGES)
def test_nothing_left_is_an_error(tmp_path, storage, size):
    path = write_bag(tmp_path / "bag", storage, sets=1)
    file = data_file(path)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(SourceError, match="bag"), BagReader(path):
        pass


def test_what_is_no_bag(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "file.mcap").write_text("hello, this is no MCAP file at all, but long enough")
    for name in ("absent", "empty", "file.txt", "file.mcap"):
        with pytest.raises(SourceError, match=name), BagReader(tmp_path / name):
            pass


def test_unknown_topic_and_type(tmp_path):
    path = write_bag(tmp_path / "bag", "sqlite3", sets=1)
    with sqlite3.connect(data_file(path)) as database:
        database.execute("UPDATE topics SET type='my/msg/Odd' WHERE name='/left/camera_info'")
        database.execute("UPDATE topics SET type_description_hash=''")
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").unlink()
    assert "camera_info" in text
    with BagReader(path) as bag:
        with pytest.raises(SourceError, match=r"no topic '/left/image' \(did you mean"):
            bag.messages(["/left/image"])
        with pytest.raises(SourceError, match="unknown type my/msg/Odd"):
            bag.messages(["/left/camera_info"])
        assert len(list(bag.messages())) == 4
        assert bag.undecodable == {"/left/camera_info": 1}


def test_damaged_message_is_skipped(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_raw("/tf", messages.TF_MESSAGE, b"\0\1\0\0\xff\xff\xff\x7f", 1)
        bag.write("/tf", messages.tf_message([("a", "b", LEFT)], 2), 2)
    with BagReader(tmp_path / "bag") as bag:
        assert [stamp for _, stamp, _ in bag.messages()] == [2]
        assert bag.undecodable == {"/tf": 1}


def test_nothing_is_overwritten_unasked(tmp_path):
    path = write_bag(tmp_path / "bag", sets=1)
    before = data_file(path).read_bytes()
    with pytest.raises(ExportError, match="exists"), BagWriter(path):
        pass
    with contextlib.suppress(RuntimeError), BagWriter(path, overwrite=True) as bag:
        bag.write("/tf", messages.tf_message([], 1), 1)
        raise RuntimeError("stop")
    assert data_file(path).read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["bag"]
    with BagWriter(path, overwrite=True) as bag:
        bag.write("/tf", messages.tf_message([("a", "b", LEFT)], 1), 1)
    with BagReader(path) as bag:
        assert list(bag.topics) == ["/tf"]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").touch()
    with pytest.raises(ExportError, match="not a bag"), BagWriter(other, overwrite=True):
        pass


def test_unwritable_places(tmp_path):
    with pytest.raises(ExportError, match="cannot be written"), BagWriter(tmp_path / "a" / "b"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"), BagWriter(tmp_path / "file" / "b"):
        pass
    with pytest.raises(ConfigError, match="storage"):
        BagWriter(tmp_path / "b", "rosbag1")


def test_full_disk_leaves_the_bag_that_was_there(tmp_path, monkeypatch):
    path = write_bag(tmp_path / "bag", sets=1)
    before = data_file(path).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with BagWriter(path, overwrite=True) as bag:
        monkeypatch.setattr(bag._writer.storage, "write", full)
        with pytest.raises(ExportError, match="No space left"):
            bag.write("/tf", messages.tf_message([], 1), 1)
    assert data_file(path).read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["bag"]
