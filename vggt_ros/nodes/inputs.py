"""Subscriptions of the mapper. Callbacks convert without a copy, count, and enqueue."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import SourceError
from vggt_ros.nodes import conversions, parameters, qos
from vggt_ros.nodes.calibration import Calibration
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.qos_events import QosReport, subscribe
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.sources.messages import any_image_from_message, compressed_image_from_message


def image_topic(node: Node, camera: CameraConfig) -> str:
    """The topic that is subscribed, remapped.

    A remapping of `x` does not remap `x/compressed`: so it is appended to the resolved name.
    """
    base = str(node.resolve_topic_name(camera.image_topic))
    if camera.transport == "compressed" and not base.endswith("/compressed"):
        return f"{base}/compressed"
    return base


class AdaptiveSubscription:
    """Reliable where the publishers are, best effort as soon as one of them is.

    A best-effort subscription matches every publisher, but loses large messages: of 20 raw
    images of 0.9 MB sent reliably at 2.5 Hz to a busy machine it got 1 to 8, a reliable one all
    of them. A reliable subscription gets nothing from a best-effort publisher, as many camera
    drivers are; the middleware then reports an incompatible QoS, and this one subscribes anew.

    `qos_overrides.<topic>.subscription.*` are obeyed; with an override of the reliability
    nothing is adapted.

    Args:
        node: subscribes.
        kind: type of the message.
        topic: resolved name.
        callback: gets the messages.
        reliability: "auto" as above; "reliable" or "best_effort": nothing is adapted.
        group: callback group.
        report: called with what is wrong, for people to read.
        qos_report: keeps incompatible QoS by topic.
    """

    def __init__(
        self,
        node: Node,
        kind: Any,
        topic: str,
        callback: Callable[[Any], None],
        reliability: str,
        group: Any,
        report: Callable[[str], None],
        qos_report: QosReport,
    ) -> None:
        self._qos_report = qos_report
        self._node = node
        self._kind = kind
        self._topic = topic
        self._callback = callback
        self._group = group
        self._report = report
        self._timer: Any = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        name = f"qos_overrides.{topic}.subscription.reliability"
        overridden = name in parameters.given_overrides(node)
        self._adapts = reliability == "auto" and not overridden
        self._profile = qos.reliable()  # rclpy writes the overrides into it
        if reliability == "best_effort":
            self._profile.reliability = ReliabilityPolicy.BEST_EFFORT
        self._subscription: Any = self._subscribe(qos.overridable())

    def close(self) -> None:
        """Unsubscribe."""
        for destroy, entity in (
            (self._node.destroy_timer, self._timer),
            (self._node.destroy_subscription, self._subscription),
        ):
            if entity is not None:
                destroy(entity)
        self._timer = self._subscription = None

    def _subscribe(self, overriding: QoSOverridingOptions | None) -> Any:
        return subscribe(
            self._node,
            self._incompatible,
            msg_type=self._kind,
            topic=self._topic,
            callback=self._callback,
            qos_profile=self._profile,
            callback_group=self._group,
            qos_overriding_options=overriding,
        )

    def _incompatible(self, event: Any) -> None:
        """A publisher offers less than is asked for."""
        is_reliability = QoSPolicyKind(event.last_policy_kind) == QoSPolicyKind.RELIABILITY
        if is_reliability and self._adapts:
            if self._timer is None and self._profile.reliability == ReliabilityPolicy.RELIABLE:
                # Not here: this is a callback of the subscription that is to go.
                self._timer = self._node.create_timer(
                    0.0, self._adapt, callback_group=self._group, clock=self._steady
                )
            return
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = (
            f"a publisher of {self._topic} offers an incompatible QoS ({policy}): set "
            f"ingest.reliability or qos_overrides.{self._topic}.subscription.*"
        )
        self._qos_report.add(self._topic, text)
        self._report(text)

    def _adapt(self) -> None:
        if self._timer is None:
            return
        self._node.destroy_timer(self._timer)
        self._timer = None
        self._node.get_logger().info(
            f"a publisher of {self._topic} is best effort: subscribed as best effort"
        )
        self._profile.reliability = ReliabilityPolicy.BEST_EFFORT
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(None)


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
        qos_report: QosReport,
    ) -> None:
        self._qos_report = qos_report
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
            subscription.close()
        self._subscriptions = []

    def _subscribe(self, name: str, camera: CameraConfig, reliability: str, group: Any) -> None:
        kind = CompressedImage if camera.transport == "compressed" else Image
        monitor = self._monitors[name]

        def report(text: str) -> None:
            monitor.fault = text

        self._subscriptions += [
            AdaptiveSubscription(
                self._node,
                kind,
                monitor.topic,
                functools.partial(self._image, name),
                reliability,
                group,
                report,
                self._qos_report,
            ),
            AdaptiveSubscription(
                self._node,
                CameraInfo,
                str(self._node.resolve_topic_name(camera.info_topic)),
                functools.partial(self._info, name),
                reliability,
                group,
                report,
                self._qos_report,
            ),
        ]
        if camera.depth_topic:
            depth_topic = str(self._node.resolve_topic_name(camera.depth_topic))
            self._subscriptions.append(
                AdaptiveSubscription(
                    self._node,
                    CompressedImage if depth_topic.endswith("/compressed") else Image,
                    depth_topic,
                    functools.partial(self._depth, name),
                    reliability,
                    group,
                    report,
                    self._qos_report,
                )
            )
        monitor.restart()

    def _depth(self, name: str, message: Any) -> None:
        try:
            self._worker.offer_depth(any_image_from_message(message, name))
        except SourceError as error:
            self._monitors[name].fault = str(error)
            self._worker.drop("unreadable depth", str(error))
        except Exception as error:
            self._internal_error(name, error)

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
        except Exception as error:
            self._internal_error(name, error)
            return
        now_ns = self._node.get_clock().now().nanoseconds
        monitor.arrived(image.stamp_ns, now_ns or None)  # 0: /clock has not come yet
        self._calibration.take_image(name, image.frame_id, time.monotonic())
        self._worker.offer(image)

    def _internal_error(self, name: str, error: Exception) -> None:
        """A message that nobody thought of must not end the process with its callback."""
        self._monitors[name].fault = f"internal error, see the log: {type(error).__name__}"
        self._worker.drop("internal error")
        self._node.get_logger().error(traceback.format_exc())

    def _info(self, name: str, message: Any) -> None:
        try:
            self._calibration.take_info(name, message)
        except Exception as error:  # as above
            self._monitors[name].fault = f"internal error, see the log: {type(error).__name__}"
            self._node.get_logger().error(traceback.format_exc())
