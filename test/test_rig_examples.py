"""The rigs of config/rigs: they load, stand upright, and a bag with their topics is understood."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.config import IngestConfig
from vggt_ros.geometry import CameraModel
from vggt_ros.rig import load_rig
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagReader, BagWriter
from vggt_ros.sources.bag_check import check_bag
from vggt_ros.synthetic.scenes import demo_rig, demo_room, simulate
from vggt_ros.types import StampedImage

FILES = sorted((Path(__file__).resolve().parents[1] / "config" / "rigs").glob("*.yaml"))
YAWS_DEG = {
    "realsense_pair": [0, 25],
    "zed": [0, 0],
    "usb_cam": [0, 0],
    "surround": [0, 90, 180, -90],
}


def test_there_is_one_for_each_usual_driver():
    assert {file.stem for file in FILES} == set(YAWS_DEG)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_cameras_stand_upright_and_look_where_the_comment_says(file):
    rig = load_rig(file)
    assert len(rig.poses) == len(rig.cameras)
    yaws = []
    for pose in rig.poses.values():
        right, down, forward = pose.rotation.T  # REP-103: x right, y down, z forward
        np.testing.assert_allclose(down, [0, 0, -1], atol=1e-5)
        assert abs(right[2]) < 1e-5
        yaws.append(math.degrees(math.atan2(forward[1], forward[0])))
    np.testing.assert_allclose(np.mod(yaws, 360), np.mod(YAWS_DEG[file.stem], 360), atol=1e-3)
    assert rig.size_m > 0.05
    given = [c.frame_id for c in rig.cameras if c.frame_id]
    assert len(set(given)) == len(given)
    topics = [t for c in rig.cameras for t in (c.image, c.camera_info)]
    assert len(set(topics)) == 2 * len(rig.cameras)
    assert all(topic.startswith("/") for topic in topics)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_bag_with_these_topics_can_be_mapped(file, tmp_path):
    rig = load_rig(file)
    # As the drivers would: they know their intrinsics where the rig file leaves them out.
    default = CameraModel(640, 480, 460.0, 460.0, 319.5, 239.5)
    pinholes = {
        c.name: dataclasses.replace(c.model or default, distortion_model="none", distortion=())
        for c in rig.cameras
    }
    seen = dataclasses.replace(
        rig, cameras=tuple(dataclasses.replace(c, model=pinholes[c.name]) for c in rig.cameras)
    )
    (taken,) = simulate(demo_room(), seen, demo_rig()[1], 1, 10.0, start_ns=10**18, noise=False)
    with BagWriter(tmp_path / "bag") as bag:
        for camera in rig.cameras:
            stamp, frame = taken.stamps_ns[camera.name], camera.frame_id or f"{camera.name}_frame"
            image = StampedImage(camera.name, stamp, taken.images[camera.name], "rgb8", frame)
            bag.write(camera.image, messages.image_message(image), stamp)
            info = messages.camera_info_message(pinholes[camera.name], stamp, frame)
            bag.write(camera.camera_info, info, stamp)
    with BagReader(tmp_path / "bag") as bag:
        found = check_bag(bag, IngestConfig(), rig)
    assert sorted(c.name for c in found.cameras) == sorted(rig.names)
    assert all(c.has_pose and c.calibration != "none" for c in found.cameras)
    assert found.sets == 1
    assert not [p for p in found.problems if "not in the bag" in p]
    verdict = found.verdicts["rig"]
    if file.stem != "surround":  # whose cameras hardly overlap, and it says so
        assert verdict.works, verdict.reasons
    assert not [r for r in verdict.reasons if r.startswith("no pose") or "no intrinsics" in r]
