"""The scale of a scene from depth in metres: of a depth camera, or of a network's belief."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.robust import sigma_from_mad
from vggt_ros.pipeline.scale_fusion import Evidence, NoScale
from vggt_ros.types import (
    Float32,
    Float64,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
    UnscaledScene,
    View,
)

DepthOf = Mapping[tuple[str, int], Float32]
"""Depth (H, W) [m], NaN invalid, by camera and the stamp of its set; of the view's pixels, at any
size."""

DEPTH_CAMERA_SIGMA = 0.01
"""Default of `scale.depth_camera_sigma`: what the makers of structured-light and stereo cameras
promise indoors (1 to 2 % of the distance)."""

_LEAST_POINTS = 30
_LEAST_AGREEMENT = 0.5
_AGREES = 0.1
"""Points agree whose ratio is this near the median (relative); half of them must, or the depth is
of something else than the scene."""
_EDGE = 0.1
"""Depth that varies by more among the nine pixels around a point is an edge: nobody knows which
side the point is on. (Of noise of 2 % in each pixel two thirds are kept.)"""
_TILES = 4
"""Points of one tile of an image, of 4 x 4, share their errors (bootstrap by blocks)."""
_RESAMPLES = 200
_MOST_RATIOS = 4000
_GRID_PX = 16
"""Dense views are compared at every so many pixels."""


def depth_of_sets(frame_sets: Iterable[FrameSet]) -> dict[tuple[str, int], Float32]:
    """The depth images that came with frame sets, as `scale_of_depth` wants them."""
    return {
        (frame.camera, frame_set.stamp_ns): frame.depth_m
        for frame_set in frame_sets
        for frame in frame_set.frames
        if frame.depth_m is not None
    }


def scale_of_depth(
    scene: UnscaledScene,
    depth_of: DepthOf,
    relative_sigma: float = DEPTH_CAMERA_SIGMA,
    source: ScaleSource = ScaleSource.DEPTH_CAMERA,
    *,
    undistorted: bool = False,
) -> Evidence:
    """Median ratio of metres to scene units over what the views saw.

    Where a view has features, at the features; else, where it is dense, on a grid; else wherever
    a point of the scene falls into it. The sigma is
    that of the median, by a bootstrap over blocks of points that share their errors, together
    with what all depths of the source may be wrong by.

    Args:
        scene: its views are looked up by (camera, stamp_ns).
        depth_of: depth in metres.
        relative_sigma: of the error that all depths have in common.
        source: what the estimate is called.
        undistorted: the depth is of the image without the lens distortion that `View.model` may
            have; else of the image in which the features were found.

    Returns:
        Metres per scene unit, or why there is none.
    """
    ratios, blocks = [np.zeros(0)], [np.zeros(0, np.int64)]
    block_of_point = np.full(len(scene.points), -1, np.int64)
    compared = 0
    for number, view in enumerate(scene.views):
        depth = depth_of.get((view.camera, view.stamp_ns))
        if depth is None:
            continue
        compared += 1
        rows, pixels, in_scene, size = _samples(scene, view, undistorted)
        metres = _at(depth, pixels, size)
        good = np.isfinite(metres) & (metres > 0) & (in_scene > 0)
        block = number * _TILES**2 + _tile(pixels, size)
        if len(rows):  # a point keeps the block of the first view that saw it
            fresh = block_of_point[rows] < 0
            block_of_point[rows[fresh]] = block[fresh]
            block = block_of_point[rows]
        ratios.append(np.log(metres[good] / in_scene[good]))
        blocks.append(block[good])
    if not compared:
        return NoScale(source, "no depth image came with the images of the bootstrap")
    return _estimate(np.concatenate(ratios), np.concatenate(blocks), relative_sigma, source)


def _estimate(
    ratios: Float64, blocks: NDArray[np.int64], relative_sigma: float, source: ScaleSource
) -> Evidence:
    if len(ratios) > _MOST_RATIOS:
        chosen = np.linspace(0, len(ratios) - 1, _MOST_RATIOS).astype(np.int64)
        ratios, blocks = ratios[chosen], blocks[chosen]
    if len(ratios) < _LEAST_POINTS:
        return NoScale(
            source, f"{len(ratios)} points of the scene have a depth, {_LEAST_POINTS} are needed"
        )
    median = float(np.median(ratios))
    agreeing = float(np.mean(np.abs(ratios - median) < _AGREES))
    if agreeing < _LEAST_AGREEMENT:
        return NoScale(
            source,
            f"{agreeing:.0%} of {len(ratios)} depths fit one scale within {_AGREES:.0%}, "
            f"{_LEAST_AGREEMENT:.0%} are needed; is the depth aligned to the image, and in metres "
            "(32FC1) or millimetres (16UC1)?",
        )
    spread = _sigma_of_median(ratios, blocks)
    value = float(np.exp(median))
    return ScaleEstimate(value, value * float(np.hypot(spread, relative_sigma)), source)


def _sigma_of_median(ratios: Float64, blocks: NDArray[np.int64]) -> float:
    """Standard deviation of the median over bootstraps of whole blocks; always the same."""
    _, block = np.unique(blocks, return_inverse=True)
    count = int(block.max()) + 1
    order = np.argsort(ratios)
    random = np.random.default_rng(0)
    times = random.multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    weights = np.cumsum(times[:, block[order]], axis=1)
    middle = np.argmax(2 * weights >= weights[:, -1:], axis=1)
    medians = ratios[order][middle]
    return float(sigma_from_mad(medians - np.median(medians))) or float(np.std(medians))


def _samples(
    scene: UnscaledScene, view: View, undistorted: bool
) -> tuple[NDArray[np.int64], Float64, Float64, tuple[int, int]]:
    """Rows of points (empty for dense views), pixels, depths [scene units], size of the image."""
    camera_from_scene = view.scene_from_camera.inverse()
    if view.features is not None:
        rows = np.asarray(view.features.rows, np.int64)
        in_camera = camera_from_scene.apply(scene.points[rows])
        pixels = view.features.pixels
        if undistorted and view.model.is_distorted:
            pixels = view.model.without_distortion().project(in_camera)
        return rows, pixels, in_camera[:, 2], view.model.size
    if view.depth is not None:
        height, width = view.depth.shape
        y, x = np.mgrid[_GRID_PX // 2 : height : _GRID_PX, _GRID_PX // 2 : width : _GRID_PX]
        pixels = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
        depths = view.depth[y.ravel(), x.ravel()].astype(np.float64)
        return np.zeros(0, np.int64), pixels, np.nan_to_num(depths), (width, height)
    in_camera = camera_from_scene.apply(scene.points.reshape(-1, 3))
    model = view.model.without_distortion() if undistorted else view.model
    rows = np.flatnonzero(in_camera[:, 2] > 0)
    return rows, model.project(in_camera[rows]), in_camera[rows, 2], model.size


def _at(depth: Float32, pixels: Float64, size: tuple[int, int]) -> Float64:
    """Depth (N,) at pixels of an image of another size; NaN outside, beside holes and at edges.

    The median of nine, which on a slanted surface is the middle one without its noise.
    """
    height, width = depth.shape
    factor = np.array([width / size[0], height / size[1]])
    found = np.full(len(pixels), np.nan)
    finite = np.isfinite(pixels).all(axis=1)
    at = np.zeros((len(pixels), 2), np.int64)
    at[finite] = np.rint((pixels[finite] + 0.5) * factor - 0.5).astype(np.int64)
    inside = finite & ((at >= 1) & (at < np.array([width - 1, height - 1]))).all(axis=1)
    x, y = at[inside].T
    around = np.stack(
        [depth[y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=1
    ).astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN: a hole, which is no smooth surface
        smooth = around.max(axis=1) <= (1 + _EDGE) * around.min(axis=1)
    found[inside] = np.where(smooth, np.median(around, axis=1), np.nan)
    return found


def _tile(pixels: Float64, size: tuple[int, int]) -> NDArray[np.int64]:
    share = np.nan_to_num(pixels) / np.array(size, np.float64)
    tile = np.clip((share * _TILES).astype(np.int64), 0, _TILES - 1)
    return np.asarray(tile[:, 1] * _TILES + tile[:, 0])
