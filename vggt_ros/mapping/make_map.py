"""The map that `map.kind` names."""

from __future__ import annotations

from vggt_ros.config import MapConfig
from vggt_ros.mapping.interface import Map
from vggt_ros.mapping.surfel_map import SurfelMap


def make_map(config: MapConfig) -> Map:
    """An empty map.

    Raises:
        ConfigError: the budget is too small, or what this kind needs is missing.
    """
    if config.kind == "tsdf":
        # Imported here: it is the only one that needs Open3D.
        from vggt_ros.mapping.tsdf_map import TsdfMap

        return TsdfMap(config)
    return SurfelMap(config)
