"""Nearest neighbours against brute force."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.evaluation.nearest import NearestNeighbours


def brute(points, queries):
    return np.linalg.norm(queries[:, None] - points[None], axis=2).min(axis=1)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 300),
    kind=st.sampled_from(["normal", "grid", "line", "same", "clusters"]),
)
def test_exact(seed, count, kind):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (count, 3))
    if kind == "grid":
        points = np.round(points)
    elif kind == "line":
        points[:, 1:] = 3.0
    elif kind == "same":
        points[:] = points[0]
    elif kind == "clusters":
        points = points * 1e-3 + rng.integers(0, 2, (count, 1)) * 1000.0
    queries = np.concatenate([rng.normal(0, 3, (20, 3)), points[:20], points[:5] + 1e3])
    distance, index = NearestNeighbours(points).query(queries)
    np.testing.assert_allclose(distance, brute(points, queries), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(queries - points[index], axis=1), distance)


def test_large_float32_cloud():
    rng = np.random.default_rng(0)
    points = rng.random((20_000, 3)).astype(np.float32)
    queries = rng.random((200, 3))
    distance, _ = NearestNeighbours(points).query(queries)
    np.testing.assert_allclose(distance, brute(points.astype(float), queries))


def test_queries_far_from_all_points_are_not_slow():
    rng = np.random.default_rng(0)
    points = rng.random((100_000, 3))
    queries = points[:20_000] + 100.0
    start = time.perf_counter()
    distance, _ = NearestNeighbours(points).query(queries)
    assert time.perf_counter() - start < 10  # visiting every leaf takes minutes
    corner = points[np.argmax(points.sum(axis=1))]
    assert (distance <= np.linalg.norm(queries - corner, axis=1) + 1e-12).all()


def test_what_is_not_finite():
    points = np.array([[np.nan, 0, 0], [1, 2, 3], [np.inf, 0, 0]])
    distance, index = NearestNeighbours(points).query([[1, 2, 5], [np.nan, 0, 0]])
    np.testing.assert_array_equal(distance, [2, np.nan])
    np.testing.assert_array_equal(index, [1, -1])
    with pytest.raises(ValueError, match="at least one finite"):
        NearestNeighbours(points[:1])
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        NearestNeighbours(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"\(M, 3\)"):
        NearestNeighbours(np.zeros((3, 3))).query(np.zeros(3))
