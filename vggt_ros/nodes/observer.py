"""Watch a mapper and call its services from a script: what `vggt-ros demo` and tests use."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image

from vggt_ros.errors import SourceError
from vggt_ros.msg import MapStatus
from vggt_ros.srv import ExportMap
from vggt_ros.types import Float32


class Observer:
    """A node of its own that follows `~/status` and the depth images of one mapper.

    Use as a context manager; `spin` must be called for anything to arrive.
    """

    def __init__(self, cameras: Sequence[str] = (), mapper: str = "/mapper") -> None:
        self.mapper = mapper
        self.status: Any = None
        self.depth: dict[str, Float32] = {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = Node("vggt_ros_observer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        latched = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.VOLATILE,
        )
        self._node.create_subscription(MapStatus, f"{mapper}/status", self._on_status, latched)
        for camera in cameras:
            self._node.create_subscription(
                Image,
                f"{mapper}/{camera}/depth/image",
                functools.partial(self._on_depth, camera),
                qos_profile_sensor_data,
            )
        self._export = self._node.create_client(ExportMap, f"{mapper}/export_map")

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def spin(self, seconds: float) -> None:
        """Take what arrives within this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Spin until the condition holds; False if it did not in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.spin(0.1)
        return True

    def export(self, path: Path, format_: str, seconds: float = 30.0) -> Any:
        """Call `~/export_map` and return its response.

        Raises:
            SourceError: the service is not there or does not answer in time.
        """
        if not self._export.wait_for_service(timeout_sec=seconds):
            raise SourceError(f"{self.mapper}/export_map: no such service; does the mapper run?")
        future = self._export.call_async(ExportMap.Request(path=str(path), format=format_))
        if not self.wait(future.done, seconds):
            raise SourceError(f"{self.mapper}/export_map: no answer within {seconds:.0f} s")
        return future.result()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        with contextlib.suppress(RuntimeError):
            rclpy.shutdown(context=self._context)

    def _on_status(self, message: Any) -> None:
        self.status = message

    def _on_depth(self, camera: str, message: Any) -> None:
        depth = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
        self.depth[camera] = depth.copy()
