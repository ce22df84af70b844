"""Parameters that only a node has, beside the tree of `vggt_ros.config`; no ROS in this file."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.config import Config, parameter


@dataclass(frozen=True)
class MapperConfig(Config):
    """What the mapper takes: all of `config.Config`, and this."""

    autostart: bool = parameter(
        False, "configure and activate at start, without a launch file or a lifecycle manager"
    )
    calibration_wait_s: float = parameter(
        3.0,
        "after the first image, wait this long for CameraInfo and TF before going on without",
        unit="s",
        low=0.0,
        high=600.0,
    )


@dataclass(frozen=True)
class BagPlayerConfig:
    """What the bag player takes."""

    bag: str = parameter("", "rosbag2 folder or file, sqlite3 or MCAP")
    rate: float = parameter(1.0, "speed; 2: twice as fast as recorded", low=0.001, high=1000.0)
    loop: bool = parameter(False, "start again at the end")
    clock: bool = parameter(False, "publish /clock with the time of the bag")
    clock_rate_hz: float = parameter(100.0, "of /clock", unit="Hz", low=1.0, high=1000.0)
    start_paused: bool = parameter(False, "wait for ~/pause with data: false")
    wait_for_subscribers_s: float = parameter(
        10.0,
        "longest wait for a subscriber of every topic; 0: start at once",
        unit="s",
        low=0.0,
        high=3600.0,
    )
    topics: list[str] = parameter([], "only these topics; empty: all")  # noqa: RUF009


@dataclass(frozen=True)
class CameraSourceConfig:
    """What the camera source takes."""

    source: str = parameter("", "folder with one sub-folder of images per camera")
    camera_per_image: bool = parameter(
        False, "the folder is flat and each of its images is a camera of a static rig"
    )
    rig_file: str = parameter("", "RIG.yaml with intrinsics and poses; empty: images alone")
    fps: float = parameter(10.0, "sets per second", unit="Hz", low=0.01, high=1000.0)
    loop: bool = parameter(False, "start again at the end")
    raw: bool = parameter(False, "publish <name>/image_raw")
    compressed: bool = parameter(True, "publish <name>/image_raw/compressed")
    wait_for_subscribers_s: float = parameter(
        10.0,
        "longest wait for a subscriber of every image topic; 0: start at once",
        unit="s",
        low=0.0,
        high=3600.0,
    )
