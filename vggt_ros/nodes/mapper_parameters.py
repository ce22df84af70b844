"""The parameters of the mapper, declared, with the cameras that a rig file names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rclpy.node import Node

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import ConfigError, nearest
from vggt_ros.nodes import parameters
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.rig import Rig, load_rig


def declare_mapper(node: Node) -> tuple[MapperConfig, Rig | None]:
    """Declare all parameters and read the rig file, if one is given.

    Raises:
        ConfigError: wrong parameters or rig file.
    """
    defaults = MapperConfig()
    rig_file = parameters.read_override(node, "rig_file", defaults.rig_file)
    names = parameters.read_override(node, "cameras", defaults.cameras)
    rig: Rig | None = None
    if rig_file:
        rig = load_rig(rig_file)
        for name in names:
            if name not in rig.names:
                raise ConfigError(
                    f"parameter 'cameras': '{name}' is not in {rig_file}"
                    f"{nearest(name, rig.names)}, which has {', '.join(rig.names)}"
                )
        names = names or list(rig.names)
    parameters.check_camera_names(names)
    tree = dataclasses.replace(defaults, camera={name: CameraConfig() for name in names})
    config = parameters.declare(
        node, tree, read_only=("cameras", "camera.", "rig_file", "autostart")
    )
    if not names:
        raise ConfigError(
            "parameter 'cameras': expected one camera name or more, or a rig_file; got none"
        )
    check_least_cameras(config, names)
    return config, rig


def check_least_cameras(config: Config, names: Sequence[str]) -> None:
    """A set cannot need more cameras than there are.

    Raises:
        ConfigError: `ingest.min_cameras` is above the number of cameras.
    """
    if names and config.ingest.min_cameras > len(names):
        raise ConfigError(
            f"parameter 'ingest.min_cameras': expected at most the {len(names)} cameras, got "
            f"{config.ingest.min_cameras}"
        )
