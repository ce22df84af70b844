"""What confirms that views show the same things."""

import dataclasses
import math

import cv2
import numpy as np
import pytest

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.view_overlap import (
    MIN_LIKENESS,
    Overlap,
    keep_overlapping,
    largest_group,
    measure_overlaps,
)
from vggt_ros.types import UnscaledScene, View


@pytest.fixture(scope="module")
def views(box_scene):
    found = []
    for camera in box_scene.rig.cameras:
        depth = box_scene.depth(camera.name, camera.model)
        found.append(
            View(
                camera.name,
                0,
                camera.model,
                box_scene.map_from_camera[camera.name],
                depth=depth,
                confidence=np.ones_like(depth),
                depth_model=camera.model,
                rgb=box_scene.images[camera.name],
            )
        )
    return found


def scene_of(views):
    return UnscaledScene(tuple(views), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), (), "vggt")


def test_true_views_overlap_and_look_alike(views):
    overlaps = measure_overlaps(views)
    assert [(o.first, o.second) for o in overlaps] == [(0, 1), (0, 2), (1, 2)]
    for overlap in overlaps:
        assert 0.3 < overlap.consistent <= overlap.landed <= 1.0
        assert overlap.likeness > 0.9
        assert overlap.confirms(0.1)


def test_brightness_and_contrast_do_not_matter(views):
    darker = cv2.convertScaleAbs(views[1].rgb, alpha=0.5, beta=20)
    changed = [views[0], dataclasses.replace(views[1], rgb=darker)]
    assert measure_overlaps(changed)[0].likeness > 0.9


def test_little_errors_are_forgiven(views):
    turn = Rigid3.from_rotation_vector((0.003, 0.01, 0), (0.01, 0, 0))
    moved = dataclasses.replace(
        views[1],
        scene_from_camera=views[1].scene_from_camera @ turn,
        depth=views[1].depth * np.float32(1.02),
    )
    overlap = measure_overlaps([views[0], moved])[0]
    assert overlap.consistent > 0.3
    assert overlap.likeness > MIN_LIKENESS


def test_depth_that_agrees_by_chance_does_not_confirm(views):
    plane = [
        dataclasses.replace(
            v, scene_from_camera=Rigid3.identity(), depth=np.full_like(v.depth, 2.0)
        )
        for v in views
    ]
    for overlap in measure_overlaps(plane):
        assert overlap.consistent == 1.0
        assert overlap.likeness < overlap.unmoved + 0.02
        assert not overlap.confirms(0.1)


def test_views_that_look_away_have_nothing_in_common(views):
    away = Rigid3.from_rotation_vector((0, math.pi, 0))
    other = dataclasses.replace(views[1], scene_from_camera=away)
    overlap = measure_overlaps([views[0], other])[0]
    assert overlap.landed == overlap.consistent == 0.0
    assert math.isnan(overlap.likeness)


def test_views_without_any_depth_are_no_error(views):
    empty = dataclasses.replace(views[1], depth=np.full_like(views[1].depth, np.nan))
    assert measure_overlaps([views[0], empty])[0].consistent == 0.0
    with pytest.raises(ValueError, match="expected a dense view"):
        measure_overlaps([views[0], dataclasses.replace(views[1], rgb=None)])


def test_the_largest_group_and_of_equals_the_first():
    def pair(i, j):
        return Overlap(i, j, 0.5, 0.5, 0.9)

    weak = Overlap(0, 2, 0.5, 0.05, 0.9)
    assert largest_group(4, [pair(2, 3), pair(1, 3), weak], 0.1) == [1, 2, 3]
    assert largest_group(4, [pair(0, 3), pair(1, 2)], 0.1) == [0, 3]
    assert largest_group(3, [], 0.1) == [0]
    assert largest_group(4, [pair(0, 1), pair(2, 3), pair(1, 2)], 0.1) == [0, 1, 2, 3]


def test_too_few_are_told_with_figures(views):
    away = Rigid3.from_rotation_vector((0, math.pi, 0))
    scene = scene_of([views[0], dataclasses.replace(views[1], scene_from_camera=away)])
    with pytest.raises(AlignmentError) as caught:
        keep_overlapping(scene, 0.1, 2)
    assert "got 1 of 2" in str(caught.value)
    assert "left with middle 0.0%, likeness none" in str(caught.value)
    assert len(keep_overlapping(scene, 0.1, 1).views) == 1
    with pytest.raises(AlignmentError, match="left: no other view"):
        keep_overlapping(scene_of(views[:1]), 0.1, 2)


def test_an_answer_must_explain_more_than_the_images_do_by_themselves():
    def confirms(likeness, unmoved):
        return Overlap(0, 1, 0.9, 0.9, likeness, unmoved).confirms(0.1)

    assert confirms(0.7, 0.5)
    assert not confirms(0.7, 0.7)  # "one place" for views that are near each other
    assert confirms(0.9, 0.95)  # cameras that hardly moved
    assert not confirms(0.35, 0.1)
    assert not confirms(math.nan, math.nan)


def test_photographs(shared_data):
    """Five views that are near each other, with depth: the right poses, and one place for all."""
    folder = shared_data / "room5"
    model = CameraModel(640, 480, 518.0, 519.0, 325.5, 253.5)
    views = []
    lines = (folder / "pose.txt").read_text().split("\n")
    for k, line in enumerate(line for line in lines if line.strip()):
        numbers = [float(word) for word in line.split()]
        bgr = cv2.imread(str(folder / "color" / f"{k + 1}.png"))
        depth = cv2.imread(str(folder / "depth" / f"{k + 1}.png"), cv2.IMREAD_UNCHANGED) / 1000.0
        depth = np.where(depth > 0, depth, np.nan).astype(np.float32)
        views.append(
            View(
                f"view {k}",
                0,
                model,
                Rigid3.from_quaternion(numbers[3:], numbers[:3]),
                depth=depth,
                confidence=np.ones_like(depth),
                depth_model=model,
                rgb=cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB),
            )
        )
    kept = keep_overlapping(scene_of(views), 0.1, 5)
    assert len(kept.views) == 5
    one_place = [
        dataclasses.replace(
            v, scene_from_camera=Rigid3.identity(), depth=np.full_like(v.depth, 2.0)
        )
        for v in views
    ]
    assert not any(o.confirms(0.1) for o in measure_overlaps(one_place))
