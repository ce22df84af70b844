"""Replay of a rig that moves: its places are those of the bag, by the rules of the mapper."""

import json
import math

import numpy as np
import pytest

from vggt_ros import results
from vggt_ros.cli.main import main
from vggt_ros.cli.replay_images import BagImages, BagPlaces
from vggt_ros.config import Config, FrameConfig
from vggt_ros.errors import EngineError
from vggt_ros.export.ply import read_ply
from vggt_ros.export.trajectory import read_tum
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.sources.bag import BagReader
from vggt_ros.sources.bag_cameras import choose_cameras
from vggt_ros.sources.messages import tf_message

START = 10**18
REASON = "no transform odom -> rig at the stamp"
ODOM = Config(motion="tf", frame=FrameConfig(odom="odom"))


def drive(t):
    """1 m/s along x, 0.5 rad/s about z."""
    return Rigid3.from_rotation_vector([0, 0, 0.5 * t], [t, 0.0, 0.0])


@pytest.fixture
def driven(edited):
    """The recording with /tf at 20 Hz in it: `when(t)` says with which delay [s], None: never."""

    def make(when=lambda t: 0.0, base="rig"):
        def edit(topic, stamp, message):
            if topic != "/tf_static":
                return [(topic, message, stamp)]
            moved = []
            for k in range(-1, 20):
                t, at = k / 20 + 0.013, START + round((k / 20 + 0.013) * 1e9)
                if when(t) is not None:
                    moved.append(
                        (
                            "/tf",
                            tf_message([("odom", base, drive(t))], at),
                            at + int(when(t) * 1e9),
                        )
                    )
            return [(topic, message, stamp), *moved]

        return edited(edit)

    return make


def sets_of(path, config=ODOM):
    """What reaches the pipeline, and the images with their counts."""
    with BagReader(path) as bag:
        rig = choose_cameras(bag, config).rig
        places = BagPlaces(bag, config, rig.rig_frame)
        topics = {camera.image: camera.name for camera in rig.cameras}
        with Ingest(rig.names, {}, config.ingest) as ingest:
            images = BagImages(topics, ingest, places)
            return list(images.frame_sets(bag.messages(images.topics))), images


def assert_places(sets):
    for frame_set in sets:
        expected = drive((frame_set.stamp_ns - START) * 1e-9)
        np.testing.assert_allclose(frame_set.world_from_rig.matrix, expected.matrix, atol=1e-3)


def test_every_set_has_the_place_of_its_stamp(driven):
    sets, images = sets_of(driven())
    assert len(sets) == 8
    assert_places(sets)
    assert not images.dropped
    assert images.notes() == []


def test_transforms_that_come_late_are_waited_for(driven):
    sets, images = sets_of(driven(lambda t: 0.3))
    assert len(sets) == 8
    assert_places(sets)
    assert not images.dropped


def test_transforms_that_come_too_late_are_counted_drops(driven):
    impatient = Config(motion="tf", frame=FrameConfig(odom="odom", tf_wait_ms=100.0))
    sets, images = sets_of(driven(lambda t: 0.0 if t < 0.4 else 0.4), impatient)
    assert_places(sets)
    assert 4 <= len(sets) < 8
    assert images.dropped == {REASON: 8 - len(sets)}


def test_transforms_that_stop_are_named(driven):
    sets, images = sets_of(driven(lambda t: None if t > 0.25 else 0.0))
    assert len(sets) == 3
    assert images.dropped == {REASON: 5}
    assert "the newest transform 'odom' -> 'rig' is" in images.notes()[0]


def test_another_base_is_no_place(driven):
    sets, images = sets_of(driven(base="other"))
    assert sets == []
    assert images.dropped == {REASON: 8}
    assert images.notes() == [
        f"sets were dropped, first: {REASON}: TF does not connect 'odom' and 'rig'"
    ]


def test_a_bag_without_places_says_what_to_do(recording, tmp_path, capsys):
    words = ["replay", str(recording.path), "--out", str(tmp_path), "--set", "motion=tf"]
    assert main([*words, "--set", "frame.odom=odom"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"no set has a place: {REASON}: TF knows no frame 'odom'" in error
    assert "--set motion=estimate" in error


def test_a_robot_that_stands_still_is_not_fixed_to_the_world(edited):
    """Transforms on /tf that never change are taken for fixed ones, but for the world's."""

    def edit(topic, stamp, message):
        if topic != "/tf_static":
            return [(topic, message, stamp)]
        still = tf_message([("odom", "cam0_optical_frame", Rigid3.identity())], START)
        return [("/tf", still, START + k) for k in range(3)]

    config = Config(motion="tf", cameras=["cam0"], frame=FrameConfig(odom="odom"))
    with BagReader(edited(edit)) as bag:
        rig = choose_cameras(bag, config).rig
    assert rig.rig_frame == "cam0_optical_frame"  # a rig of one
    np.testing.assert_array_equal(rig.poses["cam0"].matrix, np.eye(4))


def test_a_fault_in_the_middle_leaves_what_was_mapped(recording, tmp_path, monkeypatch, capsys):
    from vggt_ros.pipeline.mapping import MappingPipeline

    step = MappingPipeline.step

    def failing(self, frame_set):
        if self.sets_received == 3:
            raise EngineError("engine x.onnx: out of memory")
        return step(self, frame_set)

    monkeypatch.setattr(MappingPipeline, "step", failing)
    words = ["replay", str(recording.path), "--out", str(tmp_path), "--set", "bootstrap=rig"]
    assert main([*words, "--set", "plane_sweep.width=80"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "ended early, at set 3" in error
    assert "engine x.onnx: out of memory" in error
    report = json.loads((tmp_path / results.REPORT).read_text())
    assert report["sets"]["used"] == 3
    assert report["failure"] == "engine x.onnx: out of memory"
    assert len(read_ply(tmp_path / results.MAP)) == report["map"]["points"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("world", ["map", "odom"])
def test_a_drive_through_the_room(driving, tmp_path, world):
    """With another localiser, and with odometry that is 2 % too long."""
    from vggt_ros.synthetic.truth import distance_to_surface

    out = tmp_path / "out"
    words = ["replay", str(driving.bags[world]), "--out", str(out), "--set", "motion=tf"]
    words += ["--set", "plane_sweep.width=320", "--set", "map.voxel_m=0.03"]
    if world == "odom":
        words += ["--set", "frame.odom=odom"]
    assert main(words) == 0
    report = json.loads((out / results.REPORT).read_text())
    assert report["notes"] == []
    assert report["unit"] == "m"
    assert report["sets"]["received"] == driving.sets
    poses = read_tum(out / results.PATH)
    assert len(poses) == report["motion"]["keyframes"] >= 4
    rows = report["motion"]["trajectory"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    np.testing.assert_allclose(
        [row[1:4] for row in rows], [p.map_from_body.translation for p in poses], atol=1e-8
    )
    first = driving.map_from_rig(poses[0].stamp_ns) @ poses[0].map_from_body.inverse()
    world_from_map = Rigid3.identity() if world == "map" else first
    for pose in poses:
        error = driving.map_from_rig(pose.stamp_ns).inverse() @ world_from_map @ pose.map_from_body
        assert np.linalg.norm(error.translation) < (1e-4 if world == "map" else 0.02)
        assert math.degrees(error.angle_rad) < 0.2
    points = world_from_map.apply(read_ply(out / results.MAP).points)
    distances = distance_to_surface(driving.world, points)
    assert len(points) > 10_000
    assert np.median(distances) < 0.02
    assert np.percentile(distances, 90) < 0.05
