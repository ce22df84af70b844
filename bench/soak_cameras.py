"""Four small synthetic cameras as drivers would publish them: `python -m bench.soak_cameras`."""

from __future__ import annotations

import argparse
import array
import math
import sys
import time

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from vggt_ros.nodes import process, qos
from vggt_ros.nodes.conversions import (
    camera_info_message,
    image_message,
    time_message,
    transform_message,
)
from vggt_ros.nodes.transforms import static_qos
from vggt_ros.rig import Rig
from vggt_ros.synthetic.scenes import arc_rig, demo_rig, demo_room, simulate

SETS = 20
"""Rendered before the first is sent, then sent over and over: noise differs from one to the
next, the cart of the room moves."""


def soak_rig(width: int) -> Rig:
    """The rig of the demo with smaller images."""
    return arc_rig(4, 0.25, math.radians(20.0), width, width * 3 // 4, fov_rad=math.radians(88.0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=10.0, help="sets per second")
    parser.add_argument("--width", type=int, default=96, help="of the images [px]")
    args = parser.parse_args()
    stop = process.catch_signals()
    rig = soak_rig(args.width)
    sets = [
        {name: taken.images[name].copy() for name in rig.names}
        for taken in simulate(demo_room(), rig, demo_rig()[1], SETS, 10.0)
    ]

    import rclpy
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("soak_cameras")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    publishers = {
        name: (
            node.create_publisher(Image, f"/{name}/image_raw", qos.reliable()),
            node.create_publisher(CameraInfo, f"/{name}/camera_info", qos.reliable()),
        )
        for name in rig.names
    }
    static = node.create_publisher(TFMessage, "/tf_static", static_qos())
    now = time.time_ns()
    static.publish(
        TFMessage(
            transforms=[
                transform_message(camera.rig_from_camera, "base_link", camera.frame_id, now)
                for camera in rig.cameras
                if camera.rig_from_camera is not None
            ]
        )
    )
    print("ready", flush=True)
    images = [
        {c.name: image_message(one[c.name], "rgb8", 0, c.frame_id) for c in rig.cameras}
        for one in sets
    ]
    infos = {
        c.name: camera_info_message(c.model, 0, c.frame_id)
        for c in rig.cameras
        if c.model is not None
    }
    period_s = 1.0 / args.rate
    next_s = time.monotonic()
    index = 0
    while not stop.is_set():
        stamp = time_message(time.time_ns())
        for name, (image_publisher, info_publisher) in publishers.items():
            message = images[index % SETS][name]
            message.header.stamp = infos[name].header.stamp = stamp
            assert isinstance(message.data, array.array)
            image_publisher.publish(message)
            info_publisher.publish(infos[name])
        index += 1
        next_s += period_s
        while (left := next_s - time.monotonic()) > 0 and not stop.is_set():
            executor.spin_once(timeout_sec=min(left, 0.2))
        if left < -1.0:  # the computer was busy for long: no burst to catch up
            next_s = time.monotonic()
    print(f"sent {index}", flush=True)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
