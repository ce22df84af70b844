"""The networks in PyTorch on an NVIDIA GPU: `python -m bench gpu_vggt` checks and times them.

Random weights, which cost as much as real ones. Every way of running is tried in turn (as it is,
captured as a CUDA graph, compiled and captured), each with the attention kernels that this
PyTorch has; all are reported, the goal is for the fastest. A way that fails is named and skipped.
The error is that of the same way against float32 with TF32 off. Without a GPU nothing is claimed.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench import random_networks
from bench.figures import Figure, at_most
from vggt_ros.models.vggt_config import VggtConfig, flops

_VIEWS, _SIDE = 8, 518
_VGGT_GOAL_MS = 75.0
_DEPTH_GOAL_MS = 8.0
_PEAK_TFLOPS = 790.0
"""bf16 matrices on an H200, measured."""
_ROUNDS, _WARM_UP = 30, 5
_GIB = 2**30
_NEEDED_GIB = 16
"""Two networks of 1.16 thousand million parameters, float32 and bf16, and their activations."""


def figures() -> list[Figure]:
    """Nothing but the reason where there is no GPU."""
    reason = _absent()
    if reason:
        return [Figure(f"not measured: {reason}", float("nan"), "")]
    import torch

    found = [Figure(_versions(torch), float("nan"), "")]
    free = torch.cuda.mem_get_info()[0] / _GIB
    if free < _NEEDED_GIB:
        note = f"VGGT-1B not measured: {free:.0f} GiB free, {_NEEDED_GIB} GiB needed"
        found.append(Figure(note, float("nan"), ""))
    else:
        found += vggt_figures(torch, "cuda", VggtConfig.vggt_1b().only("camera", "depth"))
    if find_spec("transformers") is None:
        found.append(Figure("Depth Anything left out: no transformers", float("nan"), ""))
    else:
        found += depth_figures(torch, "cuda")
    return found


def _absent() -> str:
    """Why there is nothing to measure; empty if there is."""
    if find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (and this PyTorch was built without CUDA)"
        return f"no NVIDIA GPU at hand{built}"
    if not torch.cuda.is_bf16_supported():
        return f"{torch.cuda.get_device_name()} has no bfloat16"
    return ""


def _versions(torch: Any) -> str:
    from vggt_ros.engine.tensorrt_inspect import gpu_facts
    from vggt_ros.errors import EngineError

    try:
        driver = f", driver {gpu_facts().driver}"
    except EngineError:
        driver = ""
    major, minor = torch.cuda.get_device_capability()
    return (
        f"{torch.cuda.get_device_name()} (compute capability {major}.{minor}{driver}), PyTorch "
        f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )


def vggt_figures(
    torch: Any, device: str, config: VggtConfig, views: int = _VIEWS, side: int = _SIDE
) -> list[Figure]:
    """Cameras and depth of `views` square images in bf16."""
    label = f"VGGT {views} x {side} x {side} bf16"
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, views, 3, side, side), generator=generator).to(device)
    network = random_networks.vggt(config, device)
    with _float32(torch), torch.inference_mode():
        expected = [value.cpu() for value in network(images)]
    network = _in_bf16(torch, network, side)
    operations = flops(config, views, side, side).total
    ways = _ways(torch, network, device)
    times, found = _measure(torch, label, ways, images, expected, config.output_names)
    if times:
        way = min(times, key=lambda name: times[name])
        limit = 1e3 * operations / (_PEAK_TFLOPS * 1e12)
        note = (
            f"{way}; the limit at {_PEAK_TFLOPS:.0f} TFLOP/s is {limit:.0f} ms, this is "
            f"{operations / times[way] / 1e9:.0f} TFLOP/s"
        )
        found.append(at_most(f"{label}: fastest, median", times[way], "ms", _VGGT_GOAL_MS, note))
    return found


def depth_figures(torch: Any, device: str, batch: int = _VIEWS, side: int = _SIDE) -> list[Figure]:
    """Depth Anything Small, a batch of square images in bf16."""
    label = f"Depth Anything Small {batch} x {side} x {side} bf16"
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((batch, 3, side, side), generator=generator).to(device)
    network = random_networks.depth_anything_small().to(device)
    with _float32(torch), torch.inference_mode():
        expected = [value.cpu() for value in network(images)]
    network = _in_bf16(torch, network, side)
    ways = _ways(torch, network, device)
    times, found = _measure(torch, label, ways, images.bfloat16(), expected, ("depth",))
    if times:
        way = min(times, key=lambda name: times[name])
        name = f"{label}: fastest, median"
        found.append(at_most(name, times[way], "ms", _DEPTH_GOAL_MS, way))
    return found


def _in_bf16(torch: Any, network: Any, side: int) -> Any:
    """Weights in bf16, constants for one size; convolutions with the layout of tensor cores."""
    network = network.bfloat16()
    network.bake(side, side)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
    return network


def _measure(
    torch: Any,
    label: str,
    ways: dict[str, Callable[[Any], Callable[[], Any]]],
    images: Any,
    expected: list[Any],
    names: tuple[str, ...],
) -> tuple[dict[str, float], list[Figure]]:
    """Median milliseconds of each way that worked, and a figure for each way."""
    times: dict[str, float] = {}
    found = []
    for way, prepare in ways.items():
        try:
            with torch.inference_mode():
                call = prepare(images)
                for _ in range(_WARM_UP):
                    outputs = call()
                errors = [
                    _relative_error(o.float().cpu().numpy(), e.numpy())
                    for o, e in zip(outputs, expected, strict=True)
                ]
                times[way] = _median_ms(torch, call, images.device.type)
        # compilers and drivers fail in many ways; the other ways are still worth measuring
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0][:200]
            told = f"{label}: {way} failed: {type(error).__name__}: {first}"
            found.append(Figure(told, float("nan"), ""))
            continue
        note = "error against fp32: " + ", ".join(
            f"{name} {error:.1e}" for name, error in zip(names, errors, strict=True)
        )
        found.append(Figure(f"{label}: {way}, median", times[way], "ms", note=note))
    return times, found


def _ways(torch: Any, network: Any, device: str) -> dict[str, Callable[[Any], Callable[[], Any]]]:
    """How to run it: from image tensor to a function that computes the outputs."""

    def eager(images: Any) -> Callable[[], Any]:
        return lambda: network(images)

    if device != "cuda":
        return {"eager": eager}
    ways: dict[str, Callable[[Any], Callable[[], Any]]] = {"eager": eager}
    for name, provider in _attention(torch).items():
        kernel = (name, provider)

        def graph(images: Any, kernel: Any = kernel) -> Callable[[], Any]:
            with _with_attention(torch, *kernel):
                return _capture(torch, lambda: network(images))

        def compiled(
            images: Any, kernel: Any = kernel, options: dict[str, Any] | None = None
        ) -> Callable[[], Any]:
            torch.compiler.reset()
            fast = torch.compile(network, dynamic=False, options=options)
            with _with_attention(torch, *kernel):
                return _capture(torch, lambda: fast(images))

        def tuned(images: Any, make: Any = compiled) -> Callable[[], Any]:
            # matrix products chosen by trying; takes minutes
            return make(images, options={"max_autotune": True, "coordinate_descent_tuning": True})

        ways[f"CUDA graph, {name}"] = graph
        ways[f"compiled, CUDA graph, {name}"] = compiled
        ways[f"compiled with autotuning, CUDA graph, {name}"] = tuned
    return ways


def _attention(torch: Any) -> dict[str, str]:
    """Kernels for attention that are worth trying: name, and who provides flash attention."""
    kernels = {"flash attention": ""}
    if torch.cuda.get_device_capability()[0] >= 9:  # made for Hopper and newer
        kernels = {"cuDNN attention": "", **kernels}
        for implementation, module in (("FA3", "flash_attn_interface"), ("FA4", "flash_attn")):
            if find_spec(module) is not None:
                kernels[f"flash attention {implementation[-1]}"] = implementation
    return kernels


@contextlib.contextmanager
def _with_attention(torch: Any, kernel: str, implementation: str) -> Iterator[None]:
    from torch.nn import attention

    flash = [attention.SDPBackend.FLASH_ATTENTION, attention.SDPBackend.EFFICIENT_ATTENTION]
    chosen = [attention.SDPBackend.CUDNN_ATTENTION, *flash] if "cuDNN" in kernel else flash
    if implementation:
        attention.activate_flash_attention_impl(implementation)
    try:
        with attention.sdpa_kernel(chosen, set_priority=True):
            yield
    finally:
        if implementation:
            attention.restore_flash_attention_impl()


def _capture(torch: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """Record what a call launches, once; a replay launches it without Python."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compilation and choice of kernels happen before the capture
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay


@contextlib.contextmanager
def _float32(torch: Any) -> Iterator[None]:
    """Float32 proper for the reference: TF32 keeps 10 bits."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def _median_ms(torch: Any, call: Callable[[], Any], device: str) -> float:
    """Device time from event to event, so that launching ahead does not count."""
    if device != "cuda":
        import time

        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    times = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _relative_error(found: Any, expected: Any) -> float:
    """RMS error over the standard deviation: what is the same everywhere counts for nothing."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected))
