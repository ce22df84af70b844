"""The precision of an ONNX file, read without the onnx package."""

import numpy as np
import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import BackendOptions, open_backend
from vggt_ros.inference.onnx_file import read_numbers


def make(path, types_, operators=()):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper = onnx.helper
    weights = [
        helper.make_tensor(f"w{k}", kind, [count], bytes(size * count), raw=True)
        for k, (kind, size, count) in enumerate(types_)
    ]
    nodes = [helper.make_node(kind, ["x"], [f"y{k}"]) for k, kind in enumerate(operators)]
    graph = helper.make_graph(nodes, "g", [], [], weights)
    onnx.save(helper.make_model(graph), str(path))
    return path


@pytest.mark.parametrize(
    ("types_", "operators", "expected"),
    [
        ([], (), "fp32"),
        ([(1, 4, 10)], (), "fp32"),
        ([(1, 4, 10), (10, 2, 100), (7, 8, 500)], (), "fp16"),
        ([(16, 2, 100)], (), "bf16"),
        ([(1, 4, 10), (3, 1, 100)], ("QuantizeLinear", "DequantizeLinear"), "int8"),
        ([(1, 4, 10), (17, 1, 100)], ("QuantizeLinear",), "fp8"),
        # quantised weights alone: they are stored in 8 bits and computed with in 32
        ([(1, 4, 10), (3, 1, 100)], ("DequantizeLinear",), "fp32"),
    ],
)
def test_precision(tmp_path, types_, operators, expected):
    path = make(tmp_path / "m.onnx", types_, operators)
    assert read_numbers(path).precision == expected


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_quantised_files_say_so(name, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip(name, reason=f"{name} is not installed")
    from onnx import TensorProto, helper, numpy_helper, save

    def constant(name, values):
        return numpy_helper.from_array(np.asarray(values), name)

    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["depth"]),
    ]
    weights = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["N", 8])],
        [
            constant("s", np.float32(0.1)),
            constant("z", np.int8(0)),
            constant("w", weights),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "int8.onnx"
    save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    opened = open_backend(path, name, BackendOptions(device="cpu"))
    assert opened.precision == "int8"
    x = np.full((2, 8), 0.5, np.float32)
    expected = x @ (weights * np.float32(0.1))
    assert np.allclose(opened.run({"images": x})["depth"], expected, atol=1e-3)
    with pytest.raises(EngineError, match="the file computes in int8, asked was fp32"):
        open_backend(path, name, BackendOptions("cpu", "fp32"))
