"""`vggt-ros demo`: the whole job on a synthetic room, through real nodes over real DDS."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros import results
from vggt_ros.cli.arguments import count, positive
from vggt_ros.errors import SourceError, VggtRosError
from vggt_ros.export.files import write_json
from vggt_ros.geometry import Rigid3
from vggt_ros.nodes.transport import profile_environment
from vggt_ros.rig import Rig

SETS, RATE_HZ = 60, 10.0
START_NS = 1_767_225_600 * 10**9
"""Stamp of the first set: the beginning of 2026, so that stamps look like those of a robot."""
COMPRESSED = 2
"""The first cameras of the rig record JPEG, the others raw images, so that both are exercised."""

_STARTUP_S = 90.0
"""Longest wait for the mapper to answer; the first start compiles kernels."""
_BOOTSTRAP_S = 60.0
"""Longest wait for the cameras' poses after the bag has ended."""
_QUIET_S = 3.0
"""The map is complete when, after the bag has ended, no set was added for this long."""

_EXAMPLES = """\
examples:
  vggt-ros demo                    results in demo_out/
  vggt-ros demo --out result --play-rate 0.5
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="four simulated cameras in, a measured map out",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo_out"), metavar="DIR")
    parser.add_argument("--sets", type=count, default=SETS, help=f"frame sets (default {SETS})")
    parser.add_argument(
        "--play-rate",
        type=positive,
        default=0.25,
        help="speed of the replay; a CPU takes about two sets a second (default 0.25)",
    )
    parser.add_argument(
        "--domain", type=int, default=None, help="ROS domain (default: a free one)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vggt_ros.synthetic.scenes import demo_rig, demo_room

    start = time.monotonic()
    out = results.prepare_folder(args.out)
    world = demo_room()
    rig, world_from_rig = demo_rig()
    bag = out / "bag"
    last_images = _record(bag, world, rig, world_from_rig, args.sets)
    depth, live = _map_over_dds(bag, out, rig, args)
    truth = _Truth(world, rig, world_from_rig, (args.sets - 1) / RATE_HZ)
    report = _evaluate(out, truth, depth, live)
    report["evaluation"]["wall_time_s"] = round(time.monotonic() - start, 1)
    write_json(out / results.REPORT, report)
    _preview(out, rig, last_images, depth, report)
    print("\n" + summary(report))
    print(f"\nresults in {out}; look at them with\n  xdg-open {out / results.PREVIEW}")
    print(f"  pip install open3d && open3d draw {out / results.MAP}    # or any PLY viewer")
    return 0


def _record(bag: Path, world: Any, rig: Rig, world_from_rig: Rigid3, sets: int) -> dict[str, Any]:
    """Render and write the bag; returns the images of the last set by camera."""
    from tqdm import tqdm

    from vggt_ros.synthetic.record import record
    from vggt_ros.synthetic.scenes import simulate

    last: dict[str, Any] = {}

    def taken() -> Iterator[Any]:
        for each in simulate(world, rig, world_from_rig, sets, RATE_HZ, start_ns=START_NS):
            last.update(each.images)
            yield each

    with tqdm(total=sets, desc="simulate", unit="set") as bar:
        record(bag, rig, taken(), rig.names[:COMPRESSED], overwrite=True, on_set=bar.update)
    return last


@dataclass(frozen=True)
class _Live:
    """What the mapper said at the end."""

    sets_received: int
    sets_used: int
    timings: dict[str, tuple[float, float]]


def _map_over_dds(
    bag: Path, out: Path, rig: Rig, args: argparse.Namespace
) -> tuple[dict[str, Any], _Live]:
    """Run mapper and bag player as processes of their own; export through the service."""
    os.environ.update(dds_environment(args.domain))
    from vggt_ros.nodes.observer import Observer

    parameters = out / "mapper.yaml"
    parameters.write_text(_mapper_parameters(rig))
    mapper = ["mapper", "--ros-args", "--params-file", str(parameters)]
    player = ["bag_player", "--ros-args", "-p", f"bag:={bag}", "-p", f"rate:={args.play_rate}"]
    with (
        _node(mapper, out / "mapper.log") as mapping,
        Observer(rig.names) as observer,
    ):
        _wait_until_mapping_can_start(observer, mapping, out / "mapper.log")
        with _node(player, out / "bag_player.log") as playing:
            _watch(observer, mapping, playing, args.sets, out / "mapper.log")
        for name, format_ in (
            (results.MAP, "ply"),
            (results.TRAJECTORY, "tum"),
            (results.REPORT, "report"),
        ):
            answer = observer.export((out / name).resolve(), format_)
            if not answer.success:
                raise VggtRosError(f"export of {name} failed: {answer.message}")
        status = observer.status
        timings = {
            name: (p50, p95)
            for name, p50, p95 in zip(
                status.timing_names, status.timing_ms_p50, status.timing_ms_p95, strict=True
            )
        }
        live = _Live(status.sets_received, status.sets_used, timings)
        write_json(
            out / results.TIMINGS,
            {n: {"p50_ms": p50, "p95_ms": p95} for n, (p50, p95) in timings.items()},
        )
        return dict(observer.depth), live


def dds_environment(domain: int | None = None) -> dict[str, str]:
    """A private domain on this machine, with the transport that carries large messages.

    Shared memory in pieces of 1 MB, see docs/operations.md: the default loses images on a busy
    machine.
    """
    return {
        "ROS_DOMAIN_ID": str(domain if domain is not None else 1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **profile_environment(),
    }


def _mapper_parameters(rig: Rig) -> str:
    lines = ["mapper:", "  ros__parameters:", "    autostart: true"]
    lines.append(f"    cameras: [{', '.join(rig.names)}]")
    for index, name in enumerate(rig.names):
        transport = "compressed" if index < COMPRESSED else "raw"
        lines.append(f"    camera.{name}.transport: {transport}")
    lines.append("    ingest.require_calibration: true")
    lines.append("    ingest.reliability: reliable")
    lines.append("    plane_sweep.width: 640")  # all pixels of the images
    return "\n".join(lines) + "\n"


@contextmanager
def _node(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node in a process of its own; it is asked to end, then made to."""
    environment = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    module, *rest = command
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", f"vggt_ros.nodes.{module}", *rest],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(15)
                except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
                    process.kill()
                    process.wait()
                    if isinstance(reason, KeyboardInterrupt):
                        raise


def _wait_until_mapping_can_start(
    observer: Any, mapping: subprocess.Popen[bytes], log: Path
) -> None:
    from tqdm import tqdm

    with tqdm(desc="start the mapper (compiles at first)", bar_format="{desc}: {elapsed}") as bar:

        def ready() -> bool:
            bar.update(0)
            bar.refresh()
            status = observer.status
            bootstrapping = status is not None and status.state == status.STATE_BOOTSTRAPPING
            return bootstrapping or mapping.poll() is not None

        observer.wait(ready, _STARTUP_S)
    if mapping.poll() is not None or observer.status is None:
        raise SourceError(f"the mapper did not start; its log ends with:\n{_tail(log)}")


def _watch(
    observer: Any,
    mapping: subprocess.Popen[bytes],
    playing: subprocess.Popen[bytes],
    sets: int,
    log: Path,
) -> None:
    """Show the growing map until the bag has ended and the mapper has caught up."""
    from tqdm import tqdm

    used, changed = -1, time.monotonic()

    def patience() -> float:
        status = observer.status
        return _BOOTSTRAP_S if status.state == status.STATE_BOOTSTRAPPING else _QUIET_S

    with tqdm(total=sets, desc="map over DDS", unit="set") as bar:
        while playing.poll() is None or time.monotonic() - changed < patience():
            observer.spin(0.2)
            if mapping.poll() is not None:
                raise SourceError(f"the mapper ended early; its log ends with:\n{_tail(log)}")
            status = observer.status
            if status.sets_used != used:
                used, changed = status.sets_used, time.monotonic()
                bar.update(used - bar.n)
            bar.set_postfix_str(f"{status.map_points:,} points; {status.detail}"[:60])
    if playing.returncode:
        text = _tail(log.with_name("bag_player.log"))
        raise SourceError(f"the bag player failed; its log ends with:\n{text}")
    if not used:
        raise SourceError(f"no set was mapped: {observer.status.detail}\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


@dataclass(frozen=True)
class _Truth:
    """What no node has seen. The map frame is the rig's, because the rig's poses were given."""

    world: Any
    rig: Rig
    world_from_rig: Rigid3
    end_s: float

    def scale_error(self, depth: dict[str, Any]) -> float | None:
        """Of the last depth images, median measured over true; None where none has arrived."""
        if not depth:
            return None
        ratios = []
        for name, measured in depth.items():
            model = self.rig.models[name].without_distortion()
            small = model.resized(measured.shape[1], measured.shape[0])
            pose = self.world_from_rig @ self.rig.poses[name]
            true = self.world.render(small, pose, self.end_s, supersample=1).depth
            ratios.append((measured / true)[np.isfinite(measured) & np.isfinite(true)])
        return abs(float(np.median(np.concatenate(ratios))) - 1.0)


def _evaluate(out: Path, truth: _Truth, depth: dict[str, Any], live: _Live) -> dict[str, Any]:
    """`report.json` of the mapper with the section `evaluation` added."""
    import json

    from vggt_ros.evaluation import evaluate_cameras, evaluate_cloud
    from vggt_ros.export.ply import read_ply
    from vggt_ros.synthetic.truth import distance_to_surface, surface_points

    report: dict[str, Any] = json.loads((out / results.REPORT).read_text())
    rig = truth.rig
    found = {
        name: Rigid3.from_matrix(camera["map_from_camera"])
        for name, camera in report["cameras"].items()
        if camera["registered"]
    }
    cameras = evaluate_cameras(found, rig.poses, "none")
    points = truth.world_from_rig.apply(read_ply(out / results.MAP).points)

    def distance(points: Any) -> Any:
        return distance_to_surface(truth.world, points)

    views = [(rig.models[n], truth.world_from_rig @ pose) for n, pose in rig.poses.items()]
    evaluation: dict[str, Any] = {
        "cameras_registered": f"{len(found)} of {len(rig.names)}",
        "rotation_error_deg": cameras.rotation_max_deg,
        "centre_error_m": cameras.centre_max,
        "centre_error_of_rig_size": cameras.centre_max / rig.size_m,
        "scale_error": truth.scale_error(depth),
    }
    for min_views in (1, 2):
        surface = surface_points(truth.world, views, spacing_m=0.03, min_views=min_views)
        cloud = evaluate_cloud(points, surface, distance=distance)
        evaluation[f"completeness_5cm_seen_by_{min_views}"] = cloud.completeness[0.05]
        evaluation["accuracy_median_m"] = cloud.accuracy_median
        evaluation["accuracy_90_percent_m"] = cloud.accuracy_90
    evaluation["median_ms"] = {name: round(p50, 1) for name, (p50, _) in live.timings.items()}
    report["evaluation"] = evaluation
    return report


def _preview(
    out: Path, rig: Rig, images: dict[str, Any], depth: dict[str, Any], report: dict[str, Any]
) -> None:
    from vggt_ros.export.ply import read_ply
    from vggt_ros.preview import PreviewImage, write_preview

    poses = {
        name: Rigid3.from_matrix(camera["map_from_camera"])
        for name, camera in report["cameras"].items()
        if camera["registered"]
    }
    shown = [PreviewImage(name, images[name], depth.get(name)) for name in rig.names]
    write_preview(out / results.PREVIEW, shown, read_ply(out / results.MAP), poses)


def summary(report: dict[str, Any]) -> str:
    """The table that the demo ends with."""
    e, scale = report["evaluation"], report["scale"]
    metric = "unknown: the map is not metric"
    if scale["value"] is not None:
        metric = f"{scale['value']:.4g} +- {scale['sigma']:.2g} m per unit, {scale['source']}"
    rows = [
        ("cameras registered", e["cameras_registered"], "4 of 4", ""),
        _row("rotation error, worst camera", e["rotation_error_deg"], "deg", 0.15),
        _row("centre error / rig size, worst", 100 * e["centre_error_of_rig_size"], "%", 0.5),
        ("scale", metric, "", ""),
        _scale_row(e["scale_error"]),
        _row("map accuracy, median", 100 * e["accuracy_median_m"], "cm", 1.5),
        _row("completeness at 5 cm, seen by 2+", 100 * e["completeness_5cm_seen_by_2"], "%", -80),
        ("completeness at 5 cm, seen by 1+",
         f"{100 * e['completeness_5cm_seen_by_1']:.1f} %", "", ""),
        ("sets used", f"{report['sets']['used']} of {report['sets']['received']}", "", ""),
        ("map", f"{report['map']['points']:,} points", "", ""),
        _row("wall time", e["wall_time_s"], "s", 180),
    ]  # fmt: skip
    return results.table(rows, ("what", "measured", "goal", ""))


def _scale_row(error: float | None) -> tuple[str, str, str, str]:
    if error is None:
        return "scale error", "no depth image arrived", "<= 1 %", "MISSED"
    return _row("scale error", 100 * error, "%", 1.0)


def _row(what: str, value: float, unit: str, limit: float) -> tuple[str, str, str, str]:
    """A negative limit is a lower bound."""
    met = value >= -limit if limit < 0 else value <= limit
    sign = ">=" if limit < 0 else "<="
    return what, f"{value:.3g} {unit}", f"{sign} {abs(limit):g} {unit}", "met" if met else "MISSED"
