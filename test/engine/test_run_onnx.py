import numpy as np
import pytest

from vggt_ros.engine import memory, run_onnx
from vggt_ros.engine.run_onnx import OnnxSession, estimate_run_memory
from vggt_ros.errors import EngineError


@pytest.fixture
def graph(onnx, make_graph, tmp_path):
    make = onnx.helper.make_node
    nodes = [
        make("Expand", ["x", "shape"], ["a"]),
        make("Relu", ["a"], ["b"]),
        make("ReduceSum", ["b"], ["y"], keepdims=0),
    ]
    shape = {"shape": np.array([1024, 1024], np.int64)}
    path = make_graph(tmp_path / "a.onnx", nodes, {"x": [1, 1024]}, {"y": []}, shape)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    onnx.save(model, path)
    return path


def test_most_that_is_alive_at_once(graph):
    # a and b, 4 MiB each; y and x are nothing
    expected = run_onnx._ARENA * 2 * 2**22 + 0.3 * 2**30
    assert estimate_run_memory(graph) == pytest.approx(expected, rel=0.01)


def test_refused_before_it_runs(graph, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1e8)
    with pytest.raises(EngineError, match=r"run of a\.onnx: needs about 0\.3 GiB"):
        OnnxSession(graph)


def test_refused_graphs_are_one_line(onnx, make_graph, tmp_path):
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    path = make_graph(tmp_path / "b.onnx", [node], {"x": [2]}, {"y": [2]})
    with pytest.raises(EngineError, match="ONNX Runtime refuses the graph") as error:
        OnnxSession(path)
    assert "\n" not in str(error.value)
