"""What is wrong, in the words of `finding_texts`, from status, monitors and limits."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vggt_ros.msg import CameraStatus, MapStatus
from vggt_ros.nodes import finding_texts
from vggt_ros.nodes.camera_monitor import FAULT_SHOWN_S, CameraMonitor
from vggt_ros.nodes.finding_texts import OK, Kind
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.node_config import DiagnosticsConfig
from vggt_ros.pipeline.clock_offsets import LEAST_IMAGES, clock_offsets
from vggt_ros.types import ScaleSource

_FUTURE_S = 0.1
"""Clocks that are synchronised over a network differ by milliseconds, drivers round."""

_WINDOW_S = 10.0
"""Drops and sets are looked at over the last seconds."""

_LEAST_IMAGES = 10
"""Fewer received images say nothing about the share that is dropped."""

_ON_PURPOSE = frozenset({"paused", "reset", "inactive", "clock_jump", "uncalibrated"})
"""Drops that are no fault, or have a line of their own."""

ACTIVE = frozenset(
    {
        MapStatus.STATE_BOOTSTRAPPING,
        MapStatus.STATE_MAPPING,
        MapStatus.STATE_PAUSED,
        MapStatus.STATE_FAILED,
    }
)
"""States in which cameras are subscribed."""

_STATES = {
    MapStatus.STATE_UNCONFIGURED: "unconfigured",
    MapStatus.STATE_INACTIVE: "inactive",
    MapStatus.STATE_BOOTSTRAPPING: "bootstrapping",
    MapStatus.STATE_MAPPING: "mapping",
    MapStatus.STATE_PAUSED: "paused",
    MapStatus.STATE_FAILED: "failed",
}


@dataclass(frozen=True)
class Finding:
    """One sentence for people, by its key in the tables of `finding_texts`."""

    key: str
    level: str
    text: str


def finding(kinds: Mapping[str, Kind], key: str, **figures: object) -> Finding:
    """The sentence of a kind with its figures."""
    return Finding(key, kinds[key].level, kinds[key].text.format(**figures))


def state_word(state: int) -> str:
    """The name of a state of MapStatus."""
    return _STATES[state]


@dataclass(frozen=True)
class _Moment:
    time_s: float
    received: int
    sets: int
    drops: Counter[str]
    clock_jumps: int


class Trend:
    """What the last seconds have changed; `update` is called once a second."""

    def __init__(self) -> None:
        self._moments: deque[_Moment] = deque()
        self._sets_since_s = time.monotonic()
        self._jumps = 0
        self._jumped_s = -math.inf

    def update(self, health: Health, monitors: Sequence[CameraMonitor]) -> None:
        """Note how things are now."""
        drops: Counter[str] = Counter()
        for counts in health.camera_drops.values():
            drops.update(counts)
        unreadable = health.dropped.get("unreadable image", 0)
        if unreadable:
            drops["unreadable image"] = unreadable
        received = sum(monitor.received for monitor in monitors) + unreadable
        now = _Moment(time.monotonic(), received, health.sets_received, drops, health.clock_jumps)
        last = self._moments[-1] if self._moments else now
        if now.received < last.received or now.sets < last.sets:  # configured anew
            self._moments.clear()
        if now.sets != last.sets or now.received == last.received:
            self._sets_since_s = now.time_s
        if now.clock_jumps > self._jumps:
            self._jumped_s = now.time_s
        self._jumps = now.clock_jumps
        self._moments.append(now)
        while now.time_s - self._moments[0].time_s > _WINDOW_S:
            self._moments.popleft()

    @property
    def without_sets_s(self) -> float:
        """So long images have come, but no set."""
        return self._moments[-1].time_s - self._sets_since_s if self._moments else 0.0

    @property
    def drops(self) -> Counter[str]:
        """Images dropped in the last seconds, not on purpose, by reason."""
        if not self._moments:
            return Counter()
        found = self._moments[-1].drops - self._moments[0].drops
        return Counter({reason: n for reason, n in found.items() if reason not in _ON_PURPOSE})

    @property
    def dropped_share(self) -> float:
        """Part of the images of the last seconds that was dropped."""
        received = self._moments[-1].received - self._moments[0].received if self._moments else 0
        return sum(self.drops.values()) / received if received >= _LEAST_IMAGES else 0.0

    @property
    def has_jumped(self) -> bool:
        """Whether a clock was set back a moment ago."""
        return time.monotonic() - self._jumped_s < FAULT_SHOWN_S


def pipeline_findings(
    status: MapStatus, health: Health, limits: DiagnosticsConfig, trend: Trend, error: str = ""
) -> list[Finding]:
    """State first, then what is wrong.

    Args:
        status: as it is published.
        health: what the worker knows.
        limits: thresholds.
        trend: of the last seconds.
        error: why the node went to error processing; empty: it did not.
    """
    kinds = finding_texts.PIPELINE
    state = state_word(status.state)
    if error and status.state == MapStatus.STATE_UNCONFIGURED:
        return [finding(kinds, "error processing", detail=error)]
    detail = status.detail or "no reason yet"
    if state == "mapping" and status.scale_source == ScaleSource.NONE.value:
        found = [finding(kinds, "unscaled")]
    elif state == "bootstrapping" and not status.detail:
        found = [Finding(state, kinds[state].level, state)]
    else:
        found = [finding(kinds, state, detail=detail)]
    contradiction = health.scene.scale.contradiction if health.scene is not None else ""
    if state == "mapping" and status.detail and status.detail != contradiction:
        found = [Finding(f.key, f.level, f"{f.text}: {status.detail}") for f in found]
    if contradiction:
        found.append(finding(kinds, "contradiction", text=contradiction))
    if status.memory_budget_bytes:
        share = status.memory_bytes / status.memory_budget_bytes
        if share > limits.max_memory:
            budget_mb = status.memory_budget_bytes * 1e-6
            found.append(finding(kinds, "memory", share=share, budget_mb=budget_mb))
    if abs(status.scale_drift) > limits.max_scale_drift:  # not where it is NaN
        found.append(finding(kinds, "drift", drift=status.scale_drift))
    if status.overlap < limits.min_overlap and status.depth_estimator == "plane_sweep":
        found.append(finding(kinds, "overlap", overlap=limits.min_overlap))
    if health.place_fault and state in ("bootstrapping", "mapping", "failed"):
        key = "no place for long" if health.unplaced_s > limits.silent_after_s else "no place"
        found.append(finding(kinds, key, seconds=health.unplaced_s))
    if health.internal_errors:
        found.append(finding(kinds, "internal errors", count=health.internal_errors))
    if health.publishing_errors:
        found.append(finding(kinds, "publishing errors", count=health.publishing_errors))
    if trend.has_jumped:
        found.append(finding(kinds, "clock jump", count=status.clock_jumps))
    if health.step_s > limits.max_step_s:
        found.append(finding(kinds, "long step", seconds=health.step_s))
    elif state in ("bootstrapping", "mapping", "failed") and not health.waits:
        found += _drop_findings(limits, trend)
    return found


def _drop_findings(limits: DiagnosticsConfig, trend: Trend) -> list[Finding]:
    kinds = finding_texts.PIPELINE
    most = trend.drops.most_common(1)
    if not most:
        return []
    reason = most[0][0]
    if trend.without_sets_s > limits.no_sets_after_s:
        return [finding(kinds, "no sets", seconds=trend.without_sets_s, reason=reason)]
    if trend.dropped_share > limits.max_drops:
        return [finding(kinds, "dropping", share=trend.dropped_share, reason=reason)]
    return []


def input_findings(
    status: MapStatus,
    health: Health,
    monitors: Sequence[CameraMonitor],
    limits: DiagnosticsConfig,
) -> list[list[Finding]]:
    """Per camera, what is wrong with its images; nothing where all is well or not subscribed."""
    if status.state not in ACTIVE:
        return [[] for _ in monitors]
    offsets = clock_offsets(
        {monitor.name: monitor.lags_s for monitor in monitors}, limits.max_clock_offset_s
    )
    return [
        _input_findings(camera, monitor, health, limits, offsets.get(monitor.name))
        for camera, monitor in zip(status.cameras, monitors, strict=True)
    ]


def _input_findings(
    camera: CameraStatus,
    monitor: CameraMonitor,
    health: Health,
    limits: DiagnosticsConfig,
    offset_s: float | None,
) -> list[Finding]:
    kinds = finding_texts.CAMERA
    found = []
    if camera.name in health.camera_errors:
        found.append(finding(kinds, "calibration", text=health.camera_errors[camera.name]))
    silent_s = monitor.silent_s
    if silent_s > limits.silent_after_s:
        key = "silent" if camera.received else "never sent"
        found.append(finding(kinds, key, topic=monitor.topic, seconds=silent_s))
    if monitor.fault:
        found.append(finding(kinds, "fault", text=monitor.fault))
    if silent_s > limits.silent_after_s:
        return found
    if camera.name in health.set_back:
        found.append(finding(kinds, "set back"))
    if offset_s is not None:
        direction = "behind" if offset_s > 0 else "ahead of"
        found.append(
            finding(kinds, "clock", name=camera.name, seconds=abs(offset_s), direction=direction)
        )
    elif len(monitor.lags_s) >= LEAST_IMAGES:
        if camera.stamp_age_s > limits.max_stamp_age_s:
            found.append(finding(kinds, "old", seconds=camera.stamp_age_s))
        elif camera.stamp_age_s < -_FUTURE_S:
            found.append(finding(kinds, "future", seconds=-camera.stamp_age_s))
    if abs(camera.skew_ms) > limits.max_skew_ms:  # not where it is NaN
        found.append(finding(kinds, "skew", milliseconds=camera.skew_ms))
    if 0 < camera.rate_hz < limits.min_rate_hz:
        found.append(finding(kinds, "slow", rate=camera.rate_hz, expected=limits.min_rate_hz))
    return found


def camera_findings(
    status: MapStatus,
    camera: CameraStatus,
    health: Health,
    limits: DiagnosticsConfig,
    of_input: Sequence[Finding],
) -> list[Finding]:
    """All about one camera, at least one sentence: `of_input` and what its depth is like."""
    kinds = finding_texts.CAMERA
    if status.state not in ACTIVE:
        return [finding(kinds, "not subscribed")]
    found = list(of_input)
    if not any(f.level != finding_texts.WARN for f in found):
        found.insert(0, finding(kinds, "sends", rate=camera.rate_hz))
    is_silent = any(f.key in ("silent", "never sent") for f in found)
    if health.scene is None or is_silent:
        return found
    if not camera.registered:
        found.append(finding(kinds, "unregistered"))
    elif camera.name not in health.alignments:
        was_tried = health.alignments or health.dropped.get("no depth accepted")
        if was_tried and status.depth_estimator == "plane_sweep":
            found.append(finding(kinds, "no depth"))
    elif not camera.alignment_accepted:
        found.append(
            finding(kinds, "depth refused", reason=camera.alignment_reason or "no pixels")
        )
    elif camera.alignment_inliers < limits.min_inliers:
        found.append(finding(kinds, "few inliers", inliers=camera.alignment_inliers))
    return found


def topic_findings(incompatible: Mapping[str, str]) -> list[Finding]:
    """Of all topics: the incompatible QoS that the middleware told."""
    kinds = finding_texts.TOPICS
    if not incompatible:
        return [finding(kinds, "match")]
    return [finding(kinds, "incompatible", text=text) for text in incompatible.values()]


def fault_of(found: Sequence[Finding]) -> str:
    """One sentence for `CameraStatus.fault`."""
    return "; ".join(f.text for f in found if f.level != OK)
