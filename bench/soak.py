"""The shipped mapper for a long time: `make soak`, `make soak MINUTES=600`.

A process with four synthetic cameras at 10 Hz publishes over DDS into a mapper process (poses
from TF, plane sweep), which is deactivated and activated again and again. Memory of the mapper
and the time from the stamp of an image to the depth that was fused with it are watched from
outside. Prints a table, writes JSON, exit code 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import REPOSITORY, Figure, at_least, at_most

CAMERAS = ("front_left", "center_left", "center_right", "front_right")
SETTLE_S = 120.0
"""Memory counts from here on: until then kernels, buffers and the map grow to their size."""
CYCLE_S = 45.0
"""Between two deactivations."""
INACTIVE_S = 1.0
RESUME_S = 10.0
"""A set must be mapped again so soon after activate."""
TRANSITION_S = 30.0


@dataclass
class Watched:
    """What was seen from outside; times in seconds since the first set was mapped."""

    memory: list[tuple[float, float]] = field(default_factory=list)
    """(time, resident MB of the mapper)."""
    latency: list[tuple[float, float]] = field(default_factory=list)
    """(time, milliseconds from the stamp of an image to its depth, after the set was fused)."""
    transitions: int = 0
    lost: list[str] = field(default_factory=list)
    """Transitions that failed, or after which nothing was mapped."""
    status: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    """How often each message of `/diagnostics` above OK was seen."""


def growth(memory: Sequence[tuple[float, float]], settle_s: float) -> float:
    """Relative growth of the resident memory from `settle_s` to the end.

    Medians of the first and the last tenth of that time.
    """
    later = [mb for t, mb in memory if t >= settle_s]
    if len(later) < 10:
        return float("nan")
    part = max(3, len(later) // 10)
    first, last = np.median(later[:part]), np.median(later[-part:])
    return float(last / first - 1.0)


def latency_p95(latency: Sequence[tuple[float, float]], settle_s: float) -> tuple[float, float]:
    """95th percentile of the first and of the second half after `settle_s` [ms]."""
    later = [(t, ms) for t, ms in latency if t >= settle_s]
    if len(later) < 20:
        return float("nan"), float("nan")
    middle = (later[0][0] + later[-1][0]) / 2
    halves = [ms for t, ms in later if t < middle], [ms for t, ms in later if t >= middle]
    return float(np.percentile(halves[0], 95)), float(np.percentile(halves[1], 95))


def resident_mb(pid: int) -> float:
    """Resident memory of a process [MB]."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") * 1e-6


def run(minutes: float, width: int, rate_hz: float, cores: int, log: Path) -> Watched:
    """Run it all and return what was seen.

    Raises:
        RuntimeError: a process ended, or nothing was ever mapped.
    """
    environment = _environment()
    os.environ.update({k: environment[k] for k in ("ROS_DOMAIN_ID", _RANGE)})
    if cores:
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        cameras = _start(
            ["bench.soak_cameras", "--rate", str(rate_hz), "--width", str(width)],
            environment,
            output,
        )
        mapper = _start(["vggt_ros.nodes.mapper", *_mapper_arguments(width)], environment, output)
        try:
            watcher = _Watcher(mapper, cameras)
            return watcher.watch(60.0 * minutes)
        finally:
            for process in (cameras, mapper):
                process.send_signal(signal.SIGINT)
            for process in (cameras, mapper):
                try:
                    process.wait(20.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10.0)


def goals(watched: Watched, settle_s: float) -> list[Figure]:
    """What was asked for beside what was seen."""
    first, second = latency_p95(watched.latency, settle_s)
    change = abs(second / first - 1.0)
    memory = [mb for t, mb in watched.memory if t >= settle_s]
    return [
        at_most("growth of resident memory", 100 * growth(watched.memory, settle_s), "%", 2.0),
        Figure("resident memory at the end", memory[-1] if memory else float("nan"), "MB"),
        at_most("lost lifecycle transitions", len(watched.lost), "", 0,
                f"of {watched.transitions}"),
        at_most("change of p95 latency, image to map", 100 * change, "%", 20.0),
        Figure("p95 latency, first half", first, "ms"),
        Figure("p95 latency, second half", second, "ms"),
        at_least("sets mapped", watched.status.get("sets_used", 0), "", 1),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--width", type=int, default=96, help="of the images [px]")
    parser.add_argument("--rate", type=float, default=10.0, help="sets per second")
    parser.add_argument("--cores", type=int, default=0, help="use so many cores; 0: all")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "soak.json")
    args = parser.parse_args()
    watched = run(args.minutes, args.width, args.rate, args.cores, args.out.with_suffix(".log"))
    settle_s = min(SETTLE_S, 0.3 * 60.0 * args.minutes)
    figures = goals(watched, settle_s)
    print(f"\n{'what':40} {'measured':>12}  {'goal':8}")
    for f in figures:
        mark = {True: "met", False: "MISSED", None: ""}[f.met]
        print(f"{f.name:40} {f.value:12.4g}  {f.goal:8} {f.unit:3} {mark} {f.note}")
    for text, count in sorted(watched.findings.items(), key=lambda item: -item[1])[:8]:
        print(f"{count:5} x {text}")
    for text in watched.lost:
        print(f"lost: {text}")
    content = {
        "minutes": args.minutes,
        "goals": [asdict(f) for f in figures],
        **asdict(watched),
    }
    args.out.write_text(json.dumps(content, indent=1, default=float) + "\n")
    print(f"written to {args.out}")
    return 0 if all(f.met is not False for f in figures) else 1


_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def _environment() -> dict[str, str]:
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    environment.setdefault("ROS_DOMAIN_ID", str(random.randrange(1, 100)))
    environment.setdefault(_RANGE, "LOCALHOST")
    # The ROS wheels re-execute Python once; the guard variable would keep a child from it.
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return environment


def _start(arguments: list[str], environment: dict[str, str], output: Any) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        cwd=REPOSITORY,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _mapper_arguments(width: int) -> list[str]:
    parameters = {
        "cameras": f"[{', '.join(CAMERAS)}]",
        "bootstrap": "rig",
        "ingest.require_calibration": "true",
        "plane_sweep.width": width,
        "plane_sweep.planes": 32,
    }
    pairs = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    return ["--ros-args", *pairs]


class _Watcher:
    """A node that drives the lifecycle and takes down what it sees."""

    def __init__(self, mapper: Any, cameras: Any) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from lifecycle_msgs.srv import ChangeState, GetState
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import CameraInfo, PointCloud2

        from vggt_ros.msg import MapStatus

        self._processes = {"mapper": mapper, "cameras": cameras}
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = Node("soak", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._change = self._node.create_client(ChangeState, "/mapper/change_state")
        self._state = self._node.create_client(GetState, "/mapper/get_state")
        self._status: Any = None
        self.watched = Watched()
        self._start_s: float | None = None
        self._mapped = 0
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, callback, profile in (
            (MapStatus, "/mapper/status", self._on_status, 10),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, 10),
            # every set: it is published when the set was fused
            (CameraInfo, f"/mapper/{CAMERAS[1]}/depth/camera_info", self._on_depth, 10),
            (PointCloud2, "/mapper/map", lambda _: None, latched),
        ):
            self._node.create_subscription(kind, topic, callback, profile)

    def watch(self, duration_s: float) -> Watched:
        from lifecycle_msgs.msg import Transition

        self._transition(Transition.TRANSITION_CONFIGURE, "inactive", 300.0)
        self._transition(Transition.TRANSITION_ACTIVATE, "active")
        if not self._wait(lambda: self._mapped > 0, 120.0):
            raise RuntimeError(f"nothing was mapped: {self._status and self._status.detail}")
        self._start_s = start = time.monotonic()
        self.watched.latency.clear()
        cycle_s = min(CYCLE_S, duration_s / 4)
        next_cycle = start + cycle_s
        next_sample = next_word = start
        while (now := time.monotonic()) < start + duration_s:
            self._executor.spin_once(timeout_sec=0.2)
            if now >= next_sample:
                next_sample = now + 1.0
                self._sample(now - start)
            if now >= next_word:
                next_word = now + 60.0
                self._say(now - start)
            if now >= next_cycle:
                next_cycle = now + cycle_s
                self._cycle()
        self._say(time.monotonic() - start)
        if self._status is not None:
            self.watched.status = _plain(self._status)
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()
        return self.watched

    def _cycle(self) -> None:
        from lifecycle_msgs.msg import Transition

        self._transition(Transition.TRANSITION_DEACTIVATE, "inactive")
        self._wait(lambda: False, INACTIVE_S)
        self._transition(Transition.TRANSITION_ACTIVATE, "active")
        before = self._mapped
        if not self._wait(lambda: self._mapped > before, RESUME_S):
            self.watched.lost.append(f"no set within {RESUME_S:.0f} s after activate")

    def _transition(self, transition: int, goal: str, limit_s: float = TRANSITION_S) -> None:
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState, GetState

        request = ChangeState.Request(transition=Transition(id=transition))
        answer = self._call(self._change, request, limit_s)
        state = self._call(self._state, GetState.Request(), TRANSITION_S)
        self.watched.transitions += 1
        found = state.current_state.label if state is not None else "no answer"
        if answer is None or not answer.success or found != goal:
            self.watched.lost.append(f"transition {transition}: expected {goal}, got {found}")

    def _call(self, client: Any, request: Any, limit_s: float) -> Any:
        end = time.monotonic() + limit_s
        while not client.service_is_ready():
            if not self._wait(client.service_is_ready, max(0.0, end - time.monotonic())):
                return None
        future = client.call_async(request)
        return future.result() if self._wait(future.done, limit_s) else None

    def _wait(self, condition: Any, limit_s: float) -> bool:
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                return False
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"the {name} ended with {process.returncode}")
            self._executor.spin_once(timeout_sec=0.1)
        return True

    def _sample(self, now_s: float) -> None:
        mapper = self._processes["mapper"]
        if mapper.poll() is not None:
            raise RuntimeError(f"the mapper ended with {mapper.returncode}")
        self.watched.memory.append((now_s, resident_mb(mapper.pid)))

    def _say(self, now_s: float) -> None:
        status = self._status
        if status is None or not self.watched.memory:
            return
        recent = [ms for t, ms in self.watched.latency if t > now_s - 60.0]
        p95 = np.percentile(recent, 95) if recent else float("nan")
        print(
            f"{now_s / 60:6.1f} min  {self.watched.memory[-1][1]:7.1f} MB  p95 {p95:6.1f} ms  "
            f"{status.sets_used} sets, {status.map_points} points, "
            f"{self.watched.transitions} transitions, {len(self.watched.lost)} lost",
            flush=True,
        )

    def _on_status(self, message: Any) -> None:
        self._status = message

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.level != b"\x00":
                text = f"{status.name}: {status.message}"
                self.watched.findings[text] = self.watched.findings.get(text, 0) + 1

    def _on_depth(self, message: Any) -> None:
        self._mapped += 1
        stamp = message.header.stamp
        late_ms = (time.time() - stamp.sec - stamp.nanosec * 1e-9) * 1e3
        now_s = 0.0 if self._start_s is None else time.monotonic() - self._start_s
        self.watched.latency.append((now_s, late_ms))


def _plain(status: Any) -> dict[str, Any]:
    return {
        "sets_received": status.sets_received,
        "sets_used": status.sets_used,
        "map_points": status.map_points,
        "dropped": {drop.reason: drop.count for drop in status.dropped},
        "received": {camera.name: camera.received for camera in status.cameras},
        "ms_p50": dict(zip(status.timing_names, status.timing_ms_p50, strict=True)),
        "ms_p95": dict(zip(status.timing_names, status.timing_ms_p95, strict=True)),
    }


if __name__ == "__main__":
    sys.exit(main())
