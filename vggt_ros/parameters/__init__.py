"""The configuration from files, flags and flat names, and back to files and documentation."""

from vggt_ros.parameters.documents import dump_config, parameters_markdown
from vggt_ros.parameters.files import load_config
from vggt_ros.parameters.tree import ParameterInfo, config_from_flat, config_to_flat, flatten

__all__ = [
    "ParameterInfo",
    "config_from_flat",
    "config_to_flat",
    "dump_config",
    "flatten",
    "load_config",
    "parameters_markdown",
]
