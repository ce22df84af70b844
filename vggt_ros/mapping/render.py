"""A surfel map as a camera sees it: established surfels first, young ones where they are new."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel
from vggt_ros.mapping import kernels_fill, kernels_paint, kernels_splat
from vggt_ros.mapping.kernels_view import MARGIN_VOXELS
from vggt_ros.mapping.surfels import Surfels
from vggt_ros.types import Float32, Rendering

Rows = NDArray[np.int32]

YOUNG_MARGIN = 0.04
"""A young surfel shows before an established one if it is nearer by more than this fraction of
the depth and MARGIN_VOXELS: beyond the noise of a depth that would have been merged with it."""


def render_surfels(
    surfels: Surfels,
    rows: int,
    chunks: NDArray[np.int64],
    model: CameraModel,
    rotation: Float32,
    translation: Float32,
    voxel_m: float,
    attributes: bool,
) -> Rendering:
    """Depth, and with `attributes` colour, normals and confidence, of the surfels in view.

    Args:
        surfels: the map.
        rows: rows in use.
        chunks: those that the camera may see, from `kernels_view.visible_chunks`.
        model: pinhole camera.
        rotation: of `camera_from_map`, float32.
        translation: of `camera_from_map`, float32.
        voxel_m: pitch of the surfels.
        attributes: also what is not depth.
    """
    camera = (
        rotation,
        translation,
        np.array([model.fx, model.fy, model.cx, model.cy], np.float32),
    )

    cells, young_cells, drawn = kernels_splat.splat(
        surfels.position,
        rows,
        chunks,
        *camera,
        voxel_m,
        model.width,
        model.height,
        kernels_splat.level_offsets(model.width, model.height),
        attributes,
    )
    depth, owner = _painted(cells, drawn[0], surfels, model, camera, voxel_m, attributes)
    if young_cells.size:
        young = _painted(young_cells, drawn[1], surfels, model, camera, voxel_m, attributes)
        margin = np.float32(MARGIN_VOXELS * voxel_m)
        kernels_paint.compose(depth, owner, *young, margin, np.float32(YOUNG_MARGIN))
    if not attributes:
        return Rendering(depth)
    return Rendering(depth, *kernels_paint.attributes_of(surfels.data, owner))


def _painted(
    cells: NDArray[np.uint64],
    drawn: NDArray[np.uint8],
    surfels: Surfels,
    model: CameraModel,
    camera: tuple[Float32, Float32, Float32],
    voxel_m: float,
    want_rows: bool,
) -> tuple[Float32, Rows]:
    """Depth (NaN empty) and row of each pixel (size 0 unless wanted) of one pyramid."""
    offsets = kernels_splat.level_offsets(model.width, model.height)
    if want_rows:
        depth, owner = kernels_paint.unpacked_rows(
            surfels.position, cells, camera[0], camera[1], model.width, model.height
        )
    else:
        depth = kernels_paint.unpacked(cells, model.width, model.height)
        owner = np.empty((0, 0), np.int32)
    for level in np.flatnonzero(drawn):
        of_level = cells[offsets[level] : offsets[level + 1]]
        width = -(-model.width // 2**level)
        listed, planes = kernels_paint.cell_planes(
            surfels.position, surfels.data, *camera, of_level, width, level
        )
        kernels_paint.paint(listed, planes, of_level, width, level, voxel_m, depth, owner)
    return kernels_fill.fill_holes(depth), owner
