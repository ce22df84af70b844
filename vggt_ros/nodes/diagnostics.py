"""`/diagnostics` of the mapper: findings in front, all figures behind."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vggt_ros.msg import CameraStatus, MapStatus
from vggt_ros.nodes import finding_texts
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.conversions import time_message
from vggt_ros.nodes.findings import (
    Finding,
    Trend,
    camera_findings,
    input_findings,
    pipeline_findings,
    state_word,
    topic_findings,
)
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.node_config import DiagnosticsConfig
from vggt_ros.pipeline.stages import EngineInUse

LEVELS = {
    finding_texts.OK: DiagnosticStatus.OK,
    finding_texts.WARN: DiagnosticStatus.WARN,
    finding_texts.ERROR: DiagnosticStatus.ERROR,
}


def diagnostics(
    node_name: str,
    status: MapStatus,
    monitors: Sequence[CameraMonitor],
    health: Health,
    now_ns: int,
    limits: DiagnosticsConfig | None = None,
    trend: Trend | None = None,
    incompatible: Mapping[str, str] | None = None,
    error: str = "",
) -> DiagnosticArray:
    """One status for the pipeline, one per camera, one for the topics.

    Args:
        node_name: begins the names of the statuses.
        status: as it is published.
        monitors: of the cameras, in the order of `status.cameras`.
        health: what the worker knows.
        now_ns: stamp.
        limits: thresholds; None: the defaults.
        trend: of the last seconds; None: unknown.
        incompatible: incompatible QoS by topic.
        error: why the node went to error processing; empty: it did not.
    """
    limits = limits or DiagnosticsConfig()
    message = DiagnosticArray()
    message.header.stamp = time_message(now_ns)
    found = pipeline_findings(status, health, limits, trend or Trend(), error)
    message.status = [
        _diagnostic(f"{node_name}: pipeline", node_name, found, _pipeline_values(status, health))
    ]
    of_inputs = input_findings(status, health, monitors, limits)
    for camera, monitor, of_input in zip(status.cameras, monitors, of_inputs, strict=True):
        found = camera_findings(status, camera, health, limits, of_input)
        values = _camera_values(camera, monitor, health)
        name = f"{node_name}: camera {camera.name}"
        message.status.append(_diagnostic(name, camera.name, found, values))
    found = topic_findings(incompatible or {})
    message.status.append(
        _diagnostic(f"{node_name}: topics", node_name, found, dict(incompatible or {}))
    )
    return message


def _pipeline_values(status: MapStatus, health: Health) -> dict[str, str]:
    values = {
        "state": state_word(status.state),
        "scale source": status.scale_source,
        "scale": f"{status.scale_value:.6g} +- {status.scale_sigma:.2g}",
        "scale drift": _figure(status.scale_drift, ".4f"),
        "overlap": _figure(status.overlap, ".3f"),
        "map points": str(status.map_points),
        "map memory [MB]": f"{status.memory_bytes / 1e6:.1f}",
        "map budget [MB]": f"{status.memory_budget_bytes / 1e6:.1f}",
        "sets received": str(status.sets_received),
        "sets used": str(status.sets_used),
        "clock jumps": str(status.clock_jumps),
        "resident memory [MB]": _figure(_resident_mb(), ".0f"),
    }
    if status.motion != "static":
        values |= {"keyframes": str(status.keyframes), "loops": str(status.loops)}
    values |= {f"engine of {stage}": _told(e) for stage, e in health.engines.items()}
    values |= {f"dropped: {drop.reason}": str(drop.count) for drop in status.dropped}
    for name, p50, p95 in zip(
        status.timing_names, status.timing_ms_p50, status.timing_ms_p95, strict=True
    ):
        values[f"{name} p50/p95 [ms]"] = f"{p50:.1f}/{p95:.1f}"
    return values


def _camera_values(camera: CameraStatus, monitor: CameraMonitor, health: Health) -> dict[str, str]:
    values = {
        "topic": monitor.topic,
        "received": str(camera.received),
        "rate [Hz]": f"{camera.rate_hz:.2f}",
        "stamp age [s]": _figure(camera.stamp_age_s, ".3f"),
        "skew [ms]": _figure(camera.skew_ms, ".1f"),
        "registered": str(camera.registered).lower(),
    }
    if camera.alignment_model != "none" or camera.alignment_accepted:
        values["alignment inliers"] = f"{camera.alignment_inliers:.2f}"
        values["alignment residual"] = _figure(camera.alignment_residual, ".4f")
    drops = health.camera_drops.get(camera.name, {})
    values |= {f"dropped: {reason}": str(count) for reason, count in drops.items()}
    if camera.alignment_reason:
        verdict = "depth used" if camera.alignment_accepted else "depth refused"
        values[verdict] = camera.alignment_reason
    return values


def _told(engine: EngineInUse) -> str:
    """One line for the diagnostics."""
    verified = "verified" if engine.verified else "not verified"
    return (
        f"{engine.file} ({engine.model}, licence {engine.licence}), {engine.backend} on "
        f"{engine.device}, {engine.precision}, {verified}"
    )


def _resident_mb() -> float:
    """Memory of this process, as Linux tells it; NaN elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.nan
    return pages * os.sysconf("SC_PAGE_SIZE") * 1e-6


def _figure(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "unknown"


def _diagnostic(
    name: str, hardware_id: str, found: Sequence[Finding], values: Mapping[str, str]
) -> DiagnosticStatus:
    """The worst level of the findings; the worst ones stand first."""
    order = [finding_texts.ERROR, finding_texts.WARN, finding_texts.OK]
    worst = min((order.index(f.level) for f in found), default=2)
    told = sorted(found, key=lambda f: order.index(f.level))
    return DiagnosticStatus(
        name=name,
        hardware_id=hardware_id,
        level=LEVELS[order[worst]],
        message="; ".join(f.text for f in told),
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
