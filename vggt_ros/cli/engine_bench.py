"""`vggt-ros engine bench`: latency of one engine, or of all under a folder."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from vggt_ros.cli.arguments import count, count_or_zero
from vggt_ros.cli.engine_arguments import add_backend_flags, backend_options, progress, table
from vggt_ros.cli.engine_memory import check_memory
from vggt_ros.errors import EngineError
from vggt_ros.inference.engine_store import Listed, list_engines, open_engine
from vggt_ros.inference.passport import read_passport

_EXAMPLES = """\
examples:
  vggt-ros engine bench engines/vggt-8x3x518x518-pcd_fp16.engine
  vggt-ros engine bench engines --images photos --json bench.json

Times are of single calls on the host, copies to the GPU and back included. Engines are verified
first; one that is not right is told and left out, and the exit code is 1.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "bench",
        help="latency p50, p95 and frames per second",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="ENGINE|FOLDER")
    parser.add_argument("--iterations", type=count, default=50, metavar="N", help="default 50")
    parser.add_argument("--warmup", type=count_or_zero, default=5, metavar="N", help="default 5")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs instead of synthetic images"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    add_backend_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure one after the other and print the table."""
    if not args.path.exists():
        raise EngineError(
            f"{args.path}: expected an engine or a folder of engines, found nothing there"
        )
    if args.path.is_dir():
        listed = list_engines(args.path)
    else:
        listed = [Listed(args.path, read_passport(args.path))]
    if not listed:
        raise EngineError(
            f"{args.path}: expected engines, found none; make one: vggt-ros engine export; "
            f"checkpoints are timed with: trt_inference --engine {args.path}"
        )
    records, failed = [], 0
    for entry in listed:
        try:
            records.append(_measure(entry, args))
        except EngineError as error:
            failed += 1
            print(f"vggt-ros engine bench: {entry.path}: left out: {error}", file=sys.stderr)
    records.sort(key=lambda record: record["p50_ms"])
    if records:
        print(
            table(
                ["engine", "back end", "precision", "p50 ms", "p95 ms", "sets/s"],
                [_row(record) for record in records],
            )
        )
    if args.json:
        from vggt_ros.export.files import write_json

        write_json(args.json, records)
    return 1 if failed else 0


def _row(record: dict[str, Any]) -> list[str]:
    return [
        Path(record["engine"]).name,
        f"{record['backend']} on {record['device']}",
        record["precision"],
        f"{record['p50_ms']:.1f}",
        f"{record['p95_ms']:.1f}",
        f"{record['fps']:.2f}",
    ]


def _measure(entry: Listed, args: argparse.Namespace) -> dict[str, Any]:
    from vggt_ros.engine.benchmark import (
        folder_images,
        input_shape,
        measure,
        quant_mode_of,
        synthetic_images,
        timing_record,
    )

    if entry.passport is None:
        read_passport(entry.path)  # tells why, and the command that mends it
        raise EngineError(entry.problem)
    check_memory(entry.path, args.backend, args.device)
    engine = open_engine(entry.path, args.backend, backend_options(args))
    try:
        shape = input_shape(engine.backend, engine.passport)
        normalisation = engine.passport.model.normalisation
        if args.images:
            images = folder_images(args.images, shape, normalisation)
        else:
            images = synthetic_images(shape, normalisation)
        bar = partial(progress, what=entry.path.name, total=args.iterations)
        timing = measure(engine.backend, images, args.iterations, args.warmup, bar)
        root = args.path if args.path.is_dir() else args.path.parent
        precision = engine.passport.precision.effective
        return {
            **timing_record(quant_mode_of(entry, root), precision, entry.path, timing),
            "p50_ms": timing.p50_ms,
            "p95_ms": timing.p95_ms,
            "iterations": timing.iterations,
            "backend": engine.backend.name,
            "device": engine.backend.device,
            "input": list(shape),
            "images": str(args.images) if args.images else "synthetic",
        }
    finally:
        engine.close()
