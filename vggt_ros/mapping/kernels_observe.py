"""What a depth map says about the surfels in its view: confirmed and refined, or seen through."""

from __future__ import annotations

import numpy as np
from numba import njit

from vggt_ros.mapping.kernels_planes import (
    OFF_PLANE,
    TILE,
    footprint_radius,
    measurement_weight,
    normal_at,
)
from vggt_ros.mapping.kernels_view import MARGIN_VOXELS, margin_fraction, project_chunk
from vggt_ros.mapping.surfels import (
    ALIVE,
    CHUNK,
    MOST_WEIGHT,
    absorb,
    average,
    kill,
    rekey,
)

MISS_LOG_ODDS = 0.7
"""What one look through a surfel takes off, times the confidence of the pixel (p = 1/3)."""

HIT_LOG_ODDS = 0.85
"""What one depth map that sees a surfel adds, times its confidence (p = 0.7)."""

MOST_LOG_ODDS = 3.5
"""Bound of the log odds (p = 0.97): after it five looks through a surfel remove it, however long
it stood."""

DUPLICATE_VOXELS = 0.7
"""Two surfels of one surface that one pixel sees at this lateral distance or less are one."""

NOBODY = -1


@njit(cache=True, nogil=True)
def confirm(surfels, row, confidence, view):
    """Count a depth map that agrees with a surfel, once for each depth map."""
    if surfels.last[row] == view:
        return
    surfels.last[row] = view
    if surfels.hits[row] < 65535:
        surfels.hits[row] += 1
    surfels.log_odds[row] = min(
        np.float32(MOST_LOG_ODDS),
        surfels.log_odds[row] + np.float32(HIT_LOG_ODDS) * min(np.float32(1), confidence),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _refine(
    surfels,
    row,
    x,
    y,
    w,
    z,
    u,
    v,
    d,
    confidence,
    rgb,
    planes,
    intrinsics,
    nx,
    ny,
    nz,
    cosine,
    voxel,
):
    """Move a surfel along the measured normal towards the surface that its pixel shows.

    Args:
        x, y, w: from the camera's centre to the surfel, in map.
        z: depth of the surfel.
        u, v: where it projects, plus one half.
        d: depth measured at that pixel.
        nx, ny, nz: measured unit normal in map.
        cosine: of incidence.
    """
    fx, fy, cx, cy = intrinsics
    column, line = int(u), int(v)
    rx, ry = (column - cx) / fx, (line - cy) / fy
    plane = planes[line // TILE, column // TILE]
    inverse = np.float32(1) / d
    if abs((plane[0] * rx + plane[1] * ry + plane[2]) * d - np.float32(1)) < OFF_PLANE:
        # The surfel is not where the pixel's centre is: follow the plane from there to here.
        du, dv = u - np.float32(0.5) - column, v - np.float32(0.5) - line
        inverse += plane[0] * du / fx + plane[1] * dv / fy
    ratio = np.float32(1) / (inverse * z) - np.float32(1)
    step = ratio * (nx * x + ny * y + nz * w)
    weight = measurement_weight(confidence, cosine, d, voxel)
    total = surfels.weight[row] + weight
    average(
        surfels, row, weight / total,
        surfels.x[row] + step * nx, surfels.y[row] + step * ny, surfels.z[row] + step * nz,
        nx, ny, nz,
        np.float32(rgb[line, column, 0]) * np.float32(256),
        np.float32(rgb[line, column, 1]) * np.float32(256),
        np.float32(rgb[line, column, 2]) * np.float32(256),
    )  # fmt: skip
    surfels.weight[row] = min(np.float32(MOST_WEIGHT), total)
    surfels.radius[row] = min(surfels.radius[row], footprint_radius(d, fx, cosine, voxel))


@njit(cache=True, nogil=True, error_model="numpy")
def observe(
    surfels, table, rows, chunks, rotation, translation, intrinsics, depth, confidence, rgb,
    planes, free, voxel, max_depth, least_cosine, carves, view,
):  # fmt: skip
    """Compare the surfels in view with a depth map.

    Those that it sees through lose odds and die below even odds. Those that agree with it are
    confirmed and refined, each by its own pixel. The heaviest of a pixel is handed to `merge`;
    lighter ones straight before or behind it, layers of noise, are merged into it.

    Args:
        chunks: from `visible_chunks`.
        rotation, translation: `camera_from_map`, float32.
        depth, confidence, rgb: (H, W), (H, W), (H, W, 3) of the depth map.
        planes: from `tile_planes`.
        free: from `free_depth`.
        max_depth, least_cosine: farther or flatter pixels refine nothing.
        carves: whether to carve at all.
        view: number of the depth map.

    Returns:
        (surfel of each pixel (H * W,) int32, NOBODY without one; how many surfels were refined;
        killed; merged).
    """
    height, width = depth.shape
    owner = np.full(width * height, NOBODY, np.int32)
    uv = np.empty((2, CHUNK), np.float32)
    z = np.empty(CHUNK, np.float32)
    refined = killed = merged = 0
    fx, fy, cx, cy = intrinsics
    margin = np.float32(MARGIN_VOXELS * voxel)
    near = np.float32((DUPLICATE_VOXELS * voxel) ** 2)
    r = rotation
    # Camera centre in map: where rays start.
    ox = -(r[0, 0] * translation[0] + r[1, 0] * translation[1] + r[2, 0] * translation[2])
    oy = -(r[0, 1] * translation[0] + r[1, 1] * translation[1] + r[2, 1] * translation[2])
    oz = -(r[0, 2] * translation[0] + r[1, 2] * translation[1] + r[2, 2] * translation[2])
    for chunk in chunks:
        start = chunk * CHUNK
        stop = min(start + CHUNK, rows)
        project_chunk(
            surfels, start, stop, rotation, translation, intrinsics, width, height, uv, z
        )
        for i in range(stop - start):
            u, v = uv[0, i], uv[1, i]
            if u < 0 or v < 0 or u >= width or v >= height:
                continue
            column, line = int(u), int(v)
            row = start + i
            # It may have been merged a moment ago, after its chunk was projected.
            if not surfels.flags[row] & ALIVE:
                continue
            if z[i] < free[line, column]:
                if carves:
                    surfels.log_odds[row] -= np.float32(MISS_LOG_ODDS) * min(
                        np.float32(1), confidence[line, column]
                    )
                    if surfels.log_odds[row] < 0:
                        kill(surfels, table, row)
                        killed += 1
                continue
            d, c = depth[line, column], confidence[line, column]
            if not (abs(z[i] - d) < margin + margin_fraction(c) * d and c > 0):
                continue
            px, py, pz, cosine = normal_at(
                planes, column, line, (column - cx) / fx, (line - cy) / fy, d
            )
            # Rows of camera_from_map are columns of map_from_camera.
            nx = r[0, 0] * px + r[1, 0] * py + r[2, 0] * pz
            ny = r[0, 1] * px + r[1, 1] * py + r[2, 1] * pz
            nz = r[0, 2] * px + r[1, 2] * py + r[2, 2] * pz
            normal = surfels.normal[row]
            if normal[0] * nx + normal[1] * ny + normal[2] * nz <= 0:
                continue
            confirm(surfels, row, c, view)
            if d <= max_depth and cosine >= least_cosine:
                _refine(
                    surfels, row, surfels.x[row] - ox, surfels.y[row] - oy, surfels.z[row] - oz,
                    z[i], u, v, d, c, rgb, planes, intrinsics, nx, ny, nz, cosine, voxel,
                )  # fmt: skip
                refined += 1
                now, gone = rekey(surfels, table, row, voxel)
                row = now
                merged += gone
            at = line * width + column
            other = owner[at]
            if other == NOBODY or not surfels.flags[other] & ALIVE:
                owner[at] = row
                continue
            if other == row:
                continue
            a = surfels.x[other] - surfels.x[row]
            b = surfels.y[other] - surfels.y[row]
            c = surfels.z[other] - surfels.z[row]
            # Apart along the normal is noise; apart along the surface is a neighbour.
            along = a * nx + b * ny + c * nz
            is_heavier = surfels.weight[row] > surfels.weight[other]
            if is_heavier:
                owner[at] = row
            if a * a + b * b + c * c - along * along < near:
                if is_heavier:
                    absorb(surfels, row, other)
                    kill(surfels, table, other)
                else:
                    absorb(surfels, other, row)
                    kill(surfels, table, row)
                merged += 1
    return owner, refined, killed, merged
