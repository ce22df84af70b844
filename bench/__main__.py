"""`python -m bench [NAME ...]`: measure, print, and write to `bench/results.md`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from bench.figures import REPOSITORY, Figure, machine
from vggt_ros.export.files import atomic_write

SECTIONS = {
    "startup": "Start-up",
    "photographs": "Bootstrap on real photographs",
    "stereo": "Plane sweep on a real sequence",
    "fusion": "Map of a real sequence",
    "demo": "The demo over DDS",
    "map_kernels": "Kernels beside their peers",
    "map_accuracy": "Map and alignment on recorded depth",
    "alignment": "What bounds the alignment",
    "inference": "Networks in the runtimes of a CPU",
    "gpu_vggt": "Networks on a GPU",
    "export_formats": "Writing files beside the usual libraries",
    "video_decode": "Video decoding",
    "map_limits": "Map: what moves, memory, growth",
    "dds": "Images over DDS",
    "map_rendering": "Rendering the map beside its peers",
    "scale": "Scale and the check of the rig",
}
"""Module of this folder, each with `figures() -> list[Figure]`, and the title of its section."""

ON_REQUEST = {
    "export": "Export of VGGT-1B",
    "motion": "Path of one moving camera",
    "drive": "Odometry corrected on a drive through rooms",
}
"""Likewise, but run only where named: minutes, gigabytes, or packages that not everybody has."""


def main() -> int:
    titles = SECTIONS | ON_REQUEST
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(titles)}")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in titles]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(titles)}")
    sections: dict[str, list[Figure]] = {}
    for name in args.names or SECTIONS:
        start = time.perf_counter()
        sections[name] = importlib.import_module(f"bench.{name}").figures()
        print(f"\n## {titles[name]} ({time.perf_counter() - start:.0f} s)")
        print(_table(sections[name]), flush=True)
        _write({name: sections[name]})
    missed = [f for figures in sections.values() for f in figures if f.met is False]
    print(f"\n{len(missed)} goals missed" + "".join(f"\n  {f.name}" for f in missed))
    return 0


def _table(figures: list[Figure]) -> str:
    lines = ["| what | measured | goal | |", "|---|---|---|---|"]
    for f in figures:
        mark = {True: "met", False: "**missed**", None: ""}[f.met]
        note = f" ({f.note})" if f.note else ""
        lines.append(f"| {f.name}{note} | {f.value:.4g} {f.unit} | {f.goal} | {mark} |")
    return "\n".join(lines)


def _write(sections: dict[str, list[Figure]]) -> None:
    """Put sections into `results.md`; those that were not measured stay as they are."""
    path = REPOSITORY / "bench" / "results.md"
    facts = machine()
    commit = facts.pop("commit")
    titles = SECTIONS | ON_REQUEST
    known = _sections(path.read_text()) if path.exists() else {}
    for name, figures in sections.items():
        known[titles[name]] = f"Measured at commit {commit}.\n\n{_table(figures)}"
    text = [
        "# Results",
        "",
        "Written by `make bench` and `python -m bench NAME ...`; compare ratios, times drift.",
        "",
        *(f"* {key}: {value}" for key, value in facts.items()),
    ]
    for title in titles.values():
        if title in known:
            text += ["", f"## {title}", "", known[title]]
    with atomic_write(path) as file:
        file.write(("\n".join(text) + "\n").encode())


def _sections(text: str) -> dict[str, str]:
    """What stands under each title of `results.md`."""
    found = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        found[title] = body.strip()
    return found


if __name__ == "__main__":
    sys.exit(main())
