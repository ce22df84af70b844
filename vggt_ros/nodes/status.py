"""`~/status` from what the worker and the subscriptions know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from geometry_msgs.msg import Point, Pose, Quaternion

from vggt_ros.config import Config
from vggt_ros.msg import CameraStatus, DropCount, MapStatus
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.conversions import pose_message, time_message
from vggt_ros.nodes.health import Health
from vggt_ros.pipeline.report import map_frame

_MODELS = {"invdepth_scale_shift": "disparity", "": "none"}
"""`DepthAlignment.model` in the words of CameraStatus.msg where they differ."""


def map_status(
    state: int,
    health: Health,
    monitors: Sequence[CameraMonitor],
    config: Config,
    now_ns: int,
) -> MapStatus:
    """The message of `~/status`."""
    scene = health.scene
    contradiction = scene.scale.contradiction if scene is not None else ""
    message = MapStatus(state=state, detail=health.detail or contradiction)
    message.header.stamp = time_message(health.stamp_ns or now_ns)
    message.header.frame_id = map_frame(config.frame.map, scene)
    if scene is not None:
        message.is_metric = scene.scale.is_metric
        message.scale_value = float(scene.scale.value)
        message.scale_sigma = float(scene.scale.sigma)
        message.scale_source = scene.scale.source_name
    message.scale_drift = float(health.scale_drift)
    message.motion = config.motion
    place = health.map_from_rig
    message.map_from_rig = _unknown_pose() if place is None else pose_message(place)
    message.keyframes, message.loops = health.keyframes, health.loops
    message.bootstrapper = health.bootstrapper or config.bootstrap
    message.depth_estimator = health.depth_estimator or config.depth
    _name_engines(message, health)
    message.map_points = health.map_points
    message.memory_bytes = health.memory_bytes
    message.memory_budget_bytes = int(config.map.budget_mb * 1e6)
    message.sets_received = health.sets_received
    message.sets_used = health.sets_used
    message.dropped = [
        DropCount(reason=reason, count=count) for reason, count in sorted(health.dropped.items())
    ]
    message.cameras = [_camera_status(monitor, health) for monitor in monitors]
    message.timing_names = list(health.timings)
    message.timing_ms_p50 = [float(t["p50_ms"]) for t in health.timings.values()]
    message.timing_ms_p95 = [float(t["p95_ms"]) for t in health.timings.values()]
    message.clock_jumps = health.clock_jumps
    message.overlap = health.overlap
    return message


def _unknown_pose() -> Pose:
    """Not a number all over: the identity would be a place."""
    return Pose(
        position=Point(x=math.nan, y=math.nan, z=math.nan),
        orientation=Quaternion(x=math.nan, y=math.nan, z=math.nan, w=math.nan),
    )


def _name_engines(message: MapStatus, health: Health) -> None:
    """What computes the bootstrap and the depth, in this order, once where they are alike."""
    engines = [health.engines.get(stage) for stage in _STAGES]
    message.backend = _joined("numba" if e is None else e.backend for e in engines)
    message.precision = _joined("fp32" if e is None else e.precision for e in engines)
    message.engine = _joined(e.file for e in engines if e is not None)


_STAGES = ("bootstrap", "depth")


def _joined(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _camera_status(monitor: CameraMonitor, health: Health) -> CameraStatus:
    message = CameraStatus(name=monitor.name, received=monitor.received, rate_hz=monitor.rate_hz)
    message.last_stamp = time_message(monitor.last_stamp_ns)
    message.stamp_age_s = monitor.stamp_age_s
    message.skew_ms = health.skews_ms.get(monitor.name, math.nan)
    message.centre_residual_m = message.rotation_residual_rad = math.nan
    message.alignment_model = "none"
    scene = health.scene
    if scene is not None and monitor.name in scene.map_from_camera:
        message.registered = True
        found = health.map_from_camera.get(monitor.name, scene.map_from_camera[monitor.name])
        message.map_from_camera = pose_message(found)
        residual = scene.residuals.get(monitor.name)
        if residual is not None:
            message.centre_residual_m = float(residual.centre)
            message.rotation_residual_rad = float(residual.rotation_rad)
    alignment = health.alignments.get(monitor.name)
    if alignment is not None:
        message.alignment_model = _MODELS.get(alignment.model, alignment.model)
        message.alignment_scale = float(alignment.scale)
        message.alignment_shift = float(alignment.shift)
        message.alignment_inliers = float(alignment.inlier_fraction)
        message.alignment_residual = float(alignment.residual)
        message.alignment_accepted = alignment.accepted
        message.alignment_reason = alignment.reason
    return message
