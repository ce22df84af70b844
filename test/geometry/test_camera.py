"""Cameras against OpenCV, an independent implementation of the same models."""

import cv2
import numpy as np
import pytest

from vggt_ros.geometry import CameraModel

POINTS = np.random.default_rng(0).uniform([-1, -0.7, 1], [1, 0.7, 3], (200, 3))
PLUMB_BOB = (-0.2, 0.05, 0.001, -0.002, 0.01)
RATIONAL = (0.3, -0.1, 0.001, -0.002, 0.02, 0.5, -0.05, 0.01)


def model(kind: str = "none", coefficients: tuple[float, ...] = ()) -> CameraModel:
    return CameraModel(640, 480, 500.0, 510.0, 322.5, 238.0, kind, coefficients)


@pytest.mark.parametrize(
    "camera", [model(), model("plumb_bob", PLUMB_BOB), model("rational_polynomial", RATIONAL)]
)
def test_projection_agrees_with_opencv(camera):
    expected, _ = cv2.projectPoints(
        POINTS, np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.distortion)
    )
    assert np.allclose(camera.project(POINTS), expected[:, 0], atol=1e-9)


def test_equidistant_projection_agrees_with_opencv():
    coefficients = (0.1, -0.05, 0.01, -0.002)
    camera = model("equidistant", coefficients)
    expected, _ = cv2.fisheye.projectPoints(
        POINTS[:, None], np.zeros(3), np.zeros(3), camera.matrix, np.array(coefficients)
    )
    assert np.allclose(camera.project(POINTS), expected[:, 0], atol=1e-9)


def test_unproject_inverts_project():
    camera = model()
    depth = np.random.default_rng(1).uniform(0.5, 5, (480, 640))
    pixels = camera.project(camera.unproject(depth))
    v, u = np.mgrid[:480, :640]
    assert np.allclose(pixels, np.stack([u, v], axis=-1), atol=1e-3)


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(model().project([0.1, 0.1, -1.0])).all()


def test_resizing_keeps_the_edges_of_the_image():
    """The image covers -0.5 to width - 0.5; its corner stays its corner."""
    half = model().resized(320, 240)
    corner = np.array([(-0.5 - 322.5) / 500.0, (-0.5 - 238.0) / 510.0, 1.0])
    assert np.allclose(half.project(corner), [-0.5, -0.5])
    assert half.resized(640, 480).matrix == pytest.approx(model().matrix)


def test_field_of_view():
    camera = CameraModel(640, 480, 320.0, 320.0, 319.5, 239.5)
    assert camera.horizontal_fov_rad == pytest.approx(np.pi / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 480, 500, 500, 320, 240), "size"),
        ((640, 480, 0, 500, 320, 240), "focal"),
        ((640, 480, float("nan"), 500, 320, 240), "finite"),
        ((640, 480, 500, 500, 320, 240, "fisheye"), "plumb_bob"),
        ((640, 480, 500, 500, 320, 240, "plumb_bob", (0.1,)), "coefficients"),
    ],
)
def test_impossible_cameras_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CameraModel(*arguments)
