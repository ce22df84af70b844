"""Coordinate frames: look-ups through the tf tree and static transforms.

tf2_ros where it imports; it is not on PyPI, so where it is missing a small buffer of our own
listens to the same topics. A look-up that fails returns None, never the identity.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import Rigid3
from vggt_ros.sources.messages import stamped_transforms_from_message
from vggt_ros.sources.transform_buffer import HISTORY_S, TransformBuffer

logger = logging.getLogger(__name__)


def static_qos(depth: int = 1) -> QoSProfile:
    """Of `/tf_static`: late joiners get the last message of each publisher."""
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class FrameTree(TransformBuffer):
    """A `TransformBuffer` that takes the messages of `/tf` and `/tf_static`."""

    def add(self, message: TFMessage, static: bool) -> None:
        """Store the transforms of a message; one with an impossible number is left out whole."""
        try:
            transforms = list(stamped_transforms_from_message(message))
        except CalibrationError as error:
            logger.warning("tf: a message is left out: %s", error)
            return
        for parent, child, parent_from_child, stamp_ns in transforms:
            self.insert(parent, child, parent_from_child, stamp_ns, static)


class Frames(Protocol):
    """What the nodes need of the tf tree."""

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """`target_from_source`, newest; None where the tree does not know."""
        ...

    def lookup_at(self, target: str, source: str, stamp_ns: int) -> Rigid3 | str:
        """`target_from_source` at an instant, interpolated, or why there is none."""
        ...

    def top(self, frame: str, *below: str) -> str:
        """The highest ancestor of a frame that is none of `below` nor above them."""
        ...

    def parent(self, frame: str) -> str | None:
        """The parent of a frame, None for a root or an unknown frame."""
        ...

    def forget_moving(self) -> None:
        """Drop what `/tf` brought."""
        ...

    def close(self) -> None:
        """Unsubscribe."""
        ...


def listen(
    node: Node, callback_group: Any = None, history_s: float = HISTORY_S
) -> OwnFrames | Tf2Frames:
    """Follow `/tf` and `/tf_static`, by tf2_ros where it is installed."""
    try:
        tf2_ros = importlib.import_module("tf2_ros")
    except ImportError:
        return OwnFrames(node, callback_group, history_s)
    return Tf2Frames(node, tf2_ros, history_s)


class OwnFrames:
    """`Frames` by subscriptions and a `FrameTree`."""

    def __init__(
        self, node: Node, callback_group: Any = None, history_s: float = HISTORY_S
    ) -> None:
        self.tree = FrameTree(history_s)
        self._node = node
        self._subscriptions = [
            node.create_subscription(
                TFMessage, "/tf", self._moving, 100, callback_group=callback_group
            ),
            node.create_subscription(
                TFMessage,
                "/tf_static",
                self._static,
                static_qos(100),
                callback_group=callback_group,
            ),
        ]

    def _moving(self, message: TFMessage) -> None:
        self.tree.add(message, static=False)

    def _static(self, message: TFMessage) -> None:
        self.tree.add(message, static=True)

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """See `Frames`."""
        return self.tree.lookup(target, source)

    def lookup_at(self, target: str, source: str, stamp_ns: int) -> Rigid3 | str:
        """See `Frames`."""
        return self.tree.lookup_at(target, source, stamp_ns)

    def top(self, frame: str, *below: str) -> str:
        """See `Frames`."""
        return self.tree.top(frame, *below)

    def parent(self, frame: str) -> str | None:
        """See `Frames`."""
        return self.tree.parent(frame)

    def forget_moving(self) -> None:
        """See `Frames`."""
        self.tree.forget_moving()

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


class Tf2Frames:
    """`Frames` by tf2_ros."""

    def __init__(self, node: Node, tf2_ros: Any, history_s: float = HISTORY_S) -> None:
        self._tf2_ros = tf2_ros
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=history_s), node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """See `Frames`."""
        found = self.lookup_at(target, source, 0)  # tf2: the newest
        return None if isinstance(found, str) else found

    def lookup_at(self, target: str, source: str, stamp_ns: int) -> Rigid3 | str:
        """See `Frames`. It never waits, which tf2 would do in this thread."""
        time = Time(nanoseconds=stamp_ns)
        try:
            found = self._buffer.lookup_transform(target.lstrip("/"), source.lstrip("/"), time)
        except self._tf2_ros.TransformException as error:
            return str(error)
        t, q = found.transform.translation, found.transform.rotation
        return Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))

    def top(self, frame: str, *below: str) -> str:
        """See `Frames`."""
        top, seen = frame.lstrip("/"), set()
        parents = self._parents()
        while top not in seen and top in parents and parents[top] not in below:
            seen.add(top)
            top = parents[top]
        return top

    def parent(self, frame: str) -> str | None:
        """See `Frames`."""
        return self._parents().get(frame.lstrip("/"))

    def _parents(self) -> dict[str, str]:
        import yaml

        frames = yaml.safe_load(self._buffer.all_frames_as_yaml())
        if not isinstance(frames, dict):  # "[]" while nothing has come
            return {}
        return {child: entry["parent"] for child, entry in frames.items()}

    def forget_moving(self) -> None:
        """See `Frames`; what is fixed survives it in tf2."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()


class StaticBroadcaster:
    """Publishes `/tf_static`; every message holds all transforms, for late joiners get one."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher: Any = node.create_publisher(TFMessage, "/tf_static", static_qos())
        self._transforms: dict[str, TransformStamped] = {}

    def send(self, transforms: Sequence[TransformStamped]) -> None:
        """Add or replace transforms, one per child frame."""
        for transform in transforms:
            self._transforms[transform.child_frame_id] = transform
        self._publisher.publish(TFMessage(transforms=list(self._transforms.values())))

    @property
    def children(self) -> frozenset[str]:
        """Frames that this broadcaster gives a parent."""
        return frozenset(self._transforms)

    def close(self) -> None:
        """Late joiners get nothing any more."""
        self._node.destroy_publisher(self._publisher)


class MovingBroadcaster:
    """Publishes `/tf`, while the node is active."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publisher: Any = node.create_lifecycle_publisher(
            TFMessage, "/tf", QoSProfile(depth=100)
        )
        self._children: set[str] = set()

    def send(self, transforms: Sequence[TransformStamped]) -> None:
        """Publish transforms of one instant."""
        self._children.update(transform.child_frame_id for transform in transforms)
        self._publisher.publish(TFMessage(transforms=list(transforms)))

    @property
    def children(self) -> frozenset[str]:
        """Frames that this broadcaster has given a parent."""
        return frozenset(self._children)

    def close(self) -> None:
        """Stop."""
        self._node.destroy_lifecycle_publisher(self._publisher)
