"""Tracks, triangulation and poses fitted within their sigmas, against exact geometry."""

import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.geometry.rigid3 import rotation_from_vector
from vggt_ros.pipeline.rig_adjustment import (
    Tracks,
    adjust,
    consistent,
    tracks_from_matches,
    triangulate,
)

MODELS = [CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)] * 4
TRUE = [
    Rigid3.from_rotation_vector([0, 0.05 * k, 0.01 * k], [0.25 * k, 0.02 * k, 0]) for k in range(4)
]
POINTS = np.random.default_rng(0).uniform([-1, -1, 2], [2, 1, 5], (400, 3))


def observed(noise_px: float = 0.0) -> tuple[Tracks, np.ndarray]:
    """What the four cameras see of the points, and the points that two of them see."""
    random = np.random.default_rng(1)
    views, tracks, pixels = [], [], []
    for view, pose in enumerate(TRUE):
        seen = MODELS[view].project(pose.inverse().apply(POINTS))
        inside = ((seen > 0) & (seen < [639, 479])).all(axis=1)
        views.append(np.full(inside.sum(), view))
        tracks.append(np.flatnonzero(inside))
        pixels.append(seen[inside] + random.normal(scale=noise_px, size=(inside.sum(), 2)))
    every = Tracks(
        np.concatenate(views), np.concatenate(tracks), np.concatenate(pixels), len(POINTS)
    )
    twice = np.bincount(every.tracks, minlength=len(POINTS)) > 1
    return every.selected(twice), POINTS[twice]


def pair_errors_deg(poses) -> float:
    """Largest error of the rotation between two cameras."""
    errors = []
    for i in range(4):
        for j in range(i):
            found, true = poses[i].inverse() @ poses[j], TRUE[i].inverse() @ TRUE[j]
            errors.append(np.degrees((found.inverse() @ true).angle_rad))
    return max(errors)


def test_exact_pixels_give_exact_points():
    tracks, points = observed()
    assert np.allclose(triangulate(tracks, MODELS, TRUE), points, atol=1e-8)
    assert consistent(tracks, points, MODELS, TRUE, 1e-6).all()


def test_parallel_rays_give_no_point():
    far = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)
    tracks = Tracks(np.array([0, 1]), np.array([0, 0]), np.array([[319.5, 239.5]] * 2), 1)
    poses = [Rigid3.identity(), Rigid3(np.eye(3), np.array([0.2, 0.0, 0.0]))]
    assert np.isnan(triangulate(tracks, [far, far], poses)).all()


def test_matches_are_joined_and_contradictions_left_out():
    keypoints = [np.arange(6.0).reshape(3, 2) + 10 * k for k in range(3)]
    matches = {
        (0, 1): np.array([[0, 0], [1, 1]]),
        (1, 2): np.array([[0, 2], [1, 0]]),
        (0, 2): np.array([[2, 0]]),  # 0:1 and 0:2 would be one track
    }
    tracks = tracks_from_matches(keypoints, matches)
    assert tracks.count == 1
    assert tracks.views.tolist() == [0, 1, 2]
    assert np.array_equal(tracks.pixels, [keypoints[0][0], keypoints[1][0], keypoints[2][2]])


def test_nothing_matched_is_no_track():
    assert tracks_from_matches([np.zeros((3, 2))] * 2, {}).count == 0


@pytest.mark.parametrize("noise_px", [0.0, 0.5])
def test_poses_come_back_from_a_degree_away(noise_px):
    random = np.random.default_rng(2)
    given = [
        Rigid3(
            p.rotation @ rotation_from_vector(random.normal(scale=np.deg2rad(1.0), size=3)),
            p.translation,
        )
        for p in TRUE
    ]
    tracks, points = observed(noise_px)
    assert pair_errors_deg(given) > 1.5
    found = adjust(tracks, MODELS, given, np.deg2rad(1.0), 1e-3)
    assert pair_errors_deg(found) < (0.05 if noise_px == 0 else 0.15)
    depth = triangulate(tracks, MODELS, found)[:, 2]
    assert np.median(np.abs(depth / points[:, 2] - 1)) < 0.02


def test_tight_sigmas_keep_the_given_poses():
    tracks, _ = observed()
    given = [Rigid3(p.rotation @ rotation_from_vector([0, 0.01, 0]), p.translation) for p in TRUE]
    found = adjust(tracks, MODELS, given, 1e-7, 1e-9)
    for before, after in zip(given, found, strict=True):
        assert np.allclose(before.matrix, after.matrix, atol=1e-5)
