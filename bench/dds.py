"""Eight 1080p cameras at 10 Hz into the mapper, by the shipped DDS profile and by the default.

A process of camera drivers publishes 8 x 6.2 MB of bgr8 ten times a second (500 MB/s); a second
process is the mapper, its node class as it ships. What counts is the whole sets that its ingest
gives out for the pipeline, not what a bare subscriber would see; nothing is decoded or mapped,
which is no transport. Latency is from just before `publish` to the queues of ingest, so it has
both serialisations and the executor in it.

Transports take turns in one run, `ROUNDS` times; of each the round with the lowest median counts,
for two cores that others use too leave messages waiting for a processor. The note says how many
cores others had meanwhile: latencies mean something only where that is near none. Fast DDS only.
"""

from __future__ import annotations

import array
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.figures import REPOSITORY, Figure, at_least, at_most

CAMERAS = tuple(f"camera_{i}" for i in range(8))
WIDTH, HEIGHT = 1920, 1080
RATE_HZ = 10.0
SETS = 100
SETTLE_SETS = 10
"""The first sets are published and must arrive, but their latency is that of a start."""

PROFILE = REPOSITORY / "config" / "fastdds_large_data.xml"
TRANSPORT_VARIABLES = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
)
ROUNDS = 2
TIMEOUT_S = 120.0


def figures() -> list[Figure]:
    from vggt_ros.cli.demo import dds_environment
    from vggt_ros.nodes.transport import LARGE_DATA

    private = {k: v for k, v in dds_environment().items() if k.startswith("ROS_")}
    # The variable has no effect where discovery is kept on this host.
    domain = {"ROS_DOMAIN_ID": private["ROS_DOMAIN_ID"]}
    kinds = {
        "default": private,
        "file": private | {"FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE)},
        "variable": domain | {"FASTDDS_BUILTIN_TRANSPORTS": LARGE_DATA},
    }
    rounds = [{name: _run(given) for name, given in kinds.items()} for _ in range(ROUNDS)]
    runs = {
        name: min((r[name] for r in rounds), key=lambda run: float(run["median_ms"]))
        for name in kinds
    }
    found = []
    for name, run in runs.items():
        title = "default transport" if name == "default" else f"shipped profile ({name})"
        note = (
            f"{run['images']} of {len(CAMERAS) * SETS} images, dropped {run['dropped'] or 0}; "
            f"mapper {run['cpu_of_core']:.2f} cores, others {run['others_cores']:.1f}"
        )
        extra = [
            Figure(f"{title}: latency, 95 %", run["p95_ms"], "ms"),
            Figure(f"{title}: latency, worst", run["worst_ms"], "ms"),
        ]
        if name == "default":
            found += [
                Figure(f"{title}: sets that reach the pipeline", run["sets"], "sets", note=note),
                Figure(f"{title}: latency, median", run["median_ms"], "ms"),
                *extra,
            ]
            continue
        ratio = run["median_ms"] / runs["default"]["median_ms"]
        found += [
            at_least(f"{title}: sets that reach the pipeline", run["sets"], "sets", SETS, note),
            at_most(f"{title}: latency, median", run["median_ms"], "ms", 10.0),
            at_most(f"{title}: median / default's", ratio, "", 1 / 3),
            *extra,
        ]
    return found


def _run(environment: dict[str, str]) -> dict[str, Any]:
    """Both processes with one transport; what the mapper saw."""
    clean = {k: v for k, v in os.environ.items() if k not in TRANSPORT_VARIABLES}
    clean.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)  # of the ROS wheels; keeps a child from ROS
    clean.update(environment)
    processes: list[subprocess.Popen[bytes]] = []
    before, own = _busy_s(), os.times()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "bench.dds"]
        try:
            for role in ("mapper", "cameras"):
                processes.append(
                    subprocess.Popen([*command, role, str(result)], cwd=REPOSITORY, env=clean)
                )
            for process in processes:
                if process.wait(TIMEOUT_S) != 0:
                    raise RuntimeError(f"{process.args}: exit code {process.returncode}")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        found: dict[str, Any] = json.loads(result.read_text())
    now = os.times()
    ours_s = now.children_user - own.children_user + now.children_system - own.children_system
    found["others_cores"] = (_busy_s() - before - ours_s) / (time.monotonic() - start)
    return found


def _busy_s() -> float:
    """CPU time that all processes of this machine have had [s]."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = (float(field) for field in fields)
    return (user + nice + system + irq + softirq) / float(os.sysconf("SC_CLK_TCK"))


# --- the mapper's process ---------------------------------------------------------------


def run_mapper(result: Path) -> int:
    """The mapper until the cameras have ended or nothing comes any more."""
    from vggt_ros.nodes import process

    stop = process.catch_signals()
    import numpy as np

    from vggt_ros.nodes.mapper_node import Mapper
    from vggt_ros.pipeline.mapping import MappingPipeline

    class UnpreparedPipeline(MappingPipeline):
        """Compiles nothing, for no set gets so far."""

        def prepare(self) -> None:
            pass

    latencies_ms: list[float] = []
    sets: list[bool] = []

    def make_node(stop: threading.Event) -> Any:
        node = Mapper(stop, UnpreparedPipeline)
        threading.Thread(target=watch, args=(node,), daemon=True).start()
        return node

    def count_set(chosen: Any) -> None:
        sets.append(len(chosen.images) == len(CAMERAS))

    def watch(node: Any) -> None:
        while node._worker is None and not stop.wait(0.05):
            pass
        ingest = node._worker._ingest
        put = ingest.put

        def timed_put(image: Any) -> None:
            sent_ns = int(image.data[0, :8].reshape(-1)[:8].copy().view(np.int64)[0])
            latencies_ms.append((time.monotonic_ns() - sent_ns) * 1e-6)
            put(image)

        ingest.put = timed_put
        ingest.decode_set = count_set
        cpu_s, last, since = time.process_time(), 0, time.monotonic()
        begun = since
        while not stop.wait(0.2):
            if len(latencies_ms) != last:
                since = time.monotonic()
                if not last:
                    cpu_s, begun = time.process_time(), since
                last = len(latencies_ms)
            # Silence after the first image: what is not there by now is lost.
            if last and time.monotonic() - since > 3.0:
                break
        settled = latencies_ms[SETTLE_SETS * len(CAMERAS) :] or [float("nan")]
        content = {
            "sets": sum(sets),
            "images": len(latencies_ms),
            "dropped": dict(ingest.counts),
            "median_ms": float(np.median(settled)),
            "p95_ms": float(np.percentile(settled, 95)),
            "worst_ms": float(np.max(settled)),
            "cpu_of_core": (time.process_time() - cpu_s) / max(since - begun, 1e-3),
        }
        result.write_text(json.dumps(content))
        stop.set()

    names = f"[{', '.join(CAMERAS)}]"
    options = {"cameras": names, "autostart": "true", "calibration_wait_s": "0.0"}
    arguments = ["mapper", "--ros-args", "--log-level", "warn"]
    for name, value in options.items():
        arguments += ["-p", f"{name}:={value}"]
    return process.run(make_node, stop, arguments, threads=4)


# --- the cameras' process ---------------------------------------------------------------


def run_cameras() -> int:
    """Publish `SETS` sets once the mapper has subscribed; reliable, as most drivers offer."""
    import numpy as np
    import rclpy
    from sensor_msgs.msg import Image

    from vggt_ros.nodes import qos
    from vggt_ros.nodes.conversions import time_message

    rclpy.init()
    node = rclpy.create_node("cameras")
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    publishers, images = [], []
    for name in CAMERAS:
        publishers.append(node.create_publisher(Image, f"{name}/image_raw", qos.reliable()))
        image = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH)
        image.header.frame_id = f"{name}_optical_frame"
        image.data = array.array("B", pixels.tobytes())
        images.append(image)
    views = [np.frombuffer(image.data, np.int64, 1) for image in images]
    limit = time.monotonic() + TIMEOUT_S / 2
    while not all(p.get_subscription_count() for p in publishers):
        if time.monotonic() > limit:
            print("cameras: the mapper does not subscribe", file=sys.stderr)
            return 1
        time.sleep(0.05)
    time.sleep(1.0)  # both sides must know of each other
    start = time.monotonic()
    for k in range(SETS):
        time.sleep(max(0.0, start + k / RATE_HZ - time.monotonic()))
        stamp = time_message(time.time_ns())
        for publisher, image, view in zip(publishers, images, views, strict=True):
            image.header.stamp = stamp
            view[0] = time.monotonic_ns()
            publisher.publish(image)
    for publisher in publishers:
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=2.0))
    time.sleep(1.0)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    role, target = sys.argv[1:]
    sys.exit(run_mapper(Path(target)) if role == "mapper" else run_cameras())
