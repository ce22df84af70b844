"""The timers that publish `~/status` and `/diagnostics`, in every state of the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.node import Node

from vggt_ros.msg import MapStatus
from vggt_ros.nodes import qos
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.diagnostics import diagnostics
from vggt_ros.nodes.findings import Trend, fault_of, input_findings
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.nodes.qos_events import QosReport, advertise
from vggt_ros.nodes.rig_check import RigChecker
from vggt_ros.nodes.status import map_status

DIAGNOSTICS_PERIOD_S = 1.0


@dataclass(frozen=True, eq=False)
class Look:
    """How the node is at one moment."""

    state: int
    """Of MapStatus."""
    health: Health
    monitors: Sequence[CameraMonitor]
    config: MapperConfig
    error: str
    """Why the node went to error processing; empty: it did not."""


class Reports:
    """Publishers from the beginning to the end of the node.

    Args:
        node: publishes.
        look: called in the timers.
        qos_report: incompatible QoS by topic.
        rig_checker: checks in the background, and tells what it found.
        group: of the timers.
        steady: a clock that runs whatever `/clock` does.
    """

    def __init__(
        self,
        node: Node,
        look: Callable[[], Look],
        qos_report: QosReport,
        rig_checker: RigChecker,
        group: Any,
        steady: Clock,
    ) -> None:
        self._node = node
        self._look = look
        self._qos_report = qos_report
        self._rig_checker = rig_checker
        self._group = group
        self._steady = steady
        self._trend = Trend()
        self._status_publisher = advertise(
            node.create_publisher,
            qos_report,
            MapStatus,
            "~/status",
            qos.reliable(),
            qos_overriding_options=qos.overridable(),
        )
        self._diagnostics_publisher = advertise(
            node.create_publisher, qos_report, DiagnosticArray, "/diagnostics", qos.reliable()
        )
        self._rate_hz = look().config.publish.status_rate_hz
        self.status_timer = self._timer(1.0 / self._rate_hz, self._publish_status)
        self._timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def set_rate(self, status_rate_hz: float) -> None:
        """Publish `~/status` at another rate."""
        if status_rate_hz != self._rate_hz:
            self._rate_hz = status_rate_hz
            self._node.destroy_timer(self.status_timer)
            self.status_timer = self._timer(1.0 / status_rate_hz, self._publish_status)

    def start_anew(self) -> None:
        """The node is configured again: forget what was seen before."""
        self._trend = Trend()
        self._qos_report.clear()

    def _timer(self, period_s: float, callback: Callable[[], None]) -> Any:
        return self._node.create_timer(
            period_s, callback, callback_group=self._group, clock=self._steady
        )

    def _status(self, look: Look) -> MapStatus:
        now_ns = self._node.get_clock().now().nanoseconds
        message = map_status(look.state, look.health, look.monitors, look.config, now_ns)
        message.detail = message.detail or look.error
        found = input_findings(message, look.health, look.monitors, look.config.diagnostics)
        for camera, of_input in zip(message.cameras, found, strict=True):
            camera.fault = fault_of(of_input)
        return message

    def _publish_status(self) -> None:
        self._status_publisher.publish(self._status(self._look()))

    def _publish_diagnostics(self) -> None:
        look = self._look()
        self._trend.update(look.health, look.monitors)
        message = diagnostics(
            self._node.get_fully_qualified_name().lstrip("/"),
            self._status(look),
            look.monitors,
            look.health,
            self._node.get_clock().now().nanoseconds,
            look.config.diagnostics,
            self._trend,
            self._qos_report.texts,
            look.error,
        )
        rig_check = self._rig_checker.diagnostic()
        if rig_check is not None:
            message.status.append(rig_check)
        self._diagnostics_publisher.publish(message)
        self._rig_checker.poll()
