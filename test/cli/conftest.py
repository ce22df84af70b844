"""One small recording that many tests replay, and copies of it with faults."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.sources.bag import BagReader, BagWriter
from vggt_ros.synthetic.record import record
from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL, SyntheticSet, arc_rig, box_world, simulate
from vggt_ros.synthetic.sensor import apply_sensor
from vggt_ros.synthetic.world import World

WORLD_FROM_RIG = Rigid3(RIG_FROM_OPTICAL.T, np.zeros(3))
"""The rig looks along its x, the world of `box_world` lies along z."""


@dataclass(frozen=True)
class Recording:
    """A bag and all that is true of it."""

    path: Path
    rig: Rig
    world: World
    world_from_rig: Rigid3
    sets: int


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """Three cameras, 8 sets at 10 Hz, 320x240, before a box and a wall that stand still.

    cam0 is compressed, the others are raw; CameraInfo and /tf_static are there.
    """
    rig = arc_rig(3, 0.25, math.radians(8), 320, 240, math.radians(65), pitch_rad=0.0)
    world = box_world(1.6, 2.4)
    (first,) = simulate(world, rig, WORLD_FROM_RIG, 1, 10.0, start_ns=10**18, noise=False)
    sets = []
    for k in range(8):  # nothing moves: the same picture with other noise
        shift = k * 10**8
        images = {n: apply_sensor(rgb, n, k) for n, rgb in first.images.items()}
        stamps = {n: stamp + shift for n, stamp in first.stamps_ns.items()}
        sets.append(SyntheticSet(first.stamp_ns + shift, images, stamps, first.truth))
    path = tmp_path_factory.mktemp("recording") / "bag"
    record(path, rig, sets, compressed=["cam0"])
    return Recording(path, rig, world, WORLD_FROM_RIG, len(sets))


@pytest.fixture
def edited(recording, tmp_path):
    """Copy the recording; `edit(topic, stamp_ns, message)` gives the (topic, message, stamp)s
    that take the place of a message. Topics stay, also those without a message left."""

    def copy(edit, name="edited"):
        path = tmp_path / name
        with BagReader(recording.path) as bag, BagWriter(path) as out:
            for info in bag.topics.values():
                out.add_topic(info.name, info.msgtype)
            for topic, stamp, message in bag.messages():
                for new_topic, new_message, new_stamp in edit(topic, stamp, message):
                    out.write(new_topic, new_message, new_stamp)
        return path

    return copy
