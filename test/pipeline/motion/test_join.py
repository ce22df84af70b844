import dataclasses

import numpy as np
import pytest

from vggt_ros.errors import AlignmentError
from vggt_ros.pipeline.motion.join import join_scenes


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a.matrix, b.matrix, atol=tolerance * max(1.0, abs(a.matrix).max()))


@pytest.mark.parametrize("dense", [False, True])
def test_exact_scenes_join_exactly(drive, similarity, dense):
    s, t = similarity(1), similarity(2)
    a = drive.window(range(6), s, dense=dense)
    b = drive.window(range(4, 10), t, dense=dense)
    join = join_scenes(a, b)
    close(join.a_from_b, s @ t.inverse(), 1e-6 if dense else 1e-9)
    assert join.shared_views == 2
    assert join.inlier_fraction > 0.99
    np.testing.assert_allclose(
        join.a_from_b.apply(join.points_in_b), join.points_in_a, atol=1e-5 if dense else 1e-9
    )


def test_a_third_of_the_depth_wrong(drive, similarity):
    s, t = similarity(3), similarity(4)
    a = drive.window(range(6), s, dense=True)
    b = drive.window(range(3, 9), t, dense=True)
    random = np.random.default_rng(0)
    views = []
    for view in b.views:
        wrong = random.random(view.depth.shape) < 0.33
        factor = np.where(wrong, random.uniform(1.2, 2.0, view.depth.shape), 1.0)
        views.append(dataclasses.replace(view, depth=(view.depth * factor).astype(np.float32)))
    join = join_scenes(a, dataclasses.replace(b, views=tuple(views)))
    close(join.a_from_b, s @ t.inverse(), 1e-5)
    assert join.inlier_fraction == pytest.approx(0.67, abs=0.03)


def test_no_shared_view(drive, similarity):
    a, b = drive.window(range(4), similarity(1)), drive.window(range(6, 10), similarity(2))
    with pytest.raises(AlignmentError, match="expected scenes that share views"):
        join_scenes(a, b)


def test_too_few_shared_points(drive, similarity):
    a, b = drive.window(range(4), similarity(1)), drive.window(range(2, 6), similarity(2))
    few = dataclasses.replace(b, points=b.points[:5], colours=b.colours[:5])
    with pytest.raises(AlignmentError, match="at least 30 points that both scenes see, got"):
        join_scenes(a, few)


def test_scenes_that_contradict_each_other(drive, similarity):
    a = drive.window(range(4), similarity(1), dense=True)
    b = drive.window(range(2, 6), similarity(2), dense=True)
    random = np.random.default_rng(0)
    views = tuple(
        dataclasses.replace(
            v, depth=(v.depth * np.exp(random.uniform(-1, 1, v.depth.shape))).astype(np.float32)
        )
        for v in b.views
    )
    with pytest.raises(AlignmentError, match="to agree on one similarity"):
        join_scenes(a, dataclasses.replace(b, views=views))
