"""The node that publishes folders of images, videos or webcams as the topics of cameras."""

from __future__ import annotations

import array
import threading
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import ConfigError, VggtRosError
from vggt_ros.nodes import conversions, parameters, qos, subscribers
from vggt_ros.nodes.node_config import CameraSourceConfig
from vggt_ros.nodes.transforms import StaticBroadcaster
from vggt_ros.pipeline.decode import decode_rgb
from vggt_ros.rig import RigCamera, load_rig
from vggt_ros.sources.image_files import jpeg_of
from vggt_ros.sources.open_source import SourceOptions, open_source
from vggt_ros.sources.source import ImageSource
from vggt_ros.sources.webcam_device import CaptureSettings
from vggt_ros.types import StampedImage


class CameraSource(Node):
    """Publishes one set of images after the other.

    Images of folders and videos are stamped with the time of publishing, those of webcams with
    the time of the node's clock at which they were grabbed.

    Per camera `<name>/image_raw` and `<name>/image_raw/compressed`, as the parameters say;
    `<name>/camera_info` where the rig file has intrinsics; `/tf_static` where it has poses.

    Args:
        stop: set by a signal, and by the node after the last image.

    Raises:
        ConfigError: wrong parameters or rig file.
        SourceError: the source does not hold what is expected, or a webcam is absent.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("camera_source")
        self.exit_code = 0
        self._stop = stop
        self._config = config = parameters.declare(self, CameraSourceConfig())
        if not (config.raw or config.compressed):
            raise ConfigError("parameters 'raw' and 'compressed': expected at least one of them")
        self._source = self._open(config)
        self._images: dict[str, Any] = {}
        self._infos: dict[str, Any] = {}
        for camera in self._source.rig.cameras:
            self._advertise(camera)
        self._transforms = StaticBroadcaster(self)
        self._sent = 0
        self._thread = threading.Thread(target=self._publish_all, name="publishing", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """End the publishing."""
        self._stop.set()
        self._source.close()
        self._thread.join(subscribers.ACK_TIMEOUT_S + 1.0)
        return not self._thread.is_alive()

    def _open(self, config: CameraSourceConfig) -> ImageSource:
        # A launch argument cannot be an empty list.
        webcams = [word for word in config.webcams if word]
        if config.kind == "webcams" and not webcams:
            raise ConfigError("parameter 'webcams': expected devices, such as ['0', '1']")
        if config.kind != "webcams" and not config.source:
            what = "images" if config.kind == "images" else "videos"
            raise ConfigError(f"parameter 'source': expected a folder of {what}, got nothing")
        options = SourceOptions(
            images=config.source if config.kind == "images" else "",
            images_live=config.images_live,
            camera_per_image=config.camera_per_image,
            videos=config.source if config.kind == "videos" else "",
            webcams=webcams,
            views=config.views,
            frame_step=config.frame_step,
            intrinsics=config.intrinsics,
            poses=config.poses,
            fps=config.fps,
            capture=CaptureSettings(
                config.width, config.height, config.device_rate_hz, config.fourcc
            ),
            max_skew_ms=config.max_skew_ms,
            open_timeout_s=config.open_timeout_s,
            num_cams=config.num_cams,
            random_views=config.random_views,
            seed=config.seed,
            start_set=config.start_set,
            idle_s=config.idle_s,
        )
        rig = load_rig(config.rig_file) if config.rig_file else None
        return open_source(config.kind, options, rig=rig, clock=self._now_ns, stop=self._stop)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _advertise(self, camera: RigCamera) -> None:
        def advertise(kind: Any, topic: str) -> Any:
            return self.create_publisher(
                kind, topic, qos.reliable(), qos_overriding_options=qos.overridable()
            )

        base = str(self.resolve_topic_name(f"{camera.name}/image_raw"))
        if self._config.raw:
            self._images[base] = advertise(Image, base)
        if self._config.compressed:
            topic = f"{base}/compressed"
            self._images[topic] = advertise(CompressedImage, topic)
        if camera.model is not None:
            self._infos[camera.name] = advertise(CameraInfo, f"{camera.name}/camera_info")

    # --- in the publishing thread --------------------------------------------------------------

    def _publish_all(self) -> None:
        try:
            self._send_transforms()
            lonely = subscribers.wait_for_subscribers(
                self._images, self._config.wait_for_subscribers_s, self._stop
            )
            if lonely and not self._stop.is_set():
                self.get_logger().warning(
                    f"after {self._config.wait_for_subscribers_s:g} s nobody subscribes to "
                    f"{', '.join(lonely)}"
                )
            while not self._stop.is_set():
                self._publish_once()
                if not self._config.loop:
                    break
            subscribers.wait_until_received(self._images)
            self.get_logger().info(f"end of the images: {self._sent} published")
        except VggtRosError as error:
            self.get_logger().error(str(error))
            self.exit_code = 1
        except Exception as error:
            self.get_logger().error(f"internal error while publishing: {error!r}")
            self.exit_code = 1
        finally:
            self._stop.set()

    def _publish_once(self) -> None:
        begin, first = time.monotonic(), None
        for images in self._source:
            if not self._source.is_live:
                first = images[0].stamp_ns if first is None else first
                due = begin + (images[0].stamp_ns - first) * 1e-9 / self._config.rate
                if self._stop.wait(max(due - time.monotonic(), 0.0)):
                    return
            elif self._stop.is_set():
                return
            stamp = self._now_ns()
            for image in images:
                is_stamped = self._config.kind == "webcams"
                self._publish(image, image.stamp_ns if is_stamped else stamp)

    def _publish(self, image: StampedImage, stamp: int) -> None:
        base = str(self.resolve_topic_name(f"{image.camera}/image_raw"))
        raw = self._images.get(base)
        frame_id = self._config.frame_prefix + image.frame_id
        if raw is not None and (not self._config.compressed or raw.get_subscription_count()):
            is_file = isinstance(image.data, bytes)
            pixels = decode_rgb(image) if is_file else np.asarray(image.data)
            encoding = "rgb8" if is_file else image.encoding
            raw.publish(conversions.image_message(pixels, encoding, stamp, frame_id))
        compressed = self._images.get(f"{base}/compressed")
        if compressed is not None:
            file = jpeg_of(image, self._config.jpeg_quality)
            message = CompressedImage(format=file.encoding)
            message.header.stamp = conversions.time_message(stamp)
            message.header.frame_id = frame_id
            message.data = array.array("B", file.data)
            compressed.publish(message)
        camera = next(c for c in self._source.rig.cameras if c.name == image.camera)
        if camera.model is not None:
            self._infos[image.camera].publish(
                conversions.camera_info_message(camera.model, stamp, frame_id)
            )
        self._sent += 1

    def _send_transforms(self) -> None:
        """`rig` to the optical frame of each camera whose place is known."""
        rig, prefix = self._source.rig, self._config.frame_prefix
        stamp = self.get_clock().now().nanoseconds
        transforms = [
            conversions.transform_message(
                pose, prefix + rig.rig_frame, prefix + camera.frame_id, stamp
            )
            for camera in rig.cameras
            if (pose := camera.rig_from_camera) is not None
        ]
        if transforms:
            self._transforms.send(transforms)
