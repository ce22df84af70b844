"""`vggt-ros check`: will this bag map, and if not, why."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggt_ros.cli.arguments import not_negative
from vggt_ros.errors import ExportError

if TYPE_CHECKING:
    from vggt_ros.sources.bag_findings import BagCheck, CameraCheck, PairCheck

_EXAMPLES = """\
examples:
  vggt-ros check robot_bag
  vggt-ros check robot_bag --rig rig.yaml --max-skew-ms 50 --json check.json

exit codes: 0 a bootstrapper will work; 1 the bag cannot be mapped, or not be read
"""


def add_parser(subparsers: Any) -> None:
    """Add `check` to the parser of `vggt-ros`."""
    parser = subparsers.add_parser(
        "check",
        help="look at a bag before mapping",
        description="Rate, stamps, calibration and texture of each camera, overlap and skew of "
        "each pair; which bootstrapper will work, and why another will not.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", metavar="BAG", type=Path, help="rosbag2 folder, .mcap or .db3")
    parser.add_argument("--rig", metavar="RIG.yaml", type=Path, help="overrules the calibration")
    parser.add_argument(
        "--max-skew-ms",
        metavar="MS",
        type=not_negative,
        help="as ingest.max_skew_ms (default: that of the configuration)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the bag and print the tables; 0 if it can be mapped, else 1.

    Raises:
        VggtRosError: no bag, no image topics, wrong rig file, unwritable JSON.
    """
    import dataclasses

    from vggt_ros.cli.bag import track
    from vggt_ros.config import IngestConfig
    from vggt_ros.rig import load_rig
    from vggt_ros.sources.bag import BagReader
    from vggt_ros.sources.bag_check import check_bag

    config = IngestConfig()
    if args.max_skew_ms is not None:
        config = dataclasses.replace(config, max_skew_ms=args.max_skew_ms)
    rig = load_rig(args.rig) if args.rig else None
    with BagReader(args.bag) as bag:
        result = check_bag(bag, config, rig, lambda items, total: track(items, "images", total))
    print(format_check(result))
    if args.json:
        _write_json(args.json, result.to_dict())
    return 0 if result.can_map else 1


def format_check(result: BagCheck) -> str:
    """The tables and verdicts as text."""
    parts = [_table(_CAMERA_HEAD, [_camera_row(c) for c in result.cameras])]
    if result.pairs:
        parts.append(_table(_PAIR_HEAD, [_pair_row(p) for p in result.pairs]))
    dropped = ", ".join(f"{reason} {n}" for reason, n in sorted(result.dropped.items()))
    parts.append(f"sets: {result.sets}; images dropped: {dropped or 'none'}")
    problems = [f"  {c.name}: {text}" for c in result.cameras for text in c.problems]
    problems += [f"  {text}" for text in result.problems]
    if problems:
        parts.append("\n".join(["problems:", *problems]))
    lines = []
    for name, verdict in result.verdicts.items():
        word = "works" if verdict.works else "will not work"
        lines.append(f"bootstrap {name}: {word}; {'; '.join(verdict.reasons)}")
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


_CAMERA_HEAD = (
    "camera",
    "images",
    "size",
    "rate Hz",
    "jitter ms",
    "age ms",
    "calibration",
    "pose",
    "texture",
)
_PAIR_HEAD = ("pair", "skew ms", "matches", "verified", "share", "overlap")


def _camera_row(camera: CameraCheck) -> tuple[str, ...]:
    return (
        camera.name,
        str(camera.messages),
        "{}x{}".format(*camera.size) if camera.size else "-",
        _number(camera.rate_hz, 1),
        _number(camera.jitter_ms, 1),
        _number(camera.age_ms, 1),
        camera.calibration,
        "yes" if camera.has_pose else "no",
        "-" if camera.texture is None else f"{camera.texture:.0%}",
    )


def _pair_row(pair: PairCheck) -> tuple[str, ...]:
    found = pair.overlap
    return (
        f"{pair.first} - {pair.second}",
        _number(pair.skew_ms, 1),
        str(found.matches) if found else "-",
        str(found.verified) if found else "-",
        f"{found.share:.0%}" if found else "-",
        ("planar" if found.planar else "yes") if found and found.is_connected else "no",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
