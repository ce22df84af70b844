"""Messages are taken while services work; what callbacks raise is not lost."""

import threading
import time

import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.context import Context
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vggt_ros.nodes.executors import InputsFirstExecutor


@pytest.fixture
def spinning(domain):
    """A node and its executor; `spin(condition)` spins until it holds."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("spun", context=context)
    executor = InputsFirstExecutor(2, context=context)
    executor.add_node(node)

    def spin(condition, timeout_s=10.0):
        limit = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < limit, "condition not met"
            executor.spin_once(0.05)

    yield node, spin, executor
    executor.shutdown(timeout_sec=5.0)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_messages_are_taken_while_a_service_works(spinning, observer):
    node, spin, _ = spinning
    go_on, entered, threads, heard = threading.Event(), threading.Event(), set(), []

    def slow(request, response):
        entered.set()
        assert go_on.wait(20.0)
        response.success = True
        return response

    def take(message):
        threads.add(threading.get_ident())
        heard.append(message.data)

    node.create_service(
        Trigger, "slow_service", slow, callback_group=MutuallyExclusiveCallbackGroup()
    )
    node.create_subscription(String, "words", take, 50)
    client = observer.node.create_client(Trigger, "slow_service")
    publisher = observer.node.create_publisher(String, "words", 50)
    spin(lambda: client.service_is_ready() and publisher.get_subscription_count())
    answer = client.call_async(Trigger.Request())
    spin(entered.is_set)
    sent = [str(k) for k in range(20)]
    for word in sent:
        publisher.publish(String(data=word))
    spin(lambda: len(heard) == 20)
    assert heard == sent
    assert threads == {threading.get_ident()}  # of who spins
    assert not answer.done()
    go_on.set()
    spin(answer.done)
    assert answer.result().success


@pytest.mark.parametrize("kind", ["subscription", "timer"])
def test_what_a_callback_raises_reaches_who_spins(spinning, observer, kind):
    node, spin, _ = spinning

    def fail(*_):
        raise RuntimeError("the callback failed")

    if kind == "timer":
        node.create_timer(0.01, fail)
    else:
        node.create_subscription(String, "words", fail, 10)
        publisher = observer.node.create_publisher(String, "words", 10)
        spin(publisher.get_subscription_count)
        publisher.publish(String(data="x"))
    with pytest.raises(RuntimeError, match="the callback failed"):
        spin(lambda: False)


def test_shutdown_tells_whether_a_callback_is_still_running(spinning):
    node, spin, executor = spinning
    entered, go_on = threading.Event(), threading.Event()

    def work():
        entered.set()
        go_on.wait(20.0)

    node.create_timer(0.01, work)
    spin(entered.is_set)
    assert not executor.shutdown(timeout_sec=0.1)
    go_on.set()
