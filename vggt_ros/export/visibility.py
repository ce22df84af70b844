"""Which cameras see which points of a map, with what stands in front taken into account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggt_ros.export import visibility_kernels as kernels
from vggt_ros.export.rows import chunks
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import Float32, Float64, PointCloud

FRACTION = 0.03
"""Of the depth: a point this much behind the nearest one still counts as seen. Maps from plane
sweep are about as thick: on 11 photographs points up to 3 % behind the front had the colour of
the image as well as the front itself had, those 10 % behind had not."""

MARGIN = 2.5
"""The same in distances between neighbouring points and between pixels: the squares that close
the gaps between points stand upright, the surface may slant (up to 70 degrees)."""

LEAST_PER_BLOCK = 4
"""Points in a block of the image from which the distance between neighbours is taken."""

CHUNK = 1 << 17
"""Points at a time."""


class Projection(NamedTuple):
    """Points as a camera sees them."""

    pixels: Float64
    """(N, 2), the centre of the top-left pixel is (0, 0); NaN behind the camera."""
    depths: Float64
    """(N,) along z, in map units."""


def project(points_in_map: Float32, model: CameraModel, map_from_camera: Rigid3) -> Projection:
    """Project points (N, 3), distortion included.

    Far outside the image a distortion model may bend rays back into it; points more than half
    the image beside its ideal borders are given NaN.
    """
    camera_from_map = map_from_camera.inverse()
    pixels, depths = np.empty((len(points_in_map), 2)), np.empty(len(points_in_map))
    kernels.project(
        points_in_map,
        camera_from_map.rotation,
        camera_from_map.translation,
        *(model.fx, model.fy, model.cx, model.cy),
        pixels,
        depths,
    )
    if model.is_distorted:
        ideal = pixels
        pixels = model.project(camera_from_map.apply(points_in_map.astype(np.float64)))
        if model.distortion_model != "equidistant":
            size = np.array([model.width, model.height])
            pixels[((ideal < -0.5 * size) | (ideal > 1.5 * size)).any(axis=1)] = np.nan
    return Projection(pixels, depths)


def projections(
    points_in_map: Float32, model: CameraModel, map_from_camera: Rigid3
) -> Iterator[tuple[slice, Projection]]:
    """`project`, some points at a time."""
    for part in chunks(len(points_in_map), "", False, CHUNK):
        yield part, project(points_in_map[part], model, map_from_camera)


def seen_points(
    cloud: PointCloud, model: CameraModel, map_from_camera: Rigid3
) -> NDArray[np.int32]:
    """Rows, ascending, of the points that a camera sees.

    A point is seen if it falls into the image, its normal, if it has one, does not turn away,
    and nothing of the cloud stands in front of it. For the last the cloud is drawn into a
    z-buffer, each point as a square about twice as wide as the distance of its neighbours.
    """
    points = np.ascontiguousarray(cloud.points, np.float32)
    shape = (model.height, model.width)
    blocks = tuple(-(-edge // kernels.BLOCK) for edge in shape)
    counts, sums = np.zeros(blocks, np.int64), np.zeros(blocks)
    for _, (pixels, depths) in projections(points, model, map_from_camera):
        kernels.count(pixels, depths, model.width, model.height, counts, sums)
    focal = (model.fx * model.fy) ** 0.5
    dense = counts >= LEAST_PER_BLOCK
    spacing = 0.0
    if dense.any():
        apart_px = kernels.BLOCK / np.sqrt(counts[dense])
        spacing = float(np.median(apart_px * sums[dense] / counts[dense])) / focal
    nearest = np.full(shape, np.inf, np.float32)
    for _, (pixels, depths) in projections(points, model, map_from_camera):
        kernels.draw(pixels, depths, model.width, model.height, spacing * focal, nearest)
    found = []
    seen = np.empty(CHUNK, bool)
    for part, (pixels, depths) in projections(points, model, map_from_camera):
        in_part = seen[: len(depths)]
        kernels.visible(
            *(pixels, depths, model.width, model.height),
            *(nearest, MARGIN * spacing, FRACTION + MARGIN / focal, in_part),
        )
        if cloud.normals is not None:
            towards = map_from_camera.translation.astype(np.float32) - points[part]
            # normals that are not known may be zero or NaN
            in_part &= ~(np.einsum("ij,ij->i", towards, cloud.normals[part]) < 0)
        found.append((np.flatnonzero(in_part) + part.start).astype(np.int32))
    return np.concatenate(found) if found else np.empty(0, np.int32)
