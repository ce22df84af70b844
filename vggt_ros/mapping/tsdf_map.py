"""The TSDF map: Open3D's VoxelBlockGrid behind the interface of `mapping.interface.Map`.

A truncated signed distance field (Curless and Levoy, SIGGRAPH 1996) in blocks of voxels that a
hash finds (Niessner et al., 2013; Dong et al., ASH, 2021). Smoother surfaces than surfels, and
meshes, at more memory and time. Open3D is imported when a map is made.
"""

from __future__ import annotations

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
from vggt_ros.mapping.tsdf_blocks import (
    ATTRIBUTES,
    BLOCK,
    BLOCK_BYTES,
    CHANNELS,
    MOST_WEIGHT,
    TYPES,
    Keys,
    TsdfBlocks,
)
from vggt_ros.mapping.tsdf_open3d import (
    REJECT_REASONS,
    IntegratedView,
    empty_rendering,
    open3d_camera,
    open3d_device,
    packed,
    to_bytes,
    unit,
)
from vggt_ros.types import DepthMap, Float32, Image, PointCloud, Rendering

_WEIGHT_LIMIT, _WEIGHT_SETS = 32_768, 1024
"""Without `map.carve` weights are held below the first, every so many sets: they are 16 bits wide,
and one that overflows is 0, a hole."""

KIND, VERSION = "tsdf", 1

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
        self._blocks = TsdfBlocks(self._o3d, self._device, config)
        self._set = 0
        self._revision = 0
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)
        """Pixels that were not fused, by reason, since the last `clear`."""

    def clear(self) -> None:
        """Forget everything; the memory goes back to the system."""
        self._blocks.clear()
        self._set = 0
        self._revision += 1
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)

    @property
    def revision(self) -> int:
        """Grows with every set and whenever the map is cleared or loaded."""
        return self._revision

    @property
    def size(self) -> int:
        """Voxels of the blocks in use."""
        return self.blocks * BLOCK**3

    @property
    def blocks(self) -> int:
        """Blocks in use."""
        return self._blocks.count

    @property
    def memory_bytes(self) -> int:
        """Bytes of the blocks, spare ones included."""
        return self._blocks.memory_bytes

    def fuse(self, depth_maps: Sequence[DepthMap], bootstrap: bool = False) -> FuseStatistics:
        """Integrate the depth maps of one set.

        Maps whose alignment was not accepted are skipped. Pixels that are not finite, not
        positive, without confidence, too far or too flat are counted in `rejected`. With
        `map.carve` the space in front of what is seen is integrated, too, so that what has moved
        away goes.

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
            IntegratedView(self._o3d, self._device, depth_map, self.config)
            for depth_map in depth_maps
            if depth_map.alignment.accepted
        ]
        useful = [view for view in views if view.is_useful]
        evicted = missing = touched = 0
        if useful:
            wanted = [self._blocks_of(view) for view in useful]
            touched = sum(map(len, wanted))
            evicted, missing = self._blocks.hold(_each_once(wanted), self._set + 1, bootstrap)
            self._set += 1
            self._revision += 1
            for view, keys in zip(useful, wanted, strict=True):
                self._integrate(view, keys)
            if not self.config.carve and self._set % _WEIGHT_SETS == 0:
                self._blocks.clip_weight(_WEIGHT_LIMIT)
        for view in views:
            for reason, count in zip(REJECT_REASONS, view.rejected, strict=True):
                self.rejected[reason] += count
        return FuseStatistics(
            missing * BLOCK**3, (touched - missing) * BLOCK**3, 0, evicted * BLOCK**3
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
        keys = self._blocks.visible(model, map_from_camera, self.config.max_depth_m)
        if not len(keys):
            return empty_rendering(shape, attributes)
        self._blocks.reserve_fragments(keys, self.config.max_depth_m)
        # Open3D casts through values of the voxel below a point, not of the nearest one.
        half_voxel = 0.5 * self.config.voxel_m
        between = Rigid3(map_from_camera.rotation, map_from_camera.translation + half_voxel)
        wanted = ["depth", "color", "normal"] if attributes else ["depth"]
        found = self._blocks.grid.ray_cast(
            self._blocks.tensor(keys),
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
            points = self._blocks.grid.extract_point_cloud(self._threshold(min_hits)).cpu()
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
        found = self._blocks.grid.extract_triangle_mesh(self._threshold(min_hits)).cpu()
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
        header = {"voxel_m": self.config.voxel_m, "block": BLOCK, "set": self._set}
        write_map(path, KIND, VERSION, header, self._blocks.arrays())

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
        check_array(path, arrays, "seen", np.dtype(np.int64), (n,))
        check_array(path, arrays, "first", np.dtype(bool), (n,))
        for name, dtype, channels in zip(ATTRIBUTES, TYPES, CHANNELS, strict=True):
            check_array(path, arrays, name, dtype, (n, channels * BLOCK**3))
        if n > self._blocks.capacity:
            raise ConfigError(
                f"map.budget_mb: {path} holds {n} blocks, the budget of {self.config.budget_mb} "
                f"MB {self._blocks.capacity}; raise it to {math.ceil(n * BLOCK_BYTES / 1e6)} MB"
            )
        self.clear()
        self._blocks.restore(arrays)
        self._set = int(header["set"])

    def _check_config(self) -> None:
        refuse_confidence(self.config.min_confidence)

    def _threshold(self, min_hits: int) -> float:
        most = MOST_WEIGHT if self.config.carve else 65535
        # Open3D wants more than the threshold.
        return min(min_hits, most) - 0.5

    def _blocks_of(self, view: IntegratedView) -> Keys:
        """Keys (B, 3) of the blocks about the surface of a depth map."""
        keys: Keys = (
            self._blocks.grid.compute_unique_block_coordinates(
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

    def _integrate(self, view: IntegratedView, keys: Keys) -> None:
        carve = self.config.carve
        if carve:
            keys = self._blocks.visible(view.model, view.map_from_camera, self.config.max_depth_m)
        for part in self._blocks.parts(keys):
            self._blocks.grid.integrate(
                part,
                view.depth,
                view.colour,
                view.intrinsics,
                view.camera_from_map,
                1.0,
                self.config.max_depth_m,
                self.config.truncation_voxels,
            )
        if carve and self._set % (MOST_WEIGHT // 4) == 0:
            self._blocks.clip_weight(MOST_WEIGHT, keys)


def _each_once(keys: Sequence[Keys]) -> Keys:
    """The keys of several depth maps together; each of them has a key but once."""
    if len(keys) == 1:
        return keys[0]
    together = np.concatenate(keys)
    return together[np.unique(packed(together), return_index=True)[1]]


_EMPTY = PointCloud(
    np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32)
)


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
