"""Finding the cameras of a loaded map by their images, on a cube before a wall."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.pipeline.archive import SavedMap
from vggt_ros.pipeline.landmarks import MOST_IMAGES, SeenView, joined, landmarks_of
from vggt_ros.pipeline.reanchor import LEAST_INLIERS, reanchor
from vggt_ros.synthetic.scenes import box_world
from vggt_ros.types import (
    AlignedScene,
    Features,
    Frame,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
)

MODEL = CameraModel(320, 240, 266.0, 266.0, 159.5, 119.5)
POSES = {
    name: Rigid3.from_rotation_vector((0, -0.1 * (k - 1), 0), (0.3 * (k - 1), 0.02 * k, 0))
    for k, name in enumerate(("left", "middle", "right"))
}
NONE = np.zeros((0, 3))


@pytest.fixture(scope="module")
def world():
    return box_world()


@pytest.fixture(scope="module")
def saved(world):
    landmarks = []
    for name, pose in POSES.items():
        image = world.render(MODEL, pose, supersample=1)
        view = SeenView(Frame(name, 0, image.rgb, MODEL), pose, image.depth, MODEL)
        landmarks.append(landmarks_of(view, NONE))
    scene = AlignedScene(
        dict.fromkeys(POSES, MODEL),
        POSES,
        NONE,
        NONE.astype(np.uint8),
        ScaleEstimate(1.0, 0.01, ScaleSource.RIG),
        Sim3.identity(),
        {},
        "rig",
        (),
        "rig",
        Rigid3.identity(),
    )
    return SavedMap(Path("map.vggtmap"), {}, None, scene, {}, tuple(landmarks), {})


def frames(world, poses, seed=0):
    """Darker pictures with noise."""
    rng = np.random.default_rng(seed)
    found = []
    for name, pose in poses.items():
        rgb = 0.85 * world.render(MODEL, pose, supersample=1).rgb
        rgb = np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)
        found.append(Frame(name, 0, rgb, MODEL))
    return FrameSet(0, tuple(found))


def check(found, poses, centre_m=0.005, turn_deg=0.2):
    for name, pose in poses.items():
        error = pose.inverse() @ found.saved.scene.map_from_camera[name]
        assert np.linalg.norm(error.translation) < centre_m
        assert math.degrees(error.angle_rad) < turn_deg


def test_landmarks_are_where_the_surfaces_are(world, saved):
    for entry in saved.landmarks:
        assert len(entry) > 200
        wall, cube = (np.abs(entry.points_in_map[:, 2] - z) < 1e-3 for z in (3.0, 2.0))
        sides = (np.abs(entry.points_in_map[:, :2]).max(axis=1) - 0.3) < 1e-3
        assert (wall | cube | sides).all()
        again = MODEL.project(POSES[entry.camera].inverse().apply(entry.points_in_map))
        # the depth of the pixel, along the ray of the feature in it
        assert np.abs(again - entry.pixels).max() < 1e-3


@pytest.mark.parametrize(
    "motion",
    [
        Rigid3.identity(),
        Rigid3.from_rotation_vector((0.0, 0.15, 0.0), (0.2, 0.1, 0.3)),
        Rigid3.from_rotation_vector((0.1, -0.2, 0.3), (-0.1, 0.2, -0.4)),
    ],
)
def test_a_rig_that_was_moved_is_found(world, saved, motion):
    poses = {name: motion @ pose for name, pose in POSES.items()}
    found = reanchor(saved, frames(world, poses))
    check(found, poses)
    assert not found.moved
    assert min(found.inliers.values()) > LEAST_INLIERS
    np.testing.assert_allclose(found.motion.matrix, motion.matrix, atol=0.005)
    np.testing.assert_allclose(
        found.saved.scene.map_from_rig.matrix, found.motion.matrix, atol=1e-12
    )
    assert "found by its images" in str(found)
    assert len(found.saved.scene.points_in_map) == sum(len(e) for e in saved.landmarks)


def test_a_camera_that_sees_nothing_goes_with_the_rig(world, saved):
    motion = Rigid3.from_rotation_vector((0.0, 0.1, 0.0), (0.1, 0.0, 0.1))
    poses = {name: motion @ pose for name, pose in POSES.items()}
    live = frames(world, poses)
    dark = dataclasses.replace(live.frames[0], rgb=np.zeros_like(live.frames[0].rgb))
    found = reanchor(saved, FrameSet(0, (dark, *live.frames[1:])))
    check(found, poses)
    assert found.inliers["left"] == 0
    missing = reanchor(saved, FrameSet(0, live.frames[1:]))
    check(missing, poses)


def test_a_camera_that_was_bumped_is_named_and_placed(world, saved, caplog):
    bump = Rigid3.from_rotation_vector((0.0, 0.06, 0.0), (0.04, 0.0, 0.0))
    poses = {n: pose @ bump if n == "middle" else pose for n, pose in POSES.items()}
    found = reanchor(saved, frames(world, poses))
    assert found.moved == ("middle",)
    check(found, poses)
    assert "moved on the rig since" in str(found)
    assert "middle moved on the rig" in caplog.text


def test_intrinsics_that_nobody_gives_are_those_of_the_map(world, saved):
    live = frames(world, POSES)
    bare = FrameSet(0, tuple(dataclasses.replace(f, model=None) for f in live.frames))
    check(reanchor(saved, bare), POSES)


def test_another_place_is_refused_with_counts(world, saved):
    shuffled = []
    rng = np.random.default_rng(3)
    for entry in saved.landmarks:  # as many matches as ever, and all of them wrong
        points = entry.points_in_map[rng.permutation(len(entry))]
        shuffled.append(dataclasses.replace(entry, points_in_map=points))
    wrong = dataclasses.replace(saved, landmarks=tuple(shuffled))
    with pytest.raises(AlignmentError, match=r"left \d+ of \d{3,}, middle \d+ of \d{3,}") as told:
        reanchor(wrong, frames(world, POSES))
    by_chance = [int(count) for count in re.findall(r"(\d+) of \d{2,}", str(told.value))]
    assert len(by_chance) == 3
    assert max(by_chance) < 0.4 * LEAST_INLIERS
    grey = FrameSet(
        0, tuple(Frame(n, 0, np.full((240, 320, 3), 99, np.uint8), MODEL) for n in POSES)
    )
    with pytest.raises(AlignmentError, match="left 0 of 0"):
        reanchor(saved, grey)
    strangers = FrameSet(0, (Frame("top", 0, np.zeros((240, 320, 3), np.uint8), MODEL),))
    with pytest.raises(AlignmentError, match="no camera of the map is in the set"):
        reanchor(saved, strangers)
    with pytest.raises(AlignmentError, match="holds no landmarks"):
        reanchor(dataclasses.replace(saved, landmarks=()), strangers)


def test_triangulated_points_win_over_the_surface(world):
    image = world.render(MODEL, POSES["left"], supersample=1)
    view = SeenView(Frame("left", 0, image.rgb, MODEL), POSES["left"], image.depth, MODEL)
    plain = landmarks_of(view, NONE)
    cells = np.unique(plain.pixels // 5, axis=0, return_index=True)[1]
    chosen = np.sort(cells)[:10]  # far from each other
    centre = POSES["left"].translation
    points = centre + 1.1 * (plain.points_in_map[chosen] - centre)  # behind the surface
    points[9] = centre + 1.1 * (points[8] - centre)  # of another image
    features = Features(np.arange(10), plain.pixels[chosen].astype(float) + [0.3, -0.2])
    better = landmarks_of(dataclasses.replace(view, features=features), points)
    same = (better.points_in_map == plain.points_in_map).all(axis=1)
    assert 9 <= (~same).sum() <= 18  # SIFT gives some places with two directions
    np.testing.assert_array_equal(better.points_in_map[chosen[:9]], points[:9].astype(np.float32))
    assert same[chosen[9]]


def test_a_few_images_of_each_camera_are_kept(saved):
    one = saved.landmarks[0]
    empty = dataclasses.replace(
        one, pixels=one.pixels[:0], descriptors=one.descriptors[:0], points_in_map=NONE
    )
    kept = joined([one], [*saved.landmarks] * 30 + [empty])
    assert [e.camera for e in kept].count("left") == MOST_IMAGES
    assert [e.camera for e in kept].count("right") == MOST_IMAGES
    assert joined([empty], []) == ()
