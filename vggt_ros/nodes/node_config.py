"""Parameters that only a node has, beside the tree of `vggt_ros.config`; no ROS in this file."""

from __future__ import annotations

from dataclasses import dataclass, field

from vggt_ros.config import Config, parameter
from vggt_ros.sources.open_source import KINDS


@dataclass(frozen=True)
class DiagnosticsConfig:
    """`diagnostics.*`: from where on `/diagnostics` warns; docs/diagnostics.md has the texts."""

    silent_after_s: float = parameter(
        2.0, "a camera without an image for so long is an error", unit="s", low=0.1, runtime=True
    )
    min_rate_hz: float = parameter(
        0.0, "slower cameras are a warning; 0: none", unit="Hz", low=0.0, runtime=True
    )
    max_stamp_age_s: float = parameter(
        1.0, "older stamps on arrival are a warning", unit="s", low=0.0, runtime=True
    )
    max_clock_offset_s: float = parameter(
        0.1,
        "a camera whose stamps are farther behind or ahead of the others' is a warning",
        unit="s",
        low=0.001,
        runtime=True,
    )
    max_skew_ms: float = parameter(
        15.0,
        "a larger median distance from the stamps of its sets is a warning",
        unit="ms",
        low=0.0,
        runtime=True,
    )
    max_drops: float = parameter(
        0.2, "a larger part of the images dropped is a warning", low=0.0, high=1.0, runtime=True
    )
    no_sets_after_s: float = parameter(
        5.0, "images without a set for so long are a warning", unit="s", low=0.5, runtime=True
    )
    min_overlap: float = parameter(
        0.1,
        "less of a view seen by another one, median over the cameras, is a warning with "
        "plane_sweep",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    min_inliers: float = parameter(
        0.3,
        "less of a camera's depth that agrees with the map is a warning",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    max_scale_drift: float = parameter(
        0.05, "more relative change of the scale is a warning", low=0.0, runtime=True
    )
    max_memory: float = parameter(
        0.9, "a larger part of map.budget_mb in use is a warning", low=0.0, high=1.0, runtime=True
    )
    max_step_s: float = parameter(
        60.0, "a set that is being mapped for longer is a warning", unit="s", low=1.0, runtime=True
    )


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
    max_internal_errors: int = parameter(
        3,
        "sets in a row that may fail for a fault of the program itself; one more stops mapping "
        "and brings the node to error processing",
        low=0,
        high=1000,
        runtime=True,
    )
    after_error: str = parameter(
        "unconfigured",
        "where error processing ends; unconfigured: it can be configured again; finalized: it "
        "cannot; exit: the process ends with exit code 1, and the launch with it, so that systemd "
        "starts both again",
        choices=("unconfigured", "finalized", "exit"),
        runtime=True,
    )
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)


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
    frame_prefix: str = parameter(
        "", "before the names of the rig's and the images' frames, such as robot1/"
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
