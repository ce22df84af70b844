"""Parameters that only a node has, beside the tree of `vggt_ros.config`; no ROS in this file."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.config import Config, parameter
from vggt_ros.sources.open_source import KINDS


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

    kind: str = parameter("images", "what is published", choices=KINDS)
    source: str = parameter(
        "", "images: folder with one sub-folder per camera; videos: folder of videos, or one video"
    )
    webcams: list[str] = parameter(  # noqa: RUF009
        [], "webcams: ['0', '1'], ['front=0', 'left=/dev/video2'] or addresses (http, rtsp)"
    )
    views: list[str] = parameter([], "only these cameras, in this order; empty: all")  # noqa: RUF009
    frame_step: int = parameter(1, "publish every so many-th image", low=1, high=10_000)
    camera_per_image: bool = parameter(
        False, "the folder is flat and each of its images is a camera of a static rig"
    )
    images_live: bool = parameter(False, "the folder grows: wait for new images")
    rig_file: str = parameter("", "RIG.yaml with intrinsics and poses; empty: images alone")
    intrinsics: str = parameter("", "K by camera, .npz, .json or .yaml; overrules rig_file")
    poses: str = parameter("", "camera to world, .npz, .json or .yaml; overrules rig_file")
    fps: float = parameter(
        10.0, "images per second of image folders", unit="Hz", low=0.01, high=1000.0
    )
    rate: float = parameter(
        1.0, "speed of folders and videos; 2: twice as fast", low=0.001, high=1000.0
    )
    loop: bool = parameter(False, "start again at the end")
    raw: bool = parameter(False, "publish <name>/image_raw")
    compressed: bool = parameter(True, "publish <name>/image_raw/compressed")
    jpeg_quality: int = parameter(
        90, "of compressed videos and webcams; files keep their bytes", low=1, high=100
    )
    width: int = parameter(0, "asked of webcams; 0: their own", unit="px", low=0, high=16_384)
    height: int = parameter(0, "asked of webcams; 0: their own", unit="px", low=0, high=16_384)
    device_rate_hz: float = parameter(
        0.0, "asked of webcams; 0: their own", unit="Hz", low=0.0, high=1000.0
    )
    fourcc: str = parameter("", "pixel format asked of webcams, such as MJPG; empty: their own")
    max_skew_ms: float = parameter(
        40.0, "largest difference of stamps of webcams in a set", unit="ms", low=0.1, high=10_000.0
    )
    open_timeout_s: float = parameter(
        10.0, "every webcam must give an image within", unit="s", low=0.1, high=600.0
    )
    wait_for_subscribers_s: float = parameter(
        10.0,
        "longest wait for a subscriber of every image topic; 0: start at once",
        unit="s",
        low=0.0,
        high=3600.0,
    )
    num_cams: int = parameter(0, "at most the first so many cameras; 0: all", low=0, high=64)
    random_views: int = parameter(
        0, "so many cameras, drawn with seed; 0: not drawn; not with views", low=0, high=64
    )
    seed: int = parameter(42, "of random_views", low=0)
    start_set: int = parameter(0, "videos: begin with this set", low=0)
    idle_s: float = parameter(
        30.0,
        "images_live ends when nothing has come for so long",
        unit="s",
        low=0.1,
        high=86_400.0,
    )
