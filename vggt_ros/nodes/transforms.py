"""Coordinate frames: look-ups through the tf tree and static transforms.

tf2_ros where it imports; it is not on PyPI, so where it is missing a small buffer of our own
listens to the same topics. A look-up that fails returns None, never the identity.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import Rigid3
from vggt_ros.sources.messages import transforms_from_message
from vggt_ros.types import unscaled_frame

logger = logging.getLogger(__name__)


def static_qos(depth: int = 1) -> QoSProfile:
    """Of `/tf_static`: late joiners get the last message of each publisher."""
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class FrameTree:
    """The newest transform of every child frame; its parent is what came last for it."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Rigid3, bool]] = {}
        self._lock = threading.Lock()

    def add(self, message: TFMessage, static: bool) -> None:
        """Store the transforms of a message; one with an impossible number is left out whole."""
        try:
            transforms = list(transforms_from_message(message))
        except CalibrationError as error:
            logger.warning("tf: a message is left out: %s", error)
            return
        with self._lock:
            for parent, child, parent_from_child in transforms:
                if parent and child and parent != child:
                    self._parents[child] = (parent, parent_from_child, static)

    def forget_moving(self) -> None:
        """Drop what `/tf` brought; for a clock that jumps back."""
        with self._lock:
            self._parents = {c: entry for c, entry in self._parents.items() if entry[2]}

    def parent(self, frame: str) -> str | None:
        """The parent of a frame, None for a root or an unknown frame."""
        with self._lock:
            entry = self._parents.get(frame.lstrip("/"))
        return entry[0] if entry else None

    def top(self, frame: str, below: str) -> str:
        """The highest ancestor of a frame that is not `below` nor above it."""
        top = frame.lstrip("/")
        for ancestor, _ in self._chain(top):
            if ancestor in (below, unscaled_frame(below)):
                break
            top = ancestor
        return top

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """`target_from_source` of the newest transforms, None where the tree does not know."""
        target, source = target.lstrip("/"), source.lstrip("/")
        up_source = dict(self._chain(source))
        for frame, ancestor_from_target in self._chain(target):
            if frame in up_source:
                return ancestor_from_target.inverse() @ up_source[frame]
        return None

    def _chain(self, frame: str) -> list[tuple[str, Rigid3]]:
        """Ancestors from `frame` up, each with `ancestor_from_frame`; a loop ends it."""
        chain = [(frame, Rigid3.identity())]
        seen = {frame}
        with self._lock:
            while (entry := self._parents.get(chain[-1][0])) is not None:
                parent, parent_from_child, _ = entry
                if parent in seen:
                    break
                seen.add(parent)
                chain.append((parent, parent_from_child @ chain[-1][1]))
        return chain


class Frames(Protocol):
    """What the nodes need of the tf tree."""

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """`target_from_source`, newest; None where the tree does not know."""
        ...

    def top(self, frame: str, below: str) -> str:
        """The highest ancestor of a frame that is not `below` nor above it.

        `below` is the map, also where it is called unscaled.
        """
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


def listen(node: Node, callback_group: Any = None) -> Frames:
    """Follow `/tf` and `/tf_static`, by tf2_ros where it is installed."""
    try:
        tf2_ros = importlib.import_module("tf2_ros")
    except ImportError:
        return OwnFrames(node, callback_group)
    return Tf2Frames(node, tf2_ros)


class OwnFrames:
    """`Frames` by subscriptions and a `FrameTree`."""

    def __init__(self, node: Node, callback_group: Any = None) -> None:
        self.tree = FrameTree()
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

    def top(self, frame: str, below: str) -> str:
        """See `Frames`."""
        return self.tree.top(frame, below)

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

    def __init__(self, node: Node, tf2_ros: Any) -> None:
        self._tf2_ros = tf2_ros
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str) -> Rigid3 | None:
        """See `Frames`."""
        from rclpy.time import Time

        try:
            found = self._buffer.lookup_transform(target.lstrip("/"), source.lstrip("/"), Time())
        except self._tf2_ros.TransformException:
            return None
        t, q = found.transform.translation, found.transform.rotation
        return Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))

    def top(self, frame: str, below: str) -> str:
        """See `Frames`."""
        top, seen = frame.lstrip("/"), set()
        parents = self._parents()
        ends = (below, unscaled_frame(below))
        while top not in seen and parents.get(top, below) not in ends:
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
        """tf2_ros clears its buffer by itself when it meets a jump back."""

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
