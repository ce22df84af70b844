from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Sim3
from vggt_ros.geometry.rigid3 import rotation_angle
from vggt_ros.pipeline.motion.graph import ScalePrior, SceneGraph, unconnected
from vggt_ros.pipeline.motion.join import join_scenes

WINDOWS = [range(k, k + 6) for k in range(0, 24, 4)]
"""Of a whole round; the last reaches 26, so it shares views with nobody but the one before."""


def errors(graph, drive):
    """Relative to the first pose, in units of the true radius."""
    poses = graph.poses()
    first = drive.poses[0]
    scale = graph.map_from_scene[0].scale
    centre, turn = [], []
    start = poses["cam", 0]
    for (_, k), pose in poses.items():
        truth = first.inverse() @ drive.poses[k % 24]
        found = start.inverse() @ pose
        centre.append(np.linalg.norm(found.translation / scale - truth.translation))
        turn.append(rotation_angle(found.rotation.T @ truth.rotation))
    return np.array(centre), np.array(turn)


def test_exact_windows_give_exact_poses(drive, similarity):
    graph = SceneGraph()
    for k, members in enumerate(WINDOWS):
        graph.add(drive.window(members, similarity(k)))
    graph.solve()
    truth = similarity(0).scale
    poses = graph.poses()
    assert [key[1] for key in poses] == list(range(26))
    for (_, k), pose in poses.items():
        expected = similarity(0).apply_to_pose(drive.poses[k % 24])
        np.testing.assert_allclose(pose.matrix, expected.matrix, atol=1e-8 * max(truth, 1))


def test_a_closed_loop_ends_the_drift(drive, similarity):
    def chain(loop):
        graph = SceneGraph()
        for k, members in enumerate(WINDOWS):
            # every window is bent: its points are off, so that joins drift
            graph.add(drive.window(members, similarity(k), noise=0.01, seed=k))
        if loop:
            graph.add(drive.window([0, 1, 2, 22, 23, 24, 25], similarity(9), seed=9))
        graph.solve()
        poses = graph.poses()
        # 24 and 25 are the places of 0 and 1, a round later
        apart = [
            np.linalg.norm(poses["cam", k].translation - poses["cam", k + 24].translation)
            for k in (0, 1)
        ]
        return max(apart) / similarity(0).scale

    assert chain(loop=True) < 0.5 * chain(loop=False)


def test_scale_priors_give_metres(drive, similarity):
    graph = SceneGraph()
    for k, members in enumerate(WINDOWS):
        metres = 1 / similarity(k).scale
        prior = ScalePrior(metres * (1.02 if k % 2 else 0.98), 0.02)
        graph.add(drive.window(members, similarity(k)), prior)
    graph.solve()
    poses = graph.poses()
    found = np.linalg.norm(poses["cam", 12].translation - poses["cam", 0].translation)
    truth = np.linalg.norm(drive.poses[12].translation - drive.poses[0].translation)
    assert found == pytest.approx(truth, rel=1e-3)  # the priors' errors cancel


def test_first_scene_is_the_frame(drive, similarity):
    graph = SceneGraph()
    graph.add(drive.window(WINDOWS[0], similarity(0)))
    assert graph.map_from_scene[0].matrix.tolist() == Sim3.identity().matrix.tolist()
    graph.add(drive.window(WINDOWS[1], similarity(1)))
    graph.solve()
    np.testing.assert_array_equal(graph.map_from_scene[0].matrix, np.eye(4))


def test_window_that_joins_nothing_is_refused_and_forgotten(drive, similarity):
    graph = SceneGraph()
    graph.add(drive.window(range(6), similarity(0)))
    with pytest.raises(AlignmentError, match="joins none of the 1 before it"):
        graph.add(drive.window(range(12, 18), similarity(1)))
    assert len(graph.scenes) == 1
    assert unconnected(graph) == []


def test_of_a_dense_scene_only_what_joins_need_is_kept(drive, similarity):
    """Joins are the same with what is kept; depth of what no window can hold again goes."""
    scenes = [
        drive.window(members, similarity(k), dense=True) for k, members in enumerate(WINDOWS)
    ]
    doubtful = [
        replace(s, views=tuple(replace(v, confidence=_half_sure(v), rgb=RGB) for v in s.views))
        for s in scenes[:2]
    ]
    graph = SceneGraph()
    for scene in doubtful:
        graph.add(scene)
    whole = join_scenes(*doubtful)
    np.testing.assert_array_equal(graph.joins[0, 1].points_in_a, whole.points_in_a)
    assert all(v.rgb is None and v.confidence is None for s in graph.scenes for v in s.views)
    before = graph.depth_bytes
    assert before == sum(v.depth.nbytes for s in doubtful for v in s.views)
    graph.forget_depth({4, 5})
    assert graph.depth_bytes == before * 4 // 12
    assert graph.memory_bytes > graph.depth_bytes


RGB = np.zeros((240, 320, 3), np.uint8)


def _half_sure(view):
    confidence = np.ones_like(view.depth)
    confidence[:, ::2] = 0.2
    return confidence
