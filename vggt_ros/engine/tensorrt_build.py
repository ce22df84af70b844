"""From ONNX to an engine, with TensorRT 10, 11 or TensorRT for RTX.

One way for all: a strongly typed network, whose precision is what the ONNX file says. On version
10 that is a flag, on 11 the only kind there is. Nothing here sets a precision.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.errors import EngineError
from vggt_ros.export.files import atomic_write
from vggt_ros.inference.cuda_memory import CudaDevice, GpuFacts, open_cuda
from vggt_ros.inference.tensorrt_module import (
    engine_information,
    import_tensorrt,
    listen,
    major,
    start,
    tensor_precisions,
    told,
)
from vggt_ros.inference.tensors import shape_text

_GIB = 2**30
_SHOWN = 5
"""Errors of the parser in a message, at most; all are in the log."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShapeRange:
    """Sizes of one input: an engine takes those in between and is fastest at `optimum`."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine; the defaults are those of the documented commands."""

    workspace_gb: float = 32.0
    """Most memory that a layer may use for itself [GiB]; never more than the GPU has."""
    opt_level: int = 5
    """0 to 5: how long TensorRT looks for fast kernels."""
    max_aux_streams: int | None = 4
    """Streams beside the main one; None leaves it to TensorRT."""
    timing_cache: Path | None = None
    """Read if it is there and fits, and written. One of another version or GPU is deleted."""
    version_compatible: bool = False
    """Engines that later versions of the same major load too; larger, and a little slower."""
    profile: Mapping[str, ShapeRange] = field(default_factory=dict)
    """Of inputs with free sizes; each needs one."""
    tf32: bool = False
    """Let float32 layers compute with 10 bits; off, because nobody asked for another precision."""
    device: int = 0
    module: str = "tensorrt"
    """tensorrt or tensorrt_rtx."""


@dataclass(frozen=True)
class BuildReport:
    """What came out, for the passport and for people."""

    engine: Path
    size_bytes: int
    seconds: float
    backend: str
    version: str
    gpu: GpuFacts
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes; -1: free."""
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    precisions: dict[str, int]
    """Tensors by type; see `tensorrt_module.tensor_precisions`."""
    inspector_json: str
    timing_cache: str
    """none, new, reused, or replaced (what was there fitted another version or GPU)."""


def build_engine(
    onnx_path: str | Path, engine_path: str | Path, options: BuildOptions | None = None
) -> BuildReport:
    """Build an engine for the GPU of this machine.

    The engine, and the timing cache if there is to be one, appear under their names only when
    they are complete.

    Raises:
        EngineError: no TensorRT, no GPU, an ONNX file that does not exist or that TensorRT
            refuses (its reasons are listed), free sizes without a range, or a failed build.
        ExportError: the files cannot be written.
    """
    options = options or BuildOptions()
    onnx_path, engine_path = Path(onnx_path), Path(engine_path)
    if not onnx_path.is_file():
        raise EngineError(
            f"{onnx_path}: expected an ONNX file, found none; make it with: vggt-ros engine export"
        )
    if options.opt_level not in range(6):
        raise EngineError(f"opt_level: expected 0 to 5, got {options.opt_level}")
    if not options.workspace_gb > 0:
        raise EngineError(f"workspace: expected GiB above 0, got {options.workspace_gb}")
    trt = import_tensorrt(options.module)
    device = open_cuda(options.device)
    try:
        with device.current():
            return _build(trt, device, onnx_path, engine_path, options)
    finally:
        device.close()


def _build(
    trt: Any, device: CudaDevice, onnx_path: Path, engine_path: Path, options: BuildOptions
) -> BuildReport:
    began = time.perf_counter()
    listener = listen(trt)
    builder = start(trt, "Builder", listener)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, listener)
    _parse(parser, onnx_path)
    config = builder.create_builder_config()
    _configure(trt, config, device.facts, options)
    _set_profile(builder, config, network, onnx_path, options)
    cache_state = _load_timing_cache(config, options.timing_cache)
    _logger.info(
        "%s: building with %s %s on %s, optimisation level %d; this takes minutes",
        onnx_path.name, options.module, trt.__version__, device.facts, options.opt_level,
    )  # fmt: skip
    listener.errors.clear()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{onnx_path}: TensorRT {trt.__version__} could not build an engine on "
            f"{device.facts}{told(listener)}; all it said is in the log"
        )
    information = _inspect(trt, listener, plan, engine_path, options)
    with atomic_write(engine_path) as file:
        file.write(plan)
    if options.timing_cache is not None:
        with atomic_write(options.timing_cache) as file:
            file.write(config.get_timing_cache().serialize())
    return BuildReport(
        engine=engine_path,
        size_bytes=int(plan.nbytes),
        seconds=time.perf_counter() - began,
        backend=options.module,
        version=trt.__version__,
        gpu=device.facts,
        inputs=_tensors(network.get_input(k) for k in range(network.num_inputs)),
        outputs=_tensors(network.get_output(k) for k in range(network.num_outputs)),
        precisions=tensor_precisions(information),
        inspector_json=information,
        timing_cache=cache_state,
    )


def _network_flags(trt: Any) -> int:
    """Strongly typed: a flag of version 10 and of TensorRT for RTX, 11 knows nothing else."""
    if major(trt) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(parser: Any, onnx_path: Path) -> None:
    # by path, so that weights in files beside it are found
    if parser.parse_from_file(str(onnx_path)):
        return
    errors = []
    for k in range(parser.num_errors):
        error = parser.get_error(k)
        node = f"node {error.node()}" if error.node() >= 0 else "the model"
        name = f" '{error.node_name()}' ({error.node_operator()})" if error.node() >= 0 else ""
        errors.append(f"{node}{name}: {error.desc()}")
        _logger.error("%s: %s", onnx_path.name, errors[-1])
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    listed = "; ".join(errors[:_SHOWN]) or "it gave no reason"
    raise EngineError(
        f"{onnx_path}: TensorRT's parser refuses it: {listed}{more}; export it anew: vggt-ros "
        "engine export"
    )


def _configure(trt: Any, config: Any, facts: GpuFacts, options: BuildOptions) -> None:
    workspace = int(options.workspace_gb * _GIB)
    if workspace > facts.memory_bytes:
        _logger.info(
            "workspace: %.1f GiB asked for, %s has %.1f GiB",
            options.workspace_gb, facts, facts.memory_bytes / _GIB,
        )  # fmt: skip
        workspace = facts.memory_bytes
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.builder_optimization_level = options.opt_level
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    # the types of all tensors, for the inspector
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _set_profile(
    builder: Any, config: Any, network: Any, onnx_path: Path, options: BuildOptions
) -> None:
    inputs = {}
    for k in range(network.num_inputs):
        tensor = network.get_input(k)
        inputs[tensor.name] = tuple(tensor.shape)
    unknown = [name for name in options.profile if name not in inputs]
    if unknown:
        raise EngineError(
            f"{onnx_path}: shapes for '{unknown[0]}' were given; its inputs are "
            f"{', '.join(inputs)}"
        )
    profile = None
    for name, shape in inputs.items():
        free = any(size < 0 for size in shape)
        if name not in options.profile:
            if free:
                raise EngineError(
                    f"{onnx_path}: input '{name}' has free sizes, "
                    f"{shape_text(None if s < 0 else s for s in shape)}; give their range: "
                    "--min-shape, --opt-shape, --max-shape, or export it with a fixed size"
                )
            continue
        given = options.profile[name]
        _check_range(onnx_path, name, shape, given)
        if free:
            profile = profile or builder.create_optimization_profile()
            profile.set_shape(name, given.minimum, given.optimum, given.maximum)
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{onnx_path}: TensorRT refuses the shapes {dict(options.profile)}")


def _check_range(onnx_path: Path, name: str, shape: tuple[int, ...], given: ShapeRange) -> None:
    sides = (given.minimum, given.optimum, given.maximum)
    fits = all(len(side) == len(shape) for side in sides) and all(
        1 <= low <= best <= high and (size < 0 or low == high == size)
        for size, low, best, high in zip(shape, *sides, strict=True)
    )
    if not fits:
        raise EngineError(
            f"{onnx_path}: input '{name}': expected minimum <= optimum <= maximum that fit "
            f"{shape_text(None if s < 0 else s for s in shape)}, got "
            f"{', '.join(shape_text(side) for side in sides)}"
        )


def _load_timing_cache(config: Any, path: Path | None) -> str:
    """Give the builder a cache; returns `BuildReport.timing_cache`."""
    if path is None:
        return "none"
    if path.is_file():
        cache = config.create_timing_cache(path.read_bytes())
        if cache is not None and config.set_timing_cache(cache, False):
            return "reused"
        _logger.warning(
            "%s: this timing cache is of another TensorRT version or GPU; it is deleted", path
        )
        path.unlink()
        state = "replaced"
    else:
        state = "new"
    if not config.set_timing_cache(config.create_timing_cache(b""), False):
        raise EngineError(f"{path}: TensorRT refuses an empty timing cache; build without one")
    return state


def _inspect(trt: Any, listener: Any, plan: Any, engine_path: Path, options: BuildOptions) -> str:
    runtime = start(trt, "Runtime", listener)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"{engine_path}: the engine was built but does not load{told(listener)}")
    return engine_information(trt, engine)


def _tensors(tensors: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((tensor.name, tuple(tensor.shape)) for tensor in tensors)
