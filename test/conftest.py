"""What all tests share."""

import os
from pathlib import Path

import pytest

from vggt_ros.mapping.open3d_import import load_libusb

load_libusb()  # tests read files with Open3D, and this machine may lack what it links against


def free_domain():
    """A ROS domain that nothing on this machine uses, nor has left a mailbox of.

    Ports of a domain begin at 7400 + 250 * domain (RTPS 9.6.1.1); Fast DDS keeps a file in shared
    memory for each, also of processes that were killed, over which messages may get lost.
    """
    shared_memory = Path("/dev/shm")
    used = {f.name for f in shared_memory.glob("fastrtps_port*")} if shared_memory.is_dir() else ()
    first = os.getpid() % 100
    for k in range(100):
        domain = 1 + (first + k) % 100
        if not any(f"fastrtps_port{7400 + 250 * domain + port}" in used for port in range(250)):
            return domain
    return 1 + first


# Before anything imports rclpy: tests neither hear other ROS graphs of the network nor disturb
# them, and two runs on one machine keep apart.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain()))

REPOSITORY = Path(__file__).resolve().parents[1]


def find_shared_data() -> tuple[Path | None, str]:
    """Find the folder of reference images.

    Returns:
        The folder, or None; and, where it is None, the reason for people to read.
    """
    named = os.environ.get("VGGT_ROS_SHARED")
    shared = [Path(named)] if named else [parent / "shared" for parent in REPOSITORY.parents]
    for folder in (shared[0], *(folder / "data" for folder in shared)):
        if folder.name == "data" and (folder / "README.md").is_file():
            return folder, ""
    if named:
        return None, f"VGGT_ROS_SHARED={named} holds no data/README.md"
    return None, "no ../shared/data beside the repository, and VGGT_ROS_SHARED is not set"


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree, for tests of the files in it."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of reference images with ground truth; the test is skipped where it is absent."""
    folder, reason = find_shared_data()
    if folder is None:
        pytest.skip(f"reference data: {reason}")
    return folder


class FakeBackend:
    """A back end that answers with given arrays, whatever it is asked."""

    name = "fake"
    device = "cpu"
    precision = "fp32"

    def __init__(self, shape, answer):
        from vggt_ros.inference.backend import TensorSpec

        self.answer = answer
        self.inputs = (TensorSpec("images", shape, "float32"),)
        self.outputs = tuple(TensorSpec(n, a.shape, "float32") for n, a in answer.items())
        self.calls = []
        self.closed = 0
        self.error = None

    def run(self, inputs):
        assert not self.closed
        if self.error is not None:
            raise self.error
        self.calls.append({name: array.copy() for name, array in inputs.items()})
        return {name: array.copy() for name, array in self.answer.items()}

    def close(self):
        self.closed += 1


@pytest.fixture(scope="session")
def fake_engine():
    """Make an open engine of a family that answers with given arrays."""

    def make(family, shape, answer, depth_kind="", normalisation="zero_to_one"):
        from vggt_ros.inference.engine_store import Engine
        from vggt_ros.inference.passport import ModelFacts, Passport, Precision, Runtime

        facts = ModelFacts(
            family, f"fixture of {family}", "test only", "", normalisation, depth_kind
        )
        passport = Passport(
            "fake.onnx",
            "00",
            facts,
            Precision("fp32", "fp32"),
            Runtime("fake", "1"),
            inputs=(),
            outputs=(),
        )
        return Engine(Path("fake.onnx"), FakeBackend(shape, answer), passport, None)

    return make


@pytest.fixture(scope="session")
def driving(tmp_path_factory):
    """A robot of four cameras that drives through a room for 3 s; recorded with two kinds of TF.

    `bags` by the frame that says where it is: "map", of a localiser that is right, and "odom", of
    odometry that is 2 % too long; `map_from_rig` at a stamp [ns].
    """
    import dataclasses
    import math
    from types import SimpleNamespace

    from vggt_ros.synthetic.driving import drifting, simulate_drive, swing_through_room
    from vggt_ros.synthetic.record import BASE_FROM_RIG, Odometry, record
    from vggt_ros.synthetic.scenes import arc_rig, demo_room

    room = demo_room()
    still = tuple(thing for thing in room.objects if thing.motion is None)
    world = dataclasses.replace(room, objects=still)
    rig = arc_rig(4, 0.25, math.radians(20.0), 320, 240, math.radians(88.0))
    start_ns, sets = 1_767_225_600 * 10**9, 16

    def map_from_rig(time_s):
        return swing_through_room(time_s) @ BASE_FROM_RIG

    taken = list(simulate_drive(world, rig, map_from_rig, sets, 5.0, start_ns))
    folder = tmp_path_factory.mktemp("driving")
    paths = {"map": swing_through_room, "odom": drifting(swing_through_room, 0.02)}
    for frame, path in paths.items():
        odometry = Odometry(path, start_ns, odom_frame=frame)
        record(folder / frame, rig, taken, rig.names[:2], odometry=odometry)
    return SimpleNamespace(
        bags={frame: folder / frame for frame in paths},
        rig=rig,
        world=world,
        sets=sets,
        map_from_rig=lambda stamp_ns: map_from_rig((stamp_ns - start_ns) * 1e-9),
    )
