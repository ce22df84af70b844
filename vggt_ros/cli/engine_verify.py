"""`vggt-ros engine verify`: is an engine what its passport says, on this machine?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vggt_ros.cli.engine_arguments import add_backend_flags, backend_options, waiting
from vggt_ros.cli.engine_memory import check_memory
from vggt_ros.errors import EngineError

_EXAMPLES = """\
examples:
  vggt-ros engine verify engines/vggt-8x3x518x518-pcd_fp16.engine
  vggt-ros engine verify engines/*.onnx --backend onnxruntime

File hash, TensorRT version, GPU architecture, names and shapes, and the golden run are checked.
Every engine gets one line; exit code 1 if one of them is not right.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "verify",
        help="check engines against their passports",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path, nargs="+", metavar="ENGINE")
    add_backend_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check one after the other."""
    from vggt_ros.inference.verify import verify_passport

    failed = 0
    for engine in args.engine:
        try:
            check_memory(engine, args.backend, args.device)
            with waiting(f"verify {engine.name}"):
                report = verify_passport(engine, args.backend, backend_options(args))
        except EngineError as error:
            failed += 1
            print(f"vggt-ros engine verify: {error}", file=sys.stderr)
            continue
        print(report.text)
        for note in report.notes:
            print(f"{engine}: note: {note}")
    return 1 if failed else 0
