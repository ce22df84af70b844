import logging

import numpy as np
import pytest

from vggt_ros.engine.check import check_model
from vggt_ros.engine.model_files import load_graph, save_graph
from vggt_ros.engine.opset import effective_opset, raise_opset, repair_opset
from vggt_ros.errors import EngineError


@pytest.mark.parametrize(
    ("requested", "precisions", "expected"),
    [
        (18, ["fp32"], 18),
        (18, ["fp16"], 18),
        (18, ["int8"], 19),
        (18, ["fp8"], 19),
        (18, ["fp16", "bf16", "fp8", "int8"], 22),
        (18, ["fp4"], 23),
        (23, ["bf16"], 23),
    ],
)
def test_raised_with_a_log_line_where_needed(requested, precisions, expected, caplog):
    with caplog.at_level(logging.INFO):
        assert effective_opset(requested, precisions) == expected
    assert (f"raised to {expected}" in caplog.text) == (expected != requested)


@pytest.mark.parametrize("requested", [0, 16, 99])
def test_impossible_versions(requested):
    with pytest.raises(EngineError, match=f"expected 17 to 23, got {requested}"):
        effective_opset(requested)


def test_graph_is_converted(onnx, make_graph, run, tmp_path):
    node = onnx.helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear",
        coordinate_transformation_mode="align_corners",
    )  # fmt: skip
    sizes = {"s": np.array([1, 1, 7, 9], np.int64)}
    path = make_graph(tmp_path / "a.onnx", [node], {"x": [1, 1, 3, 4]}, {"y": [1, 1, 7, 9]}, sizes)
    model = load_graph(path)
    assert raise_opset(model, "int8") == 19
    assert raise_opset(model, "int8") == 19
    assert raise_opset(model, "bf16") == 22
    save_graph(model, tmp_path / "b.onnx")
    check_model(tmp_path / "b.onnx")
    feeds = {"x": np.random.default_rng(0).random((1, 1, 3, 4), np.float32)}
    before, after = run(path, feeds)["y"], run(tmp_path / "b.onnx", feeds)["y"]
    np.testing.assert_allclose(before, after, rtol=1e-6)


def test_missing_opset_import_is_repaired(onnx, make_graph, run, tmp_path, caplog):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = make_graph(tmp_path / "a.onnx", [node], {"x": [3]}, {"y": [3]})
    assert not repair_opset(path, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()
    model = onnx.load(path)
    del model.opset_import[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="must specify opset_import"):
        check_model(path)
    assert repair_opset(path, tmp_path / "b.onnx")
    assert "no opset_import" in caplog.text
    check_model(tmp_path / "b.onnx")
    feeds = {"x": np.array([-1, 0, 2], np.float32)}
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", feeds)["y"], [0, 0, 2])
