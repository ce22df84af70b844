"""Which depth estimator a configuration asks for."""

from __future__ import annotations

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, nearest
from vggt_ros.pipeline.stages import DepthEstimator

ESTIMATORS = ("plane_sweep", "depth_anything")


def make_depth_estimator(config: Config) -> DepthEstimator:
    """The estimator of `config.depth`.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.depth == "plane_sweep":
        from vggt_ros.pipeline.plane_sweep import PlaneSweep  # compiles; only when used

        return PlaneSweep(config.plane_sweep)
    if config.depth == "depth_anything":
        from vggt_ros.pipeline.depth_anything import DepthAnything  # only where it is chosen

        return DepthAnything(config.depth_anything, len(config.cameras))
    raise ConfigError(
        f"depth: expected one of {', '.join(ESTIMATORS)}, got '{config.depth}'"
        f"{nearest(config.depth, ESTIMATORS)}"
    )
