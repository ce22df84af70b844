"""Quality of service of the topics; all of it can be overridden by `qos_overrides.*`.

Each call makes a new profile: rclpy writes overrides into the one it is given.
"""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

DEPTH = 10
"""Messages that wait. The five of ROS's sensor-data profile overflowed, uncounted, when a busy
machine held the callbacks of images up for 0.3 s at 20 Hz."""


def reliable(depth: int = DEPTH) -> QoSProfile:
    """For what is published here: subscribers of either reliability match."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched() -> QoSProfile:
    """Late joiners get the last message."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def overridable() -> QoSOverridingOptions:
    """History, depth, reliability, and durability, which rclpy's defaults leave out."""
    return QoSOverridingOptions(
        (
            QoSPolicyKind.HISTORY,
            QoSPolicyKind.DEPTH,
            QoSPolicyKind.RELIABILITY,
            QoSPolicyKind.DURABILITY,
        )
    )
