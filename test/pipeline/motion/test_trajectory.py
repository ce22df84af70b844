from dataclasses import replace

import cv2
import numpy as np
import pytest

from vggt_ros.config import TrajectoryConfig
from vggt_ros.errors import AlignmentError, EngineError
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.motion.kept_images import KeptImages
from vggt_ros.pipeline.motion.places import compare, describe
from vggt_ros.pipeline.motion.trajectory import TrajectoryEstimator
from vggt_ros.types import Frame, FrameSet

MODEL = CameraModel(320, 240, 200.0, 200.0, 159.5, 119.5)
STEP_PX = 60
"""Of the panorama between two poses; 24 of them are once round."""


@pytest.fixture(scope="module")
def panorama():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (60, 24 * STEP_PX // 4, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (24 * STEP_PX, 240), interpolation=cv2.INTER_CUBIC)
    return np.concatenate([image, image], axis=1)


def frame_set(panorama, k, shift=0):
    left = (k % 24) * STEP_PX + shift
    rgb = np.ascontiguousarray(panorama[:, left : left + 320])
    return FrameSet(k, (Frame("cam", k, rgb, MODEL),))


class Knowing:
    """A bootstrapper that knows the drive; every window has a place and a size of its own."""

    name = "knowing"
    sets_needed = 1

    def __init__(self, drive, similarity, noise=0.0):
        self.drive, self.similarity, self.noise = drive, similarity, noise
        self.windows = []
        self.broken = False
        self.error = AlignmentError

    def bootstrap(self, frame_sets):
        if self.broken:
            raise self.error("no texture")
        members = [s.stamp_ns for s in frame_sets]
        self.windows.append(members)
        number = len(self.windows)
        return self.drive.window(members, self.similarity(number), self.noise, number)


def test_places_tell_how_far_the_camera_moved(panorama):
    here = describe(frame_set(panorama, 3).frames[0].rgb)
    again = describe(frame_set(panorama, 3, shift=16).frames[0].rgb)
    away = describe(frame_set(panorama, 15).frames[0].rgb)
    seen = compare(here, again)
    assert seen.displacement == pytest.approx(16 / 320, abs=1e-3)
    assert seen.matches > 100
    assert compare(here, away).matches < 20
    blank = describe(np.full((240, 320, 3), 128, np.uint8))
    assert compare(here, blank).matches == 0


def test_exact_windows_give_the_exact_path(panorama, drive, similarity):
    knowing = Knowing(drive, similarity)
    config = TrajectoryConfig(window_views=6, shared_views=2, max_loops=0)
    estimator = TrajectoryEstimator(knowing, config)
    for k in range(20):
        estimator.add(frame_set(panorama, k))
    estimator.finish()
    assert knowing.windows == [
        [0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9], [8, 9, 10, 11, 12, 13],
        [12, 13, 14, 15, 16, 17], [16, 17, 18, 19],
    ]  # fmt: skip
    poses = estimator.poses()
    assert len(poses) == 20
    for (_, k), pose in poses.items():
        expected = similarity(1).apply_to_pose(drive.poses[k])
        np.testing.assert_allclose(pose.matrix, expected.matrix, atol=1e-7)


def test_images_without_motion_are_no_keyframes(panorama, drive, similarity):
    estimator = TrajectoryEstimator(Knowing(drive, similarity), TrajectoryConfig())
    for k in range(5):
        estimator.add(frame_set(panorama, 0, shift=k))
    assert len(estimator.keyframes) == 1
    assert estimator.dropped == {"too little motion": 4}


def test_a_place_seen_again_closes_the_loop(panorama, drive, similarity):
    def apart(max_loops):
        knowing = Knowing(drive, similarity, noise=0.01)
        config = TrajectoryConfig(window_views=6, shared_views=2, max_loops=max_loops)
        estimator = TrajectoryEstimator(knowing, config)
        results = [estimator.add(frame_set(panorama, k)) for k in range(28)]
        results.append(estimator.finish())
        assert (sum(r.loops for found in results for r in found) > 0) == (max_loops > 0)
        poses = estimator.poses()
        return max(
            np.linalg.norm(poses["cam", k].translation - poses["cam", k + 24].translation)
            for k in range(4)
        )

    assert apart(1) < 0.4 * apart(0)


@pytest.mark.parametrize("error", [AlignmentError, EngineError])
def test_after_a_failed_window_it_goes_on(panorama, drive, similarity, error):
    knowing = Knowing(drive, similarity)
    knowing.error = error
    config = TrajectoryConfig(window_views=6, shared_views=2)
    estimator = TrajectoryEstimator(knowing, config)
    for k in range(9):
        estimator.add(frame_set(panorama, k))
    knowing.broken = True
    with pytest.raises(error, match="no texture"):
        estimator.add(frame_set(panorama, 9))
    knowing.broken = False
    for k in range(6, 10):  # the camera comes back to where it was known
        result = estimator.add(frame_set(panorama, k))
    assert result
    assert estimator.dropped["window failed"] == 1
    assert len(estimator.poses()) == 10


def test_a_lost_camera_goes_on_where_it_is_known_again(panorama, drive, similarity):
    knowing = Knowing(drive, similarity)
    config = TrajectoryConfig(window_views=6, shared_views=2, max_loops=0)
    estimator = TrajectoryEstimator(knowing, config)
    for k in range(10):
        estimator.add(frame_set(panorama, k))
    knowing.broken = True
    for k in range(10, 13):
        estimator.add(frame_set(panorama, k))
    with pytest.raises(AlignmentError, match="no texture"):
        estimator.add(frame_set(panorama, 13))
    knowing.broken = False
    count = len(knowing.windows)
    for k in range(16, 19):
        estimator.add(frame_set(panorama, k))
    with pytest.raises(AlignmentError, match="lost"):  # nobody has seen this before
        estimator.add(frame_set(panorama, 19))
    assert len(knowing.windows) == count  # and no window was tried
    for k in range(24, 28):  # where it began
        result = estimator.add(frame_set(panorama, k))
    assert result
    assert {stamp for _, stamp in estimator.poses()} == {*range(10), *range(24, 28)}
    assert min(knowing.windows[-1]) < 4
    expected = similarity(1).apply_to_pose(drive.poses[2])
    np.testing.assert_allclose(estimator.poses()["cam", 26].matrix, expected.matrix, atol=1e-6)


def test_old_images_are_kept_small(panorama):
    kept = KeptImages(recent=2)
    for k in range(4):
        frame = frame_set(panorama, k).frames[0]
        kept.append(FrameSet(k, (replace(frame, depth_m=np.full((240, 320), 1.5, np.float32)),)))
    assert [s.stamp_ns for s in kept] == [0, 1, 2, 3]
    old, new = kept[0].frames[0], kept[3].frames[0]
    np.testing.assert_array_equal(new.rgb, frame_set(panorama, 3).frames[0].rgb)
    difference = np.abs(old.rgb.astype(int) - frame_set(panorama, 0).frames[0].rgb)
    assert np.median(difference) <= 10  # a picture of noise
    assert old.depth_m.dtype == np.float32
    np.testing.assert_allclose(old.depth_m, 1.5)
