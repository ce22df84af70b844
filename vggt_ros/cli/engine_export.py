"""`vggt-ros engine export`: a checkpoint of VGGT or Depth Anything becomes an ONNX graph.

The graph gets a passport with golden outputs that PyTorch computed in float32 from the
checkpoint; whatever is made of it later is measured against them.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from vggt_ros.cli.arguments import count
from vggt_ros.cli.engine_arguments import is_terminal, side
from vggt_ros.cli.vggt_to_trt import add_calibration_flags, force_simplify
from vggt_ros.engine import names
from vggt_ros.errors import EngineError

_EXAMPLES = """\
examples:
  vggt-ros engine export checkpoints/VGGT-1B --pcd-only --precision fp16
  vggt-ros engine export facebook/VGGT-1B --num-cams 4 --height 294 --width 518 --pcd-only
  vggt-ros engine export depth-anything/Depth-Anything-V2-Small-hf --height 252 --width 336

A checkpoint is a file, a folder, or a repository of Hugging Face, which is downloaded.
"""

_logger = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "export",
        help="checkpoint to ONNX, with passport",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", default="", metavar="CHECKPOINT")
    parser.add_argument(
        "--out", type=Path, default=Path("engines"), metavar="DIR", help="default engines"
    )
    parser.add_argument(
        "--precision", default="fp16", choices=names.PRECISIONS, help="default fp16"
    )
    parser.add_argument("--height", type=side, default=518, metavar="PX", help="default 518")
    parser.add_argument("--width", type=side, default=518, metavar="PX", help="default 518")
    parser.add_argument("--opset", type=count, default=18, metavar="N", help="default 18")
    parser.add_argument("--no-simplify", action="store_true", help="skip the simplification")
    parser.add_argument(
        "--device", default="auto", help="for the golden outputs: cpu, cuda:N, default auto"
    )
    vggt = parser.add_argument_group("VGGT")
    vggt.add_argument("--num-cams", type=count, default=8, metavar="N", help="views, default 8")
    vggt.add_argument("--pcd-only", action="store_true", help="only depth and cameras")
    vggt.add_argument(
        "--quant-mode", default="none", choices=names.QUANT_MODES, help="of the weights"
    )
    vggt.add_argument(
        "--allow-fallback", action="store_true", help="go on without an impossible quantisation"
    )
    vggt.add_argument(
        "--random-weights", action="store_true", help="no checkpoint: for tests and timing only"
    )
    vggt.add_argument("--tiny", action="store_true", help="with random weights: a tiny network")
    depth = parser.add_argument_group("Depth Anything")
    depth.add_argument(
        "--batch", type=count, metavar="N", help="images at once; default: any number"
    )
    add_calibration_flags(parser.add_argument_group("calibration of int8 and fp8"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and say what came out."""
    from vggt_ros.engine.convert import Conversion, convert, drop_intermediates
    from vggt_ros.engine.depth_anything_graph import export_depth_anything_with_passport
    from vggt_ros.engine.export_depth_anything import DepthAnythingExport
    from vggt_ros.engine.passports import parity_text
    from vggt_ros.engine.pipeline import PipelineOptions
    from vggt_ros.inference.engine_store import describe_checkpoint

    if bool(args.checkpoint) == args.random_weights:
        raise EngineError("expected a checkpoint, or --random-weights instead of one")
    options = PipelineOptions(
        precisions=(args.precision,),
        simplify=not args.no_simplify,
        force_simplify=force_simplify(),
        calib_data=args.calib_data,
        calib_batches=args.calib_batches,
        calib_seed=args.calib_seed,
        allow_synthetic_calib=args.allow_synthetic_calib,
        progress=is_terminal(),
    )
    is_depth = not args.random_weights and (
        "depth-anything" in args.checkpoint.lower()
        or describe_checkpoint(args.checkpoint).family == "depth_anything"
    )
    if is_depth:
        graph = export_depth_anything_with_passport(
            args.checkpoint,
            args.out,
            DepthAnythingExport(args.batch, args.height, args.width, args.opset),
            args.device,
        )
        conversion = Conversion(args.out, options, onnx_in=graph, device=args.device)
    else:
        from vggt_ros.cli.vggt_to_trt import export_options

        args.model_name = args.checkpoint
        conversion = Conversion(args.out, options, export=export_options(args), device=args.device)
    done = convert(conversion)
    drop_intermediates(done.graph)
    for name, passport in done.passports.items():
        # fp32 of a graph that was simplified: the one that stays is as good
        path = name if Path(name).is_file() else done.graph
        print(
            f"{path}: {passport.precision.effective}, licence {passport.model.licence}; "
            f"errors against {passport.golden.reference if passport.golden else ''}: "
            f"{parity_text(passport)}"
        )
    return 0
