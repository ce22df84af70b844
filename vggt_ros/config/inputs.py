"""Cameras, frames and frame sets: what comes in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vggt_ros.config.parameter import parameter


@dataclass(frozen=True)
class CameraConfig:
    """`camera.<name>.*`: where one camera's data come from."""

    image_topic: str = parameter("", "image topic; empty: <name>/image_raw")
    info_topic: str = parameter("", "CameraInfo topic; empty: <name>/camera_info")
    depth_topic: str = parameter("", "depth image topic of an RGB-D camera; empty: none")
    transport: str = parameter(
        "raw",
        "raw: sensor_msgs/Image; compressed: CompressedImage on <image_topic>/compressed",
        choices=("raw", "compressed"),
    )
    frame_id: str = parameter("", "optical frame; empty: the frame_id of the images")
    mask: str = parameter(
        "",
        "PNG of the aspect of the images, white where the robot is seen: those pixels reach "
        "neither map nor clouds nor depth images; empty: none",
    )

    def resolved(self, name: str) -> CameraConfig:
        """With the default topics of camera `name` filled in."""
        return dataclasses.replace(
            self,
            image_topic=self.image_topic or f"{name}/image_raw",
            info_topic=self.info_topic or f"{name}/camera_info",
        )


@dataclass(frozen=True)
class FrameConfig:
    """`frame.*`: names of coordinate frames."""

    map: str = parameter("map", "frame of the map")
    rig: str = parameter("rig", "frame of the rig where no TF names one")
    base: str = parameter("base_link", "robot frame that carries the cameras in the URDF")
    odom: str = parameter("", "odometry frame; empty: no odometry")
    tf_wait_ms: float = parameter(
        500.0,
        "motion tf: a set waits this long for the transform at its stamp, then it is dropped",
        unit="ms",
        low=0.0,
        high=10_000.0,
    )
    tf_history_s: float = parameter(
        10.0, "transforms of /tf are remembered this long", unit="s", low=0.1, high=600.0
    )
    prefix: str = parameter(
        "",
        "before every frame that is named here, in camera.<name>.frame_id or in the rig file, "
        "such as robot1/; frames that come with messages and TF stay as they are",
    )


@dataclass(frozen=True)
class IngestConfig:
    """`ingest.*`: from stamped images to frame sets."""

    max_skew_ms: float = parameter(
        20.0,
        "largest difference of stamps within a set",
        unit="ms",
        low=0.0,
        high=10_000.0,
        runtime=True,
    )
    queue_size: int = parameter(
        8, "images kept per camera while a set is incomplete", low=1, high=1000
    )
    min_cameras: int = parameter(
        0,
        "smallest number of cameras of a set; 0: all of them",
        low=0,
        high=16,
        runtime=True,
    )
    silent_after_s: float = parameter(
        10.0,
        "a camera without a usable image for so long is left out of the sets until it has one "
        "again; 0: it is waited for; only while min_cameras is 0",
        unit="s",
        low=0.0,
        high=3600.0,
        runtime=True,
    )
    reliability: str = parameter(
        "auto",
        "of image subscriptions: best_effort matches every driver but loses large images on a "
        "busy machine; reliable gets all from publishers that offer it; auto: reliable until a "
        "driver turns out to be best effort",
        choices=("auto", "best_effort", "reliable"),
    )
    require_calibration: bool = parameter(
        False, "wait for CameraInfo of every camera instead of estimating intrinsics"
    )
    max_width: int = parameter(
        1280, "wider images are reduced to this width when decoded", unit="px", low=64, high=8192
    )
