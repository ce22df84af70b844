"""`benchmark_trt_engines`: latency and frames per second of every engine under a folder.

TensorRT engines, and with --onnx also ONNX graphs. Every engine is verified before it is timed;
one that is not right is told and left out, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vggt_ros.cli.arguments import count, count_or_zero
from vggt_ros.cli.engine_arguments import ToolParser, run_tool
from vggt_ros.cli.engine_memory import check_memory
from vggt_ros.cli.trt_inference import NORMS, read_input, time_engine
from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import BACKENDS, BackendOptions
from vggt_ros.inference.engine_store import Listed, list_engines, open_engine
from vggt_ros.inference.passport import read_passport

_EXAMPLES = """\
examples:
  benchmark_trt_engines --root onnx_exports
  benchmark_trt_engines --root onnx_exports --images-dir photos --json bench.json
"""


def build_parser() -> argparse.ArgumentParser:
    parser = ToolParser(
        prog="benchmark_trt_engines",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--root", type=Path, default=Path("onnx_exports"), help="default onnx_exports"
    )
    parser.add_argument("--iters", type=count, default=100, help="default 100")
    parser.add_argument("--warmup", type=count_or_zero, default=20, help="default 20")
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
    parser.add_argument(
        "--cuda-events", action="store_true", help="wait for each copy and computation (TensorRT)"
    )
    parser.add_argument("--verbose-runner", action="store_true", help="log debug messages")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="list of {quant_mode, precision, engine, fps, mean_ms, std_ms}",
    )
    parser.add_argument("--onnx", action="store_true", help="time ONNX graphs too")
    parser.add_argument("--device", default="auto", help="cpu, cuda:N, default auto")
    parser.add_argument("--backend", default="auto", choices=("auto", *BACKENDS))
    parser.add_argument(
        "--no-verify", action="store_true", help="time them although they may answer wrongly"
    )
    # what `read_input` looks at; engines under a folder keep their own sizes
    parser.set_defaults(num_cams=None, height=None, width=None)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; exit code 1 if an engine could not be timed."""
    args = build_parser().parse_args(arguments)
    return run_tool("benchmark_trt_engines", lambda: run(args), args.verbose_runner)


def run(args: argparse.Namespace) -> int:
    """Time them, mode by mode, and write the summary."""
    suffixes = (".engine", ".plan", *((".onnx", ".xml") if args.onnx else ()))
    engines = [entry for entry in list_engines(args.root) if entry.path.suffix in suffixes]
    if args.onnx:  # graphs on the way to one with a passport are no engines
        engines = [e for e in engines if e.passport or e.path.suffix in (".engine", ".plan")]
    if args.no_verify:
        print("[WARNING] not verified: times of engines that may answer wrongly")
    records: list[Mapping[str, Any]] = []
    failed, mode = 0, ""
    for entry in sorted(engines, key=lambda e: (_mode(e, args.root), e.path)):
        if _mode(entry, args.root) != mode:
            mode = _mode(entry, args.root)
            print(f"\n[INFO] Benchmarking quantisation mode '{mode}'")
        try:
            record = _measure(entry, args)
        except EngineError as error:
            failed += 1
            print(f"[ERROR] Benchmark failed for {entry.path}: {error}", file=sys.stderr)
            continue
        records.append(record)
        print(
            f"  {record['precision']:>9} → {record['fps']:.2f} FPS "
            f"({record['mean_ms']:.2f} ± {record['std_ms']:.2f} ms)  [{entry.path.name}]"
        )
    _summarise(records)
    if not engines:
        more = "" if args.onnx else " (ONNX graphs are timed with --onnx)"
        print(f"[WARNING] {args.root}: no engines there{more}")
    if args.json:
        from vggt_ros.export.files import write_json

        write_json(args.json, records)
        print(f"\n[INFO] Saved benchmark results to {args.json}")
    return 1 if failed else 0


def _mode(entry: Listed, root: Path) -> str:
    from vggt_ros.engine.benchmark import quant_mode_of

    return quant_mode_of(entry, root)


def _measure(entry: Listed, args: argparse.Namespace) -> Mapping[str, Any]:
    from vggt_ros.engine.benchmark import precision_of, quant_mode_of

    if entry.passport is None:
        read_passport(entry.path)  # tells why, and the command that mends it
        raise EngineError(entry.problem)
    check_memory(entry.path, args.backend, args.device)
    options = BackendOptions(device=args.device)
    engine = open_engine(entry.path, args.backend, options, verify=not args.no_verify)
    try:
        times = time_engine(engine, read_input(engine, args), args)
    finally:
        engine.close()
    return {
        "quant_mode": quant_mode_of(entry, args.root),
        "precision": precision_of(entry),
        "engine": str(entry.path),
        "fps": times["fps"],
        "mean_ms": times["mean_ms"],
        "std_ms": times["std_ms"],
    }


def _summarise(records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        print("[INFO] No engines benchmarked.")
        return
    ranked = sorted(records, key=lambda record: record["fps"], reverse=True)
    print("\n=== TensorRT Engine Benchmark Summary ===")
    head = f"{'Rank':>4}  {'FPS':>8}  {'Latency(ms)':>14}  {'Quant':>18}  {'Precision':>9}  Engine"
    print(head)
    print("-" * len(head))
    for rank, record in enumerate(ranked, start=1):
        print(
            f"{rank:4d}  {record['fps']:8.2f}  {record['mean_ms']:14.2f}  "
            f"{record['quant_mode']:>18}  {record['precision']:>9}  {record['engine']}"
        )
    best = ranked[0]
    print(
        f"\nFastest configuration:\n  {best['quant_mode']} / {best['precision']} → "
        f"{best['fps']:.2f} FPS ({best['mean_ms']:.2f} ms)"
    )


if __name__ == "__main__":
    sys.exit(main())
