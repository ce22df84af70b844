"""Subscriptions of the mapper. Callbacks convert without a copy, count, and enqueue."""

from __future__ import annotations

import time
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import SourceError
from vggt_ros.nodes import conversions, qos
from vggt_ros.nodes.calibration import Calibration
from vggt_ros.nodes.status import CameraMonitor
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.sources.messages import compressed_image_from_message


def image_topic(node: Node, camera: CameraConfig) -> str:
    """The topic that is subscribed, remapped.

    A remapping of `x` does not remap `x/compressed`: so it is appended to the resolved name.
    """
    base = str(node.resolve_topic_name(camera.image_topic))
    if camera.transport == "compressed" and not base.endswith("/compressed"):
        return f"{base}/compressed"
    return base


class CameraInputs:
    """The subscriptions of all cameras, from activate to deactivate."""

    def __init__(
        self,
        node: Node,
        config: Config,
        monitors: list[CameraMonitor],
        calibration: Calibration,
        worker: MappingWorker,
        callback_group: Any,
    ) -> None:
        self._node = node
        self._calibration = calibration
        self._worker = worker
        self._monitors = {monitor.name: monitor for monitor in monitors}
        self._subscriptions: list[Any] = []
        for name in config.cameras:
            self._subscribe(name, config.camera[name], config.ingest.reliability, callback_group)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _subscribe(self, name: str, camera: CameraConfig, reliability: str, group: Any) -> None:
        kind = CompressedImage if camera.transport == "compressed" else Image
        monitor = self._monitors[name]

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            monitor.fault = (
                f"a publisher of {monitor.topic} offers an incompatible QoS ({policy}): "
                f"set ingest.reliability or qos_overrides.{monitor.topic}.subscription.*"
            )
            self._node.get_logger().warning(monitor.fault)

        self._subscriptions += [
            self._node.create_subscription(
                kind,
                monitor.topic,
                lambda message: self._image(name, message),
                qos.images(reliability),
                callback_group=group,
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
                qos_overriding_options=qos.overridable(),
            ),
            self._node.create_subscription(
                CameraInfo,
                camera.info_topic,
                lambda message: self._calibration.take_info(name, message),
                qos.images(),
                callback_group=group,
                qos_overriding_options=qos.overridable(),
            ),
        ]
        monitor.restart()

    def _image(self, name: str, message: Any) -> None:
        monitor = self._monitors[name]
        try:
            if isinstance(message, CompressedImage):
                image = compressed_image_from_message(message, name)
            else:
                image = conversions.stamped_image(message, name)
        except SourceError as error:
            monitor.fault = str(error)
            self._worker.drop("unreadable image", str(error))
            return
        monitor.arrived(image.stamp_ns)
        self._calibration.take_image(name, image.frame_id, time.monotonic())
        self._worker.offer(image)
