"""Overlap and texture on images whose answer is known."""

import cv2
import numpy as np
import pytest

from vggt_ros.sources.overlap import find_features, measure_overlap, texture_share


def wall(seed, height=240, width=640):
    """Blobs of all sizes: what SIFT likes, with nothing twice."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for sigma in (2, 4, 8, 16):
        noise = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), None, sigma)
        total += noise / noise.std()
    grey = (128 + 30 * total).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def test_overlap_of_a_plane():
    image = wall(0)
    left, right = find_features(image[:, :320]), find_features(image[:, 160:480])
    found = measure_overlap(left, right)
    assert found.is_connected
    assert found.planar
    assert found.share == pytest.approx(0.5, abs=0.15)


def test_no_overlap():
    image = wall(0)
    left, right = find_features(image[:, :310]), find_features(image[:, 330:])
    assert measure_overlap(left, right).verified == 0
    assert measure_overlap(left, find_features(np.full_like(image, 90))).verified == 0


def test_texture_of_a_half_blank_image():
    image = wall(0)
    assert texture_share(image) > 0.99
    assert texture_share(np.full_like(image, 90)) == 0.0
    image[:, 320:] = 90
    assert texture_share(image) == pytest.approx(0.5, abs=0.02)


def test_real_photographs(shared_data):
    """Neighbours overlap, images of different places do not."""

    def load(path):
        return find_features(cv2.imread(str(shared_data / path))[..., ::-1].copy())

    fountain = [load(f"fountain_p11/{k:04d}.jpg") for k in (0, 1)]
    found = measure_overlap(*fountain)
    assert found.verified > 300
    assert not found.planar
    assert measure_overlap(fountain[0], load("room5/color/1.png")).verified == 0
