"""`vggt-ros engine inspect`: what is in a graph, engine or checkpoint, and in its passport."""

from __future__ import annotations

import argparse
from pathlib import Path

from vggt_ros.errors import EngineError
from vggt_ros.inference.passport import Passport, passport_path, read_passport
from vggt_ros.inference.verify import check_files

_EXAMPLES = """\
examples:
  vggt-ros engine inspect engines/vggt-8x3x518x518-pcd_fp16.engine
  vggt-ros engine inspect checkpoints/VGGT-1B/model.safetensors
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "inspect",
        help="precisions, shapes, origin",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path, metavar="ENGINE|CHECKPOINT")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what the file says."""
    path = args.engine
    if not path.exists():
        raise EngineError(f"{path}: expected an engine or checkpoint, found nothing there")
    if path.is_dir() or path.suffix in (".safetensors", ".pt"):
        _checkpoint(path)
        return 0
    if passport_path(path).is_file():
        passport = read_passport(path)
        check_files(path, passport)  # a passport says nothing about another file
        for line in passport_lines(passport):
            print(line)
    else:
        print("passport: none")
    if path.suffix in (".engine", ".plan"):
        _engine(path)
    elif path.suffix == ".onnx":
        _graph(path)
    return 0


def passport_lines(passport: Passport) -> list[str]:
    """The passport for people."""
    model, precision, runtime = passport.model, passport.precision, passport.runtime
    lines = [
        f"model: {model.name} ({model.family}), licence {model.licence}",
        f"input: {model.normalisation}" + (f", gives {model.depth_kind}" * bool(model.depth_kind)),
        f"precision: requested {precision.requested}, effective {precision.effective}",
        f"quantisation: requested {precision.quant_mode_requested}, effective "
        f"{precision.quant_mode_effective}, calibration {precision.calibration}"
        + (f" ({precision.calibration_samples} samples)" * bool(precision.calibration_samples)),
        f"made: {passport.created or 'unknown'} for {runtime.backend} {runtime.version}".rstrip()
        + (f", {runtime.gpu} ({runtime.compute_capability})" * bool(runtime.gpu)),
    ]
    for kind, tensors in (("input", passport.inputs), ("output", passport.outputs)):
        for tensor in tensors:
            meaning = f": {tensor.meaning}" if tensor.meaning else ""
            lines.append(f"{kind} {tensor.name} {list(tensor.shape)} {tensor.dtype}{meaning}")
    for output in passport.golden.outputs if passport.golden else ():
        parity = "not measured" if output.parity is None else f"{output.parity:.3g}"
        lines.append(f"golden {output.name}: error {parity}, at most {output.tolerance:g}")
    if passport.golden:
        lines.append(f"golden reference: {passport.golden.reference}")
    lines += [f"note {name}: {text}" for name, text in passport.notes.items()]
    return lines


def _checkpoint(path: Path) -> None:
    from vggt_ros.inference.engine_store import describe_checkpoint

    model = describe_checkpoint(path)
    print(f"model: {model.name} ({model.family}), licence {model.licence}")
    if model.family != "vggt":
        return
    from vggt_ros.models.checkpoint import check_checkpoint

    report = check_checkpoint(path)
    types = ", ".join(f"{name}:{number}" for name, number in report.dtypes.items())
    print(f"{report.path}: {report.parameters / 1e6:.1f} million parameters, {types}")
    print("fits" if report.fits else f"does not fit: {report.problem()}")
    for name in report.unexpected:
        print(f"unknown tensor: {name}")


def _engine(path: Path) -> None:
    from vggt_ros.engine.tensorrt_inspect import precision_line
    from vggt_ros.inference.tensorrt_module import (
        engine_information,
        import_tensorrt,
        listen,
        tensor_precisions,
        told,
    )

    trt = import_tensorrt()
    listener = listen(trt)
    runtime = trt.Runtime(listener)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise EngineError(
            f"{path}: does not load with TensorRT {trt.__version__}{told(listener)}; build it "
            f"here: vggt-ros engine build {path.with_suffix('.onnx')}"
        )
    print(precision_line(tensor_precisions(engine_information(trt, engine))))


def _graph(path: Path) -> None:
    from vggt_ros.inference.onnx_file import read_numbers

    numbers = read_numbers(path)
    counts = sorted(numbers.elements.items(), key=lambda item: -item[1])
    told = ", ".join(f"{name.upper()}:{count}" for name, count in counts)
    print(f"[INFO] Weights by type: {told or 'none in the file'}; computes in {numbers.precision}")
