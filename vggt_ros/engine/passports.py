"""Passports of what is made here: graphs get theirs at the export, engines from their graph's.

The golden outputs are those of PyTorch in float32 from the original checkpoint, so that every
later step, quantisation of the weights included, is measured against the same answers.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vggt_ros.engine.memory import GIB, available_memory
from vggt_ros.engine.model_files import data_files, facts_of, sha256_of_model
from vggt_ros.engine.random_source import RandomSource
from vggt_ros.engine.run_onnx import OnnxSession, estimate_run_memory
from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import Arrays, BackendOptions, open_backend
from vggt_ros.inference.engine_store import describe_checkpoint
from vggt_ros.inference.golden import (
    QUANT_MODE_TOLERANCE,
    golden_errors,
    golden_input,
    make_golden,
    tolerance_of,
)
from vggt_ros.inference.passport import (
    Golden,
    ModelFacts,
    Passport,
    Precision,
    Runtime,
    Tensor,
    read_passport,
    write_passport,
)
from vggt_ros.inference.verify import file_sha256
from vggt_ros.types import Float32

MEANINGS = {
    "images": "RGB",
    "pose_enc": "camera from world: translation, quaternion xyzw, vertical and horizontal field "
    "of view [rad]",
    "depth": "along z",
    "depth_conf": "confidence of depth, at least 1",
    "world_points": "near the frame of view 0",
    "world_points_conf": "confidence of the points, at least 1",
}
NOT_ON_CPU = ("bf16", "nvfp4", "fp4")
"""Precisions whose operators ONNX Runtime lacks there."""

_logger = logging.getLogger(__name__)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def reference_golden(
    checkpoint: str | Path | RandomSource,
    shape: tuple[int, ...],
    outputs: Sequence[str],
    normalisation: str,
    device: str = "auto",
) -> Golden:
    """Golden outputs of the float32 reference in PyTorch.

    Args:
        checkpoint: the weights as they were published.
        shape: of the input.
        outputs: names of those that the graph has.
        normalisation: of the input.
        device: of PyTorch.

    Raises:
        EngineError: the checkpoint cannot be run, or answers with NaN.
    """
    import torch

    reference = f"torch {torch.__version__} fp32"
    if isinstance(checkpoint, RandomSource):
        return make_golden(shape, normalisation, reference, _only(outputs, checkpoint.answer))
    backend = open_backend(checkpoint, "torch", BackendOptions(device=device, precision="fp32"))
    try:
        name = backend.inputs[0].name
        reference += f" on {backend.device}"
        _logger.info("golden outputs %s: %s", list(shape), reference)
        return make_golden(
            shape, normalisation, reference, _only(outputs, lambda x: backend.run({name: x}))
        )
    finally:
        backend.close()


def _only(
    outputs: Sequence[str], answer: Callable[[Float32], Mapping[str, NDArray[Any]]]
) -> Callable[[Float32], Mapping[str, NDArray[Any]]]:
    def some(images: Float32) -> Mapping[str, NDArray[Any]]:
        everything = answer(images)
        missing = [name for name in outputs if name not in everything]
        if missing:
            raise EngineError(
                f"golden outputs: expected {', '.join(outputs)} from the checkpoint, got "
                f"{', '.join(everything)}; export it again from this checkpoint"
            )
        return {name: everything[name] for name in outputs}

    return some


def model_facts(checkpoint: str | Path | RandomSource, name: str, digest: str) -> ModelFacts:
    """Facts of a checkpoint, under the name that it was asked for by.

    Raises:
        EngineError: neither VGGT nor Depth Anything.
    """
    if isinstance(checkpoint, RandomSource):
        return ModelFacts("vggt", checkpoint.text, "none: random weights", "", "zero_to_one")
    facts = describe_checkpoint(checkpoint)
    if facts.licence == "unknown" and name.count("/") == 1:
        # the weights lie in a cache or a folder of another name
        facts = dataclasses.replace(facts, licence=describe_checkpoint(Path(name)).licence)
    named = name if name.count("/") == 1 and not Path(name).exists() else facts.name
    return dataclasses.replace(facts, name=named, checkpoint_sha256=digest)


def graph_passport(
    path: str | Path,
    model: ModelFacts,
    golden: Golden,
    precision: Precision,
    notes: Mapping[str, str],
) -> Passport:
    """Passport of an ONNX graph, not yet written; parity is what `record_parity` adds.

    Raises:
        EngineError: no graph there.
    """
    import onnx

    path = Path(path)
    files = data_files(path)
    graph = onnx.load(path, load_external_data=False)
    facts = facts_of(path)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    return Passport(
        file=path.name,
        sha256=file_sha256(path),
        model=model,
        precision=precision,
        runtime=Runtime("onnxruntime", ""),
        inputs=tuple(_tensor(value) for value in graph.graph.input),
        outputs=tuple(_tensor(value) for value in graph.graph.output),
        golden=with_tolerance(golden, precision),
        onnx_sha256=sha256_of_model(path),
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        created=now(),
        data_files={file.name: file_sha256(file) for file in files},
        notes={
            **({"quantisation": facts["quantisation"]} if "quantisation" in facts else {}),
            **notes,
        },
    )


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Tensor(value.name, shape, dtype, MEANINGS.get(value.name, ""))


def with_tolerance(golden: Golden, precision: Precision) -> Golden:
    """The golden outputs with the tolerances of a precision, and without parity.

    Raises:
        EngineError: unknown precision.
    """
    # an engine may have fused its Q/DQ away: it computes in fp16 on rounded weights
    tolerance = max(
        tolerance_of(precision.effective),
        tolerance_of(precision.requested),
        QUANT_MODE_TOLERANCE.get(precision.quant_mode_effective, 0.0),
    )
    outputs = tuple(
        dataclasses.replace(o, tolerance=tolerance, parity=None) for o in golden.outputs
    )
    return dataclasses.replace(golden, outputs=outputs)


def engine_passport(
    path: str | Path, graph: str | Path, runtime: Runtime, precision: str, notes: Mapping[str, str]
) -> Passport:
    """Passport of an engine that was built from a graph, not yet written.

    Args:
        path: the engine.
        graph: it was built from; has a passport.
        runtime: that built it.
        precision: that the inspector found.
        notes: take the place of those of the graph.

    Raises:
        EngineError: the graph has no passport, or no golden outputs.
    """
    made_from = read_passport(graph)
    if made_from.golden is None:
        raise EngineError(
            f"{graph}: golden: expected outputs of the reference in its passport, found none; "
            "export it again: vggt-ros engine export"
        )
    effective = dataclasses.replace(made_from.precision, effective=precision)
    path = Path(path)
    return dataclasses.replace(
        made_from,
        file=path.name,
        sha256=file_sha256(path),
        precision=effective,
        runtime=runtime,
        golden=with_tolerance(made_from.golden, effective),
        onnx_sha256=sha256_of_model(graph),
        created=now(),
        data_files={},
        notes={**made_from.notes, **notes},
        seal="",
    )


def record_parity(passport: Passport, run: Callable[[Arrays], Arrays]) -> Passport:
    """The passport with the errors that are made on the golden input.

    Args:
        passport: with golden outputs.
        run: inputs by name to outputs by name, in the precision of the passport.

    Raises:
        EngineError: it does not run.
    """
    golden = passport.golden
    if golden is None:
        return passport
    images = golden_input(
        golden.recipe, golden.input_shape, golden.seed, passport.model.normalisation
    )
    tensor = passport.inputs[0]
    errors = golden_errors(golden, run({tensor.name: images.astype(tensor.dtype)}))
    outputs = tuple(dataclasses.replace(o, parity=errors[o.name]) for o in golden.outputs)
    return dataclasses.replace(passport, golden=dataclasses.replace(golden, outputs=outputs))


def write_graph_passport(path: str | Path, passport: Passport) -> Passport:
    """Measure parity in ONNX Runtime where that fits into memory, and write the passport.

    Returns:
        What was written.

    Raises:
        EngineError: the graph does not run, or is farther from the reference than its precision
            allows: then no passport is written.
        ExportError: it cannot be written.
    """
    measured = passport
    reason = _cannot_run(path, passport)
    if reason:
        _logger.info("%s: parity is not measured here: %s", path, reason)
    else:
        # its optimiser moves float8 through operators that do not take it
        session = OnnxSession(path, optimise=passport.precision.effective != "fp8")
        measured = record_parity(passport, session.run)
    refuse_bad_parity(path, measured)
    write_passport(path, measured)
    return measured


def refuse_bad_parity(path: str | Path, passport: Passport) -> None:
    """Raise for a measured error beyond its tolerance.

    Raises:
        EngineError: names the outputs.
    """
    for output in passport.golden.outputs if passport.golden else ():
        if output.parity is not None and not output.parity <= output.tolerance:
            raise EngineError(
                f"{path}: output {output.name}: expected an error of at most "
                f"{output.tolerance:g} in {passport.precision.effective} against "
                f"{passport.golden.reference if passport.golden else ''}, measured "
                f"{output.parity:.3g}; take {_milder(passport)}"
            )


def _milder(passport: Passport) -> str:
    """What may answer more exactly."""
    precision = passport.precision
    ways = []
    if precision.quant_mode_effective != "none":
        ways.append("another --quant-mode")
    if precision.effective != "fp32":
        ways.append("a higher --precision")
    if precision.calibration != "none":
        ways.append("other calibration images")
    return ", or ".join(ways) or "the checkpoint again: the graph does not answer as it does"


def parity_text(passport: Passport) -> str:
    """Error of each output on one line."""
    outputs = passport.golden.outputs if passport.golden else ()
    told = [
        f"{o.name} {'not measured' if o.parity is None else format(o.parity, '.2g')}"
        for o in outputs
    ]
    return ", ".join(told)


def _cannot_run(path: str | Path, passport: Passport) -> str:
    """Why ONNX Runtime on this CPU cannot run a graph; empty where it can."""
    effective = passport.precision.effective
    if effective in NOT_ON_CPU:
        return f"ONNX Runtime has no {effective} on a CPU; vggt-ros engine build measures it"
    needed, available = estimate_run_memory(path), available_memory()
    if needed > 0.8 * available:
        return (
            f"it needs about {needed / GIB:.1f} GiB of memory, {available / GIB:.1f} GiB are "
            "available; vggt-ros engine build measures it"
        )
    return ""
