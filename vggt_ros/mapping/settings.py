"""Settings of a map that contradict each other."""

from __future__ import annotations

from vggt_ros.config import MapConfig
from vggt_ros.errors import ConfigError


def check_settings(config: MapConfig) -> None:
    """Refuse what has no meaning with this kind of map.

    Raises:
        ConfigError: `map.min_confidence` with a TSDF.
    """
    if config.kind == "tsdf":
        refuse_confidence(config.min_confidence)


def refuse_confidence(value: float) -> None:
    """ConfigError if points of a TSDF are to be chosen by their confidence."""
    if value > 0:
        raise ConfigError(
            f"map.min_confidence: expected 0 with map.kind: tsdf, got {value}; a TSDF keeps no "
            "confidence, use map.min_hits"
        )
