"""The executor beside threads that make and destroy what it waits for."""

import sys
import threading

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Image

from vggt_ros.nodes import qos
from vggt_ros.nodes.executors import InputsFirstExecutor
from vggt_ros.nodes.qos_events import subscribe


@pytest.fixture
def spinning(domain):
    """A node that is spun in a thread, and what went wrong there."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("churned", context=context)
    executor = InputsFirstExecutor(2, context=context)
    executor.add_node(node)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads meet in every line
    stop, failures = threading.Event(), []

    def spin():
        try:
            while not stop.is_set():
                executor.spin_once(0.05)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=spin)
    thread.start()
    yield node, failures
    sys.setswitchinterval(interval)
    stop.set()
    thread.join(5.0)
    executor.shutdown(1.0)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_subscriptions_may_go_while_it_waits(spinning):
    """rclpy guards all but their events against that: a deactivate ended the process."""
    node, failures = spinning
    for _ in range(200):
        made = [
            subscribe(
                node,
                lambda _: None,
                msg_type=Image,
                topic=f"image_{k}",
                callback=lambda _: None,
                qos_profile=qos.reliable(),
            )
            for k in range(4)
        ]
        for subscription in made:
            node.destroy_subscription(subscription)
        if failures:
            break
    assert failures == []
