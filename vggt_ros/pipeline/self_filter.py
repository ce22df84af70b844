"""The robot itself, kept out of its map: masks of what its cameras see of it, and a box."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config, SelfFilterConfig
from vggt_ros.errors import CalibrationError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.decode import fit_model
from vggt_ros.rig import Rig
from vggt_ros.types import AlignedScene, DepthMap, DepthPrediction

log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

_WHITE = 128
"""Grey values from here on are white: masks may have soft edges."""


class SelfFilter:
    """Makes holes where a camera sees the robot (`camera.<name>.mask`, `self_filter.*`).

    Holes neither add to the map nor carve it. Features of the bootstrap are not masked: on a
    rig that stands still the robot's own parts are as good as any.

    Args:
        config: cameras and box; may be replaced while mapping, except for the masks.

    Raises:
        ConfigError: a mask that is missing or no image.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._masks = {
            name: _read_mask(name, entry.mask)
            for name, entry in config.camera.items()
            if entry.mask
        }
        self._fitted: dict[tuple[str, CameraModel, CameraModel], Mask] = {}
        self._has_warned = False

    def masked(
        self, predictions: Sequence[DepthPrediction], scene: AlignedScene, rig: Rig | None
    ) -> list[DepthPrediction]:
        """The predictions with NaN where the masks are white.

        Raises:
            CalibrationError: a mask of another aspect than the images.
        """
        return [
            p
            if (mask := self._mask(p.camera, p.model, scene, rig)) is None
            else replace(
                p,
                values=np.where(mask, np.float32(np.nan), p.values),
                confidence=np.where(mask, np.float32(0), p.confidence),
            )
            for p in predictions
        ]

    def unseen(
        self, depth_maps: Sequence[DepthMap], scene: AlignedScene, rig: Rig | None
    ) -> list[DepthMap]:
        """Depth maps of a bootstrap with NaN where the masks are white, and within the box."""
        masked = self.masked_maps(depth_maps, scene, rig)
        return list(self.outside_box(masked, scene.map_from_rig))

    def masked_maps(
        self, depth_maps: Sequence[DepthMap], scene: AlignedScene, rig: Rig | None
    ) -> list[DepthMap]:
        """Depth maps of a bootstrap with NaN where the masks are white; raises as `masked`."""
        return [
            d
            if (mask := self._mask(d.camera, d.model, scene, rig)) is None
            else replace(d, depth=np.where(mask, np.float32(np.nan), d.depth))
            for d in depth_maps
        ]

    def outside_box(
        self, depth_maps: Sequence[DepthMap], map_from_rig: Rigid3 | None
    ) -> tuple[DepthMap, ...]:
        """The depth maps with NaN where a point lies within the box around the robot.

        Args:
            depth_maps: with their poses in map.
            map_from_rig: where the rig was; None: nobody knows, so nothing can be left out.
        """
        settings = self.config.self_filter
        if not settings.enabled:
            return tuple(depth_maps)
        low, high = box_corners(settings)
        if map_from_rig is None:
            if not self._has_warned:
                log.warning(
                    "self_filter: the box is not applied, for nothing says where the rig is in "
                    "the map; give rig_from_camera (rig_file or TF), or use camera.<name>.mask"
                )
                self._has_warned = True
            return tuple(depth_maps)
        return tuple(_without_box(d, map_from_rig, low, high) for d in depth_maps)

    def _mask(
        self, camera: str, model: CameraModel, scene: AlignedScene, rig: Rig | None
    ) -> Mask | None:
        """The mask of a camera in the pixels of an undistorted `model`."""
        mask = self._masks.get(camera)
        if mask is None:
            return None
        # Images come undistorted with the model that others gave, else with the one found.
        given = rig.models.get(camera) if rig is not None else None
        lens = given or scene.cameras[camera]
        key = (camera, lens, model)
        if key not in self._fitted:
            self._fitted[key] = _fit(mask, lens, model, camera)
        return self._fitted[key]


def box_corners(settings: SelfFilterConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner in the rig frame [m]."""
    return (
        np.array([settings.min_x, settings.min_y, settings.min_z]),
        np.array([settings.max_x, settings.max_y, settings.max_z]),
    )


def _read_mask(camera: str, path: str) -> Mask:
    image: Any = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ConfigError(
            f"camera.{camera}.mask: expected an image file, white where the robot is seen, got "
            f"{path}, which is missing or cannot be read"
        )
    return np.asarray(image >= _WHITE)


def _fit(mask: Mask, lens: CameraModel, model: CameraModel, camera: str) -> Mask:
    """A mask of raw images in the pixels of undistorted ones; any touched pixel is white."""
    height, width = mask.shape
    try:
        lens = fit_model(lens, (width, height), camera)
    except CalibrationError as error:
        raise CalibrationError(f"camera.{camera}.mask: {error}") from error
    found = mask.astype(np.float32)
    if lens.is_distorted:
        rays = lens.without_distortion().rays()
        pixels = lens.project(rays).astype(np.float32)
        found = np.asarray(
            cv2.remap(found, pixels[..., 0].copy(), pixels[..., 1].copy(), cv2.INTER_LINEAR),
            np.float32,
        )
    if (width, height) != model.size:
        shrinks = model.width < width
        found = np.asarray(
            cv2.resize(
                found, model.size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            ),
            np.float32,
        )
    return np.asarray(found > 1e-3)


def _without_box(
    depth_map: DepthMap,
    map_from_rig: Rigid3,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> DepthMap:
    rig_from_camera = map_from_rig.inverse() @ depth_map.map_from_camera
    reach = np.abs(np.stack([low, high])).max(axis=0) + np.abs(rig_from_camera.translation)
    near = depth_map.depth < np.linalg.norm(reach)  # the rest of most images is farther
    points = rig_from_camera.apply(
        depth_map.model.rays()[near] * depth_map.depth[near][:, None].astype(np.float64)
    )
    inside = ((points > low) & (points < high)).all(axis=1)
    if not inside.any():
        return depth_map
    depth = depth_map.depth.copy()
    depth[near] = np.where(inside, np.float32(np.nan), depth[near])
    return replace(depth_map, depth=depth)
