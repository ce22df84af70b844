"""A surfel map from a cloud of points: what another run or another program left behind."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.mapping import surfels
from vggt_ros.mapping.cloud import voxel_average
from vggt_ros.mapping.surfel_file import SavedSurfels, write_surfels
from vggt_ros.mapping.surfel_map import SurfelMap
from vggt_ros.types import Float32, PointCloud

_RADIUS_VOXELS = 0.75
"""Half the diagonal of a cell's face: neighbouring discs of a plane touch."""
_LOG_ODDS = math.log(0.9 / 0.1)
"""As after about three looks (0.85 each): it takes two looks through a surfel to remove it."""
_WEIGHT = 3.0
"""Measurements that each point stands for: later ones still move it."""
_NORMAL_VOXELS = 3.0
"""Points of this cell and the 26 around it give the plane of a point."""


def load_cloud(map_: SurfelMap, cloud: PointCloud, viewpoints: ArrayLike) -> None:
    """Replace a map with the points of a cloud, one for each voxel.

    They count as seen by three views and as of the bootstrap: evicted after all others.

    Args:
        map_: the map; its voxels and budget stay.
        cloud: in the frame and unit of the map; normals are estimated where there are none.
        viewpoints: (N, 3) places from which the surface was seen; normals point to the nearest.

    Raises:
        SourceError: no points, or points that are not finite or too far away.
        ConfigError: more points than the budget holds.
    """
    voxel = map_.config.voxel_m
    if not len(cloud):
        raise SourceError("initial map: expected points, got none")
    try:
        cloud = voxel_average(cloud, voxel)
    except ValueError as error:
        raise SourceError(f"initial map: {error}") from error
    count = len(cloud)
    if count > map_.capacity:
        needed = count * surfels.BYTES_PER_SURFEL / 1e6
        raise ConfigError(
            f"map.budget_mb: the initial map has {count} voxels with points, the budget of "
            f"{map_.config.budget_mb} MB holds {map_.capacity}; raise it to {needed:.0f} MB or "
            "enlarge the voxels"
        )
    normals = cloud.normals
    if normals is None or not np.isfinite(normals).all() or not normals.any():
        normals = estimate_normals(cloud.points, voxel)
    normals = _towards(normals, cloud.points, np.asarray(viewpoints, np.float64).reshape(-1, 3))
    # Near points in near rows: chunks of rows have small boxes.
    order = np.lexsort(_cells(cloud.points, 8 * voxel).T)
    cloud = PointCloud(cloud.points[order], cloud.colours[order])
    saved = SavedSurfels(_surfels(cloud, normals[order], voxel), count, surfels.YOUNG_HITS)
    with tempfile.TemporaryDirectory(prefix="vggt_ros_map_") as folder:
        path = Path(folder) / "map.npz"
        write_surfels(path, saved, map_.config)
        map_.load(path)


def _surfels(cloud: PointCloud, normals: Float32, voxel: float) -> surfels.Surfels:
    count = len(cloud)
    made = surfels.allocate(count)
    made.position[:3] = cloud.points.T
    made.position[3] = _RADIUS_VOXELS * voxel
    data = made.data
    data["key"] = _keys(cloud.points, voxel)
    data["weight"] = _WEIGHT
    data["log_odds"] = _LOG_ODDS
    data["last"] = surfels.YOUNG_HITS
    data["first"] = 0
    for axis, name in enumerate(("nx", "ny", "nz")):
        data[name] = np.rint(normals[:, axis] * 32767)
    for band, name in enumerate(("red", "green", "blue")):
        data[name] = cloud.colours[:, band].astype(np.uint16) << 8
    data["hits"] = surfels.YOUNG_HITS
    data["flags"] = surfels.ALIVE | surfels.BOOTSTRAP
    for chunk in range(len(made.bounds)):
        part = cloud.points[chunk * surfels.CHUNK : (chunk + 1) * surfels.CHUNK]
        made.bounds[chunk, :3], made.bounds[chunk, 3:] = part.min(axis=0), part.max(axis=0)
    return made


def _cells(points: Float32, size: float) -> NDArray[np.int64]:
    cells: NDArray[np.int64] = np.floor(points * np.float32(1 / size)).astype(np.int64)
    return cells


def _keys(points: Float32, size: float) -> NDArray[np.int64]:
    """As `surfels.pack_key`."""
    i, j, k = (_cells(points, size) + surfels.CELL_LIMIT).T
    keys: NDArray[np.int64] = i | (j << 21) | (k << 42)
    return keys


def estimate_normals(points: Float32, voxel: float) -> Float32:
    """Unit normals (N, 3), of either sign: the flattest direction of the points around each.

    Moments are summed over cells of three voxels, and for each point over its cell and the 26
    around it. Where fewer than three points lie there the normal is z.
    """
    size = _NORMAL_VOXELS * voxel
    keys = _keys(points, size)
    cells, of_point = np.unique(keys, return_inverse=True)
    centre = points.mean(axis=0, dtype=np.float64)
    xyz = points.astype(np.float64) - centre
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    products = [xyz[:, a] * xyz[:, b] for a, b in pairs]
    columns = [np.ones(len(xyz)), *xyz.T, *products]
    moments = np.stack([np.bincount(of_point, c, len(cells)) for c in columns], axis=1)
    total = np.zeros_like(moments)
    for offset in _neighbours():
        wanted = cells + offset
        at = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
        there = cells[at] == wanted
        total[there] += moments[at[there]]
    mean = total[:, 1:4] / total[:, :1]
    second = total[:, 4:] / total[:, :1]
    covariance = np.empty((len(cells), 3, 3))
    for column, (i, j) in enumerate(pairs):
        covariance[:, i, j] = covariance[:, j, i] = second[:, column] - mean[:, i] * mean[:, j]
    normals = np.linalg.eigh(covariance)[1][:, :, 0]
    normals[total[:, 0] < 3] = (0.0, 0.0, 1.0)
    found: Float32 = normals[of_point].astype(np.float32)
    return found


def _neighbours() -> Sequence[int]:
    steps = (-1, 0, 1)
    return [a + b * (1 << 21) + c * (1 << 42) for a in steps for b in steps for c in steps]


def _towards(normals: Float32, points: Float32, viewpoints: NDArray[np.float64]) -> Float32:
    """Each normal on the side of the nearest viewpoint."""
    if not len(viewpoints):
        return normals
    nearest = np.zeros(len(points), np.int64)
    least = np.full(len(points), np.inf)
    for k, place in enumerate(viewpoints):
        squared = ((points - place.astype(np.float32)) ** 2).sum(axis=1)
        nearest[squared < least] = k
        least = np.minimum(least, squared)
    to_viewer = viewpoints[nearest] - points
    turned: Float32 = np.where(
        (normals * to_viewer).sum(axis=1, keepdims=True) < 0, -normals, normals
    ).astype(np.float32)
    return turned
