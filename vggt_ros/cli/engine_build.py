"""`vggt-ros engine build`: a TensorRT engine from an ONNX graph, for the GPU of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.cli.arguments import count, positive
from vggt_ros.cli.engine_arguments import waiting
from vggt_ros.errors import EngineError

if TYPE_CHECKING:
    from vggt_ros.engine.tensorrt_build import ShapeRange

_EXAMPLES = """\
examples:
  vggt-ros engine build engines/vggt-8x3x518x518-pcd_fp16.onnx
  vggt-ros engine build depth.onnx --min-shape 1x3x518x518 --opt-shape 4x3x518x518 \\
      --max-shape 8x3x518x518

The precision is that of the graph: make it with `vggt-ros engine export --precision` or
`quantise`. Engines run only with the TensorRT version and GPU architecture they were built with.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "build",
        help="TensorRT engine from an ONNX graph",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("graph", type=Path, metavar="ONNX", help="with its passport beside it")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: named as the graph, fp32 with _fp32"
    )
    add_build_flags(parser)
    parser.add_argument(
        "--no-timing-cache", action="store_true", help="neither read nor write trt_timing.cache"
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="loads with later versions of the same TensorRT major too; larger, a little slower",
    )
    for word in ("min", "opt", "max"):
        parser.add_argument(
            f"--{word}-shape",
            type=_shape,
            metavar="NxCxHxW",
            help="where the graph leaves sizes of its input free",
        )
    parser.add_argument("--device", type=int, default=0, metavar="N", help="GPU, default 0")
    parser.add_argument(
        "--module",
        default="tensorrt",
        choices=("tensorrt", "tensorrt_rtx"),
        help="default tensorrt",
    )
    parser.set_defaults(run=run)


def add_build_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Flags that the documented tool shares."""
    parser.add_argument(
        "--workspace-gb", type=positive, default=32, metavar="GB", help="default 32"
    )
    parser.add_argument(
        "--opt-level", type=int, choices=range(6), default=5, metavar="0-5", help="default 5"
    )
    parser.add_argument("--max-aux-streams", type=int, default=4, metavar="N", help="default 4")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(count(word) for word in text.lower().split("x"))
    except argparse.ArgumentTypeError:
        sizes = ()
    if len(sizes) != 4:
        raise argparse.ArgumentTypeError(f"expected a shape like 4x3x518x518, got '{text}'")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Build, inspect, verify."""
    from vggt_ros.engine.build import build_with_passport
    from vggt_ros.engine.names import engine_of_graph, timing_cache_path
    from vggt_ros.engine.passports import parity_text
    from vggt_ros.engine.tensorrt_build import BuildOptions
    from vggt_ros.inference.passport import read_passport

    passport = read_passport(args.graph)
    out = args.out or engine_of_graph(args.graph, passport.precision.effective)
    name = passport.inputs[0].name if passport.inputs else "images"
    shapes = _range(args)
    options = BuildOptions(
        workspace_gb=args.workspace_gb,
        opt_level=args.opt_level,
        max_aux_streams=args.max_aux_streams,
        timing_cache=None if args.no_timing_cache else timing_cache_path(out.parent),
        version_compatible=args.version_compatible,
        profile={name: shapes} if shapes else {},
        device=args.device,
        module=args.module,
    )
    with waiting(f"build {out.name}, takes minutes"):
        built = build_with_passport(args.graph, out, options)
    for line in built.lines:
        print(line)
    print(
        f"{built.path}: {built.report.size_bytes / 1e6:.0f} MB in {built.report.seconds:.0f} s, "
        f"{built.report.backend} {built.report.version} on {built.report.gpu}; errors: "
        f"{parity_text(built.passport)}"
    )
    return 0


def _range(args: argparse.Namespace) -> ShapeRange | None:
    from vggt_ros.engine.tensorrt_build import ShapeRange

    given = (args.min_shape, args.opt_shape, args.max_shape)
    if None not in given:
        return ShapeRange(*given)
    if given != (None, None, None):
        raise EngineError("--min-shape, --opt-shape, --max-shape: expected all three or none")
    return None
