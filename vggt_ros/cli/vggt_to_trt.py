"""`vggt_to_trt`: VGGT from its checkpoint to ONNX and TensorRT, in one or several precisions.

Stages: export, sequence removal, simplification, check, precision (cast or Q/DQ), build,
inspection of the precision. Files go to OUTPUT_DIR/<quant_mode>/, each graph and engine with its
passport; a folder that is named like the mode is taken as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros.cli.arguments import count
from vggt_ros.cli.engine_arguments import ToolParser, is_terminal, run_tool, side
from vggt_ros.cli.engine_build import add_build_flags
from vggt_ros.engine import names

if TYPE_CHECKING:
    from vggt_ros.engine.export_vggt import VggtExport
    from vggt_ros.engine.pipeline import PipelineOptions

_EXAMPLES = """\
examples:
  vggt_to_trt --export --num-cams 8 --precision fp16 --pcd-only
  vggt_to_trt --export --all-precisions --calib-data data/mvs360 --calib-batches 48
  vggt_to_trt --onnx-in onnx_exports/none/vggt-8x3x518x518.onnx --precision int8 \\
      --calib-data calibration_batches.npy

FORCE_SIMPLIFY=0 in the environment leaves out the simplification, 1 does it at any size.
"""


def build_parser(prog: str = "vggt_to_trt") -> argparse.ArgumentParser:
    parser = ToolParser(
        prog=prog,
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    files = parser.add_argument_group("input and output")
    files.add_argument("--export", action="store_true", help="export from the checkpoint first")
    files.add_argument("--onnx-in", type=Path, metavar="PATH", help="existing graph, no export")
    files.add_argument(
        "--output-dir",
        type=Path,
        default=Path(names.OUTPUT_DIR),
        help=f"default {names.OUTPUT_DIR}",
    )
    files.add_argument(
        "--onnx-only", action="store_true", help="stop before the TensorRT build (no GPU needed)"
    )
    files.add_argument(
        "--log-file",
        type=Path,
        default=Path("logs/export_logs.txt"),
        metavar="FILE",
        help="of the last run, default logs/export_logs.txt",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--num-cams", type=count, default=8, help="views, default 8")
    model.add_argument("--height", type=side, default=518, help="default 518")
    model.add_argument("--width", type=side, default=518, help="default 518")
    model.add_argument("--pcd-only", action="store_true", help="only depth and cameras")
    model.add_argument(
        "--model-name",
        default="facebook/VGGT-1B",
        help="Hugging Face repository, file or folder; default facebook/VGGT-1B",
    )
    model.add_argument("--opset", type=count, default=18, help="default 18, raised where needed")
    model.add_argument(
        "--random-weights", action="store_true", help="instead of a checkpoint: for timing only"
    )
    model.add_argument("--tiny", action="store_true", help="with random weights: a tiny network")
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--precision", default="fp16", choices=names.PRECISIONS, help="default fp16"
    )
    precision.add_argument(
        "--all-precisions", action="store_true", help="fp16, bf16, fp8 and int8 of one export"
    )
    precision.add_argument(
        "--quant-mode",
        default="none",
        choices=names.QUANT_MODES,
        help="of the weights, default none",
    )
    precision.add_argument(
        "--allow-fallback",
        action="store_true",
        help="go on without a quantisation that is not possible here; the passport says so",
    )
    build = parser.add_argument_group("build")
    add_build_flags(build)
    build.add_argument("--no-simplify", action="store_true", help="skip the simplification")
    build.add_argument(
        "--device", default="auto", help="for the golden outputs in PyTorch: cpu, cuda:N, auto"
    )
    calibration = parser.add_argument_group("calibration of int8 and fp8")
    add_calibration_flags(calibration)
    return parser


def add_calibration_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Flags that `vggt-ros engine quantise` shares."""
    parser.add_argument(
        "--calib-data",
        default=None,
        metavar="PATH/GLOB/NPY",
        help="folder of images, glob, or .npy/.npz of (B, num_cams, 3, H, W) or (N, 3, H, W)",
    )
    parser.add_argument("--calib-batches", type=count, default=32, metavar="N", help="default 32")
    parser.add_argument("--calib-seed", type=int, default=1337, metavar="N", help="default 1337")
    parser.add_argument(
        "--calib-cpu", action="store_true", help="stage batches on the CPU (the calibration does)"
    )
    parser.add_argument(
        "--allow-synthetic-calib",
        action="store_true",
        help="without --calib-data: image-like noise; the passport says so",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; the exit code is 0, or 1 with one line that says why."""
    name = Path(sys.argv[0]).stem if arguments is None else "vggt_to_trt"
    parser = build_parser(name if name.startswith("vggt_to_trt") else "vggt_to_trt")
    args = parser.parse_args(arguments)
    if args.export == (args.onnx_in is not None):
        parser.error("expected one of --export and --onnx-in PATH")
    return run_tool(parser.prog, lambda: _run_logged(args))


def _run_logged(args: argparse.Namespace) -> int:
    with logged(args.log_file):
        return run(args)


def run(args: argparse.Namespace) -> int:
    """Make the graphs, and the engines unless they are not wanted."""
    from vggt_ros.engine.convert import Conversion, convert
    from vggt_ros.engine.passports import parity_text
    from vggt_ros.engine.tensorrt_build import BuildOptions

    folder = names.mode_folder(args.output_dir, args.quant_mode)
    build = BuildOptions(
        workspace_gb=args.workspace_gb,
        opt_level=args.opt_level,
        max_aux_streams=args.max_aux_streams,
        timing_cache=names.timing_cache_path(folder),
    )
    done = convert(
        Conversion(
            folder,
            pipeline_options(args),
            export=export_options(args) if args.export else None,
            onnx_in=args.onnx_in,
            build=None if args.onnx_only else build,
            device=args.device,
        ),
        tell=_tell,
    )
    for path, passport in done.passports.items():
        logging.info("%s: errors against the reference: %s", path, parity_text(passport))
    for built in done.engines:
        logging.info("%s: errors: %s", built.path, parity_text(built.passport))
    return 0


def _tell(line: str) -> None:
    """The documented lines say their level themselves."""
    level, _, text = line.partition("] ")
    logging.log(logging.INFO if level == "[INFO" else logging.WARNING, "%s", text)


def export_options(args: argparse.Namespace) -> VggtExport:
    """Of the flags."""
    from vggt_ros.engine.export_vggt import VggtExport

    return VggtExport(
        num_cams=args.num_cams,
        height=args.height,
        width=args.width,
        opset=args.opset,
        pcd_only=args.pcd_only,
        model_name=args.model_name,
        quant_mode=args.quant_mode,
        allow_fallback=args.allow_fallback,
        random_weights=args.random_weights,
        tiny=args.tiny,
    )


def pipeline_options(args: argparse.Namespace) -> PipelineOptions:
    """Of the flags."""
    from vggt_ros.engine.pipeline import PipelineOptions
    from vggt_ros.engine.quantise_int8 import QuantiseOptions

    return PipelineOptions(
        precisions=names.ALL_PRECISIONS if args.all_precisions else (args.precision,),
        simplify=not args.no_simplify,
        force_simplify=force_simplify(),
        calib_data=args.calib_data,
        calib_batches=args.calib_batches,
        calib_seed=args.calib_seed,
        allow_synthetic_calib=args.allow_synthetic_calib,
        quantise=QuantiseOptions(rest="fp16"),
        progress=is_terminal(),
    )


def force_simplify() -> bool | None:
    """FORCE_SIMPLIFY of the environment: 0 never, 1 at any size, unset by size."""
    return {"0": False, "1": True}.get(os.environ.get("FORCE_SIMPLIFY", ""))


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Show log messages as `[INFO] ...` and keep them, with those of this run alone, in a file."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    before = root.level
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    except OSError as error:
        from vggt_ros.errors import ExportError

        raise ExportError(f"cannot write {path}: {error.strerror}; give --log-file") from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        root.removeHandler(handlers[0])  # into the file alone: the terminal gets it on stderr
        root.error("%s", error)
        raise
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before)


if __name__ == "__main__":
    sys.exit(main())
