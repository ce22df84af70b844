"""Faults of cameras and networks, sent over DDS into a mapper process: the map is whole, and every
image is either in it, counted under a reason, or still waiting."""

import re
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel
from vggt_ros.msg import MapStatus
from vggt_ros.nodes.conversions import camera_info_message, image_message, transform_message
from vggt_ros.nodes.transforms import static_qos

CAMERAS = ("left", "right")
MODEL = CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)
PERIOD_NS = 100_000_000
POINTS_PER_IMAGE = 50
"""What the stub puts into its map."""
START_NS = 1_700_000_000_000_000_000


class Rig:
    """Two cameras and a mapper with room for all that is sent, however busy the computer is."""

    def __init__(self, observer, until, rig_poses, make_mapper):
        self.until = until
        self.observer = observer
        self.status = observer.listen(MapStatus, "/mapper/status")
        self.diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
        self.sent = 0
        profile = QoSProfile(depth=1000)
        node = observer.node
        self.images = {
            n: node.create_publisher(Image, f"/{n}/image_raw", profile) for n in CAMERAS
        }
        self.infos = {
            n: node.create_publisher(CameraInfo, f"/{n}/camera_info", profile) for n in CAMERAS
        }
        static = node.create_publisher(TFMessage, "/tf_static", static_qos())
        static.publish(
            TFMessage(
                transforms=[
                    transform_message(rig_poses[n], "base_link", f"{n}_optical", 0)
                    for n in CAMERAS
                ]
            )
        )
        self.mapper = make_mapper()
        publishers = [*self.images.values(), *self.infos.values()]
        until(lambda: all(p.get_subscription_count() for p in publishers), 30.0, "subscriptions")
        until(lambda: self.status, 30.0, "status")
        for name in CAMERAS:
            self.infos[name].publish(camera_info_message(MODEL, 0, f"{name}_optical"))
        rng = np.random.default_rng(5)
        pixels = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
        self.message = image_message(pixels, "rgb8", 0, "")

    def send(self, name, stamp_ns, message=None):
        message = message or self.message
        message.header.frame_id = f"{name}_optical"
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        self.images[name].publish(message)
        self.sent += 1
        time.sleep(0.001)

    def instants(self, first, count, names=CAMERAS):
        for k in range(first, first + count):
            for name in names:
                self.send(name, START_NS + k * PERIOD_NS)

    @property
    def last(self):
        return self.status[-1]

    @property
    def drops(self):
        return {d.reason: d.count for d in self.last.dropped}

    def diagnosed(self, index):
        return self.diagnostics[-1].status[index] if self.diagnostics else DiagnosticStatus()

    @property
    def arrived(self):
        unreadable = self.drops.get("unreadable image", 0)
        return sum(c.received for c in self.last.cameras) + unreadable

    def settle(self, waiting=0, in_map=None):
        """Wait until every image is accounted for: in the map, dropped, or waiting."""

        def accounted():
            if not self.status or self.arrived != self.sent:
                return False
            mapped = self.last.map_points // POINTS_PER_IMAGE if in_map is None else in_map
            return mapped + sum(self.drops.values()) + waiting == self.sent

        def said():
            return f"{self.sent} sent, {waiting} to wait; the status says {self.last}"

        self.until(accounted, 30.0, said)
        return self.last


@pytest.fixture
def rig(start, observer, stub, until, rig_poses):
    def make(**parameters):
        given = {
            "cameras": "[left, right]",
            "autostart": "true",
            "ingest.queue_size": 400,
            "ingest.silent_after_s": 0.0,
            "publish.status_rate_hz": 10.0,
            **{f"qos_overrides./{n}/image_raw.subscription.depth": 1000 for n in CAMERAS},
            **parameters,
        }

        def mapper():
            process = start(stub, given)
            process.wait_for("activate: done")
            return process

        return Rig(observer, until, rig_poses, mapper)

    return make


def test_a_camera_dies_and_comes_back(rig):
    rig = rig(**{"ingest.silent_after_s": 1.0})
    rig.instants(0, 10)
    rig.settle()  # topics may overtake each other
    rig.instants(10, 30, ["left"])
    rig.mapper.wait_for("camera 'right': no image for 1.0 s; sets go on without it")
    rig.until(lambda: rig.last.sets_used == 40, 20.0, lambda: f"sets of one camera: {rig.last}")
    rig.send("right", START_NS + 40 * PERIOD_NS)
    rig.settle(waiting=1)  # it is waited for again before the other one sends
    rig.instants(40, 1, ["left"])
    rig.instants(41, 9)
    last = rig.settle()
    assert rig.drops == {}
    assert last.sets_used == 50
    assert last.map_points == POINTS_PER_IMAGE * (2 * 20 + 30)
    assert last.state == MapStatus.STATE_MAPPING
    assert [c.received for c in last.cameras] == [50, 20]


def test_a_third_of_all_messages_is_lost(rig):
    rig = rig()
    rng = np.random.default_rng(30)
    came = rng.random((150, 2)) >= 0.3
    came[0] = came[-1] = True  # nothing is left waiting at the end
    for k, of_instant in enumerate(came):
        for name, comes in zip(CAMERAS, of_instant, strict=True):
            if comes:
                rig.send(name, START_NS + k * PERIOD_NS)
    last = rig.settle()
    whole = int(came.all(axis=1).sum())
    assert last.sets_used == whole
    assert rig.drops == {"unmatched": int(came.sum()) - 2 * whole}


def test_jitter_of_200_ms_loses_nothing(rig):
    rig = rig()
    rng = np.random.default_rng(200)
    arrivals = []
    for index, name in enumerate(CAMERAS):
        stamps = np.arange(100) * PERIOD_NS
        # the messages of one camera stay in order
        late = np.maximum.accumulate(stamps + rng.uniform(0, 2e8, 100))
        arrivals += [(t, index, name, int(s)) for t, s in zip(late, stamps, strict=True)]
    for _, _, name, stamp in sorted(arrivals):
        rig.send(name, START_NS + stamp)
    last = rig.settle()
    assert last.sets_used == 100
    assert rig.drops == {}
    assert all(abs(c.skew_ms) < 1e-6 for c in last.cameras)


def test_the_clock_of_a_camera_is_half_a_second_behind(rig):
    rig = rig()
    text = re.compile(
        r"camera 'left': stamps are 0\.(4[5-9]|5[0-5]) s behind the others; synchronise its "
        r"clock \(chrony/ptp\)"
    )
    sets = 0
    limit = time.monotonic() + 30.0
    next_ns = time.time_ns()
    while sets < 25 or not rig.last.cameras[0].fault:
        assert time.monotonic() < limit, rig.last
        for name, behind_ns in (("left", 5 * PERIOD_NS), ("right", 0)):
            rig.send(name, next_ns - behind_ns)
        sets += 1
        next_ns += PERIOD_NS
        time.sleep(max(0.0, (next_ns - time.time_ns()) * 1e-9))
    started = [d.header.stamp.sec + 1e-9 * d.header.stamp.nanosec for d in rig.diagnostics]
    assert np.median(np.diff(started)) == pytest.approx(1.0, abs=0.3)
    last = rig.settle(waiting=5)  # of the right one
    assert last.sets_used == sets - 5  # those half a second apart were joined: they cannot know
    assert rig.drops == {"unmatched": 5}
    assert text.fullmatch(last.cameras[0].fault)
    assert last.cameras[1].fault == ""
    assert last.cameras[0].stamp_age_s - last.cameras[1].stamp_age_s == pytest.approx(0.5, abs=0.1)
    rig.until(lambda: text.search(rig.diagnosed(1).message), 5.0, "diagnostics")
    assert rig.diagnosed(1).level == DiagnosticStatus.WARN


def test_the_bag_loops(rig):
    """Stamps jump back: what comes after is mapped anew, and the jump is counted."""
    rig = rig()
    rig.instants(1000, 30)
    rig.until(lambda: rig.last.sets_used == 30, 20.0, "first round")
    rig.instants(0, 30)
    rig.until(
        lambda: rig.last.clock_jumps and rig.last.map_points == POINTS_PER_IMAGE * 60,
        20.0,
        lambda: f"second round: {rig.last}",
    )
    last = rig.settle(in_map=120)
    assert last.clock_jumps == 1
    assert last.state == MapStatus.STATE_MAPPING
    assert rig.drops == {}
    rig.until(
        lambda: any("the clock jumped back" in d.status[0].message for d in rig.diagnostics),
        5.0,
        "the jump in the diagnostics",
    )


def test_hostile_messages_are_counted_and_harm_nobody(rig):
    rig = rig()
    hostile = [
        {"width": 10**9, "height": 1},
        {"width": 50_000, "height": 50_000, "step": 150_000},
        {"height": 2**32 - 1, "step": 2**32 - 1},
        {"step": 191},
        {"encoding": "rgb9"},
        {"encoding": ""},
        {"encoding": "x" * 100_000},
    ]
    for k in range(21):
        rig.instants(3 * k, 3)
        message = image_message(np.zeros((48, 64, 3), np.uint8), "rgb8", 0, "")
        for field, value in hostile[k % len(hostile)].items():
            setattr(message, field, value)
        rig.send("left", START_NS + 3 * k * PERIOD_NS, message)
        info = camera_info_message(MODEL, 0, "left_optical")
        info.k[k % 9] = (np.nan, np.inf)[k % 2]
        rig.infos["left"].publish(info)
    last = rig.settle()
    assert last.sets_used == 63
    assert rig.drops == {"unreadable image": 21}
    assert [c.received for c in last.cameras] == [63, 63]
    assert "K has NaN or infinity" in last.cameras[0].fault
    rig.until(lambda: rig.diagnosed(1).level == DiagnosticStatus.ERROR, 5.0, "diagnostics")
    assert len(rig.diagnosed(1).message) < 2000
    # a right CameraInfo mends it
    rig.infos["left"].publish(camera_info_message(MODEL, 0, "left_optical"))
    rig.until(lambda: "K has NaN" not in rig.last.cameras[0].fault, 5.0, "right CameraInfo")
    assert rig.mapper.popen.poll() is None
    assert "Traceback" not in rig.mapper.output


def test_pause_and_reset_count(rig, observer):
    rig = rig()

    def ask(service, kind=Trigger, **fields):
        return observer.call(kind, f"/mapper/{service}", kind.Request(**fields))

    rig.instants(0, 10)
    rig.send("left", START_NS + 10 * PERIOD_NS)
    rig.settle(waiting=1)
    answer = ask("pause", SetBool, data=True)
    assert answer.message == "paused; 1 images that waited are dropped"
    rig.until(lambda: rig.last.state == MapStatus.STATE_PAUSED, 10.0, "paused")
    rig.instants(11, 10)
    rig.settle()
    assert rig.drops == {"paused": 21}
    answer = ask("pause", SetBool, data=False)
    assert answer.message == "mapping goes on; 21 images were dropped while paused"
    rig.instants(30, 5)
    rig.settle()
    rig.send("right", START_NS + 40 * PERIOD_NS)
    rig.settle(waiting=1)
    answer = ask("reset")
    assert "(1500 points, 15 sets mapped so far)" in answer.message
    rig.until(lambda: rig.last.map_points == 0, 10.0, "empty map")
    rig.settle(in_map=30)
    assert rig.drops == {"paused": 21, "reset": 1}
    rig.instants(50, 5)
    rig.settle(in_map=40)
    rig.until(
        lambda: rig.last.map_points == POINTS_PER_IMAGE * 10,
        10.0,
        lambda: f"the map of the sets since the reset: {rig.last}",
    )


def test_a_subscriber_who_asks_for_more_is_told_by_topic(start, observer, stub, until):
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    mapper = start(stub, {"cameras": "[left]", "autostart": "true"})
    mapper.wait_for("activate: done")
    greedy = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    observer.listen(PointCloud2, "/mapper/points", greedy)
    mapper.wait_for("a subscriber of /mapper/points asks for more than is offered (DURABILITY")
    until(
        lambda: diagnostics and diagnostics[-1].status[-1].level == DiagnosticStatus.WARN,
        10.0,
        "diagnostics",
    )
    topics = diagnostics[-1].status[-1]
    assert topics.name == "mapper: topics"
    assert topics.message.startswith("incompatible QoS: a subscriber of /mapper/points")
    assert [value.key for value in topics.values] == ["/mapper/points"]


@pytest.mark.slow
def test_a_rig_without_overlap_is_offered_the_rig_bootstrapper():
    from vggt_ros.config import SfmConfig
    from vggt_ros.pipeline.sfm import SfmBootstrapper
    from vggt_ros.synthetic.scenes import demo_room, no_overlap_rig, simulate
    from vggt_ros.types import Frame, FrameSet

    rig, map_from_rig = no_overlap_rig()
    taken = next(iter(simulate(demo_room(), rig, map_from_rig, 1, 10.0)))
    frames = tuple(
        Frame(c.name, taken.stamp_ns, taken.images[c.name], c.model) for c in rig.cameras
    )
    with pytest.raises(AlignmentError, match="bootstrap: rig takes them as they are"):
        SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(taken.stamp_ns, frames)])
