"""`vggt-ros engine quantise`: an ONNX graph in another precision, with passport.

fp16 and bf16 by casts, with float32 inputs and outputs; int8 and fp8 by Q/DQ nodes, with ranges
found on calibration images. The error of every output against the float32 reference is measured,
written into the passport, and refused where it is beyond what the precision allows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vggt_ros.cli.engine_arguments import is_terminal
from vggt_ros.cli.vggt_to_trt import add_calibration_flags
from vggt_ros.engine import names

_EXAMPLES = """\
examples:
  vggt-ros engine quantise engines/vggt-8x3x518x518-pcd.onnx --precision int8 --calib-data photos
  vggt-ros engine quantise engines/vggt-8x3x518x518-pcd.onnx --precision bf16
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "quantise",
        help="ONNX graph in fp16, bf16, int8 or fp8",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("graph", type=Path, metavar="ONNX", help="in fp32, with its passport")
    parser.add_argument("--precision", required=True, choices=names.ALL_PRECISIONS, help="to make")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder, default that of the graph"
    )
    parser.add_argument(
        "--rest",
        default="fp16",
        choices=("fp32", "fp16", "bf16"),
        help="what int8 and fp8 graphs compute the rest in, default fp16; fp32 for CPUs",
    )
    add_calibration_flags(parser.add_argument_group("calibration of int8 and fp8"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the graph and print its errors."""
    from vggt_ros.engine.convert import Conversion, convert
    from vggt_ros.engine.passports import parity_text
    from vggt_ros.engine.pipeline import PipelineOptions
    from vggt_ros.engine.quantise_int8 import QuantiseOptions

    options = PipelineOptions(
        precisions=(args.precision,),
        simplify=False,
        calib_data=args.calib_data,
        calib_batches=args.calib_batches,
        calib_seed=args.calib_seed,
        allow_synthetic_calib=args.allow_synthetic_calib,
        quantise=QuantiseOptions(rest=args.rest),
        progress=is_terminal(),
    )
    folder = args.out or args.graph.parent
    done = convert(Conversion(folder, options, onnx_in=args.graph))
    for path, passport in done.passports.items():
        print(
            f"{path}: {passport.precision.effective}, calibration "
            f"{passport.precision.calibration}; errors: {parity_text(passport)}"
        )
    return 0
