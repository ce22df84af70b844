"""Export of VGGT-1B with random weights: memory, size, validity; one run in ONNX Runtime.

`python -m bench export`; not part of `make bench`: it takes ten minutes and 20 GB of disk.
Each step has a process of its own, so that the peaks of memory are its own.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, at_most, shared_data

GIB = 2**30


def figures() -> list[Figure]:
    found: list[Figure] = []
    data = shared_data()
    if data is None:
        print("export: no reference images; the tiny network is left out")
    else:
        found += _tiny(data)
    with tempfile.TemporaryDirectory(prefix="bench_export.") as folder:
        full = _child("full", folder)
        found += [
            at_most("export of VGGT-1B at 8 x 518 x 518: peak memory", full["peak"] / GIB, "GiB",
                    20.0, note="opset 18, all heads"),
            Figure("export: time", full["seconds"], "s"),
            Figure("export: graph and weights", full["size"] / GIB, "GiB",
                   note=f"{full['nodes']} nodes"),
            Figure("export: ONNX checker by path", full["check"], "s", note="valid"),
        ]  # fmt: skip
        small = _child("small", folder)
        found += [
            at_most("VGGT-1B at 2 x 252 x 252: ONNX Runtime against torch", small["parity"], "",
                    1e-5, note="largest difference over largest magnitude, worst output: "
                    + small["worst"]),
            Figure("VGGT-1B at 2 x 252 x 252: ONNX Runtime fp32", small["ort"], "s",
                   note=f"torch {small['torch']:.1f} s"),
            Figure("VGGT-1B at 2 x 252 x 252: peak memory of the run", small["peak"] / GIB, "GiB",
                   note=f"estimated {small['estimate'] / GIB:.1f}"),
        ]  # fmt: skip
        for precision in ("fp16", "bf16"):
            one = _child(precision, folder)
            found += [
                Figure(f"VGGT-1B cast to {precision}: peak memory", one["peak"] / GIB, "GiB",
                       note=f"{one['seconds']:.0f} s"),
                *(
                    Figure(f"VGGT-1B, 2 x 252 x 252, {precision}: {name}, relative l2", value, "")
                    for name, value in one["parity"].items()
                ),
            ]  # fmt: skip
    return found


def _tiny(data: Path) -> list[Figure]:
    """Every precision of the tiny network, calibrated and judged on different photographs."""
    from vggt_ros.engine.calibration import open_calibration
    from vggt_ros.engine.export_vggt import VggtExport, export_vggt
    from vggt_ros.engine.parity import compare
    from vggt_ros.engine.quantise_int8 import QuantiseOptions, quantise
    from vggt_ros.engine.run_onnx import OnnxSession

    found = []
    shape = (4, 3, 98, 126)
    with tempfile.TemporaryDirectory(prefix="bench_export.") as folder:
        options = VggtExport(4, *shape[2:], random_weights=True, tiny=True)
        source = export_vggt(None, Path(folder), options).path
        calibration = open_calibration(data / "indoor_sequence" / "*color.jpg", shape, 12)
        judged = {"images": next(iter(open_calibration(data / "fountain_p11", shape, 1)))}
        reference = OnnxSession(source).run(judged)
        for precision, rest in (("int8", "fp32"), ("int8", "fp16"), ("fp8", "fp16")):
            out = Path(folder) / "q.onnx"
            quantise(source, out, precision, calibration, QuantiseOptions(rest=rest))
            got = OnnxSession(out, optimise=precision == "int8").run(judged)
            parity = compare(reference, got)
            name = f"tiny VGGT, {precision}, rest {rest}: depth, median error"
            pose = f"pose {parity['pose_enc'].rel_l2:.2g} (l2)"
            found.append(at_most(name, 100 * parity["depth"].median_rel, "%", 3.0, pose))
    return found


def _child(step: str, folder: str) -> dict:
    command = [sys.executable, "-m", "bench.export", step, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{step}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _options(views: int, side: int):
    from vggt_ros.engine.export_vggt import VggtExport

    return VggtExport(views, side, side, random_weights=True, pcd_only=views == 2)


def _full(folder: Path) -> dict:
    from vggt_ros.engine.check import check_model
    from vggt_ros.engine.export_vggt import export_vggt

    report = export_vggt(None, folder / "full.onnx", _options(8, 518))
    start = time.perf_counter()
    check_model(report.path)
    checked = time.perf_counter() - start
    for file in (report.path, Path(f"{report.path}.data")):
        file.unlink()
    return {
        "peak": report.peak_rss_bytes, "seconds": report.seconds, "size": report.size_bytes,
        "nodes": report.nodes, "check": checked,
    }  # fmt: skip


def _small(folder: Path) -> dict:
    import numpy as np

    from vggt_ros.engine.calibration import synthetic_images
    from vggt_ros.engine.memory import peak_rss
    from vggt_ros.engine.parity import compare
    from vggt_ros.engine.run_onnx import OnnxSession, estimate_run_memory

    path = folder / "small.onnx"
    images = synthetic_images((2, 3, 252, 252))
    if not path.exists():
        # torch and the export in another process: the peak of this one is that of the run
        _child("torch", str(folder))
    session = OnnxSession(path)
    start = time.perf_counter()
    got = session.run({"images": images})
    seconds = time.perf_counter() - start
    with np.load(folder / "expected.npz") as file:
        reference = {name: file[name] for name in file.files if name != "seconds"}
        torch_seconds = float(file["seconds"])
    parity = compare(reference, got)
    worst = max(parity, key=lambda name: parity[name].max_rel)
    return {
        "parity": parity[worst].max_rel, "worst": worst, "ort": seconds, "torch": torch_seconds,
        "peak": peak_rss(), "estimate": estimate_run_memory(path),
    }  # fmt: skip


def _torch(folder: Path) -> dict:
    import numpy as np
    import torch

    from vggt_ros.engine.calibration import synthetic_images
    from vggt_ros.engine.export_vggt import export_vggt
    from vggt_ros.engine.random_weights import random_vggt
    from vggt_ros.models.vggt_config import VggtConfig

    export_vggt(None, folder / "small.onnx", _options(2, 252))
    network = random_vggt(VggtConfig.vggt_1b().only("camera", "depth"))
    images = torch.from_numpy(synthetic_images((2, 3, 252, 252)))[None]
    start = time.perf_counter()
    outputs = network.predict(images)
    seconds = time.perf_counter() - start
    arrays = {name: value.numpy() for name, value in outputs.items()}
    np.savez(folder / "expected.npz", seconds=seconds, **arrays)
    return {}


def _cast(folder: Path, precision: str) -> dict:
    import numpy as np

    from vggt_ros.engine.calibration import synthetic_images
    from vggt_ros.engine.cast import cast_precision
    from vggt_ros.engine.memory import peak_rss
    from vggt_ros.engine.parity import compare
    from vggt_ros.engine.run_onnx import OnnxSession

    out = folder / f"{precision}.onnx"
    start = time.perf_counter()
    cast_precision(folder / "small.onnx", out, precision)
    seconds, peak = time.perf_counter() - start, peak_rss()
    if precision == "bf16":
        cast_precision(folder / "small.onnx", out, precision, simulate=True)
    got = OnnxSession(out).run({"images": synthetic_images((2, 3, 252, 252))})
    with np.load(folder / "expected.npz") as file:
        reference = {name: file[name] for name in file.files if name != "seconds"}
    for file in (out, Path(f"{out}.data")):
        file.unlink()
    parity = {name: value.rel_l2 for name, value in compare(reference, got).items()}
    return {"peak": peak, "seconds": seconds, "parity": parity}


def main() -> int:
    logging.basicConfig(level=logging.WARNING)
    step, folder = sys.argv[1], Path(sys.argv[2])
    steps = {"full": _full, "small": _small, "torch": _torch}
    result = steps[step](folder) if step in steps else _cast(folder, step)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
