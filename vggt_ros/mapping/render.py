"""A surfel map as a camera sees it: established surfels first, young ones where they are new."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import CameraModel
from vggt_ros.mapping import kernels_render
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

    cells, young_cells = kernels_render.splat(
        surfels.position,
        rows,
        chunks,
        *camera,
        voxel_m,
        model.width,
        model.height,
        kernels_render.level_offsets(model.width, model.height),
        attributes,
    )
    depth, owner = _painted(cells, surfels, model, camera, voxel_m, attributes)
    if young_cells.size:
        young = _painted(young_cells, surfels, model, camera, voxel_m, attributes)
        margin = np.float32(MARGIN_VOXELS * voxel_m)
        kernels_render.compose(depth, owner, *young, margin, np.float32(YOUNG_MARGIN))
    if not attributes:
        return Rendering(depth)
    return Rendering(depth, *kernels_render.attributes_of(surfels.data, owner))


def _painted(
    cells: NDArray[np.uint64],
    surfels: Surfels,
    model: CameraModel,
    camera: tuple[Float32, Float32, Float32],
    voxel_m: float,
    want_rows: bool,
) -> tuple[Float32, Rows]:
    """Depth (NaN empty) and row of each pixel (size 0 unless wanted) of one pyramid."""
    offsets = kernels_render.level_offsets(model.width, model.height)
    if want_rows:
        inverse, owner = kernels_render.unpacked_rows(
            surfels.position, cells, camera[0], camera[1], model.width, model.height
        )
    else:
        inverse = kernels_render.unpacked(cells, model.width, model.height)
        owner = np.empty((0, 0), np.int32)
    for level in range(1, kernels_render.LEVELS):
        of_level = cells[offsets[level] : offsets[level + 1]]
        if not (of_level != kernels_render.NOTHING).any():
            continue
        width = -(-model.width // 2**level)
        planes, owners = kernels_render.cell_planes(
            surfels.position, surfels.data, *camera, of_level, width, level
        )
        kernels_render.paint(planes, owners, width, level, voxel_m, inverse, owner)
    return kernels_render.fill_holes(kernels_render.inverted(inverse)), owner
