"""`~/status` and `/diagnostics` from what the worker and the subscriptions know."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vggt_ros.config import Config
from vggt_ros.msg import CameraStatus, DropCount, MapStatus
from vggt_ros.nodes.conversions import pose_message, time_message
from vggt_ros.nodes.worker import Health
from vggt_ros.pipeline.report import map_frame
from vggt_ros.pipeline.stages import EngineInUse
from vggt_ros.types import ScaleSource

RATE_WINDOW_S = 5.0
"""The rate of a camera is that of the last seconds."""

SILENT_S = 2.0
"""A camera that sent nothing for so long is an error in the diagnostics."""

FAULT_SHOWN_S = 10.0
"""A fault that is over is shown for so long."""

_MODELS = {"invdepth_scale_shift": "disparity", "": "none"}
"""`DepthAlignment.model` in the words of CameraStatus.msg where they differ."""


class CameraMonitor:
    """Counts what one camera sends; used by callbacks and timers of several threads."""

    def __init__(self, name: str, topic: str) -> None:
        self.name = name
        self.topic = topic
        self.received = 0
        self.last_stamp_ns = 0
        self._fault = ""
        self._fault_s = 0.0
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._since_s = time.monotonic()
        self._lock = threading.Lock()

    @property
    def fault(self) -> str:
        """The last message that could not be used, or an incompatible QoS.

        Forgotten when images still arrive `FAULT_SHOWN_S` later.
        """
        with self._lock:
            if self._arrivals and self._arrivals[-1] > self._fault_s + FAULT_SHOWN_S:
                self._fault = ""
            return self._fault

    @fault.setter
    def fault(self, text: str) -> None:
        with self._lock:
            self._fault, self._fault_s = text, time.monotonic()

    def restart(self) -> None:
        """Silence counts from now on."""
        with self._lock:
            self._since_s = time.monotonic()
            self._arrivals.clear()

    def arrived(self, stamp_ns: int) -> None:
        """Count one image."""
        with self._lock:
            self.received += 1
            self.last_stamp_ns = stamp_ns
            self._arrivals.append(time.monotonic())

    @property
    def rate_hz(self) -> float:
        """Images per second over the last `RATE_WINDOW_S`."""
        with self._lock:
            now = time.monotonic()
            while self._arrivals and now - self._arrivals[0] > RATE_WINDOW_S:
                self._arrivals.popleft()
            if len(self._arrivals) < 2:
                return 0.0
            return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-6)

    @property
    def silent_s(self) -> float:
        """Seconds since the last image, or since the subscription."""
        with self._lock:
            last = self._arrivals[-1] if self._arrivals else self._since_s
            return time.monotonic() - last


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
    return message


def _name_engines(message: MapStatus, health: Health) -> None:
    """What computes the bootstrap and the depth, in this order, once where they are alike."""
    engines = [health.engines.get(stage) for stage in _STAGES]
    message.backend = _joined("numba" if e is None else e.backend for e in engines)
    message.precision = _joined("fp32" if e is None else e.precision for e in engines)
    message.engine = _joined(e.file for e in engines if e is not None)


_STAGES = ("bootstrap", "depth")


def _joined(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _told(engine: EngineInUse) -> str:
    """One line for the diagnostics."""
    verified = "verified" if engine.verified else "not verified"
    return (
        f"{engine.file} ({engine.model}, licence {engine.licence}), {engine.backend} on "
        f"{engine.device}, {engine.precision}, {verified}"
    )


def _camera_status(monitor: CameraMonitor, health: Health) -> CameraStatus:
    message = CameraStatus(name=monitor.name, received=monitor.received, rate_hz=monitor.rate_hz)
    message.last_stamp = time_message(monitor.last_stamp_ns)
    message.centre_residual_m = message.rotation_residual_rad = math.nan
    message.alignment_model = "none"
    scene = health.scene
    if scene is not None and monitor.name in scene.map_from_camera:
        message.registered = True
        message.map_from_camera = pose_message(scene.map_from_camera[monitor.name])
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


_STATE_WORDS = {
    MapStatus.STATE_UNCONFIGURED: "unconfigured",
    MapStatus.STATE_INACTIVE: "inactive",
    MapStatus.STATE_BOOTSTRAPPING: "bootstrapping",
    MapStatus.STATE_MAPPING: "mapping",
    MapStatus.STATE_PAUSED: "paused",
    MapStatus.STATE_FAILED: "failed",
}
_LEVELS = {
    MapStatus.STATE_BOOTSTRAPPING: DiagnosticStatus.WARN,
    MapStatus.STATE_FAILED: DiagnosticStatus.ERROR,
}


def diagnostics(
    node_name: str,
    status: MapStatus,
    monitors: Sequence[CameraMonitor],
    health: Health,
    now_ns: int,
) -> DiagnosticArray:
    """The message of `/diagnostics`: one status for the mapper, one per camera."""
    message = DiagnosticArray()
    message.header.stamp = time_message(now_ns)
    word = _STATE_WORDS[status.state]
    level = _LEVELS.get(status.state, DiagnosticStatus.OK)
    if status.state == MapStatus.STATE_MAPPING and status.scale_source == ScaleSource.NONE.value:
        word, level = "mapping without scale: lengths are not metres", DiagnosticStatus.WARN
    contradiction = health.scene.scale.contradiction if health.scene is not None else ""
    if contradiction and level == DiagnosticStatus.OK:
        word, level = f"{word}; {contradiction}", DiagnosticStatus.WARN
    text = f"{word}: {status.detail}" if status.detail else word
    values = {
        "state": _STATE_WORDS[status.state],
        "scale source": status.scale_source,
        "scale": f"{status.scale_value:.6g} +- {status.scale_sigma:.2g}",
        "scale drift": f"{status.scale_drift:+.4f}",
        "map points": str(status.map_points),
        "map memory [MB]": f"{status.memory_bytes / 1e6:.1f}",
        "sets received": str(status.sets_received),
        "sets used": str(status.sets_used),
    }
    values |= {f"engine of {stage}": _told(e) for stage, e in health.engines.items()}
    values |= {f"dropped: {drop.reason}": str(drop.count) for drop in status.dropped}
    for name, p50, p95 in zip(
        status.timing_names, status.timing_ms_p50, status.timing_ms_p95, strict=True
    ):
        values[f"{name} p50/p95 [ms]"] = f"{p50:.1f}/{p95:.1f}"
    message.status = [_diagnostic(f"{node_name}: pipeline", node_name, level, text, values)]
    active = status.state in (
        MapStatus.STATE_BOOTSTRAPPING,
        MapStatus.STATE_MAPPING,
        MapStatus.STATE_PAUSED,
        MapStatus.STATE_FAILED,
    )
    for camera, monitor in zip(status.cameras, monitors, strict=True):
        level, text = _camera_level(camera, monitor, health.camera_errors, active)
        sends = active and level == DiagnosticStatus.OK
        if sends and health.scene is not None and not camera.registered:
            level, text = DiagnosticStatus.WARN, f"{text}; {_UNREGISTERED}"
        values = {
            "topic": monitor.topic,
            "received": str(camera.received),
            "rate [Hz]": f"{camera.rate_hz:.2f}",
            "registered": str(camera.registered).lower(),
        }
        drops = health.camera_drops.get(camera.name, {})
        values |= {f"dropped: {reason}": str(count) for reason, count in drops.items()}
        if camera.alignment_reason:
            verdict = "depth used" if camera.alignment_accepted else "depth refused"
            values[verdict] = camera.alignment_reason
        message.status.append(
            _diagnostic(f"{node_name}: camera {camera.name}", camera.name, level, text, values)
        )
    return message


_UNREGISTERED = (
    "without a place in the map, because it was silent or failed in the bootstrap; call "
    "~/bootstrap to start again with it"
)


def _camera_level(
    camera: CameraStatus, monitor: CameraMonitor, errors: Mapping[str, str], active: bool
) -> tuple[bytes, str]:
    if not active:
        return DiagnosticStatus.OK, "not subscribed"
    if camera.name in errors:
        return DiagnosticStatus.ERROR, errors[camera.name]
    if monitor.silent_s > SILENT_S:
        if not camera.received:
            text = f"no image ever came on {monitor.topic}"
        else:
            text = f"no image on {monitor.topic} for {monitor.silent_s:.0f} s"
        return DiagnosticStatus.ERROR, f"{text}; {monitor.fault}" if monitor.fault else text
    if monitor.fault:
        return DiagnosticStatus.WARN, monitor.fault
    return DiagnosticStatus.OK, f"{camera.rate_hz:.1f} Hz"


def _diagnostic(
    name: str, hardware_id: str, level: bytes, text: str, values: Mapping[str, str]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        hardware_id=hardware_id,
        level=level,
        message=text,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
