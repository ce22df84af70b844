"""`trt_inference`: run and time one engine, on photographs or on synthetic images.

Any engine that a back end of this package opens will do: TensorRT engines, ONNX graphs (also on
a CPU), checkpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.cli.arguments import count, count_or_zero
from vggt_ros.cli.engine_arguments import ToolParser, progress, run_tool, side
from vggt_ros.cli.engine_memory import check_memory
from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import BACKENDS, BackendOptions
from vggt_ros.inference.engine_store import Engine, open_engine

NORMS = {"none": "", "unit": "zero_to_one", "imagenet": "imagenet"}
"""Names of the flag, and what they are called in passports."""

_EXAMPLES = """\
examples:
  trt_inference --engine onnx_exports/none/vggt-8x3x518x518-pcd_fp16.engine
  trt_inference --engine model_fp32.onnx --images-dir photos --save-outputs out.npz
"""


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        prog="trt_inference",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--engine", type=Path, required=True, help="engine, graph or checkpoint")
    parser.add_argument(
        "--images-dir", type=Path, metavar="DIR", help="photographs; the first N by name are taken"
    )
    parser.add_argument(
        "--use-random", action="store_true", help="synthetic images, also if there is a folder"
    )
    parser.add_argument(
        "--norm",
        choices=("auto", *NORMS),
        default="auto",
        help="of photographs; default auto: as the passport says",
    )
    parser.add_argument("--warmup", type=count_or_zero, default=20, help="default 20")
    parser.add_argument("--iters", type=count, default=100, help="default 100")
    parser.add_argument(
        "--validate-warmup", action="store_true", help="compare two answers to the same input"
    )
    parser.add_argument(
        "--cuda-events", action="store_true", help="times of copies and of computing (TensorRT)"
    )
    parser.add_argument("--save-outputs", type=Path, metavar="NPZ", help="outputs by name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda:N or N for cuda:N; default auto"
    )
    parser.add_argument("--backend", default="auto", choices=("auto", *BACKENDS))
    parser.add_argument(
        "--no-verify", action="store_true", help="time it although it may answer wrongly"
    )
    for flag, kind in (("--num-cams", count), ("--height", side), ("--width", side)):
        parser.add_argument(flag, type=kind, help="of the input, where the engine leaves it free")
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; the exit code is 0, or 1 with one line that says why."""
    args = build_parser().parse_args(arguments)
    return run_tool("trt_inference", lambda: run(args), args.verbose)


def run(args: argparse.Namespace) -> int:
    """Open, run once, time, report."""
    device = f"cuda:{args.device}" if args.device.isdecimal() else args.device
    check_memory(args.engine, args.backend, device)
    engine = open_engine(
        args.engine, args.backend, BackendOptions(device=device), verify=not args.no_verify
    )
    try:
        images = read_input(engine, args)
        print(f"[INFO] {engine.summary}")
        first = engine.backend.run({engine.backend.inputs[0].name: images})
        _report_outputs(first)
        if args.validate_warmup:
            _validate(engine, images, first)
        timing = time_engine(engine, images, args)
    finally:
        engine.close()
    print("\n========== Performance Stats ==========")
    for name, value in timing.items():
        print(f"{name:>20s}: {value:.3f}" if isinstance(value, float) else f"{name:>20s}: {value}")
    views = int(np.prod(images.shape[:-3], dtype=np.int64))
    if views > 1:
        print(
            f"\nCamera-level throughput: {views * timing['fps']:.1f} camera-FPS "
            f"({views} cameras × {timing['fps']:.1f} batch-FPS)"
        )
    if args.save_outputs:
        from vggt_ros.export.files import atomic_write

        with atomic_write(args.save_outputs) as file:
            np.savez(file, **first)  # type: ignore[arg-type]
        print(f"\n[INFO] Saved outputs to: {args.save_outputs}")
    if args.json:
        from vggt_ros.export.files import write_text

        write_text(args.json, json.dumps(timing, indent=2) + "\n")
    return 0


def read_input(engine: Engine, args: argparse.Namespace) -> NDArray[Any]:
    """Photographs or synthetic images, as the engine takes them.

    Raises:
        EngineError: too few images, or sizes that nobody states.
    """
    from vggt_ros.engine.benchmark import folder_images, input_shape, synthetic_images

    shape = asked_shape(args)
    if shape is None:
        shape = input_shape(engine.backend, engine.passport)
    normalisation = engine.passport.model.normalisation
    if args.norm != "auto" and NORMS[args.norm] != normalisation:
        raise EngineError(
            f"--norm: expected {normalisation} as the passport of {engine.path.name} says, got "
            f"{args.norm}; leave it out"
        )
    if args.images_dir and not args.use_random:
        images = folder_images(args.images_dir, shape, normalisation)
    else:
        images = synthetic_images(shape, normalisation)
    return images.astype(engine.backend.inputs[0].dtype)


def asked_shape(args: argparse.Namespace) -> tuple[int, ...] | None:
    """Of --num-cams, --height and --width; None where they are not all given.

    Raises:
        EngineError: some are given and others are not.
    """
    sizes = (args.num_cams, args.height, args.width)
    if None not in sizes:
        return (args.num_cams, 3, args.height, args.width)
    if sizes != (None, None, None):
        raise EngineError("--num-cams, --height, --width: expected all three or none of them")
    return None


def time_engine(engine: Engine, images: NDArray[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Times of whole calls; with --cuda-events of copying and computing, one after the other.

    Raises:
        EngineError: the engine failed, or its back end cannot tell the parts apart.
    """
    from vggt_ros.engine.benchmark import measure

    bar = partial(progress, what=engine.path.name, total=args.iters)
    if args.cuda_events:
        return gpu_times(engine, images, args.iters, args.warmup)
    timing = measure(engine.backend, images, args.iters, args.warmup, bar)
    values = asdict(timing)
    return {"iters": values.pop("iterations"), **values, "fps": timing.fps}


def gpu_times(
    engine: Engine, images: NDArray[Any], iterations: int, warmup: int
) -> dict[str, Any]:
    """Means of the copy to the GPU, of computing and of the copy back [ms].

    Raises:
        EngineError: the back end cannot tell them apart.
    """
    run_timed = getattr(engine.backend, "run_timed", None)
    if run_timed is None:
        raise EngineError(
            f"--cuda-events: expected an engine that runs in TensorRT, got {engine.summary}; "
            "leave it out for times of the host"
        )
    inputs = {engine.backend.inputs[0].name: images}
    for _ in range(warmup):
        engine.backend.run(inputs)
    times = np.array([run_timed(inputs)[1] for _ in range(iterations)])
    total = times.sum(axis=1)
    means = dict(
        zip(("h2d_mean_ms", "compute_mean_ms", "d2h_mean_ms"), times.mean(axis=0), strict=True)
    )
    return {
        "iters": iterations,
        **{name: float(value) for name, value in means.items()},
        "mean_ms": float(total.mean()),
        "std_ms": float(total.std()),
        "min_ms": float(total.min()),
        "max_ms": float(total.max()),
        "fps": float(1e3 / total.mean()),
    }


def _report_outputs(outputs: dict[str, NDArray[Any]]) -> None:
    from vggt_ros.engine.benchmark import describe_output

    print("\n[INFO] Output diagnostics (first run):")
    for k, (name, array) in enumerate(outputs.items()):
        print(f"  out{k}: {describe_output(name, array)}")


def _validate(engine: Engine, images: NDArray[Any], first: dict[str, NDArray[Any]]) -> None:
    again = engine.backend.run({engine.backend.inputs[0].name: images})
    for name, array in first.items():
        if not np.allclose(array, again[name], rtol=1e-3, atol=1e-4, equal_nan=True):
            print(f"[WARNING] output {name} varies from call to call")


if __name__ == "__main__":
    sys.exit(main())
