"""The node that publishes folders of images as the topics of cameras."""

from __future__ import annotations

import array
import threading
import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.errors import ConfigError, VggtRosError
from vggt_ros.nodes import conversions, parameters, qos, subscribers
from vggt_ros.nodes.node_config import CameraSourceConfig
from vggt_ros.nodes.transforms import StaticBroadcaster
from vggt_ros.pipeline.decode import decode_rgb
from vggt_ros.rig import RigCamera, load_rig
from vggt_ros.sources.images import ImageFolderSource
from vggt_ros.types import StampedImage


class CameraSource(Node):
    """Publishes one set of images after the other, stamped with the time of publishing.

    Per camera `<name>/image_raw` and `<name>/image_raw/compressed`, as the parameters say;
    `<name>/camera_info` where the rig file has intrinsics; `/tf_static` where it has poses.

    Args:
        stop: set by a signal, and by the node after the last image.

    Raises:
        ConfigError: wrong parameters or rig file.
        SourceError: the folder does not hold what is expected.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("camera_source")
        self.exit_code = 0
        self._stop = stop
        self._config = config = parameters.declare(self, CameraSourceConfig())
        if not config.source:
            raise ConfigError("parameter 'source': expected a folder of images, got nothing")
        if not (config.raw or config.compressed):
            raise ConfigError("parameters 'raw' and 'compressed': expected at least one of them")
        rig = load_rig(config.rig_file) if config.rig_file else None
        self._source = ImageFolderSource(config.source, config.camera_per_image, rig, config.fps)
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
        self._thread.join(subscribers.ACK_TIMEOUT_S + 1.0)
        return not self._thread.is_alive()

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
        due = time.monotonic()
        for images in self._source:
            if self._stop.wait(max(due - time.monotonic(), 0.0)):
                return
            stamp = self.get_clock().now().nanoseconds
            for image in images:
                self._publish(image, stamp)
            due += 1.0 / self._config.fps

    def _publish(self, image: StampedImage, stamp: int) -> None:
        base = str(self.resolve_topic_name(f"{image.camera}/image_raw"))
        raw = self._images.get(base)
        if raw is not None and (not self._config.compressed or raw.get_subscription_count()):
            pixels = decode_rgb(image)
            raw.publish(conversions.image_message(pixels, "rgb8", stamp, image.frame_id))
        compressed = self._images.get(f"{base}/compressed")
        if compressed is not None and isinstance(image.data, bytes):
            message = CompressedImage(format=image.encoding)
            message.header.stamp = conversions.time_message(stamp)
            message.header.frame_id = image.frame_id
            message.data = array.array("B", image.data)
            compressed.publish(message)
        camera = next(c for c in self._source.rig.cameras if c.name == image.camera)
        if camera.model is not None:
            self._infos[image.camera].publish(
                conversions.camera_info_message(camera.model, stamp, image.frame_id)
            )
        self._sent += 1

    def _send_transforms(self) -> None:
        """`rig` to the optical frame of each camera whose place is known."""
        rig = self._source.rig
        stamp = self.get_clock().now().nanoseconds
        transforms = [
            conversions.transform_message(pose, rig.rig_frame, camera.frame_id, stamp)
            for camera in rig.cameras
            if (pose := camera.rig_from_camera) is not None
        ]
        if transforms:
            self._transforms.send(transforms)
