"""The node that plays a bag, for where `ros2 bag` is not installed."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterable
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from vggt_ros.errors import ConfigError, SourceError, VggtRosError
from vggt_ros.nodes import parameters, qos, subscribers
from vggt_ros.nodes.conversions import time_message
from vggt_ros.nodes.node_config import BagPlayerConfig
from vggt_ros.nodes.transforms import static_qos
from vggt_ros.sources.bag import BagReader

_POLL_S = 0.05


class BagPlayer(Node):
    """Publishes serialized messages as they were recorded, at the pace of their log times.

    `/tf_static` is latched and sent as one message that holds all transforms, whatever number
    of messages brought them. The process ends with the bag, or goes on with `loop`.

    Args:
        stop: set by a signal, and by the node at the end of the bag.

    Raises:
        ConfigError: wrong parameters, an unknown topic or type.
        SourceError: the bag cannot be read.
    """

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("bag_player")
        self.exit_code = 0
        self._stop = stop
        self._config = parameters.declare(self, BagPlayerConfig())
        if not self._config.bag:
            raise ConfigError("parameter 'bag': expected a rosbag2 folder or file, got nothing")
        self._reader = BagReader(self._config.bag).__enter__()
        self._running = threading.Event()
        if not self._config.start_paused:
            self._running.set()
        self._static: dict[str, Any] = {}
        self._sent = 0
        try:
            self._publishers_by_topic = self._make_publishers()
        except VggtRosError:
            self._reader.close()
            raise
        self._clock_publisher = (
            self.create_publisher(Clock, "/clock", qos.reliable(1)) if self._config.clock else None
        )
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._thread = threading.Thread(target=self._play, name="playing", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """End the playing."""
        self._stop.set()
        self._running.set()
        self._thread.join(subscribers.ACK_TIMEOUT_S + 1.0)
        if not self._thread.is_alive():
            self._reader.close()
        return not self._thread.is_alive()

    # --- before playing ------------------------------------------------------------------------

    def _make_publishers(self) -> dict[str, Any]:
        topics = self._reader.topics
        wanted = self._config.topics or list(topics)
        publishers = {}
        for topic in wanted:
            if topic not in topics:
                # names the topics that there are, and the nearest
                next(iter(self._reader.raw_messages([topic])), None)
            if topic == "/clock":
                continue  # the bag's own would fight with ours
            kind = _message_class(topics[topic].msgtype)
            if kind is None:
                text = f"topic '{topic}': type {topics[topic].msgtype} is not installed"
                if self._config.topics:
                    raise ConfigError(f"{text}; install its package or leave it out of 'topics'")
                self.get_logger().warning(f"{text}; it is left out")
                continue
            profile = static_qos() if _is_static(topic) else qos.reliable()
            publishers[topic] = self.create_publisher(
                kind, topic, profile, qos_overriding_options=qos.overridable()
            )
        if not publishers:
            raise SourceError(f"bag {self._config.bag}: no topic to play")
        return publishers

    def _wait_for_subscribers(self) -> None:
        """Without this the first messages are lost; names those that nobody listens to."""
        timeout_s = self._config.wait_for_subscribers_s
        lonely = subscribers.wait_for_subscribers(self._publishers_by_topic, timeout_s, self._stop)
        if lonely and not self._stop.is_set():
            self.get_logger().warning(
                f"after {timeout_s:g} s nobody subscribes to {', '.join(lonely)}"
            )

    # --- in the playing thread -----------------------------------------------------------------

    def _play(self) -> None:
        try:
            self._wait_for_subscribers()
            while not self._stop.is_set():
                self._play_once()
                if not self._config.loop:
                    break
            subscribers.wait_until_received(self._publishers_by_topic)
            self.get_logger().info(f"end of the bag: {self._sent} messages published")
            if self._reader.truncated:
                self.get_logger().warning(
                    f"the bag is not whole, what there is was played: {self._reader.truncated}"
                )
        except VggtRosError as error:
            self.get_logger().error(str(error))
            self.exit_code = 1
        except Exception as error:
            self.get_logger().error(f"internal error while playing: {error!r}")
            self.exit_code = 1
        finally:
            self._stop.set()

    def _play_once(self) -> None:
        start_ns: int | None = None
        start_s = 0.0
        for raw in self._reader.raw_messages(self._publishers_by_topic):
            if start_ns is None:
                start_ns, start_s = raw.stamp_ns, time.monotonic()
            due = start_s + (raw.stamp_ns - start_ns) * 1e-9 / self._config.rate
            start_s += self._wait_until(due, raw.stamp_ns)
            if self._stop.is_set():
                return
            self._send(raw.topic, bytes(raw.data))

    def _wait_until(self, due: float, stamp_ns: int) -> float:
        """Sleep until `due`, with /clock running; returns the seconds that a pause took."""
        paused = 0.0
        while not self._stop.is_set():
            if not self._running.is_set():
                begin = time.monotonic()
                self._running.wait()
                paused += time.monotonic() - begin
                due += time.monotonic() - begin
            left = due - time.monotonic()
            if self._clock_publisher is not None:
                self._send_clock(stamp_ns - int(max(left, 0.0) * self._config.rate * 1e9))
            if left <= 0:
                break
            period = 1.0 / self._config.clock_rate_hz if self._clock_publisher else _POLL_S
            time.sleep(min(left, period))
        return paused

    def _send(self, topic: str, data: bytes) -> None:
        if _is_static(topic):
            # A latched topic keeps one message: it must hold what all earlier ones said.
            message = deserialize_message(data, TFMessage)
            self._static.update({t.child_frame_id: t for t in message.transforms})
            data = serialize_message(TFMessage(transforms=list(self._static.values())))
        self._publishers_by_topic[topic].publish(data)
        self._sent += 1

    def _send_clock(self, stamp_ns: int) -> None:
        assert self._clock_publisher is not None  # the caller has looked
        self._clock_publisher.publish(Clock(clock=time_message(stamp_ns)))

    # --- services ------------------------------------------------------------------------------

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._running.clear()
        else:
            self._running.set()
        response.success = True
        response.message = "paused" if request.data else "playing"
        return response


def _is_static(topic: str) -> bool:
    return topic.rsplit("/", 1)[-1] == "tf_static"


def _message_class(name: str) -> Any | None:
    """The rclpy class of "sensor_msgs/msg/Image"; None where its package is not installed."""
    parts: Iterable[str] = name.split("/")
    package, *_, kind = parts
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:
        return None
