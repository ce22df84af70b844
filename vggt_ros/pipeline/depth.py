"""Which depth estimator a configuration asks for."""

from __future__ import annotations

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, nearest
from vggt_ros.pipeline.stages import DepthEstimator

ESTIMATORS = ("plane_sweep",)


def make_depth_estimator(config: Config) -> DepthEstimator:
    """The estimator of `config.depth`.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.depth == "plane_sweep":
        from vggt_ros.pipeline.plane_sweep import PlaneSweep  # compiles; only when used

        return PlaneSweep(config.plane_sweep)
    raise ConfigError(
        f"depth: expected one of {', '.join(ESTIMATORS)}, got '{config.depth}'"
        f"{nearest(config.depth, ESTIMATORS)}"
    )
