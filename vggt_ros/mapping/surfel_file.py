"""A surfel map in a file: its arrays as they are; a loaded map goes on as the saved one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.mapping import surfels
from vggt_ros.mapping.map_file import MapPath, check_array, read_map, write_map

KIND, VERSION = "surfel", 1


@dataclass(frozen=True)
class SavedSurfels:
    """The used part of a map's arrays and its counters."""

    surfels: surfels.Surfels
    rows: int
    view: int


def write_surfels(path: MapPath, saved: SavedSurfels, config: MapConfig) -> None:
    """Write a map, atomically.

    Raises:
        ExportError: the file cannot be written; what stood there stays.
    """
    rows, chunks = saved.rows, -(-saved.rows // surfels.CHUNK)
    header = {"voxel_m": config.voxel_m, "view": saved.view}
    arrays: dict[str, Any] = {
        "position": np.ascontiguousarray(saved.surfels.position[:, :rows]),
        "bounds": saved.surfels.bounds[:chunks],
        "mature": saved.surfels.mature[:chunks],
    }
    for name in surfels.SURFEL.names or ():
        arrays[name] = np.ascontiguousarray(saved.surfels.data[name][:rows])
    write_map(path, KIND, VERSION, header, arrays)


def read_surfels(path: MapPath, config: MapConfig, capacity: int) -> SavedSurfels:
    """Read what `write_surfels` wrote, into arrays with room for `capacity` surfels.

    Raises:
        SourceError: not such a file, or damaged.
        ConfigError: other voxels than `map.voxel_m`, or more surfels than the budget holds.
    """
    header, arrays = read_map(path, KIND, VERSION)
    view = header.get("view")
    position = check_array(path, arrays, "position", np.dtype(np.float32), (4, None))
    rows = position.shape[1]
    chunks = -(-rows // surfels.CHUNK)
    bounds = check_array(path, arrays, "bounds", np.dtype(np.float32), (chunks, 6))
    mature = check_array(path, arrays, "mature", np.dtype(np.uint8), (chunks,))
    columns = {
        name: check_array(path, arrays, name, surfels.SURFEL[name], (rows,))
        for name in surfels.SURFEL.names or ()
    }
    if not isinstance(view, int) or not 0 <= view < 2**32:
        raise SourceError(f"map file {path}: expected a count of views, got {view}; it is damaged")
    if header.get("voxel_m") != config.voxel_m:
        raise ConfigError(
            f"map.voxel_m: {path} has voxels of {header.get('voxel_m')}, the configuration says "
            f"{config.voxel_m}; set map.voxel_m to that of the file"
        )
    if rows > capacity:
        raise ConfigError(
            f"map.budget_mb: {path} holds {rows} surfels, the budget of {config.budget_mb} MB "
            f"{capacity}; raise it to {rows * surfels.BYTES_PER_SURFEL / 1e6 + 1:.0f} MB"
        )
    alive = (columns["flags"] & surfels.ALIVE) > 0
    if not np.isfinite(position[:, alive]).all() or not np.isnan(position[0, ~alive]).all():
        raise SourceError(f"map file {path}: expected finite surfels; the file is damaged")
    found = surfels.allocate(capacity)
    found.position[:, :rows] = position
    found.bounds[:chunks] = bounds
    found.mature[:chunks] = mature
    for name, column in columns.items():
        found.data[name][:rows] = column
    return SavedSurfels(found, rows, view)
