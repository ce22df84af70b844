"""The covariance of camera poses against the scatter of many bundle adjustments."""

from __future__ import annotations

import numpy as np
import pytest

from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.pycolmap_import import import_pycolmap
from vggt_ros.pipeline.sfm_covariance import Observations, pose_covariance

FOCAL = 400.0
NOISE_PX = 0.5


def cameras() -> list[Rigid3]:
    """camera_from_scene of three cameras that look along z."""
    centres = np.array([[0.0, 0.0, 0.0], [0.5, 0.1, 0.0], [1.0, 0.0, 0.1]])
    turns = np.array([[0.0, 0.0, 0.0], [0.0, -0.1, 0.0], [0.02, -0.2, 0.0]])
    return [
        Rigid3.from_rotation_vector(t, c).inverse() for t, c in zip(turns, centres, strict=True)
    ]


def observe(points: np.ndarray, random: np.random.Generator | None) -> list[np.ndarray]:
    """Pixels (M, 2) per camera, COLMAP's convention, of a 640 x 480 image."""
    pixels = []
    for pose in cameras():
        x = pose.apply(points)
        noise = 0.0 if random is None else random.normal(size=(len(points), 2)) * NOISE_PX
        pixels.append(FOCAL * x[:, :2] / x[:, 2:] + [320.0, 240.0] + noise)
    return pixels


def bundle_adjusted(points: np.ndarray, pixels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Poses (3, 3, 4) and points after bundle adjustment from the truth."""
    pycolmap = import_pycolmap()
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(
            model="PINHOLE", width=640, height=480, params=[FOCAL, FOCAL, 320, 240], camera_id=1
        )
    )
    for k, pose in enumerate(cameras()):
        image = pycolmap.Image(name=str(k), keypoints=pixels[k], camera_id=1, image_id=k + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose.matrix[:3]))
    for row, point in enumerate(points):
        track = pycolmap.Track()
        for k in range(3):
            track.add_element(k + 1, row)
        model.add_point3D(point, track)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = False
    pycolmap.bundle_adjustment(model, options)
    poses = np.array([model.image(k + 1).cam_from_world().matrix() for k in range(3)])
    found = np.array([model.point3D(i).xyz for i in sorted(model.point3D_ids())])
    return poses, found


def observations(groups: list[int], random: np.random.Generator) -> Observations:
    points = np.random.default_rng(0).uniform([-1, -1, 3], [2, 1, 6], (60, 3))
    rows = [np.arange(60)] * 3
    errors = [random.normal(size=(60, 2)) * NOISE_PX for _ in range(3)]
    poses = np.array([pose.matrix[:3] for pose in cameras()])
    return Observations(poses, points, rows, errors, np.array([[FOCAL, 0.0]] * 3), groups)


def test_scatter_of_the_baseline_against_the_points() -> None:
    random = np.random.default_rng(1)
    points = np.random.default_rng(0).uniform([-1, -1, 3], [2, 1, 6], (60, 3))
    ratios = []
    for _ in range(60):
        poses, found = bundle_adjusted(points, observe(points, random))
        first, last = (-p[:, :3].T @ p[:, 3] for p in (poses[0], poses[2]))
        # The size of the scene, weighted as the covariance weighs it.
        middle = np.array([0.5, 0.03, 0.03])
        weights = 1 / np.linalg.norm(points - middle, axis=1) ** 4
        spread = found - (weights @ found) / weights.sum()
        size = np.sqrt(weights @ (spread**2).sum(axis=1))
        ratios.append(np.log(np.linalg.norm(last - first) / size))
    errors = [random.normal(size=(60, 2)) * NOISE_PX for _ in range(3)]
    shrink = np.sqrt((360 - 18 - 180) / 360)  # as bundle adjustment leaves them
    poses = np.array([pose.matrix[:3] for pose in cameras()])
    covariance = pose_covariance(
        Observations(
            poses,
            points,
            [np.arange(60)] * 3,
            [e * shrink for e in errors],
            np.array([[FOCAL, 0.0]] * 3),
            [-1, -1, -1],
        )
    )
    assert covariance is not None
    baseline = np.array([1.0, 0.0, 0.1])
    gradient = np.zeros(18)
    gradient[0:3], gradient[12:15] = -baseline, baseline
    gradient /= baseline @ baseline
    predicted = np.sqrt(gradient @ covariance @ gradient)
    assert predicted == pytest.approx(np.std(ratios), rel=0.3)


def test_covariance_is_symmetric_positive_and_grows_with_unknown_intrinsics() -> None:
    known = pose_covariance(observations([-1, -1, -1], np.random.default_rng(2)))
    shared = pose_covariance(observations([1, 1, 1], np.random.default_rng(2)))
    assert known is not None
    assert shared is not None
    for covariance in (known, shared):
        assert covariance.shape == (18, 18)
        np.testing.assert_array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > -1e-9
    assert (np.diag(shared) > np.diag(known)).all()


def test_nothing_to_go_by() -> None:
    empty = Observations(
        np.array([p.matrix[:3] for p in cameras()]),
        np.zeros((0, 3)),
        [np.zeros(0, np.int64)] * 3,
        [np.zeros((0, 2))] * 3,
        np.array([[FOCAL, 0.0]] * 3),
        [-1, -1, -1],
    )
    assert pose_covariance(empty) is None
