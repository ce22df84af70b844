"""The bag player as a process."""

import sqlite3
import time

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from vggt_ros.sources.bag import BagReader
from vggt_ros.sources.messages import stamp_ns

PLAYER = "vggt_ros.nodes.bag_player"
STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MANY = 200


def listen_all(observer):
    """Every topic of the bags made here, so that the player needs not wait for its time-out."""
    observer.listen(TFMessage, "/tf_static", STATIC)
    kinds = {"image_raw": Image, "camera_info": CameraInfo}
    return {
        f"/{camera}/{topic}": observer.listen(kind, f"/{camera}/{topic}", MANY)
        for camera in ("left", "right")
        for topic, kind in kinds.items()
    }


@pytest.mark.parametrize("storage", ["mcap", pytest.param("sqlite3", marks=pytest.mark.slow)])
def test_every_message_arrives_as_it_was_recorded(start, observer, make_bag, tmp_path, storage):
    bag = make_bag(tmp_path / "bag", sets=20, storage=storage)
    received = listen_all(observer)
    static = observer.listen(TFMessage, "/tf_static", STATIC)
    begin = time.monotonic()
    player = start(PLAYER, {"bag": bag, "rate": 2.0})
    assert player.wait(90.0) == 0, player.output
    assert "end of the bag: 82 messages published" in player.output
    assert time.monotonic() - begin > 0.95  # 1.9 s at double speed
    with BagReader(bag) as reader:
        recorded = {topic: [] for topic in reader.topics}
        for topic, _, message in reader.messages():
            recorded[topic].append(message)
    for topic, messages in received.items():
        assert [stamp_ns(m.header) for m in messages] == [
            stamp_ns(m.header) for m in recorded[topic]
        ]
    np.testing.assert_array_equal(
        np.frombuffer(received["/left/image_raw"][-1].data, np.uint8),
        recorded["/left/image_raw"][-1].data,
    )
    # two messages of the bag, joined for late joiners
    assert {t.child_frame_id for t in static[-1].transforms} == {"left_optical", "right_optical"}


def test_clock_follows_the_bag(start, observer, make_bag, tmp_path):
    clock = observer.listen(Clock, "/clock", MANY)
    listen_all(observer)
    bag = make_bag(tmp_path / "bag", sets=10)
    player = start(PLAYER, {"bag": bag, "clock": "true"})
    assert player.wait(90.0) == 0, player.output
    stamps = [m.clock.sec * 10**9 + m.clock.nanosec for m in clock]
    assert stamps == sorted(stamps)
    assert len(stamps) > 40  # 100 Hz over 0.9 s
    assert stamps[-1] == 1_700_000_000_900_000_000


def test_topics_choose_and_unknown_ones_are_named(start, observer, make_bag, tmp_path):
    bag = make_bag(tmp_path / "bag", sets=3)
    received = listen_all(observer)
    player = start(PLAYER, {"bag": bag, "topics": "[/left/image_raw]", "rate": 10.0})
    assert player.wait(90.0) == 0, player.output
    assert len(received["/left/image_raw"]) == 3
    assert not received["/right/image_raw"]
    parameters = {"topics": "[/left/camera_info, /tf_static]", "wait_for_subscribers_s": 0.2}
    observer.close()
    player = start(PLAYER, {"bag": bag, "rate": 10.0} | parameters)
    assert player.wait(90.0) == 0, player.output
    assert "after 0.2 s nobody subscribes to /left/camera_info, /tf_static" in player.output
    player = start(PLAYER, {"bag": bag, "topics": "[/left/image_rw]"})
    assert player.wait() == 2
    assert "did you mean '/left/image_raw'" in player.output


def test_pause_holds_and_goes_on(start, observer, make_bag, tmp_path, until):
    bag = make_bag(tmp_path / "bag", sets=5)
    received = listen_all(observer)
    player = start(
        PLAYER, {"bag": bag, "start_paused": "true", "rate": 10.0, "wait_for_subscribers_s": 1.0}
    )
    answer = observer.call(SetBool, "/bag_player/pause", SetBool.Request(data=True))
    assert answer.success
    time.sleep(0.5)
    assert not received["/left/image_raw"]
    observer.call(SetBool, "/bag_player/pause", SetBool.Request(data=False))
    assert player.wait(90.0) == 0, player.output
    assert len(received["/left/image_raw"]) == 5


@pytest.mark.slow
def test_loop_starts_again_until_interrupted(start, observer, make_bag, tmp_path, until):
    bag = make_bag(tmp_path / "bag", sets=3)
    received = listen_all(observer)
    player = start(
        PLAYER, {"bag": bag, "loop": "true", "rate": 5.0, "wait_for_subscribers_s": 1.0}
    )
    until(lambda: len(received["/left/image_raw"]) > 7, what="third round")
    player.interrupt()
    player.interrupt()
    assert player.wait() == 0, player.output
    assert "Traceback" not in player.output


def cut_mcap(folder):
    file = next(folder.glob("*.mcap"))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * 0.6)])


def cut_sqlite(folder):
    file = next(folder.glob("*.db3"))
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * 0.6)])


@pytest.mark.parametrize(
    ("storage", "cut"),
    [("mcap", cut_mcap), pytest.param("sqlite3", cut_sqlite, marks=pytest.mark.slow)],
)
def test_a_cut_bag_is_played_as_far_as_it_goes(start, observer, make_bag, tmp_path, storage, cut):
    bag = make_bag(tmp_path / "bag", sets=20, storage=storage)
    cut(bag)
    received = listen_all(observer)
    player = start(PLAYER, {"bag": bag, "rate": 10.0})
    assert player.wait(90.0) == 0, player.output
    assert 0 < len(received["/left/image_raw"]) < 20
    assert "the bag is not whole, what there is was played" in player.output
