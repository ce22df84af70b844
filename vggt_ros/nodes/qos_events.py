"""Incompatible quality of service, told by topic: of subscriptions and of publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import (
    PublisherEventCallbacks,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind


class QosReport:
    """What the middleware told, by topic; each is logged when it comes.

    Args:
        logger: of the node.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._texts: dict[str, str] = {}

    @property
    def texts(self) -> dict[str, str]:
        """One sentence per topic."""
        return dict(self._texts)

    def add(self, topic: str, text: str) -> None:
        """Note and log an incompatibility."""
        self._texts[topic] = text
        self._logger.warning(text)

    def clear(self) -> None:
        """Forget what was told."""
        self._texts.clear()


def subscribe(node: Node, incompatible: Callable[[Any], None], **arguments: Any) -> Any:
    """`create_subscription` that tells of publishers which offer too little.

    Without that where the middleware has no such events.
    """
    callbacks = SubscriptionEventCallbacks(incompatible_qos=incompatible)
    try:
        return node.create_subscription(event_callbacks=callbacks, **arguments)
    except UnsupportedEventTypeError:
        return node.create_subscription(**arguments)


def advertise(
    create: Callable[..., Any], report: QosReport, kind: Any, topic: str, *args: Any, **more: Any
) -> Any:
    """`create_publisher` or `create_lifecycle_publisher` that tells of greedy subscribers.

    Those who ask for more than is offered; without that where the middleware has no such events.
    """

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        name = publisher.topic_name
        report.add(
            name,
            f"a subscriber of {name} asks for more than is offered ({policy}): change the "
            f"subscriber, or set qos_overrides.{name}.publisher.*",
        )

    try:
        publisher = create(
            kind,
            topic,
            *args,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=incompatible),
            **more,
        )
    except UnsupportedEventTypeError:
        publisher = create(kind, topic, *args, **more)
    return publisher
