"""Passports of graphs and engines that are made here."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.errors import EngineError

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install .[export])")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from vggt_ros.engine import build, convert, passports  # noqa: E402
from vggt_ros.engine.pipeline import PipelineOptions  # noqa: E402
from vggt_ros.engine.tensorrt_build import BuildOptions, BuildReport  # noqa: E402
from vggt_ros.inference.cuda_memory import GpuFacts  # noqa: E402
from vggt_ros.inference.golden import TOLERANCE, make_golden  # noqa: E402
from vggt_ros.inference.passport import (  # noqa: E402
    ModelFacts,
    Precision,
    passport_path,
    read_passport,
)
from vggt_ros.inference.verify import check_files, mending_command  # noqa: E402

SHAPE = (2, 3, 28, 42)
MODEL = ModelFacts("vggt", "facebook/VGGT-1B", "unknown", "", "zero_to_one")
GPU = GpuFacts(0, "NVIDIA H200", "9.0", "580.1", 141 * 2**30)


def reference(images):
    """The network of these tests: a product with weights, and a sum."""
    weights = np.random.default_rng(0).normal(0, 0.3, (42, 42)).astype(np.float32)
    depth = np.abs(images @ weights).mean(axis=1) + 1
    return {"pose_enc": depth.mean(axis=2), "depth": depth}


def write_graph(path, scale=1.0, external=False):
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(0, 0.3, (42, 42)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["images", "weights"], ["product"], name="product"),
        helper.make_node("Abs", ["product"], ["magnitude"]),
        helper.make_node("ReduceMean", ["magnitude", "channel"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "one"], ["depth"]),
        helper.make_node("ReduceMean", ["depth", "column"], ["pose_enc"], keepdims=0),
    ]
    constants = {
        "weights": weights * np.float32(scale),
        "channel": np.array([1], np.int64),
        "column": np.array([2], np.int64),
        "one": np.array(1, np.float32),
    }
    outputs = {"pose_enc": (2, 28), "depth": (2, 28, 42)}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", kind, SHAPE)],
        [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=path.name + ".data",
        size_threshold=100,
    )
    return path


def with_passport(path, precision="fp32"):
    golden = make_golden(SHAPE, "zero_to_one", "numpy fp32", reference, precision)
    made = passports.graph_passport(
        path, MODEL, golden, Precision(precision, precision), {"checkpoint": "weights"}
    )
    return passports.write_graph_passport(path, made)


def test_a_graph_with_weights_in_another_file(tmp_path):
    path = write_graph(tmp_path / "small.onnx", external=True)
    passport = with_passport(path)
    assert set(passport.data_files) == {"small.onnx.data"}
    assert passport.opset == 18
    assert passport.inputs[0].shape == SHAPE
    assert passport.inputs[0].meaning == "RGB"
    assert {o.name: o.parity for o in passport.golden.outputs}["depth"] < 1e-6
    check_files(path, read_passport(path))
    data = tmp_path / "small.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(EngineError, match=r"small\.onnx\.data: sha256: expected"):
        check_files(path, read_passport(path))


def test_a_graph_that_answers_something_else_gets_no_passport(tmp_path):
    path = write_graph(tmp_path / "small.onnx", scale=1.5)
    with pytest.raises(EngineError, match=r"output \w+: expected an error of at most 0\.001 in"):
        with_passport(path)
    assert not passport_path(path).exists()


def test_tolerances_follow_precision_and_quantisation_of_the_weights():
    golden = make_golden(SHAPE, "zero_to_one", "numpy fp32", reference)

    def tolerance(*precision):
        return passports.with_tolerance(golden, Precision(*precision)).outputs[0].tolerance

    assert tolerance("fp16", "fp16") == TOLERANCE["fp16"]
    assert tolerance("fp16", "fp16", "bitsandbytes-nf4", "bitsandbytes-nf4") == 0.25
    # asked for and not done
    assert tolerance("fp16", "fp16", "bitsandbytes-nf4", "none") == TOLERANCE["fp16"]


@pytest.fixture
def graph(tmp_path):
    """Write a float32 graph with passport."""
    path = write_graph(tmp_path / "small.onnx")
    with_passport(path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_each_precision_of_a_graph(graph, precision, tmp_path):
    options = PipelineOptions(
        precisions=(precision,), simplify=False, allow_synthetic_calib=True, calib_batches=2
    )
    done = convert.convert(convert.Conversion(tmp_path, options, onnx_in=graph))
    ((path, passport),) = done.passports.items()
    assert passport == dataclasses.replace(read_passport(path), seal="")
    assert passport.precision.effective == precision
    quantised = precision in ("int8", "fp8")
    assert passport.precision.calibration == ("synthetic" if quantised else "none")
    assert passport.golden.reference == "numpy fp32"
    assert passport.notes["checkpoint"] == "weights"
    for output in passport.golden.outputs:
        assert output.tolerance == TOLERANCE[precision]
        assert (output.parity is None) == (precision == "bf16")
    check_files(path, passport)


def test_what_is_refused_does_not_stay(graph, tmp_path):
    write_graph(graph, scale=1.5)
    options = PipelineOptions(precisions=("fp16",), simplify=False)
    with pytest.raises(EngineError, match=r"measured .*; take a higher --precision$"):
        convert.convert(convert.Conversion(tmp_path / "out", options, onnx_in=graph))
    assert graph.exists()
    assert not list((tmp_path / "out").glob("*.onnx*"))
    options = PipelineOptions(precisions=("fp32",), simplify=False)
    with pytest.raises(EngineError, match="expected an error of at most"):
        convert.convert(convert.Conversion(tmp_path, options, onnx_in=graph))
    assert graph.exists()  # it was given


def test_a_graph_of_others_is_its_own_reference(tmp_path, caplog):
    path = write_graph(tmp_path / "theirs.onnx")
    options = PipelineOptions(precisions=("fp16",), simplify=False)
    done = convert.convert(convert.Conversion(tmp_path / "out", options, onnx_in=path))
    (passport,) = done.passports.values()
    assert passport.golden.reference == "theirs.onnx in ONNX Runtime"
    assert "its own reference" in passport.notes["warning"]
    assert "without a passport" in caplog.text
    half = tmp_path / "half.onnx"
    half.write_bytes(Path(next(iter(done.passports))).read_bytes())
    with pytest.raises(EngineError, match="got fp16 without one"):
        convert.convert(convert.Conversion(tmp_path / "out", options, onnx_in=half))


def test_a_graph_with_names_of_accident_is_refused(tmp_path):
    model = onnx.load(write_graph(tmp_path / "theirs.onnx"))
    for node in model.graph.node:
        node.output[:] = ["cat_322" if name == "depth" else name for name in node.output]
        node.input[:] = ["cat_322" if name == "depth" else name for name in node.input]
    model.graph.output[1].name = "cat_322"
    onnx.save(model, tmp_path / "theirs.onnx")
    options = PipelineOptions(precisions=("fp16",), simplify=False)
    conversion = convert.Conversion(tmp_path, options, onnx_in=tmp_path / "theirs.onnx")
    with pytest.raises(EngineError, match="expected the input images and outputs of pose_enc"):
        convert.convert(conversion)


class FakeEngine:
    """Answers the reference times a gain."""

    def __init__(self, gain):
        self.gain = gain
        self.closed = False

    def run(self, inputs):
        return {k: v * self.gain for k, v in reference(inputs["images"]).items()}

    def close(self):
        self.closed = True


@pytest.fixture
def fake_tensorrt(monkeypatch):
    """Put a builder and a runner in the place of TensorRT's; returns a way to set its gain."""
    state = {"engine": FakeEngine(1.0), "device": ""}

    def build_engine(onnx_path, engine_path, options):
        Path(engine_path).write_bytes(b"plan of " + Path(onnx_path).read_bytes()[:8])
        inspected = '{"Layers": [{"Name": "a", "Inputs": [], "Outputs": [{"Name": "x",'
        inspected += '"Dimensions": [1], "Format/Datatype": "Row major linear FP16 format"}]}],'
        inspected += '"Bindings": []}'
        return BuildReport(
            engine=engine_path,
            size_bytes=16,
            seconds=1.0,
            backend=options.module,
            version="10.16.1",
            gpu=GPU,
            inputs=(),
            outputs=(),
            precisions={"FP16": 1},
            inspector_json=inspected,
            timing_cache="none",
        )

    def open_backend(path, name, options):
        assert passport_path(path).is_file(), "the back end reads the passport"
        state["device"] = options.device
        return state["engine"]

    monkeypatch.setattr(build, "build_engine", build_engine)
    monkeypatch.setattr(build, "open_backend", open_backend)
    return state


def test_an_engine_gets_the_passport_of_its_graph(tmp_path, graph, fake_tensorrt):
    half = tmp_path / "small_fp16.onnx"
    options = PipelineOptions(precisions=("fp16",), simplify=False)
    convert.convert(convert.Conversion(tmp_path, options, onnx_in=graph))
    engine = tmp_path / "engines" / "small_fp16.engine"
    built = build.build_with_passport(half, engine, BuildOptions(device=1))
    assert built.lines == ("[INFO] Engine tensor precisions: FP16:1",)
    assert built.report.engine == engine
    passport = read_passport(engine)
    runtime = passport.runtime
    assert (runtime.version, runtime.gpu) == ("10.16.1", "NVIDIA H200")
    assert (runtime.compute_capability, runtime.driver) == ("9.0", "580.1")
    assert passport.notes["source"] == "../small_fp16.onnx"
    assert mending_command(engine, passport) == (f"vggt-ros engine build {half} --out {engine}")
    assert passport.onnx_sha256 == passports.sha256_of_model(half)
    assert all(o.parity < 1e-6 for o in passport.golden.outputs)
    check_files(engine, passport)
    assert fake_tensorrt["device"] == "cuda:1"
    assert fake_tensorrt["engine"].closed
    assert sorted(p.name for p in engine.parent.iterdir()) == [
        "small_fp16.engine",
        "small_fp16.engine.json",
    ]


def test_an_engine_that_answers_wrongly_does_not_appear(tmp_path, graph, fake_tensorrt):
    engine = tmp_path / "small.engine"
    engine.write_bytes(b"the one of before")
    fake_tensorrt["engine"] = FakeEngine(1.2)
    with pytest.raises(EngineError, match=r"small\.engine: output \w+: expected an error of at m"):
        build.build_with_passport(graph, engine)
    assert engine.read_bytes() == b"the one of before"
    assert not passport_path(engine).exists()
    assert fake_tensorrt["engine"].closed
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_graph_without_passport_is_not_built(tmp_path, fake_tensorrt):
    path = write_graph(tmp_path / "small.onnx")
    with pytest.raises(EngineError, match="expected its passport"):
        build.build_with_passport(path, tmp_path / "small.engine")
