"""The surfel map: points with normal, size, colour and confidence, one or two for each voxel.

After Keller et al., "Real-time 3D reconstruction in dynamic scenes using point-based fusion"
(3DV 2013), with a voxel hash instead of an index image for association, so that the cost of a
set does not grow with the map, and free-space carving with log odds (Hornung et al., OctoMap,
2013). Single-threaded and without random numbers: the same input gives the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping import (
    kernels_column,
    kernels_evict,
    kernels_merge,
    kernels_observe,
    kernels_planes,
    kernels_view,
    surfels,
)
from vggt_ros.mapping.checked_input import check_pinhole
from vggt_ros.mapping.cloud import thin_to, voxel_average
from vggt_ros.mapping.interface import FuseStatistics, MapChanges
from vggt_ros.mapping.map_file import MapPath
from vggt_ros.mapping.render import render_surfels
from vggt_ros.mapping.surfel_file import SavedSurfels, read_surfels, write_surfels
from vggt_ros.mapping.surfel_view import SurfelView, intrinsics_of, rotation_translation
from vggt_ros.types import DepthMap, Float32, PointCloud, Rendering

logger = logging.getLogger(__name__)

_FIRST_TABLE_ROWS = 16_384
_LEAST_ROWS = 1024
_EVICTION_SLACK = 0.03
"""Fraction of the budget that is freed beyond need, so that not every set has to evict."""

_REMOVED_FRACTION = 0.1
"""Removed slots, as a fraction of all, that make the hash worth rebuilding."""

_FULL_FRACTION = 0.9
"""Slots that may be taken or removed; probing gets long beyond."""

_DEAD_FRACTION = 0.03
"""Dead rows, as a fraction of all, that make compacting worthwhile."""

_TABLE_GROWTH = 1.1
"""Factor by which the hash grows, so that 63 to 69 % of its slots are taken."""

REJECT_REASONS = ("invalid", "far", "grazing", "outside", "full", "edge")


class SurfelMap:
    """A dense map within a fixed memory budget; see `mapping.interface.Map`.

    Args:
        config: `map.*`.

    Raises:
        ConfigError: the budget is too small for any map.
    """

    def __init__(self, config: MapConfig) -> None:
        self.config = config
        self._capacity = int(config.budget_mb * 1e6 / surfels.BYTES_PER_SURFEL)
        if self._capacity < _LEAST_ROWS:
            raise ConfigError(
                f"map.budget_mb: expected room for {_LEAST_ROWS} surfels "
                f"({_LEAST_ROWS * surfels.BYTES_PER_SURFEL / 1e6:.2g} MB) or more, got "
                f"{config.budget_mb} MB; raise it"
            )
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)
        """Pixels that were not fused, by reason, since the last `clear`."""
        self._revision_base = -1
        self._view = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything; the memory goes back to the system."""
        self._revision_base = self.revision + 1
        self._whole_since = self._revision_base
        self._surfels = surfels.allocate(self._capacity)
        self._table = surfels.new_table(min(self._capacity, _FIRST_TABLE_ROWS))
        self._rows = 0
        self._living = 0
        self._most_rows = 0
        self._removed_slots = 0
        self._view = 0
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)

    @property
    def size(self) -> int:
        """Surfels in the map."""
        return self._living

    @property
    def capacity(self) -> int:
        """Surfels that the budget holds."""
        return self._capacity

    @property
    def memory_bytes(self) -> int:
        """Bytes that the surfels and their tables take up."""
        chunks = -(-self._most_rows // surfels.CHUNK)
        return (
            self._most_rows * surfels.ROW_BYTES + chunks * surfels.CHUNK_BYTES + self._table.nbytes
        )

    @property
    def revision(self) -> int:
        """Grows with every depth map and whenever the map is cleared or loaded."""
        return self._revision_base + self._view

    def fuse(self, depth_maps: Sequence[DepthMap], bootstrap: bool = False) -> FuseStatistics:
        """Merge the depth maps of one set.

        First everything that the set sees through loses probability, then the measured points
        are averaged into the surfels of their voxels. Pixels that are not finite, not positive,
        too far or too flat are counted in `rejected`. Maps whose alignment was not accepted are
        skipped.

        Args:
            depth_maps: depth [map units] with pose; any sizes.
            bootstrap: these surfels are evicted after all others.

        Raises:
            CalibrationError: shapes that do not agree or a distorted camera.
            ConfigError: the set alone exceeds the budget.

        After an error the map is as it was before.
        """
        views = [SurfelView(depth_map) for depth_map in depth_maps if depth_map.alignment.accepted]
        measured = sum(view.measured for view in views)
        if measured > self._capacity:
            raise ConfigError(
                f"map.budget_mb: one set has {measured} depth pixels, the budget of "
                f"{self.config.budget_mb} MB holds {self._capacity} surfels; raise it to "
                f"{math.ceil(measured * surfels.BYTES_PER_SURFEL / 1e6)} MB or reduce the images"
            )
        evicted = self._make_room(measured)
        added = updated = carved = 0
        for view in views:
            statistics, counts = self._fuse_view(view, bootstrap)
            added += statistics.added
            updated += statistics.updated
            carved += statistics.carved
            for index, reason in enumerate(REJECT_REASONS):
                self.rejected[reason] += int(counts[index])
        return FuseStatistics(added, updated, carved, evicted)

    def render(
        self, model: CameraModel, map_from_camera: Rigid3, attributes: bool = False
    ) -> Rendering:
        """The nearest surface for each pixel; NaN where the map is empty.

        Args:
            model: pinhole camera; distortion is an error.
            map_from_camera: pose.
            attributes: also colour, normals in map and confidence (slower); single holes are
                closed in the depth only.
        """
        check_pinhole(model, "render")
        rotation, translation = rotation_translation(map_from_camera.inverse())
        chunks = self._visible(model, rotation, translation, 0.0)
        return render_surfels(
            *(self._surfels, self._rows, chunks, model, rotation, translation),
            *(self.config.voxel_m, attributes),
        )

    def cloud(
        self,
        min_hits: int = 1,
        min_confidence: float = 0.0,
        voxel_m: float = 0.0,
        max_points: int = 0,
    ) -> PointCloud:
        """A copy of the map for publishing and export; 0 means no limit.

        Args:
            min_hits: depth maps that must have seen a surfel; more than 255 are not told apart.
            min_confidence: least probability of a surfel, 0 to 1.
            voxel_m: points of one cell of this size are averaged.
            max_points: evenly thinned, in the order of the map, to this number.
        """
        rows = self._chosen(np.arange(self._rows), min_hits, min_confidence)
        if max_points and not voxel_m:
            rows = rows[thin_to(len(rows), max_points)]
        cloud = self._cloud_of(rows)
        return voxel_average(cloud, voxel_m, max_points) if voxel_m else cloud

    def changes(
        self, since: int | None, min_hits: int = 1, min_confidence: float = 0.0
    ) -> MapChanges:
        """The blocks that changed after a revision; the rest of the map is not touched.

        Args:
            since: revision of the last changes that were taken; None for the whole map.
            min_hits: as for `cloud`.
            min_confidence: as for `cloud`.
        """
        chunks = np.arange(-(-self._rows // surfels.CHUNK))
        complete = since is None or since <= self._whole_since
        if since is not None and not complete:
            chunks = np.flatnonzero(
                self._surfels.changed[: len(chunks)] > since - self._revision_base
            )
        rows = (chunks[:, None] * surfels.CHUNK + np.arange(surfels.CHUNK)).reshape(-1)
        rows = self._chosen(rows[rows < self._rows], min_hits, min_confidence)
        starts = np.searchsorted(rows, np.append(chunks * surfels.CHUNK, self._rows))
        return MapChanges(self.revision, complete, chunks, starts, self._cloud_of(rows))

    def save(self, path: MapPath) -> None:
        """Write the map to one file, atomically.

        Raises:
            ExportError: the file cannot be written; what stood there stays.
        """
        write_surfels(path, SavedSurfels(self._surfels, self._rows, self._view), self.config)

    def load(self, path: MapPath) -> None:
        """Replace the map with a saved one, which then goes on as it would have.

        Raises:
            SourceError: not such a file, or damaged; the map is as it was before.
            ConfigError: other voxels than `map.voxel_m`, or more than the budget holds.
        """
        saved = read_surfels(path, self.config, self._capacity)
        self.clear()
        self._surfels, self._rows, self._view = saved.surfels, saved.rows, saved.view
        self._whole_since = self.revision
        self._living = int(((self._surfels.data["flags"][: self._rows] & surfels.ALIVE) > 0).sum())
        self._most_rows = self._rows
        self._tidy(self._living)

    def _chosen(
        self, rows: NDArray[np.int64], min_hits: int, min_confidence: float
    ) -> NDArray[np.int64]:
        """Those of the rows that live and have been seen often and surely enough."""
        data = self._surfels.data
        keep = (data["flags"][rows] & surfels.ALIVE) > 0
        if min_hits > 1:
            keep &= data["hits"][rows] >= min(min_hits, surfels.MOST_HITS)
        if min_confidence > 0:
            p = min_confidence
            odds = math.inf if p >= 1 else math.log(p / (1 - p))
            keep &= data["log_odds"][rows] >= odds
        return rows[keep]

    def _cloud_of(self, rows: NDArray[np.int64]) -> PointCloud:
        chosen = self._surfels.data[rows]
        normals = np.column_stack([chosen[axis] for axis in ("nx", "ny", "nz")])
        normals = normals.astype(np.float32)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + np.float32(1e-6)
        colours = np.column_stack([chosen[band] for band in ("red", "green", "blue")])
        return PointCloud(
            np.ascontiguousarray(self._surfels.position[:3, rows].T),
            (colours >> 8).astype(np.uint8),
            normals,
            np.float32(1) / (np.float32(1) + np.exp(-chosen["log_odds"])),
        )

    def _visible(
        self, model: CameraModel, rotation: Float32, translation: Float32, far: float
    ) -> NDArray[np.int64]:
        """Chunks that a camera may see, from `camera_from_map`."""
        # A surfel moves at most MAX_REACH cells before it is entered anew in the box.
        pad = (kernels_column.MAX_REACH + 2) * self.config.voxel_m
        chunks: NDArray[np.int64] = kernels_view.visible_chunks(
            self._surfels.bounds,
            -(-self._rows // surfels.CHUNK),
            *(rotation, translation, intrinsics_of(model), model.width, model.height),
            *(np.float32(pad), np.float32(far)),
        )
        return chunks

    def _fuse_view(
        self, view: SurfelView, bootstrap: bool
    ) -> tuple[FuseStatistics, NDArray[np.int64]]:
        """Carve, refine and merge one depth map; returns the pixels by reason as well."""
        spare = self._reserve_table(self._living)
        self._view += 1
        config, surfels_ = self.config, self._surfels
        voxel, max_depth = np.float32(config.voxel_m), np.float32(config.max_depth_m)
        least_cosine = np.float32(math.cos(math.radians(config.max_incidence_deg)))
        turn, shift = rotation_translation(view.map_from_camera)
        planes = kernels_planes.tile_planes(view.depth, view.intrinsics, turn)
        believed = np.float32(kernels_view.BELIEVED_RANGES * max_depth)
        limits, marks = kernels_view.depth_limits(
            *(view.depth, view.confidence, voxel, config.carve, believed)
        )
        rotation, translation = rotation_translation(view.map_from_camera.inverse())
        owner, owned, refined, carved, merged, moved = kernels_observe.observe(
            *surfels_,
            self._table,
            self._rows,
            self._visible(view.model, rotation, translation, 0.0),
            rotation,
            translation,
            view.intrinsics,
            view.confidence,
            view.rgb,
            planes,
            limits,
            marks,
            voxel,
            max_depth,
            least_cosine,
            self._view,
            spare,
        )
        self._living -= carved + merged
        self._removed_slots += carved + merged + moved
        # At most the pixels without a surfel become new ones.
        spare = self._reserve_table(self._living + view.measured - owned + merged)
        rows_before = self._rows
        self._rows, counts = kernels_merge.merge(
            *surfels_,
            self._table,
            self._rows,
            self._capacity,
            owner,
            marks,
            view.depth,
            view.confidence,
            view.rgb,
            planes,
            view.intrinsics,
            turn,
            shift,
            voxel,
            max_depth,
            least_cosine,
            self._view,
            spare,
        )
        if bootstrap:
            surfels_.data["flags"][rows_before : self._rows] |= surfels.BOOTSTRAP
        added, updated = int(counts[kernels_merge.ADDED]), int(counts[kernels_merge.UPDATED])
        joined = int(counts[kernels_merge.JOINED])
        self._living += added - joined
        self._removed_slots += joined + int(counts[kernels_merge.MOVES])
        self._most_rows = max(self._most_rows, self._rows)
        return FuseStatistics(added, refined + updated, carved), counts

    def _make_room(self, needed: int) -> int:
        """Have `needed` rows free; returns how many surfels were evicted."""
        evicted = 0
        is_sparse = self._rows - self._living > max(_FIRST_TABLE_ROWS, _DEAD_FRACTION * self._rows)
        if self._rows + needed <= self._capacity and not is_sparse:
            return 0
        surplus = self._living + needed - self._capacity
        if surplus > 0:
            count = min(self._living, surplus + int(_EVICTION_SLACK * self._capacity))
            evicted = kernels_evict.evict(
                self._surfels.position,
                self._surfels.data,
                self._rows,
                count,
                self._view,
                kernels_observe.MOST_LOG_ODDS,
            )
            self._living -= evicted
            logger.debug("map: evicted %d of %d surfels", evicted, evicted + self._living)
        self._rows = kernels_evict.compact(*self._surfels, self._rows)
        self._whole_since = self.revision
        self._tidy(self._living + needed)
        return evicted

    def _reserve_table(self, rows: int) -> int:
        """Make the hash large enough for `rows` surfels; returns the slots it can still lose."""
        rows = min(rows, self._capacity)
        if (
            rows * surfels.SLOTS_PER_ROW > self._table.size
            or self._removed_slots > _REMOVED_FRACTION * self._table.size
        ):
            self._tidy(rows)
        return int(_FULL_FRACTION * self._table.size) - rows - self._removed_slots

    def _tidy(self, rows: int) -> None:
        """Rebuild the hash, larger until `rows` surfels fit in."""
        size = self._table.size / surfels.SLOTS_PER_ROW
        while size < min(rows, self._capacity):
            size *= _TABLE_GROWTH
        wanted = min(int(size), self._capacity)
        if wanted * surfels.SLOTS_PER_ROW > self._table.size:
            self._table = np.empty(0, np.int32)  # the old one goes before the new one comes
            self._table = surfels.new_table(wanted)
        surfels.rebuild(self._surfels.data, self._table, self._rows)
        self._removed_slots = 0
