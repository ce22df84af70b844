"""The transport for images and clouds of several megabytes; no ROS in this file.

Shared memory in pieces of 1 MB on one host, TCP to others, UDP for discovery. bench/dds.py
measures it beside the default.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LARGE_DATA = "LARGE_DATA?max_msg_size=1MB&sockets_size=64MB&non_blocking=true"
"""Value of FASTDDS_BUILTIN_TRANSPORTS. It has no effect where ROS_AUTOMATIC_DISCOVERY_RANGE is
LOCALHOST (seen of rmw_fastrtps 8.4: the segment of shared memory stays at 0.5 MB); the profile as
a file has, everywhere."""

PROFILE = "fastdds_large_data.xml"
"""The same as a file, in config/."""
PROFILE_HUMBLE = "fastdds_humble.xml"
"""For Fast DDS 2.6, which knows no LARGE_DATA."""

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Name the file: of Fast DDS 2 and of Fast DDS 3 (Kilted and later)."""


def profile_file() -> Path | None:
    """Where the profile of this installation lies: source tree, colcon, or environment."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    name = PROFILE_HUMBLE if os.environ.get("ROS_DISTRO") == "humble" else PROFILE
    folders = [
        Path(__file__).resolve().parents[2],
        *(Path(prefix) / "share" / "vggt_ros" for prefix in [*prefixes, sys.prefix]),
    ]
    return next((f / "config" / name for f in folders if (f / "config" / name).is_file()), None)


def profile_environment() -> dict[str, str]:
    """Environment variables that give Fast DDS the profile; empty where it is not installed."""
    file = profile_file()
    return {} if file is None else dict.fromkeys(PROFILE_VARIABLES, str(file))
