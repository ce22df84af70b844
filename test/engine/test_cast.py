import numpy as np
import pytest

from vggt_ros.engine.cast import cast_precision
from vggt_ros.engine.check import check_model
from vggt_ros.engine.model_files import load_graph
from vggt_ros.engine.parity import compare
from vggt_ros.errors import EngineError

LOW = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
# of the worst output, max_rel; measured 0.0011 and 0.012 with the tiny network
LIMIT = {"fp16": 5e-3, "bf16": 4e-2}


def types_of(model, op_type):
    """Types that the operators of a kind compute in."""
    return {n.inputs[0].dtype.name for n in model.graph if n.op_type == op_type}


@pytest.mark.parametrize("precision", LOW)
def test_low_inside_float_outside(exported, tmp_path, precision):
    out = tmp_path / "low.onnx"
    report = cast_precision(exported.path, out, precision)
    check_model(out)
    model = load_graph(out)
    assert model.graph.opset_imports[""] == (22 if precision == "bf16" else 18)
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.dtype.name == "FLOAT"
    names = {value.name: tuple(value.shape.numpy()) for value in model.graph.outputs}
    assert names == exported.outputs
    assert types_of(model, "Conv") == {LOW[precision]}
    assert LOW[precision] in types_of(model, "MatMul")
    # what leaves the network in metres
    assert types_of(model, "Exp") == {"FLOAT"}
    assert report.low_nodes > 5 * report.kept_nodes or precision == "bf16"
    assert out.stat().st_size < 0.7 * exported.path.stat().st_size


@pytest.mark.parametrize("precision", LOW)
def test_parity_with_float32(exported, images, run, tmp_path, precision):
    out = tmp_path / "low.onnx"
    cast_precision(exported.path, out, precision, simulate=precision == "bf16")
    feeds = {"images": images}
    found = compare(run(exported.path, feeds), run(out, feeds))
    for name, value in found.items():
        print(f"{precision} {name}: {value}")
        assert 0 < value.max_rel < LIMIT[precision], name


def test_simulation_is_as_far_from_float32_as_the_real_thing(exported, images, run, tmp_path):
    feeds = {"images": images}
    reference = run(exported.path, feeds)
    errors = []
    for simulate in (False, True):
        cast_precision(exported.path, tmp_path / "low.onnx", "fp16", simulate=simulate)
        # not optimised: ONNX Runtime takes pairs of casts out
        got = run(tmp_path / "low.onnx", feeds, optimise=False)
        errors.append(compare(reference, got)["depth"].rel_l2)
    assert 0.3 < errors[0] / errors[1] < 3.0


def test_bfloat16_camera_head_stays_in_float32(exported, tmp_path):
    out = tmp_path / "low.onnx"
    cast_precision(exported.path, out, "bf16")
    for node in load_graph(out).graph:
        if node.op_type == "MatMul" and "camera_head." in node.name:
            assert node.inputs[0].dtype.name == "FLOAT"
        elif node.op_type == "MatMul":
            assert node.inputs[0].dtype.name == "BFLOAT16"


def test_constants_beyond_float16_keep_their_readers_in_float32(
    onnx, make_graph, run, tmp_path, caplog
):
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["a"]),
        make("Add", ["a", "big"], ["b"]),
        make("Sub", ["b", "big"], ["c"]),
        make("MatMul", ["c", "w"], ["y"]),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "big": np.full(4, 1e5, np.float32)}
    path = make_graph(tmp_path / "a.onnx", nodes, {"x": [2, 4]}, {"y": [2, 4]}, weights)
    report = cast_precision(path, tmp_path / "b.onnx", "fp16")
    assert report.overflowing == ("big",)
    assert "beyond float16" in caplog.text
    feeds = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_allclose(run(tmp_path / "b.onnx", feeds)["y"], 1.0, rtol=0.02)
    assert cast_precision(path, tmp_path / "c.onnx", "bf16").overflowing == ()


def test_weights_that_vanish_are_counted(onnx, make_graph, tmp_path):
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.array([[1e-9, 1.0], [0.0, 1e-9]], np.float32)}
    path = make_graph(tmp_path / "a.onnx", [node], {"x": [2, 2]}, {"y": [2, 2]}, weights)
    assert cast_precision(path, tmp_path / "b.onnx", "fp16").vanishing == 2


def test_shared_weights_casts_and_constants(onnx, make_graph, run, tmp_path):
    make = onnx.helper.make_node
    half = onnx.numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        make("Mul", ["x", "v"], ["a"]),  # stays: before the first product
        make("MatMul", ["a", "w"], ["b"]),
        make("Add", ["b", "v"], ["c"]),
        make("Constant", [], ["half"], value=half),
        make("Mul", ["c", "half"], ["d"]),
        make("Shape", ["d"], ["shape"]),
        make("ConstantOfShape", ["shape"], ["zeros"]),
        make("Add", ["d", "zeros"], ["e"]),
        make("MatMul", ["e", "w"], ["f"]),
        make("Exp", ["f"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 4)).astype(np.float32),
        "v": rng.standard_normal(4).astype(np.float32),
    }
    path = make_graph(
        tmp_path / "a.onnx", nodes, {"x": [2, 4]}, {"y": [2, 4], "f": [2, 4]}, weights
    )
    feeds = {"x": rng.standard_normal((2, 4)).astype(np.float32)}
    before = run(path, feeds)
    for simulate in (False, True):
        cast_precision(path, tmp_path / "b.onnx", "fp16", simulate=simulate)
        check_model(tmp_path / "b.onnx")
        after = run(tmp_path / "b.onnx", feeds)
        for name, value in before.items():
            assert after[name].dtype == np.float32
            np.testing.assert_allclose(after[name], value, rtol=0.02, atol=0.01)


def test_other_precisions_are_refused(tmp_path):
    with pytest.raises(EngineError, match="expected fp16 or bf16, got 'fp13'"):
        cast_precision(tmp_path / "a.onnx", tmp_path / "b.onnx", "fp13")


def test_branches_are_refused(onnx, make_graph, tmp_path):
    helper = onnx.helper
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "branch", [],
        [helper.make_tensor_value_info("z", 1, [2])],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=9),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    path = make_graph(tmp_path / "a.onnx", nodes, {"x": [2]}, {"y": [2]})
    with pytest.raises(EngineError, match="loops or branches"):
        cast_precision(path, tmp_path / "b.onnx", "fp16")
