"""The same network in each runtime: how much the answers differ, and how fast a CPU is."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench import random_networks
from bench.figures import Figure, at_most
from vggt_ros.inference.backend import BackendOptions, open_backend
from vggt_ros.inference.devices import cpu_flags, cpu_has_bf16, cpu_name
from vggt_ros.inference.vggt_input import prepare
from vggt_ros.models.vggt_config import VggtConfig

_HEIGHT, _WIDTH = 42, 70
_VIEWS = (1, 2, 3, 8)
_BATCH, _SIDE = 4, 252
_ROUNDS = 7


def figures() -> list[Figure]:
    """What is not installed is left out, and said."""
    found = [_preprocessing()]
    missing = [n for n in ("torch", "onnx", "onnxruntime", "openvino") if find_spec(n) is None]
    if missing:
        return [*found, Figure(f"left out: {', '.join(missing)} not installed", float("nan"), "")]
    with tempfile.TemporaryDirectory() as name:
        found += _parity(Path(name))
        if find_spec("transformers") is None:
            found += [Figure("speed left out: transformers not installed", float("nan"), "")]
        else:
            found += _speed(Path(name))
    return found


def _preprocessing() -> Figure:
    generator = np.random.default_rng(0)
    shape = (1080, 1920, 3)
    images = [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(8)]
    prepare(images)
    seconds = []
    for _ in range(3 * _ROUNDS):
        start = time.thread_time()
        prepare(images)
        seconds.append(time.thread_time() - start)
    return at_most(
        "8 x 1080p into VGGT's input of 518 px, to the bit as Pillow", 1e3 * np.median(seconds),
        "CPU-ms", 15,
    )  # fmt: skip


def _parity(folder: Path) -> list[Figure]:
    """Tiny VGGT, non-square, S in 1, 2, 3, 8: largest error over the largest value."""
    import torch

    from vggt_ros.models.checkpoint import save_vggt

    config = VggtConfig.tiny()
    network = random_networks.varied(random_networks.vggt(config))
    checkpoint = folder / "model.safetensors"
    save_vggt(network, checkpoint)
    reference = open_backend(checkpoint, "torch", BackendOptions(device="cpu"))
    generator = np.random.default_rng(0)
    inputs = [generator.random((s, 3, _HEIGHT, _WIDTH), np.float32) for s in _VIEWS]
    expected = [reference.run({"images": x}) for x in inputs]

    class OneScene(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            return self.network(images[None])

    network.bake(_HEIGHT, _WIDTH)
    onnx_file = folder / "vggt.onnx"
    _export(OneScene(), torch.rand(2, 3, _HEIGHT, _WIDTH), onnx_file, config.output_names, 1)
    cases = [
        ("onnxruntime", onnx_file, "fp32", 1e-5),
        ("openvino", onnx_file, "fp32", 1e-4),
        ("torch", checkpoint, "fp16", 5e-3),
        ("torch", checkpoint, "bf16", None),
    ]
    if cpu_has_bf16():
        cases.append(("openvino", onnx_file, "bf16", None))
    found = []
    for name, path, precision, limit in cases:
        backend = open_backend(path, name, BackendOptions(device="cpu", precision=precision))
        worst = 0.0
        for x, wanted in zip(inputs, expected, strict=True):
            for output, value in backend.run({"images": x}).items():
                error = np.abs(value - wanted[output]).max() / np.abs(wanted[output]).max()
                worst = max(worst, float(error))
        backend.close()
        label = f"tiny VGGT, torch fp32 against {name} {precision}: largest relative error"
        found.append(
            Figure(label, worst, "") if limit is None else at_most(label, worst, "", limit)
        )
    return found


def _speed(folder: Path) -> list[Figure]:
    """Depth Anything Small on one thread; CPU time, which other processes do not add to."""
    import torch

    network = random_networks.depth_anything_small()
    network.bake(_SIDE, _SIDE)
    x = np.random.default_rng(0).standard_normal((_BATCH, 3, _SIDE, _SIDE)).astype(np.float32)
    path = folder / "depth_anything.onnx"
    _export(network, torch.from_numpy(x), path, ("depth",), 0)
    cases = [("onnxruntime", "fp32"), ("openvino", "fp32")]
    if cpu_has_bf16():
        cases.append(("openvino", "bf16"))
    backends = {
        case: open_backend(path, case[0], BackendOptions("cpu", case[1], threads=1))
        for case in cases
    }
    results = {case: backend.run({"images": x})["depth"] for case, backend in backends.items()}
    expected = results["onnxruntime", "fp32"]
    times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(_ROUNDS):  # in turns, so that a slow moment of the machine hits all
        for case, backend in backends.items():
            times[case].append(_cpu_seconds(lambda b=backend: b.run({"images": x})))
    best = {case: min(values) for case, values in times.items()}
    label = f"Depth Anything Small, random weights, {_SIDE} px, batch {_BATCH}, one thread"
    found = []
    for case in cases:
        error = float(np.abs(results[case] - expected).max() / np.ptp(expected))
        note = "" if case == cases[0] else f"differs by {error:.1e} of the range"
        name = f"{label}: {' '.join(case)}, per image"
        found.append(Figure(name, 1e3 * best[case] / _BATCH, "ms", note=note))
    has_amx = "amx_bf16" in cpu_flags()
    if ("openvino", "bf16") in best:
        ratio = best["openvino", "bf16"] / best["onnxruntime", "fp32"]
        name = f"{label}: OpenVINO bf16 over ONNX Runtime fp32"
        if has_amx:
            found.append(at_most(name, ratio, "", 0.333, "AMX"))
        else:
            note = f"{cpu_name()} has AVX512-BF16 and no AMX, for which the goal of 1/3 is set"
            found.append(Figure(name, ratio, "", note=note))
    else:
        found.append(Figure(f"{label}: bf16 left out: {cpu_name()} has none", float("nan"), ""))
    return found


def _cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _export(network: Any, example: Any, path: Path, outputs: tuple[str, ...], axis: int) -> None:
    """With free first size; `axis` is where it is in the outputs."""
    import warnings

    import torch

    axes = {"images": {0: "N"}, **{name: {axis: "N"} for name in outputs}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=18,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes=axes,
        )
