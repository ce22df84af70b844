"""What is published of a rig that moves: its place on `/tf`, its path, its cameras.

One parent per frame (REP-105). With odometry (`frame.odom`) only `map` -> odom is published, for
the rig has a parent already. Where another localiser publishes the map frame, nothing is.
Without either it is `map` -> the top of the tree that carries the cameras, stamped with its set.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Path
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from visualization_msgs.msg import MarkerArray

from vggt_ros.config import Config
from vggt_ros.geometry import Rigid3
from vggt_ros.nodes.calibration import Calibrated, rig_from_cameras
from vggt_ros.nodes.conversions import pose_message, time_message, transform_message
from vggt_ros.nodes.markers import camera_markers
from vggt_ros.nodes.motion import Motion
from vggt_ros.nodes.transforms import Frames, MovingBroadcaster
from vggt_ros.pipeline.report import map_frame
from vggt_ros.types import AlignedScene, unscaled_frame

logger = logging.getLogger(__name__)

MOST_POSES = 2000
"""Of one path message; a longer path is thinned evenly."""

_STILL_NS = 1_000_000
"""Stamps that are no newer than the last, by no more, are of a clock that stands still."""

_SAME_MAP = 1e-6
"""[m or rad] Nearer to the identity, `map` is still the frame of the other localiser."""


class RigPlaces:
    """Says on `/tf` where the rig is; used by the mapping thread, with a timer of the node.

    Args:
        node: publishes, while it is active.
        config: `motion` is tf or estimate.
        frames: the tf tree.
        group: callback group of the timer.
    """

    def __init__(
        self, node: LifecycleNode, config: Config, frames: Frames, group: Any = None
    ) -> None:
        self._node = node
        self._config = config
        self._frames = frames
        self._broadcaster = MovingBroadcaster(node)
        self._map_from_odom: Rigid3 | None = None
        self._sent: tuple[int, Rigid3] | None = None
        self._told: set[str] = set()
        self._map_frame = config.frame.map
        self._lock = threading.Lock()
        self._closed = False
        self._timer: Any = None
        if config.frame.odom:
            # Not the node's clock: the map may be found when a bag has ended, and /clock with it.
            self._timer = node.create_timer(
                1.0 / config.publish.odom_rate_hz,
                self._send_odom,
                callback_group=group,
                clock=Clock(clock_type=ClockType.STEADY_TIME),
            )

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        with self._lock:  # the timer's callback may be sending in another thread
            self._closed = True
            self._broadcaster.close()

    def cleared(self) -> None:
        """The map was reset: nothing is known of the odometry any more."""
        with self._lock:
            self._map_from_odom = None

    def fixed_transforms(
        self, calibrated: Calibrated, scene: AlignedScene, ours: frozenset[str]
    ) -> list[TransformStamped]:
        """From the rig to cameras to which TF knows no way, for `/tf_static`.

        Args:
            calibrated: the rig, with the cameras' frames.
            scene: where the rig was found with it.
            ours: frames that this node has given a parent before.
        """
        rig_frame = calibrated.rig.rig_frame
        frame_ids = {camera.name: camera.frame_id for camera in calibrated.rig.cameras}
        return [
            transform_message(pose, rig_frame, frame_ids[name], 0)
            for name, pose in rig_from_cameras(calibrated, scene).items()
            if frame_ids[name] != rig_frame
            and (frame_ids[name] in ours or self._frames.parent(frame_ids[name]) is None)
        ]

    def moved(self, motion: Motion, calibrated: Calibrated, scene: AlignedScene) -> None:
        """Say where the rig was.

        Args:
            motion: what is new.
            calibrated: the rig, with the cameras' frames.
            scene: where the rig was found with it.
        """
        self._map_frame = map_frame(self._config.frame.map, scene)
        odom = self._config.frame.odom
        if odom and not scene.scale.is_metric:
            self._set_odom(None)
            if motion.places or motion.map_from_world is not None:
                self._warn_once(
                    "unscaled", f"'{odom}' gets no parent: it is in metres, and the map is not"
                )
        elif self._config.motion == "tf":
            if odom:
                self._set_odom(motion.map_from_world)
            elif motion.map_from_world is not None:
                self._check_same_map(motion.map_from_world)
        elif odom:
            for stamp_ns, map_from_rig in motion.places[-1:]:
                self._take_rig(stamp_ns, map_from_rig, calibrated)
        else:
            for stamp_ns, map_from_rig in motion.places:
                self._send_top(stamp_ns, map_from_rig, calibrated, scene)

    def _take_rig(self, stamp_ns: int, map_from_rig: Rigid3, calibrated: Calibrated) -> None:
        """Found from the images, though odometry goes on to move the rig in TF."""
        odom = self._config.frame.odom
        odom_from_rig = self._frames.lookup_at(odom, calibrated.rig.rig_frame, stamp_ns)
        if isinstance(odom_from_rig, str):
            self._warn_once(
                "odom", f"'{self._config.frame.map}' -> '{odom}' is not renewed: {odom_from_rig}"
            )
        else:
            self._set_odom(map_from_rig @ odom_from_rig.inverse())

    def _set_odom(self, map_from_odom: Rigid3 | None) -> None:
        with self._lock:
            self._map_from_odom = map_from_odom

    def _send_odom(self) -> None:
        """Steadily, and stamped a little later than now, for others ask for it at now."""
        with self._lock:
            if not self._closed and self._map_from_odom is not None:
                self._send_odom_locked(self._map_from_odom)

    def _send_odom_locked(self, map_from_odom: Rigid3) -> None:
        ahead_ns = int(self._config.publish.odom_ahead_ms * 1e6)
        stamp_ns = self._node.get_clock().now().nanoseconds + ahead_ns
        if self._sent is not None:
            last_ns, last = self._sent
            if 0 <= last_ns - stamp_ns < _STILL_NS:  # /clock stands still
                if np.array_equal(last.matrix, map_from_odom.matrix):
                    return  # tf2 warns of transforms that it has already
                stamp_ns = last_ns + 1
        self._sent = (stamp_ns, map_from_odom)
        self._send(map_from_odom, self._config.frame.odom, stamp_ns)

    def _send_top(
        self, stamp_ns: int, map_from_rig: Rigid3, calibrated: Calibrated, scene: AlignedScene
    ) -> None:
        top, rig_from_top = self._top(stamp_ns, calibrated, scene)
        if isinstance(rig_from_top, str):
            self._warn_once(
                "top",
                f"no transform '{self._config.frame.map}' -> '{top}' is published: "
                f"{rig_from_top}; name the odometry's frame in frame.odom",
            )
        else:
            self._send(map_from_rig @ rig_from_top, top, stamp_ns)

    def _top(
        self, stamp_ns: int, calibrated: Calibrated, scene: AlignedScene
    ) -> tuple[str, Rigid3 | str]:
        """The root of the tree that carries the cameras, and `rig_from_top`.

        The rig's frame may be a name of the rig file that TF knows nothing of, while the cameras
        have parents.
        """
        rig_frame, named = calibrated.rig.rig_frame, self._config.frame.map
        maps = (named, unscaled_frame(named))
        top = self._frames.top(rig_frame, *maps)
        tops = {c: self._frames.top(c.frame_id, *maps) for c in calibrated.rig.cameras}
        poses = rig_from_cameras(calibrated, scene)
        if top not in tops.values():
            for camera, of_camera in tops.items():
                if of_camera != camera.frame_id and camera.name in poses:
                    found = self._frames.lookup_at(camera.frame_id, of_camera, stamp_ns)
                    if isinstance(found, str):
                        return of_camera, found
                    return of_camera, poses[camera.name] @ found
        if top == rig_frame:
            return top, Rigid3.identity()
        return top, self._frames.lookup_at(rig_frame, top, stamp_ns)

    def _send(self, map_from_child: Rigid3, child: str, stamp_ns: int) -> None:
        if child not in self._broadcaster.children:
            parent = self._frames.parent(child)
            if parent is not None:
                self._warn_once(
                    "parent",
                    f"'{child}' already has the parent '{parent}', so no transform from "
                    f"'{self._map_frame}' is published",
                )
                return
        self._broadcaster.send(
            [transform_message(map_from_child, self._map_frame, child, stamp_ns)]
        )

    def _check_same_map(self, map_from_world: Rigid3) -> None:
        away = max(float(abs(map_from_world.translation).max()), map_from_world.angle_rad)
        if away > _SAME_MAP:
            self._warn_once(
                "same map",
                f"the map was corrected against the frame '{self._config.frame.map}' of the other "
                f"localiser and is no longer in it; name odometry in frame.odom instead",
            )

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            logger.warning("tf: %s", text)


def moved_markers(
    scene: AlignedScene,
    calibrated: Calibrated,
    map_from_rig: Rigid3,
    stamp_ns: int,
    frame_id: str,
) -> MarkerArray:
    """The cameras' frusta where the rig is now."""
    places = {
        camera: map_from_rig @ pose
        for camera, pose in rig_from_cameras(calibrated, scene).items()
        if camera in scene.cameras
    }
    moved = dataclasses.replace(scene, map_from_camera=places)
    return camera_markers(moved, stamp_ns, frame_id)


def path_message(path: Sequence[tuple[int, Rigid3]], stamp_ns: int, frame_id: str) -> Path:
    """Poses of the rig, thinned evenly to `MOST_POSES`; the first and the last one stay."""
    count = len(path)
    if count > MOST_POSES:
        path = [path[round(k * (count - 1) / (MOST_POSES - 1))] for k in range(MOST_POSES)]
    message = Path()
    message.header.stamp = time_message(stamp_ns)
    message.header.frame_id = frame_id
    for stamp, map_from_rig in path:
        pose = PoseStamped(pose=pose_message(map_from_rig))
        pose.header.stamp = time_message(stamp)
        pose.header.frame_id = frame_id
        message.poses.append(pose)
    return message
