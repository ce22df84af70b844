"""The figures of `vggt-ros demo`, taken from its own report."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, at_least, at_most


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vggt_ros.cli.main", "demo", "--out", folder]
        subprocess.run(command, check=True)
        report = json.loads((Path(folder) / "report.json").read_text())
    e = report["evaluation"]
    registered = sum(camera["registered"] for camera in report["cameras"].values())
    return [
        at_least("cameras registered of 4", registered, "", 4),
        at_most("rotation error, worst camera", e["rotation_error_deg"], "deg", 0.15),
        at_most("centre error / rig size", 100 * e["centre_error_of_rig_size"], "%", 0.5),
        at_most("scale error of the depth", 100 * _or_nan(e["scale_error"]), "%", 1.0),
        at_most("map accuracy, median", 100 * e["accuracy_median_m"], "cm", 1.5),
        at_least("completeness at 5 cm, seen by 2+", 100 * e["completeness_5cm_seen_by_2"],
                 "%", 80),
        Figure("completeness at 5 cm, seen by 1+",
               100 * e["completeness_5cm_seen_by_1"], "%"),
        at_most("wall time", e["wall_time_s"], "s", 180),
        *[Figure(f"{name}, median", ms, "ms") for name, ms in e["median_ms"].items()],
    ]  # fmt: skip


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
