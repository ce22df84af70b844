"""The precision of an ONNX file, read without the onnx package."""

import pytest

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
