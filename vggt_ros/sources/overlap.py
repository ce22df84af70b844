"""How much two images show of the same scene, and how much texture there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.types import Image

MIN_MATCHES = 30
"""Fewer verified matches do not carry a relative pose: twice what COLMAP asks of a pair (15),
because the features here are fewer and the count is one of a single set."""
_MAX_FEATURES = 2000
_MAX_WIDTH_PX = 1000
_MAX_RATIO = 0.8
"""Distance of the best to the second-best match (Lowe 2004, section 7.1)."""
_MAX_ERROR_PX = 2.0
_TEXTURE_WINDOW_PX = 7
_TEXTURE_LEVELS = 2.0
"""Below this local standard deviation [grey levels] stereo fails: measured 24-27 % median depth
error against 5 % elsewhere."""


@dataclass(frozen=True, eq=False)
class Features:
    """SIFT features of one image: positions (N, 2) [px], unit descriptors (N, 128)."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    scale: float = 1.0
    """Width of the image in which `points` are, by that of the image given."""


@dataclass(frozen=True)
class PairOverlap:
    """Verified matches of two images."""

    matches: int
    verified: int
    """Matches that fit one fundamental matrix or one homography."""
    share: float
    """Verified matches of all features of the poorer image."""
    planar: bool
    """A homography explains almost all of them: a plane, or no distance between the cameras."""

    @property
    def is_connected(self) -> bool:
        """Enough for a relative pose."""
        return self.verified >= MIN_MATCHES


def texture_share(rgb: Image) -> float:
    """Share of the pixels whose surroundings vary by two grey levels or more."""
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    window = (_TEXTURE_WINDOW_PX, _TEXTURE_WINDOW_PX)
    mean = cv2.blur(grey, window)
    variance = cv2.blur(grey * grey, window) - mean * mean
    return float((variance >= _TEXTURE_LEVELS**2).mean())


def find_features(rgb: Image) -> Features:
    """The strongest SIFT features, as RootSIFT (Arandjelovic and Zisserman, CVPR 2012)."""
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _MAX_WIDTH_PX / grey.shape[1])
    if scale < 1.0:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT.create(_MAX_FEATURES).detectAndCompute(grey, None)
    if descriptors is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32), scale)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    positions = np.array([p.pt for p in points], np.float32)
    return Features(positions, root.astype(np.float32), scale)


def measure_overlap(first: Features, second: Features) -> PairOverlap:
    """Match two images and verify the matches by epipolar geometry."""
    import cv2

    least = min(len(first.points), len(second.points))
    pairs = match_features(first.descriptors, second.descriptors)
    if len(pairs) < 8:  # a fundamental matrix needs eight
        return PairOverlap(len(pairs), 0, 0.0, False)
    a, b = first.points[pairs[:, 0]], second.points[pairs[:, 1]]
    cv2.setRNGSeed(0)
    _, on_lines = cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, _MAX_ERROR_PX, 0.999)
    _, on_plane = cv2.findHomography(a, b, cv2.RANSAC, _MAX_ERROR_PX)
    epipolar = 0 if on_lines is None else int(np.count_nonzero(on_lines))
    homography = 0 if on_plane is None else int(np.count_nonzero(on_plane))
    verified = max(epipolar, homography)
    # Seven or eight chance matches always fit some fundamental matrix.
    if verified < 12:
        verified = 0
    share = verified / least if least else 0.0
    return PairOverlap(len(pairs), verified, share, bool(homography > 0.9 * verified > 0))


def match_features(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.int64]:
    """(M, 2) indices of mutual best matches that pass the ratio test."""
    if len(first) < 2 or len(second) < 2:
        return np.zeros((0, 2), np.int64)
    similarity = first @ second.T
    best = similarity.argmax(axis=1)
    rows = np.arange(len(first))
    top = similarity[rows, best]
    back = similarity.argmax(axis=0)
    similarity[rows, best] = -1.0
    runner_up = similarity.max(axis=1)
    # unit vectors: squared distance = 2 - 2 similarity
    distinct = (1 - top) < _MAX_RATIO**2 * (1 - runner_up)
    chosen = distinct & (back[best] == rows)
    return np.stack([rows[chosen], best[chosen]], axis=1)
