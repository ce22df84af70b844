import logging

import numpy as np
import pytest

from vggt_ros.engine import simplify as module
from vggt_ros.engine.check import check_model
from vggt_ros.engine.model_files import load_graph
from vggt_ros.engine.simplify import simplify


@pytest.fixture
def graph(onnx, make_graph, tmp_path):
    make = onnx.helper.make_node
    nodes = [
        make("Identity", ["x"], ["a"]),
        make("Transpose", ["a"], ["b"], perm=[1, 0]),
        make("Transpose", ["b"], ["c"], perm=[1, 0]),
        make("Relu", ["c"], ["y"]),
    ]
    return make_graph(tmp_path / "a.onnx", nodes, {"x": [2, 3]}, {"y": [2, 3]})


def test_simpler_and_the_same(graph, run, tmp_path):
    pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    out = tmp_path / "b.onnx"
    assert simplify(graph, out) == "onnxslim"
    check_model(out)
    assert len(load_graph(out).graph) < len(load_graph(graph).graph)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)}
    np.testing.assert_array_equal(run(graph, feeds)["y"], run(out, feeds)["y"])


@pytest.mark.parametrize("how", [{"enabled": False}, {"force": False}])
def test_switched_off(graph, tmp_path, how):
    assert simplify(graph, tmp_path / "b.onnx", **how) == ""
    assert not (tmp_path / "b.onnx").exists()


def test_gated_by_size_unless_forced(graph, tmp_path, monkeypatch, caplog):
    pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    monkeypatch.setattr(module, "LIMIT_BYTES", 10)
    with caplog.at_level(logging.INFO):
        assert simplify(graph, tmp_path / "b.onnx") == ""
    assert "FORCE_SIMPLIFY" in caplog.text
    assert simplify(graph, tmp_path / "b.onnx", force=True) == "onnxslim"
    monkeypatch.setattr(module, "available_memory", lambda: 100)
    assert simplify(graph, tmp_path / "c.onnx", force=True) == ""
    assert "needs about" in caplog.text


def test_failure_is_a_warning_and_writes_nothing(graph, tmp_path, monkeypatch, caplog):
    pytest.importorskip("onnxslim", reason="onnxslim is not installed")

    def fail(tool, path):
        raise ValueError("cannot fuse\nsecond line")

    monkeypatch.setattr(module, "_run", fail)
    before = sorted(tmp_path.iterdir())
    assert simplify(graph, tmp_path / "b.onnx") == ""
    assert "failed (cannot fuse)" in caplog.text
    assert sorted(tmp_path.iterdir()) == before


def test_a_larger_result_is_dropped(graph, tmp_path, monkeypatch, onnx, caplog):
    pytest.importorskip("onnxslim", reason="onnxslim is not installed")

    def grow(tool, path):
        model = onnx.load(path)
        model.doc_string = "x" * 10000
        return model

    monkeypatch.setattr(module, "_run", grow)
    assert simplify(graph, tmp_path / "b.onnx") == ""
    assert "it grew" in caplog.text
    assert not (tmp_path / "b.onnx").exists()


def test_without_a_tool(graph, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert simplify(graph, tmp_path / "b.onnx") == ""
    assert "neither onnxslim nor onnxsim" in caplog.text
