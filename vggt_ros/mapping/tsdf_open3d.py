"""What the TSDF map hands to Open3D and gets back: devices, cameras, images, colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.checked_input import check_depth_map
from vggt_ros.mapping.kernels_tsdf import integrable
from vggt_ros.types import DepthMap, Image, Rendering


class IntegratedView:
    """One checked depth map in the form that Open3D takes; `far` is the greatest depth."""

    def __init__(self, o3d: Any, device: Any, depth_map: DepthMap, far: float) -> None:
        model = depth_map.model
        check_depth_map(depth_map)
        depth, colour, count = integrable(
            np.ascontiguousarray(depth_map.depth, np.float32),
            np.ascontiguousarray(depth_map.confidence, np.float32),
            np.ascontiguousarray(depth_map.rgb, np.uint8),
            np.float32(far),
        )
        self.is_useful = count > 0
        self.model = model
        self.map_from_camera = depth_map.map_from_camera
        tensor, image = o3d.core.Tensor, o3d.t.geometry.Image
        self.depth = image(tensor(depth, device=device))
        self.colour = image(tensor(colour, device=device))
        # Open3D rounds pixels down when it integrates; without this the surface is half a pixel
        # of slant off.
        self.intrinsics, self.camera_from_map = open3d_camera(
            o3d, model, self.map_from_camera, 0.5
        )


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
