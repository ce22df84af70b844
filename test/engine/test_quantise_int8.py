import numpy as np
import pytest

from vggt_ros.engine.calibration import open_calibration, synthetic_images
from vggt_ros.engine.check import check_model
from vggt_ros.engine.model_files import load_graph, size_of_model
from vggt_ros.engine.parity import compare
from vggt_ros.engine.qdq import find_ranges, insert_qdq, quantisable
from vggt_ros.engine.quantise_int8 import (
    QuantiseOptions,
    quantise,
    quantise_fp8,
    quantise_int8,
)
from vggt_ros.errors import EngineError

SHAPE = (2, 3, 42, 70)
DEPTH_LIMIT = 0.03
"""Median relative error of depth against fp32 that int8 may have."""


@pytest.fixture(scope="module")
def calibration(shared_data):
    """Frames of an indoor sequence; what is judged with are photographs of something else."""
    return open_calibration(shared_data / "indoor_sequence" / "*color.jpg", SHAPE, batches=6)


@pytest.fixture(scope="module")
def judged(shared_data):
    return next(iter(open_calibration(shared_data / "fountain_p11", SHAPE, batches=1)))


@pytest.fixture(scope="module")
def synthetic():
    return open_calibration(None, SHAPE, batches=2, allow_synthetic=True)


@pytest.fixture(scope="module")
def int8(exported, synthetic, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "q.onnx"
    return quantise_int8(exported.path, path, synthetic)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("rest", ["fp32", "fp16"])
def test_parity_on_real_images(exported, calibration, judged, run, tmp_path, precision, rest):
    out = tmp_path / "q.onnx"
    quantise(exported.path, out, precision, calibration, QuantiseOptions(rest=rest))
    check_model(out)
    feeds = {"images": judged}
    # ONNX Runtime's optimiser moves float8 through operators that do not take it
    got = run(out, feeds, optimise=precision == "int8")
    found = compare(run(exported.path, feeds), got)
    for name, value in found.items():
        print(f"{precision}, rest {rest}: {name}: {value}")
    assert 0 < found["depth"].median_rel < DEPTH_LIMIT
    # with 32 channels there is little to average over: VGGT's tiny network has 0.02 and 0.05
    assert found["pose_enc"].rel_l2 < (0.2 if precision == "int8" else 0.3)


def test_what_is_eight_bits_and_what_is_not(int8, exported):
    model = load_graph(int8.path)
    assert model.graph.opset_imports[""] == 19
    assert int8.quantised_nodes > 30
    quantised, weights = 0, 0
    for node in model.graph:
        if node.op_type not in ("MatMul", "Conv"):
            continue
        producers = [v.producer() for v in node.inputs[:2]]
        is_quantised = all(p is not None and p.op_type == "DequantizeLinear" for p in producers)
        left_out = any(part in node.name for part in ("camera_head.", "patch_embed.patch_embed"))
        assert not (is_quantised and left_out)
        quantised += is_quantised
    for value in model.graph.initializers.values():
        if value.dtype.name == "INT8" and len(value.shape) > 1:
            weights += value.const_value.size
            assert value.const_value.numpy().min() >= -127
        elif value.dtype.name == "INT8":
            # TensorRT takes symmetric quantisation alone
            assert not value.const_value.numpy().any()
    assert quantised == int8.quantised_nodes
    assert weights == int8.quantised_parameters
    assert size_of_model(int8.path) < size_of_model(exported.path) - 2 * weights


def test_attention_and_norms_stay_in_floating_point(int8):
    for node in load_graph(int8.path).graph:
        if node.op_type in ("Softmax", "LayerNormalization", "Exp", "Resize"):
            assert node.inputs[0].dtype.name == "FLOAT"


def test_ranges_are_those_of_the_images(exported, synthetic, run):
    name = "images"
    batches = list(synthetic)
    model = load_graph(exported.path)
    nodes, _ = quantisable(model)
    first = next(n.inputs[0].name for n in nodes if n.op_type == "MatMul")
    found = find_ranges(exported.path, [name, first], batches)
    assert found[name] == pytest.approx(max(float(b.max()) for b in batches))
    assert found[first] > 0
    single = [find_ranges(exported.path, [first], [b])[first] for b in batches]
    assert found[first] == pytest.approx(max(single), rel=1e-5)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "GemmT", "Conv"])
def test_error_is_that_of_the_steps(onnx, make_graph, run, tmp_path, op):
    """One product of integers that need no rounding comes out exactly; scales per channel."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (8, 6)).astype(np.float32)
    weight[0], weight[:, 0] = 127.0, 127.0
    per_channel = 10.0 ** rng.integers(-3, 4, 6).astype(np.float32)
    weight *= per_channel
    activation = rng.integers(-127, 128, (3, 8)).astype(np.float32)
    activation[0, 0] = 127.0
    make = onnx.helper.make_node
    node = {
        "MatMul": make("MatMul", ["x", "w"], ["y"]),
        "Gemm": make("Gemm", ["x", "w"], ["y"]),
        "GemmT": make("Gemm", ["x", "w"], ["y"], transB=1),
        "Conv": make("Conv", ["x", "w"], ["y"]),
    }[op]
    stored = weight if op in ("MatMul", "Gemm") else weight.T
    x_shape, y_shape = [3, 8], [3, 6]
    expected = activation @ weight
    if op == "Conv":
        stored, activation = stored[..., None, None], activation.T[None, :, :, None]
        x_shape, y_shape = [1, 8, 3, 1], [1, 6, 3, 1]
        expected = expected.T[None, :, :, None]
    stored = np.ascontiguousarray(stored)
    path = make_graph(
        tmp_path / "a.onnx", [node], {"x": x_shape}, {"y": y_shape}, {"w": stored}, opset=19
    )
    model = load_graph(path)
    nodes, _ = quantisable(model)
    assert insert_qdq(model, nodes, {"x": 127.0}, "int8") == 48
    from vggt_ros.engine.model_files import save_graph

    save_graph(model, tmp_path / "b.onnx")
    check_model(tmp_path / "b.onnx")
    got = run(tmp_path / "b.onnx", {"x": activation}, optimise=False)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4 * per_channel.max())


@pytest.mark.slow
def test_at_least_as_good_as_onnxruntimes_own(exported, synthetic, images, run, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(synthetic)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    theirs = tmp_path / "theirs.onnx"
    quantization.quantize_static(
        str(exported.path), str(theirs), Reader(), per_channel=True,
        op_types_to_quantize=["MatMul", "Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True,
                       "MatMulConstBOnly": True},
    )  # fmt: skip
    ours = tmp_path / "ours.onnx"
    quantise_int8(exported.path, ours, synthetic, QuantiseOptions(left_out=()))
    feeds = {"images": images}
    reference = run(exported.path, feeds)
    errors = {p: compare(reference, run(p, feeds))["depth"].rel_l2 for p in (ours, theirs)}
    print(errors)
    assert errors[ours] < 1.5 * errors[theirs]


def test_ranges_of_an_earlier_calibration_are_used(exported, synthetic, int8, tmp_path):
    class Untouchable:
        shape, batches, source, samples = synthetic.shape, 2, "none", 4

        def __iter__(self):
            raise AssertionError("calibrated again")

    again = quantise_fp8(exported.path, tmp_path / "q.onnx", Untouchable(), ranges=int8.ranges)
    assert again.ranges == int8.ranges


def test_refusals(exported, synthetic, onnx, make_graph, tmp_path):
    with pytest.raises(EngineError, match="expected int8 or fp8, got 'fp4'"):
        quantise(exported.path, tmp_path / "q.onnx", "fp4", synthetic)
    with pytest.raises(EngineError, match="rest: expected one of"):
        quantise_int8(exported.path, tmp_path / "q.onnx", synthetic, QuantiseOptions(rest="fp8"))
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = make_graph(tmp_path / "a.onnx", [node], {"x": [3]}, {"y": [3]})
    with pytest.raises(EngineError, match="no matrix product or convolution"):
        quantise_int8(path, tmp_path / "q.onnx", synthetic)
    assert not (tmp_path / "q.onnx").exists()


def test_weights_beside_the_graph(exported, synthetic, images, run, tmp_path, monkeypatch):
    """As with VGGT-1B: calibration and quantisation of a graph in two files, into two files."""
    from vggt_ros.engine import model_files

    one_file = quantise_int8(exported.path, tmp_path / "one.onnx", synthetic)
    monkeypatch.setattr(model_files, "_ONE_FILE_BYTES", 1000)
    (tmp_path / "two").mkdir()
    source = tmp_path / "two" / "source.onnx"
    model_files.save_graph(load_graph(exported.path), source)
    out = tmp_path / "two" / "q.onnx"
    options = QuantiseOptions(rest="fp16")
    two_files = quantise_int8(source, out, synthetic, options)
    check_model(out)
    assert sorted(f.name for f in out.parent.iterdir()) == [
        "q.onnx",
        "q.onnx.data",
        "source.onnx",
        "source.onnx.data",
    ]
    assert two_files.ranges == pytest.approx(one_file.ranges, rel=1e-4)
    feeds = {"images": images}
    found = compare(run(tmp_path / "one.onnx", feeds), run(out, feeds))
    assert found["depth"].rel_l2 < 0.02


def test_not_finite_is_named(onnx, make_graph, tmp_path):
    node = onnx.helper.make_node("Log", ["images"], ["y"])
    path = make_graph(tmp_path / "a.onnx", [node], {"images": [2]}, {"y": [2]})
    with pytest.raises(EngineError, match="'y' is not finite"):
        find_ranges(path, ["y"], [np.zeros(2, np.float32)])


def test_calibration_of_another_shape_is_an_error(exported, tmp_path):
    np.save(tmp_path / "t.npy", synthetic_images((2, 3, 28, 70)))
    with pytest.raises(EngineError, match="expected shape"):
        open_calibration(tmp_path / "t.npy", SHAPE)
