"""What a map promises, be it surfels or a TSDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.map_file import MapPath
from vggt_ros.types import DepthMap, PointCloud, Rendering


@dataclass(frozen=True)
class FuseStatistics:
    """Counts of one fusion step, over all depth maps of the set."""

    added: int = 0
    updated: int = 0
    carved: int = 0
    evicted: int = 0


@dataclass(frozen=True, eq=False)
class MapChanges:
    """What has changed in a map since a revision, by blocks that do not overlap."""

    revision: int
    """To be given with the next question."""
    complete: bool
    """Everything is here: whoever keeps a copy drops it first, the numbers of blocks are new."""
    blocks: NDArray[np.int64]
    """(B,) ascending numbers of the blocks that changed; their points replace earlier ones."""
    starts: NDArray[np.int64]
    """(B + 1,) points of the b-th of them are starts[b] to starts[b + 1] of the cloud."""
    cloud: PointCloud


class Map(Protocol):
    """A dense map in the `map` frame [map units]; not thread-safe, one worker owns it."""

    config: MapConfig
    """May be replaced while mapping; what is not marked `runtime` must stay the same."""

    @property
    def size(self) -> int:
        """Surfels or occupied voxels."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes held for the surfels or voxels, spare capacity included."""
        ...

    def fuse(self, depth_maps: Sequence[DepthMap], bootstrap: bool = False) -> FuseStatistics:
        """Merge the depth maps of one set; what a bootstrap gave is evicted after all else."""
        ...

    def render(
        self, model: CameraModel, map_from_camera: Rigid3, attributes: bool = False
    ) -> Rendering:
        """Depth of the nearest surface for each pixel; NaN where the map is empty.

        With `attributes` also colour, normals in map and confidence.
        """
        ...

    def cloud(
        self,
        min_hits: int = 1,
        min_confidence: float = 0.0,
        voxel_m: float = 0.0,
        max_points: int = 0,
    ) -> PointCloud:
        """A copy of the map for publishing and export; 0 means no limit."""
        ...

    def changes(
        self, since: int | None, min_hits: int = 1, min_confidence: float = 0.0
    ) -> MapChanges:
        """What changed after a revision (None: everything), with the filters of `cloud`."""
        ...

    def save(self, path: MapPath) -> None:
        """Write the map to one file, atomically (not if it is open); ExportError if that fails."""
        ...

    def load(self, path: MapPath) -> None:
        """Replace the map with a saved one of the same kind and voxels.

        SourceError or ConfigError leave the map as it was.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...
