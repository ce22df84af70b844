"""What the TSDF map hands to Open3D and gets back: devices, cameras, images, colours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.checked_input import check_depth_map
from vggt_ros.mapping.kernels_planes import tile_planes
from vggt_ros.mapping.kernels_tsdf import integrable
from vggt_ros.mapping.surfel_view import intrinsics_of
from vggt_ros.types import DepthMap, Image, Rendering

REJECT_REASONS = ("invalid", "far", "grazing")


class IntegratedView:
    """One checked depth map in the form that Open3D takes.

    Args:
        o3d: the module.
        device: of Open3D.
        depth_map: depth [map units] with pose.
        config: `map.max_depth_m` and `map.max_incidence_deg`; what is beyond is left out.

    Raises:
        CalibrationError: shapes that do not agree or a distorted camera.
    """

    def __init__(self, o3d: Any, device: Any, depth_map: DepthMap, config: MapConfig) -> None:
        model = depth_map.model
        check_depth_map(depth_map)
        depth, intrinsics = np.ascontiguousarray(depth_map.depth, np.float32), intrinsics_of(model)
        least_cosine, planes = math.cos(math.radians(config.max_incidence_deg)), _NO_PLANES
        if config.max_incidence_deg < 90:
            planes = tile_planes(depth, intrinsics, np.eye(3, dtype=np.float32))
        # Kept: the tensors below do not own them.
        self._arrays = integrable(
            depth,
            np.ascontiguousarray(depth_map.confidence, np.float32),
            np.ascontiguousarray(depth_map.rgb, np.uint8),
            np.float32(config.max_depth_m),
            planes,
            intrinsics,
            np.float32(least_cosine),
        )
        self.rejected = tuple(int(count) for count in self._arrays[2])
        """Pixels by REJECT_REASONS."""
        # Open3D looks for blocks at each fourth pixel, and throws if it finds none.
        self.is_useful = bool((self._arrays[0][::4, ::4] > 0).any())
        self.model = model
        self.map_from_camera = depth_map.map_from_camera
        tensor, image = o3d.core.Tensor.from_numpy, o3d.t.geometry.Image
        self.depth = image(tensor(self._arrays[0]).to(device))
        self.colour = image(tensor(self._arrays[1]).to(device))
        # Open3D rounds pixels down when it integrates; without this the surface is half a pixel
        # of slant off.
        self.intrinsics, self.camera_from_map = open3d_camera(
            o3d, model, self.map_from_camera, 0.5
        )


_NO_PLANES = np.empty((0, 0, 7), np.float32)


def open3d_device(o3d: Any, name: str) -> Any:
    """The device `cpu` or `cuda`; ConfigError if this machine has none."""
    if name.startswith("cuda") and not o3d.core.cuda.is_available():
        raise ConfigError(
            f"map.tsdf_device: expected a device of this machine, got '{name}', but Open3D "
            "finds no CUDA; set it to cpu"
        )
    return o3d.core.Device("CUDA:0" if name.startswith("cuda") else "CPU:0")


def open3d_camera(
    o3d: Any, model: CameraModel, map_from_camera: Rigid3, shift_px: float
) -> tuple[Any, Any]:
    """Intrinsics, shifted, and `camera_from_map` as Open3D takes them, float64 on the CPU."""
    matrix = np.array(model.matrix, np.float64)
    matrix[:2, 2] += shift_px
    extrinsic = np.ascontiguousarray(map_from_camera.inverse().matrix, np.float64)
    return o3d.core.Tensor(matrix), o3d.core.Tensor(extrinsic)


def empty_rendering(shape: tuple[int, int], attributes: bool) -> Rendering:
    """An image (H, W) without anything in it."""
    depth = np.full(shape, np.nan, np.float32)
    if not attributes:
        return Rendering(depth)
    return Rendering(
        depth,
        np.zeros((*shape, 3), np.uint8),
        np.full((*shape, 3), np.nan, np.float32),
        np.zeros(shape, np.float32),
    )


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors (..., 3) at length one; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: NDArray[Any] = vectors / np.maximum(length, 1e-12)
    return result


def to_bytes(colours: NDArray[Any]) -> Image:
    """Colours of 0 to 1 as uint8."""
    return np.clip(np.rint(255 * colours), 0, 255).astype(np.uint8)


def packed(keys: NDArray[np.int32]) -> NDArray[np.int64]:
    """One int64 for each key (B, 3)."""
    wide = keys.astype(np.int64) + (1 << 20)
    packed: NDArray[np.int64] = wide[:, 0] | wide[:, 1] << 21 | wide[:, 2] << 42
    return packed
