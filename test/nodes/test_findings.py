"""What `/diagnostics` finds, and that every text of it is documented."""

import ast
import math
import re
import time
from types import SimpleNamespace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

import vggt_ros.errors
from vggt_ros.config import CameraConfig, Config
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.nodes import finding_texts
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.diagnostics import diagnostics
from vggt_ros.nodes.findings import Trend, fault_of, input_findings, pipeline_findings
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.node_config import DiagnosticsConfig
from vggt_ros.nodes.status import map_status
from vggt_ros.types import DepthAlignment, DepthKind, ScaleEstimate, ScaleSource

NAMES = ("left", "right", "back")
CONFIG = Config(cameras=list(NAMES), camera=dict.fromkeys(NAMES, CameraConfig()))
MS = 1_000_000


def healthy_scene():
    return SimpleNamespace(
        scale=ScaleEstimate(1.0, 0.1, ScaleSource.RIG),
        map_from_camera=dict.fromkeys(NAMES, Rigid3.identity()),
        residuals={},
    )


def alignment(name, accepted=True, inliers=0.9):
    return DepthAlignment(
        name,
        DepthKind.TRIANGULATED,
        1.0,
        0.0,
        inliers,
        0.01,
        500,
        accepted,
        "" if accepted else "why",
    )


def healthy(**changes):
    defaults = {
        "scene": healthy_scene(),
        "state": "mapping",
        "alignments": {name: alignment(name) for name in NAMES},
        "overlap": 0.8,
    }
    return Health(**(defaults | changes))


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


@pytest.fixture
def monitors(clock):
    """Three cameras at 10 Hz for five seconds, 20 ms late."""
    made = [CameraMonitor(name, f"/{name}/image_raw") for name in NAMES]
    send(clock, made, 50)
    return made


def send(clock, monitors, count, lag_s=None):
    for _ in range(count):
        clock.s += 0.1
        for monitor in monitors:
            late_s = (lag_s or {}).get(monitor.name, 0.02)
            now_ns = int(clock.s * 1e9)
            monitor.arrived(now_ns - int(late_s * 1e9), now_ns)


def said(
    health, monitors, state=MapStatus.STATE_MAPPING, limits=None, trend=None, change=None, **more
):
    status = map_status(state, health, monitors, CONFIG, 0)
    if change:
        change(status)
    message = diagnostics("mapper", status, monitors, health, 0, limits, trend, **more)
    return message.status


def test_a_healthy_rig_is_ok(monitors):
    found = said(healthy(), monitors)
    assert [s.level for s in found] == [DiagnosticStatus.OK] * 5
    assert [s.name for s in found] == [
        "mapper: pipeline",
        *(f"mapper: camera {name}" for name in NAMES),
        "mapper: topics",
    ]
    assert found[0].message == "mapping"
    assert found[1].message == "10.0 Hz"
    assert all(s.hardware_id for s in found)
    values = {v.key: v.value for v in found[1].values}
    assert values["stamp age [s]"] == "0.020"
    assert values["alignment inliers"] == "0.90"
    values = {v.key: v.value for v in found[0].values}
    assert values["overlap"] == "0.800"
    assert values["clock jumps"] == "0"


def test_the_camera_whose_clock_is_off_is_named(monitors, clock):
    send(clock, monitors, 60, {"left": 0.52})
    text = "camera 'left': stamps are 0.50 s behind the others; synchronise its clock (chrony/ptp)"
    health = healthy()
    _, left, right, back, _ = said(health, monitors)
    assert left.level == DiagnosticStatus.WARN
    assert left.message.startswith(text)
    assert right.level == back.level == DiagnosticStatus.OK
    status = map_status(MapStatus.STATE_MAPPING, health, monitors, CONFIG, 0)
    assert [c.stamp_age_s for c in status.cameras] == pytest.approx([0.52, 0.02, 0.02], abs=1e-6)
    faults = [fault_of(f) for f in input_findings(status, health, monitors, DiagnosticsConfig())]
    assert faults == [text, "", ""]
    send(clock, monitors, 60, {"left": -0.48})
    assert "stamps are 0.50 s ahead of the others" in said(health, monitors)[1].message


def test_old_and_future_stamps_of_all(monitors, clock):
    send(clock, monitors, 60, dict.fromkeys(NAMES, 2.0))
    assert "stamps are 2 s old when they arrive" in said(healthy(), monitors)[1].message
    send(clock, monitors, 60, dict.fromkeys(NAMES, -2.0))
    assert "stamps are 2 s in the future" in said(healthy(), monitors)[1].message


def test_a_silent_camera_stays_silent_for_as_long_as_it_is(monitors, clock):
    others = [m for m in monitors if m.name != "left"]
    send(clock, others, 300)
    left = said(healthy(), monitors)[1]
    assert left.level == DiagnosticStatus.ERROR
    assert left.message.startswith("no image on /left/image_raw for 30 s")
    send(clock, monitors, 30)
    assert said(healthy(), monitors)[1].level == DiagnosticStatus.OK


def test_skew_rate_and_depth(monitors):
    limits = DiagnosticsConfig(min_rate_hz=15.0)
    alignments = {"left": alignment("left", inliers=0.1), "right": alignment("right", False)}
    health = healthy(skews_ms={"left": -17.0}, alignments=alignments)
    _, left, right, back, _ = said(health, monitors, limits=limits)
    assert "stamps differ from those of their sets by -17.0 ms" in left.message
    assert "only 10% of its depth agrees with the map" in left.message
    assert "10.0 Hz, expected 15.0 Hz" in left.message
    assert "depth refused: why" in right.message
    assert "no depth: no other camera sees what it sees" in back.message
    assert left.level == right.level == back.level == DiagnosticStatus.WARN


def test_memory_drift_overlap_and_steps(monitors):
    def change(status):
        status.memory_bytes, status.memory_budget_bytes = 95, 100
        status.scale_drift = -0.07

    health = healthy(overlap=0.02, step_s=90.0, internal_errors=2, publishing_errors=1)
    pipeline = said(health, monitors, change=change)[0]
    assert pipeline.level == DiagnosticStatus.WARN
    for text in (
        "map memory at 95% of its budget",
        "the scale has drifted by -7.0%",
        "the cameras hardly overlap",
        "the set in hand has taken 90 s",
        "2 sets were left out for internal errors",
        "1 messages could not be published",
    ):
        assert text in pipeline.message
    assert pipeline.message.endswith("mapping")  # the worst first

    def unknown(status):
        status.scale_drift = math.nan

    assert (
        said(healthy(overlap=math.nan), monitors, change=unknown)[0].level == DiagnosticStatus.OK
    )


def test_drops_and_missing_sets(monitors, clock):
    trend = Trend()
    trend.update(healthy(sets_received=10), monitors)

    def go_on(seconds):
        for k in seconds:
            send(clock, monitors, 10)
            drops = {"left": {"unmatched": 3 * k}, "right": {"unmatched": 4 * k, "paused": 1000}}
            trend.update(healthy(sets_received=11, camera_drops=drops), monitors)

    go_on(range(1, 5))
    found = said(healthy(), monitors, trend=trend)[0]
    assert found.message.startswith("23% of the last images were dropped, most as 'unmatched'")
    go_on(range(5, 11))
    found = said(healthy(), monitors, trend=trend)[0]
    assert found.message.startswith("images come, but no set for 9 s; most were dropped as 'unm")
    waits = said(healthy(waits=True), monitors, trend=trend)[0]
    assert waits.message == "mapping"


def test_a_clock_jump_is_told_for_a_while(monitors, clock):
    trend = Trend()
    trend.update(healthy(), monitors)
    clock.s += 1.0
    health = healthy(clock_jumps=1)
    trend.update(health, monitors)
    assert (
        "the clock jumped back (1 times so far)" in said(health, monitors, trend=trend)[0].message
    )
    clock.s += 11.0
    trend.update(health, monitors)
    assert said(health, monitors, trend=trend)[0].message == "mapping"


def test_errors_and_topics(monitors):
    found = said(
        Health(),
        monitors,
        MapStatus.STATE_UNCONFIGURED,
        error="KeyError: 'x'",
        incompatible={"/mapper/map": "a subscriber of /mapper/map asks for more"},
    )
    assert found[0].level == DiagnosticStatus.ERROR
    assert "stopped by an internal error: KeyError: 'x'" in found[0].message
    assert found[1].message == "not subscribed"
    assert found[4].level == DiagnosticStatus.WARN
    assert found[4].message == "incompatible QoS: a subscriber of /mapper/map asks for more"
    assert found[4].values[0].key == "/mapper/map"


# --- the documents ---------------------------------------------------------------------------


def test_every_text_is_used_and_documented(repository):
    """Each kind of the tables occurs in the code by its key, and no text is made elsewhere."""
    code = (repository / "vggt_ros/nodes/findings.py").read_text()
    document = (repository / "docs/diagnostics.md").read_text()
    for kinds in (finding_texts.PIPELINE, finding_texts.CAMERA, finding_texts.TOPICS):
        for key, kind in kinds.items():
            assert f'"{key}"' in code, key
            assert f"| {finding_texts.shown(kind.text)} |" in document
            assert kind.level in (finding_texts.OK, finding_texts.WARN, finding_texts.ERROR)
            assert kind.cause
            assert kind.remedy


REASON = re.compile(r"[a-z][a-z _]+")


def literals(node):
    """Constant strings of an expression: of both branches of a condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)


def reasons(tree):
    """What is counted: `dropped["..."] += 1`, `_drop(name, "...")`, `drop("...")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            owner = node.target.value
            if isinstance(owner, ast.Attribute) and owner.attr.lstrip("_") == "dropped":
                yield from literals(node.target.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr.lstrip("_")
            if name in ("drop", "forget", "forget_waiting") or (name == "reset" and node.args):
                for argument in node.args:
                    yield from literals(argument)
        elif isinstance(node, ast.FunctionDef) and node.name == "decode":
            for answer in ast.walk(node):
                if isinstance(answer, ast.Return) and isinstance(answer.value, ast.Tuple):
                    yield from literals(answer.value.elts[0])


def test_every_reason_of_a_drop_is_documented(repository):
    found = set()
    for folder in ("pipeline", "nodes"):
        for path in (repository / "vggt_ros" / folder).rglob("*.py"):
            found |= set(reasons(ast.parse(path.read_text())))
    found = {reason for reason in found if REASON.fullmatch(reason)}
    assert {"late", "paused", "corrupt", "bootstrap failed", "clock_jump", "inactive"} <= found
    errors = {
        name
        for name, kind in vars(vggt_ros.errors).items()
        if isinstance(kind, type) and issubclass(kind, vggt_ros.errors.VggtRosError)
    }
    missing = (found | errors) - set(finding_texts.DROPS)
    assert not missing, f"add to DROPS in vggt_ros/nodes/finding_texts.py: {sorted(missing)}"
    document = (repository / "docs/diagnostics.md").read_text()
    assert all(f"| {reason} |" in document for reason in finding_texts.DROPS)


@pytest.mark.parametrize("state", ["inactive", "paused", "mapping"])
def test_a_fault_of_tf_is_told_while_mapping_alone(state):
    number = getattr(MapStatus, f"STATE_{state.upper()}")
    health = Health(place_fault="no transform", unplaced_s=1.0)
    status = map_status(number, health, [], Config(), 0)
    found = pipeline_findings(status, health, DiagnosticsConfig(), Trend())
    assert any(f.key == "no place" for f in found) is (state == "mapping")
