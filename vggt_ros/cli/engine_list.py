"""`vggt-ros engine list`: which engines there are, and which one would be taken."""

from __future__ import annotations

import argparse
from pathlib import Path

from vggt_ros.cli.engine_arguments import table
from vggt_ros.errors import EngineError
from vggt_ros.inference.passport import FAMILIES, Passport

_EXAMPLES = """\
examples:
  vggt-ros engine list engines

A star marks what is chosen of each family where a folder is given instead of a file: fp16 first;
int8 and fp8 only with a passport whose recorded parity passes.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "list",
        help="table of the engines of a folder",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("engines"), help="default engines"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from vggt_ros.inference.engine_store import find_engine, list_engines

    chosen = set()
    for family in FAMILIES:
        try:
            chosen.add(find_engine(args.folder, family))
        except EngineError:
            continue
    listed = list_engines(args.folder)
    if not listed:
        print(f"{args.folder}: no engines; make one: vggt-ros engine export")
        return 0
    rows = []
    for entry in listed:
        mark = "*" if entry.path in chosen else ""
        name = entry.path.relative_to(args.folder).as_posix()
        size = f"{entry.path.stat().st_size / 1e6:.1f}"
        if entry.passport is None:
            rows.append([mark, name, size, entry.problem, "", "", "", ""])
        else:
            rows.append([mark, name, size, *_cells(entry.passport)])
    head = ["", "engine", "MB", "model", "input", "precision", "runtime", "parity"]
    print(table(head, rows))
    return 0


def _cells(passport: Passport) -> list[str]:
    """Model, input, precision, runtime and worst parity."""
    shape = passport.inputs[0].shape if passport.inputs else ()
    precision = passport.precision
    told = precision.effective
    if precision.requested != precision.effective:
        told += f" (asked {precision.requested})"
    if precision.quant_mode_effective != "none":
        told += f", {precision.quant_mode_effective}"
    runtime = passport.runtime
    where = f"{runtime.backend} {runtime.version}".strip()
    if runtime.compute_capability:
        where += f", GPU {runtime.compute_capability}"
    outputs = passport.golden.outputs if passport.golden else ()
    parities = [o.parity for o in outputs if o.parity is not None]
    worst = f"{max(parities):.2g}" if parities else "not recorded"
    sizes = "x".join("?" if n < 0 else str(n) for n in shape)
    return [passport.model.name, sizes, told, where, worst]
