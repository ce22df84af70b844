"""Waiting for subscribers: what is published before they are there is lost."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rclpy.duration import Duration

ACK_TIMEOUT_S = 5.0
"""At the end, reliable subscribers get this long to fetch the last messages."""

_POLL_S = 0.05


def wait_for_subscribers(
    publishers: Mapping[str, Any], timeout_s: float, stop: threading.Event
) -> list[str]:
    """Wait until each topic has a subscriber; returns those that nobody listens to in time."""
    limit = time.monotonic() + timeout_s
    while (lonely := lonely_topics(publishers)) and time.monotonic() < limit:
        if stop.wait(_POLL_S):
            break
    return lonely


def lonely_topics(publishers: Mapping[str, Any]) -> list[str]:
    """Topics without a subscriber; raw and compressed images stand in for each other."""
    groups: dict[str, list[str]] = defaultdict(list)
    for topic in publishers:
        groups[topic.removesuffix("/compressed")].append(topic)
    return [
        topic
        for members in groups.values()
        if not any(publishers[t].get_subscription_count() for t in members)
        for topic in members
    ]


def wait_until_received(publishers: Mapping[str, Any]) -> None:
    """Wait until reliable subscribers have everything, at most `ACK_TIMEOUT_S`."""
    limit = time.monotonic() + ACK_TIMEOUT_S
    for publisher in publishers.values():
        left = limit - time.monotonic()
        if left > 0:
            publisher.wait_for_all_acked(Duration(seconds=left))
