"""`vggt-ros evaluate`: how far cameras, trajectories and clouds are from the truth."""

from __future__ import annotations

import argparse
from functools import reduce
from pathlib import Path

from vggt_ros.cli.arguments import not_negative

_EXAMPLES = """\
examples:
  vggt-ros evaluate result --reference cameras.json --align sim3
  vggt-ros evaluate result --reference RIG.yaml --reference scan.ply --json errors.json
  vggt-ros evaluate odometry.tum --reference truth.tum --align se3
  vggt-ros evaluate map.ply --reference scan.ply --align none

Cameras are matched by name (0001.jpg is cam_0001), poses by stamp. A cloud is moved as the
cameras or the trajectory of the same reference say; alone it is compared as it is.
Without --align: se3 where the result is metric, sim3 where it is not, none for clouds alone.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare a result with the truth",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "result", type=Path, metavar="DIR", help="folder of results, trajectory or cloud"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="the truth: report.json or a camera list, RIG.yaml, .tum, .ply, .pcd or a folder "
        "of results; may be repeated",
    )
    parser.add_argument(
        "--align", choices=("none", "se3", "sim3"), help="what may differ between the frames"
    )
    parser.add_argument(
        "--camera", default="", metavar="NAME", help="whose trajectory, where there are several"
    )
    parser.add_argument(
        "--max-difference-ms",
        type=not_negative,
        default=10.0,
        metavar="MS",
        help="poses farther apart in time are no pair (default 10)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table and write the JSON file."""
    # Here, because they bring numba, which would slow down every other command.
    from vggt_ros.evaluation.comparison import compare
    from vggt_ros.evaluation.files import Comparable, load_comparable

    found = load_comparable(args.result)
    truth = reduce(Comparable.merged, [load_comparable(path) for path in args.reference])
    comparison = compare(found, truth, args.align, args.camera, args.max_difference_ms)
    print(comparison.table())
    if args.json:
        from vggt_ros.export.files import write_json

        write_json(args.json, comparison.to_json())
    return 0
