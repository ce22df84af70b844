"""A plane grid for navigation from a metric map: occupied, free, unknown.

Occupied is a cell with points of the map between two heights, if it has enough of them together
with its neighbours: a table top has one point per voxel, so a cell alone may have but one. Free is
a cell without such points that a camera has looked through or onto the floor of: rays run from
the cameras to the surfaces that the map itself shows them, so that noise of single depth images
behind a wall frees nothing. What was free once stays free until points occupy it. All else is
unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import OccupancyConfig
from vggt_ros.errors import AlignmentError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.kernels_occupancy import count_points, free_rays, height_histogram, occupied
from vggt_ros.types import Float32, PointCloud

UNKNOWN, FREE, OCCUPIED = -1, 0, 100

RAY_WIDTH = 320
"""Width at which views are rendered for rays: 88 degrees leave 5 cm between rays at 10 m."""

_BELOW_FLOOR_M = 0.15
"""Rays count down to so far below the floor: floors are neither level nor free of noise."""

_FLOOR_BIN_M = 0.05
_FLOOR_SHARE = 0.2
"""Of the largest level surface: the lowest one that has so much is the floor."""
_LEAST_FLOOR_POINTS = 200
_LEAST_UP = 0.9
_MOST_BINS = 4000


@dataclass(frozen=True, eq=False)
class RayView:
    """What the map shows a camera: depth (H, W) of `model` at `map_from_camera`."""

    depth: Float32
    model: CameraModel
    map_from_camera: Rigid3


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """`cells` (rows along y, columns along x) int8; -1 unknown, 0 free, 100 occupied.

    The lower left corner of `cells[0, 0]` is at (`x`, `y`) in map [m].
    """

    cells: NDArray[np.int8]
    x: float
    y: float
    resolution_m: float
    floor_z: float

    def at(self, x: float, y: float) -> int:
        """The value at a place in map; unknown outside."""
        column = math.floor((x - self.x) / self.resolution_m + 1e-9)
        row = math.floor((y - self.y) / self.resolution_m + 1e-9)
        rows, columns = self.cells.shape
        if 0 <= row < rows and 0 <= column < columns:
            return int(self.cells[row, column])
        return UNKNOWN


class OccupancyMapper:
    """Makes grids of a growing map and remembers what was seen to be free.

    Args:
        config: `occupancy.*`; may be replaced, which forgets what was free where heights change.
    """

    def __init__(self, config: OccupancyConfig) -> None:
        self.config = config
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after a reset, a loaded map or a loop that was closed."""
        self._free = np.zeros((0, 0), np.uint8)
        self._corner = (0, 0)
        self._heights: tuple[float, ...] = ()

    def update(self, cloud: PointCloud, views: Sequence[RayView]) -> OccupancyGrid:
        """The grid of a map.

        Args:
            cloud: the map, z up [m].
            views: what it shows the cameras.

        Raises:
            AlignmentError: the map is not metric, or has no floor to measure heights from.
            ConfigError: `occupancy.min_height_m` is not below `max_height_m`.
        """
        config = self.config
        if not cloud.is_metric:
            raise AlignmentError(
                "occupancy: expected a metric map, got an unscaled one: a grid for navigation "
                "has cells of metres; give rig_from_camera of two cameras (rig_file or TF) or "
                "scale.metres_per_unit"
            )
        if config.min_height_m >= config.max_height_m:
            raise ConfigError(
                f"occupancy.min_height_m: expected less than max_height_m, got "
                f"{config.min_height_m} and {config.max_height_m}"
            )
        heights = (config.min_height_m, config.max_height_m)
        if self._heights != heights or self._free.size == 0:
            self.clear()
            self._heights = heights
        floor = floor_height(cloud, views) if config.height_from == "floor" else 0.0
        self._reach(cloud, views)
        low, high = floor + config.min_height_m, floor + config.max_height_m
        points = np.ascontiguousarray(cloud.points, np.float32)
        counts = np.zeros(self._free.shape, np.uint16)
        inverse = 1 / config.resolution_m
        x0, y0 = self._corner
        count_points(points, low, high, inverse, x0, y0, counts)
        for view in views:
            free_rays(
                np.ascontiguousarray(view.depth, np.float32),
                view.model.fx,
                view.model.fy,
                view.model.cx,
                view.model.cy,
                np.ascontiguousarray(view.map_from_camera.rotation),
                np.ascontiguousarray(view.map_from_camera.translation),
                min(floor, low) - _BELOW_FLOOR_M,
                high,
                low,
                inverse,
                x0,
                y0,
                self._free,
            )
        cells = np.where((self._free > 0) & (counts == 0), np.int8(FREE), np.int8(UNKNOWN))
        cells[occupied(counts, config.min_points)] = OCCUPIED
        return OccupancyGrid(
            cells, x0 * config.resolution_m, y0 * config.resolution_m, config.resolution_m, floor
        )

    def _reach(self, cloud: PointCloud, views: Sequence[RayView]) -> None:
        """Let the grid hold all points and cameras, up to `max_size_m`; what it knew stays."""
        places = [view.map_from_camera.translation[None, :2] for view in views]
        if len(cloud):
            points = cloud.points
            places.append(np.stack([points.min(axis=0), points.max(axis=0)])[:, :2])
        if not places:
            return
        resolution = self.config.resolution_m
        found = np.concatenate(places)
        low = np.floor(found.min(axis=0) / resolution).astype(int)
        high = np.floor(found.max(axis=0) / resolution).astype(int) + 1
        rows, columns = self._free.shape
        if self._free.size:
            corner = np.array(self._corner)
            low = np.minimum(low, corner)
            high = np.maximum(high, corner + [columns, rows])
        most = max(1, int(self.config.max_size_m / resolution))
        for axis in range(2):
            if high[axis] - low[axis] > most:  # what is nearest to the cameras is kept
                eyes = [v.map_from_camera.translation[axis] for v in views]
                middle = float(np.mean(eyes)) if eyes else 0.0
                start = math.floor(middle / resolution) - most // 2
                low[axis] = min(max(start, low[axis]), high[axis] - most)
                high[axis] = low[axis] + most
        size = (int(high[1] - low[1]), int(high[0] - low[0]))
        if size == self._free.shape and tuple(low) == self._corner:
            return
        grown = np.zeros(size, np.uint8)
        x, y = self._corner[0] - int(low[0]), self._corner[1] - int(low[1])
        # The old grid within the new one; parts of it may have been given up.
        into = grown[max(y, 0) : max(y + rows, 0), max(x, 0) : max(x + columns, 0)]
        top, left = max(-y, 0), max(-x, 0)
        kept = self._free[top : top + into.shape[0], left : left + into.shape[1]]
        into[: kept.shape[0], : kept.shape[1]] = kept
        self._free = grown
        self._corner = (int(low[0]), int(low[1]))


def floor_height(cloud: PointCloud, views: Sequence[RayView] = ()) -> float:
    """Height of the floor in map: the lowest large surface that looks up, below the cameras.

    Args:
        cloud: with normals, or all its points count.
        views: whose cameras stand above the floor.

    Raises:
        AlignmentError: there is none.
    """
    top = min((float(v.map_from_camera.translation[2]) for v in views), default=math.inf)
    points = np.ascontiguousarray(cloud.points, np.float32)
    bins = 0
    members = np.zeros(0, np.int64)
    if len(points):
        lowest = float(points[:, 2].min())
        highest = min(float(points[:, 2].max()), top)
        bins = min(int(max(highest - lowest, 0.0) / _FLOOR_BIN_M) + 1, _MOST_BINS)
        members, sums = np.zeros(bins, np.int64), np.zeros(bins)
        normals = cloud.normals if cloud.normals is not None else np.zeros((0, 3), np.float32)
        height_histogram(
            points,
            np.ascontiguousarray(normals, np.float32),
            lowest,
            1 / _FLOOR_BIN_M,
            _LEAST_UP,
            bins,
            sums,
            members,
        )
    wide = np.convolve(members, np.ones(3, np.int64), "same") if bins else members
    if not bins or wide.max() < _LEAST_FLOOR_POINTS:
        raise AlignmentError(
            "occupancy.height_from: floor: the map shows no floor below the cameras yet (fewer "
            f"than {_LEAST_FLOOR_POINTS} points of a level surface); wait, turn a camera down, or "
            "set occupancy.height_from: map"
        )
    first = int(np.flatnonzero(wide >= max(_FLOOR_SHARE * wide.max(), _LEAST_FLOOR_POINTS))[0])
    while first + 1 < bins and wide[first + 1] > wide[first]:
        first += 1
    around = slice(max(first - 1, 0), first + 2)
    return float(sums[around].sum() / members[around].sum())
