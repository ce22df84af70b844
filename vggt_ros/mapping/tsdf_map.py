"""The TSDF map: Open3D's VoxelBlockGrid behind the interface of `mapping.interface.Map`.

A truncated signed distance field (Curless and Levoy, SIGGRAPH 1996) in blocks of voxels that a
hash finds (Niessner et al., 2013; Dong et al., ASH, 2021). Smoother surfaces than surfels, and
meshes, at more memory and time. Open3D is imported when a map is made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.checked_input import check_pinhole
from vggt_ros.mapping.cloud import thin_to, voxel_average
from vggt_ros.mapping.interface import FuseStatistics, MapChanges
from vggt_ros.mapping.map_file import MapPath, check_array, read_map, write_map
from vggt_ros.mapping.open3d_import import import_open3d
from vggt_ros.mapping.settings import refuse_confidence
from vggt_ros.mapping.tsdf_open3d import (
    IntegratedView,
    empty_rendering,
    open3d_camera,
    open3d_device,
    packed,
    to_bytes,
    unit,
)
from vggt_ros.types import DepthMap, Float32, Image, PointCloud, Rendering

logger = logging.getLogger(__name__)

BLOCK = 16
"""Voxels along the edge of a block. Blocks of 8 leave a third as many voxels empty, but rays
take twice as long through them."""

MOST_WEIGHT = 12
"""Depth maps that a voxel remembers when `map.carve` is set; as many looks through a surface
that has moved away remove it."""

_WEIGHT_LIMIT, _WEIGHT_SETS = 32_768, 1024
"""Without `map.carve` weights are held below the first, every so many sets: they are 16 bits wide,
and one that overflows is 0, a hole."""

KIND, VERSION = "tsdf", 1

_ATTRIBUTES = ("tsdf", "weight", "color")
_CHANNELS = (1, 1, 3)
_VOXEL_BYTES = 4 + 2 + 3 * 2
_BLOCK_BYTES = BLOCK**3 * _VOXEL_BYTES + 128
"""A block with its share of the hash."""

_FIRST_BLOCKS = 512
_LEAST_BLOCKS = 32

_LEAST_SPARE, _SPARE_FRACTION = 32, 0.12
"""Rows of the hash that stay free. Whatever is integrated is counted by Open3D as if it were new,
and if it does not fit the hash doubles; so it is integrated in parts that fit."""

_EVICTION_SLACK = 0.05
"""Fraction of the budget that is freed beyond need, so that not every set has to evict."""

_FRAGMENTS_PER_BLOCK = 4
"""Pieces of 16x16 cells of _RAY_STEP pixels that a block may take up in an image."""

_RAY_STEP = 8
"""Open3D's `range_map_down_factor`. Sizes that it does not divide hang Open3D; images are
rendered with lines and columns added until it does, and cut."""


@dataclass(frozen=True, eq=False)
class TriangleMesh:
    """Vertices (V, 3) float32 in map, faces (F, 3) int32, colours (V, 3), unit normals (V, 3)."""

    points: Float32
    faces: NDArray[np.int32]
    colours: Image
    normals: Float32


class TsdfMap:
    """A dense map within a fixed memory budget; see `mapping.interface.Map`.

    Depth counts alike whatever its confidence is, so clouds carry none.

    Args:
        config: `map.*`; `tsdf_device` says where it lives.

    Raises:
        ConfigError: Open3D is missing or has no such device, the budget is too small, or a
            setting has no meaning here.
    """

    def __init__(self, config: MapConfig) -> None:
        self._o3d = import_open3d()
        self._device = open3d_device(self._o3d, config.tsdf_device)
        self.config = config
        self._check_config()
        self._most_rows = int(config.budget_mb * 1e6 / _BLOCK_BYTES)
        self._capacity = _usable(self._most_rows)
        if self._capacity < _LEAST_BLOCKS:
            least = (_LEAST_BLOCKS + _LEAST_SPARE) * _BLOCK_BYTES / 1e6
            raise ConfigError(
                f"map.budget_mb: expected room for {_LEAST_BLOCKS} blocks of a TSDF "
                f"({least:.2g} MB) or more, got {config.budget_mb} MB; raise it"
            )
        self._revision = -1
        self.clear()

    def clear(self) -> None:
        """Forget everything; the memory goes back to the system."""
        self._allocate(min(self._most_rows, _FIRST_BLOCKS))
        self._set = 0
        self._revision += 1

    @property
    def revision(self) -> int:
        """Grows with every set and whenever the map is cleared or loaded."""
        return self._revision

    @property
    def size(self) -> int:
        """Voxels of the blocks in use."""
        return int(self._grid.hashmap().size()) * BLOCK**3

    @property
    def blocks(self) -> int:
        """Blocks in use."""
        return int(self._grid.hashmap().size())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the blocks, spare ones included."""
        return int(self._grid.hashmap().capacity()) * _BLOCK_BYTES

    def fuse(self, depth_maps: Sequence[DepthMap], bootstrap: bool = False) -> FuseStatistics:
        """Integrate the depth maps of one set.

        Maps whose alignment was not accepted are skipped, as are pixels that are not finite, not
        positive, too far or without confidence. With `map.carve` the space in front of what is
        seen is integrated, too, so that what has moved away goes.

        Args:
            depth_maps: depth [map units] with pose; any sizes.
            bootstrap: the blocks of this set are evicted after all others.

        Raises:
            CalibrationError: shapes that do not agree or a distorted camera.
            ConfigError: the set alone exceeds the budget.

        After an error the map is as it was before.
        """
        self._check_config()
        views = [
            IntegratedView(self._o3d, self._device, depth_map, self.config.max_depth_m)
            for depth_map in depth_maps
            if depth_map.alignment.accepted
        ]
        views = [view for view in views if view.is_useful]
        if not views:
            return FuseStatistics()
        wanted = [self._blocks_of(view) for view in views]
        evicted, missing = self._make_room(np.concatenate(wanted))
        self._set += 1
        self._revision += 1
        before = self.blocks
        for view, blocks in zip(views, wanted, strict=True):
            self._integrate(view, blocks, bootstrap)
        if not self.config.carve and self._set % _WEIGHT_SETS == 0:
            weight = self._flat("weight")
            weight[:] = weight.clip(0, _WEIGHT_LIMIT)
        added = self.blocks - before
        return FuseStatistics(
            added * BLOCK**3, (sum(map(len, wanted)) - missing) * BLOCK**3, 0, evicted * BLOCK**3
        )

    def render(
        self, model: CameraModel, map_from_camera: Rigid3, attributes: bool = False
    ) -> Rendering:
        """Cast a ray for each pixel; NaN where no surface is met.

        Args:
            model: pinhole camera; distortion is an error.
            map_from_camera: pose.
            attributes: also colour and normals in map; confidence is 1 where there is depth.
        """
        check_pinhole(model, "render")
        shape = (model.height, model.width)
        keys = self._visible(model, map_from_camera)
        if not len(keys):
            return empty_rendering(shape, attributes)
        self._reserve_fragments(keys)
        # Open3D casts through values of the voxel below a point, not of the nearest one.
        half_voxel = 0.5 * self.config.voxel_m
        between = Rigid3(map_from_camera.rotation, map_from_camera.translation + half_voxel)
        wanted = ["depth", "color", "normal"] if attributes else ["depth"]
        found = self._grid.ray_cast(
            self._tensor(keys),
            *open3d_camera(self._o3d, model, between, 0.0),
            -(-model.width // _RAY_STEP) * _RAY_STEP,
            -(-model.height // _RAY_STEP) * _RAY_STEP,
            wanted,
            depth_scale=1.0,
            depth_min=self.config.voxel_m,
            depth_max=self.config.max_depth_m,
            weight_threshold=1.0,
            trunc_voxel_multiplier=self.config.truncation_voxels,
            range_map_down_factor=_RAY_STEP,
        )

        def image(name: str) -> NDArray[Any]:
            array: NDArray[Any] = found[name].cpu().numpy()
            return array[: model.height, : model.width]

        depth = image("depth")[..., 0].astype(np.float32)
        empty = ~(depth > 0)
        depth[empty] = np.nan
        if not attributes:
            return Rendering(depth)
        rgb = np.clip(np.rint(255 * image("color")), 0, 255).astype(np.uint8)
        # Open3D gives normals in the camera's frame, away from the camera.
        normals = unit(image("normal").astype(np.float64))
        normals = (normals @ -map_from_camera.rotation.T).astype(np.float32)
        rgb[empty] = 0
        normals[empty] = np.nan
        return Rendering(depth, rgb, normals, (~empty).astype(np.float32))

    def cloud(
        self,
        min_hits: int = 1,
        min_confidence: float = 0.0,
        voxel_m: float = 0.0,
        max_points: int = 0,
    ) -> PointCloud:
        """Points where the distance changes its sign; 0 means no limit.

        Args:
            min_hits: depth maps that must have seen a voxel; with `map.carve` more than
                MOST_WEIGHT are not told apart.
            min_confidence: must be 0, a TSDF has none.
            voxel_m: points of one cell of this size are averaged.
            max_points: evenly thinned to this number.

        Raises:
            ConfigError: `min_confidence` is not 0.
        """
        refuse_confidence(min_confidence)
        cloud = _EMPTY
        if self.blocks:
            points = self._grid.extract_point_cloud(self._threshold(min_hits)).cpu()
            if len(points.point.positions):
                positions = points.point.positions.numpy().astype(np.float32)
                # Open3D's threads find them in any order; the same map gives the same bytes.
                order = np.lexsort(positions.T)
                cloud = PointCloud(
                    positions[order],
                    to_bytes(points.point.colors.numpy()[order]),
                    unit(points.point.normals.numpy()[order]).astype(np.float32),
                )
        if voxel_m:
            return voxel_average(cloud, voxel_m, max_points)
        keep = thin_to(len(cloud), max_points)
        assert cloud.normals is not None  # for the type checker
        return PointCloud(cloud.points[keep], cloud.colours[keep], cloud.normals[keep])

    def changes(
        self, since: int | None, min_hits: int = 1, min_confidence: float = 0.0
    ) -> MapChanges:
        """The whole map as one block if there was any set after a revision, else nothing.

        Open3D extracts all points or none.
        """
        if since is not None and since >= self.revision:
            none = np.zeros(0, np.int64)
            return MapChanges(self.revision, False, none, np.zeros(1, np.int64), _EMPTY)
        cloud = self.cloud(min_hits, min_confidence)
        blocks, starts = np.zeros(1, np.int64), np.array([0, len(cloud)])
        return MapChanges(self.revision, True, blocks, starts, cloud)

    def mesh(self, min_hits: int = 1) -> TriangleMesh:
        """Triangles of the surface (marching cubes).

        Args:
            min_hits: as for `cloud`.
        """
        if not self.blocks:
            nothing = np.zeros((0, 3), np.float32)
            return TriangleMesh(nothing, np.zeros((0, 3), np.int32), _EMPTY.colours, nothing)
        found = self._grid.extract_triangle_mesh(self._threshold(min_hits)).cpu()
        if not len(found.vertex.positions):
            nothing = np.zeros((0, 3), np.float32)
            return TriangleMesh(nothing, np.zeros((0, 3), np.int32), _EMPTY.colours, nothing)
        return TriangleMesh(
            found.vertex.positions.numpy().astype(np.float32),
            found.triangle.indices.numpy().astype(np.int32),
            to_bytes(found.vertex.colors.numpy()),
            unit(found.vertex.normals.numpy()).astype(np.float32),
        )

    def save(self, path: MapPath) -> None:
        """Write the map to one file, atomically.

        Raises:
            ExportError: the file cannot be written; what stood there stays.
        """
        hashmap = self._grid.hashmap()
        rows = hashmap.active_buf_indices().cpu().numpy().astype(np.int64)
        keys = hashmap.key_tensor().cpu().numpy()[rows]
        order = np.lexsort(keys.T)
        rows = rows[order]
        values = {name: self._flat(name).cpu().numpy()[rows] for name in _ATTRIBUTES}
        arrays = {"keys": keys[order], "seen": self._seen[rows], "first": self._first[rows]}
        header = {"voxel_m": self.config.voxel_m, "block": BLOCK, "set": self._set}
        write_map(path, KIND, VERSION, header, {**arrays, **values})

    def load(self, path: MapPath) -> None:
        """Replace the map with a saved one.

        Raises:
            SourceError: not such a file, or damaged; the map is as it was before.
            ConfigError: other voxels than `map.voxel_m`, or more than the budget holds.
        """
        header, arrays = read_map(path, KIND, VERSION)
        _check_header(path, header, self.config)
        keys = check_array(path, arrays, "keys", np.dtype(np.int32), (None, 3))
        n = len(keys)
        seen = check_array(path, arrays, "seen", np.dtype(np.int64), (n,))
        first = check_array(path, arrays, "first", np.dtype(bool), (n,))
        types: tuple[np.dtype[Any], ...] = (
            np.dtype(np.float32),
            np.dtype(np.uint16),
            np.dtype(np.uint16),
        )
        values = [
            check_array(path, arrays, name, dtype, (n, channels * BLOCK**3))
            for name, dtype, channels in zip(_ATTRIBUTES, types, _CHANNELS, strict=True)
        ]
        if n > self._capacity:
            raise ConfigError(
                f"map.budget_mb: {path} holds {n} blocks, the budget of {self.config.budget_mb} "
                f"MB {self._capacity}; raise it to {math.ceil(n * _BLOCK_BYTES / 1e6)} MB"
            )
        self._allocate(min(self._most_rows, max(_FIRST_BLOCKS, _rows_for(n))))
        self._set = int(header["set"])
        self._revision += 1
        if not n:
            return
        rows = self._activate(keys)
        index = self._tensor(rows)
        for name, value in zip(_ATTRIBUTES, values, strict=True):
            self._flat(name)[index] = self._tensor(value)
        self._seen[rows] = seen
        self._first[rows] = first

    def _allocate(self, blocks: int) -> None:
        """An empty grid and what is known of its blocks, by their row in the hash."""
        o3c = self._o3d.core
        self._grid = self._o3d.t.geometry.VoxelBlockGrid(
            _ATTRIBUTES,
            (o3c.float32, o3c.uint16, o3c.uint16),
            tuple(o3c.SizeVector([channels]) for channels in _CHANNELS),
            voxel_size=self.config.voxel_m,
            block_resolution=BLOCK,
            block_count=blocks,
            device=self._device,
        )
        self._has_fragments = False
        rows = int(self._grid.hashmap().capacity())
        self._seen = np.zeros(rows, np.int64)
        self._first = np.zeros(rows, bool)

    def _reserve_fragments(self, keys: NDArray[np.int32]) -> None:
        """Make Open3D's buffer of image fragments large enough, once for each grid.

        It is sized by the first image that is rendered, pixels / 256 / voxel size, and if it is
        too small blocks are left out of the image. So the first image is a large empty one.
        """
        if self._has_fragments:
            return
        wanted = _FRAGMENTS_PER_BLOCK * self._capacity
        side = math.ceil(math.sqrt(256 * self.config.voxel_m * wanted))
        model = CameraModel(side, side, 1.0, 1.0, -2.0 * side, -2.0 * side)
        self._grid.ray_cast(
            self._tensor(keys[:1]),
            *open3d_camera(self._o3d, model, Rigid3.identity(), 0.0),
            side,
            side,
            ["depth"],
            depth_scale=1.0,
            depth_max=self.config.max_depth_m,
            range_map_down_factor=1,
        )
        self._has_fragments = True

    def _flat(self, name: str) -> Any:
        """An attribute of all rows, (rows, values of a block), sharing its memory."""
        attribute = self._grid.attribute(name)
        return attribute.reshape(
            (attribute.shape[0], attribute.num_elements() // attribute.shape[0])
        )

    def _check_config(self) -> None:
        refuse_confidence(self.config.min_confidence)

    def _threshold(self, min_hits: int) -> float:
        most = MOST_WEIGHT if self.config.carve else 65535
        # Open3D wants more than the threshold.
        return min(min_hits, most) - 0.5

    def _blocks_of(self, view: IntegratedView) -> NDArray[np.int32]:
        """Keys (B, 3) of the blocks about the surface of a depth map."""
        keys: NDArray[np.int32] = (
            self._grid.compute_unique_block_coordinates(
                view.depth,
                view.intrinsics,
                view.camera_from_map,
                1.0,
                self.config.max_depth_m,
                self.config.truncation_voxels,
            )
            .cpu()
            .numpy()
        )
        return keys

    def _activate(self, keys: NDArray[np.int32]) -> NDArray[np.int64]:
        """Have the blocks in the hash, empty if they are new; returns their rows."""
        hashmap = self._grid.hashmap()
        _, known = hashmap.find(self._tensor(keys))
        new = keys[~known.cpu().numpy()]
        if len(new):
            hashmap.activate(self._tensor(new))
            rows = self._find(new)
            index = self._tensor(rows)
            for name in _ATTRIBUTES:  # rows that were erased are handed out as they were left
                flat = self._flat(name)
                flat[index] = self._o3d.core.Tensor.zeros(
                    (len(new), flat.shape[1]), flat.dtype, self._device
                )
            self._seen[rows] = 0
            self._first[rows] = False
        return self._find(keys)

    def _integrate(self, view: IntegratedView, blocks: NDArray[np.int32], bootstrap: bool) -> None:
        rows = self._activate(blocks)
        if bootstrap:
            self._first[rows[self._seen[rows] == 0]] = True
        self._seen[rows] = self._set
        if self.config.carve:
            blocks = self._visible(view.model, view.map_from_camera)
        part = int(self._grid.hashmap().capacity()) - self.blocks
        for start in range(0, len(blocks), part):
            self._grid.integrate(
                self._tensor(blocks[start : start + part]),
                view.depth,
                view.colour,
                view.intrinsics,
                view.camera_from_map,
                1.0,
                self.config.max_depth_m,
                self.config.truncation_voxels,
            )
        if self.config.carve and self._set % (MOST_WEIGHT // 4) == 0:
            index = self._tensor(self._find(blocks))
            weight = self._flat("weight")
            weight[index] = weight[index].clip(0, MOST_WEIGHT)

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self._o3d.core.Tensor(np.ascontiguousarray(array), device=self._device)

    def _find(self, keys: NDArray[np.int32]) -> NDArray[np.int64]:
        rows, _ = self._grid.hashmap().find(self._tensor(keys))
        found: NDArray[np.int64] = rows.cpu().numpy().astype(np.int64)
        return found

    def _keys(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Rows in use and their keys (B, 3)."""
        hashmap = self._grid.hashmap()
        rows = hashmap.active_buf_indices().cpu().numpy().astype(np.int64)
        keys: NDArray[np.int32] = hashmap.key_tensor().cpu().numpy()[rows]
        return rows, keys

    def _visible(self, model: CameraModel, map_from_camera: Rigid3) -> NDArray[np.int32]:
        """Keys of the blocks whose bounding sphere meets the view cone."""
        _, keys = self._keys()
        edge = BLOCK * self.config.voxel_m
        reach = 0.5 * math.sqrt(3) * edge
        x, y, z = map_from_camera.inverse().apply((keys + 0.5) * edge).T
        seen = (z > -reach) & (z < self.config.max_depth_m + reach)
        for low, high, focal, middle, size in (
            (x, x, model.fx, model.cx, model.width),
            (y, y, model.fy, model.cy, model.height),
        ):
            left, right = (-0.5 - middle) / focal, (size - 0.5 - middle) / focal
            seen &= low - left * z > -reach * math.hypot(1, left)
            seen &= right * z - high > -reach * math.hypot(1, right)
        return keys[seen]

    def _make_room(self, wanted: NDArray[np.int32]) -> tuple[int, int]:
        """Have room for the blocks; returns (blocks evicted, blocks that are new)."""
        wanted = wanted[np.unique(packed(wanted), return_index=True)[1]]
        hashmap = self._grid.hashmap()
        _, known = hashmap.find(self._tensor(wanted))
        missing = len(wanted) - int(known.cpu().numpy().sum())
        if len(wanted) > self._capacity:
            raise ConfigError(
                f"map.budget_mb: one set needs {len(wanted)} blocks, the budget of "
                f"{self.config.budget_mb} MB holds {self._capacity}; raise it to "
                f"{math.ceil(len(wanted) * _BLOCK_BYTES / 1e6)} MB or enlarge map.voxel_m"
            )
        evicted = 0
        surplus = self.blocks + missing - self._capacity
        if surplus > 0:
            evicted = self._evict(surplus + int(_EVICTION_SLACK * self._capacity), wanted)
        needed = self.blocks + missing
        rows = int(hashmap.capacity())
        if needed > _usable(rows):
            self._grow(min(self._most_rows, max(_rows_for(needed), int(1.5 * rows))))
        return evicted, missing

    def _grow(self, most: int) -> None:
        rows, keys = self._keys()
        seen, first = self._seen[rows], self._first[rows]
        self._grid.hashmap().reserve(most)
        capacity = int(self._grid.hashmap().capacity())
        self._seen = np.zeros(capacity, np.int64)
        self._first = np.zeros(capacity, bool)
        if len(keys):
            rows = self._find(keys)
            self._seen[rows], self._first[rows] = seen, first

    def _evict(self, count: int, wanted: NDArray[np.int32]) -> int:
        """Drop the blocks of least weight and longest unseen, the bootstrap's last."""
        rows, keys = self._keys()
        needed = packed(keys)
        is_wanted = np.isin(needed, packed(wanted))
        weight = self._flat("weight").cpu().numpy()[rows].max(axis=1)
        oldest = int(self._seen[rows].min())
        age = (self._set - self._seen[rows]) / max(1, self._set - oldest)
        priority = np.minimum(weight, MOST_WEIGHT) / MOST_WEIGHT - age
        # The hash gives the blocks in no fixed order; ties go by place.
        order = np.lexsort((needed, priority, self._first[rows], is_wanted))
        gone = order[: min(count, len(order) - int(is_wanted.sum()))]
        self._grid.hashmap().erase(self._tensor(keys[gone]))
        logger.debug("map: evicted %d of %d blocks", len(gone), len(rows))
        return len(gone)


_EMPTY = PointCloud(
    np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32)
)


def _usable(rows: int) -> int:
    """Blocks that a hash of so many rows may hold."""
    return rows - max(_LEAST_SPARE, math.ceil(_SPARE_FRACTION * rows))


def _rows_for(blocks: int) -> int:
    """Rows of a hash for so many blocks."""
    return max(blocks + _LEAST_SPARE, math.ceil(blocks / (1 - _SPARE_FRACTION)) + 1)


def _check_header(path: MapPath, header: dict[str, Any], config: MapConfig) -> None:
    if header.get("block") != BLOCK or not isinstance(header.get("set"), int):
        raise SourceError(
            f"map file {path}: expected blocks of {BLOCK} voxels and a count of sets, got "
            f"{header}; the file is damaged"
        )
    if header.get("voxel_m") != config.voxel_m:
        raise ConfigError(
            f"map.voxel_m: {path} has voxels of {header.get('voxel_m')}, the configuration says "
            f"{config.voxel_m}; set map.voxel_m to that of the file"
        )
