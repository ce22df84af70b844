import numpy as np
import pytest

from vggt_ros.engine import model_files
from vggt_ros.engine.check import check_model
from vggt_ros.engine.model_files import (
    atomic_model,
    describe,
    facts_of,
    load_graph,
    save_graph,
    sha256_of_model,
    size_of_model,
)
from vggt_ros.errors import EngineError, ExportError


@pytest.fixture
def graph(onnx, make_graph, tmp_path):
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.arange(4096, dtype=np.float32).reshape(64, 64)}
    return make_graph(tmp_path / "g.onnx", [node], {"x": [2, 64]}, {"y": [2, 64]}, weights)


@pytest.fixture
def external(graph, tmp_path, monkeypatch):
    """The same with its weights in a file beside it."""
    monkeypatch.setattr(model_files, "_ONE_FILE_BYTES", 1000)
    path = tmp_path / "external.onnx"
    save_graph(load_graph(graph), path)
    return path


def test_weights_go_beside_the_graph(graph, external, run):
    assert sorted(f.name for f in external.parent.iterdir()) == [
        "external.onnx",
        "external.onnx.data",
        "g.onnx",
    ]
    check_model(external)
    assert size_of_model(external) > 4 * 4096
    feeds = {"x": np.random.default_rng(0).random((2, 64), np.float32)}
    np.testing.assert_array_equal(run(graph, feeds)["y"], run(external, feeds)["y"])


def test_saving_over_the_file_that_is_read_keeps_the_weights(external, run):
    feeds = {"x": np.ones((2, 64), np.float32)}
    before = run(external, feeds)["y"]
    save_graph(load_graph(external), external)
    np.testing.assert_array_equal(run(external, feeds)["y"], before)


def test_hash_covers_the_weights(external):
    before = sha256_of_model(external)
    data = external.with_name("external.onnx.data")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(bytes(content))
    assert sha256_of_model(external) != before


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_weights_are_named(external, damage):
    data = external.with_name("external.onnx.data")
    if damage == "missing":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:-10])
    for read in (check_model, load_graph, sha256_of_model):
        with pytest.raises(EngineError, match=r"external\.onnx\.data: the file (is missing|has)"):
            read(external)


def test_a_failed_write_leaves_what_was_there(external):
    before = {f.name: f.read_bytes() for f in external.parent.iterdir()}

    def write():
        with atomic_model(external) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write()
    assert {f.name: f.read_bytes() for f in external.parent.iterdir()} == before


def test_old_data_go_with_their_graph(graph, external):
    model_files._ONE_FILE_BYTES = 10**6
    save_graph(load_graph(graph), external)
    assert not external.with_name("external.onnx.data").exists()
    check_model(external)


def test_places_that_cannot_be_written(graph, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        save_graph(load_graph(graph), tmp_path / "file" / "g.onnx")
    with pytest.raises(ExportError, match="it is a folder"):
        save_graph(load_graph(graph), tmp_path)


def test_facts_travel_with_the_graph(graph, tmp_path):
    model = load_graph(graph)
    describe(model, {"quant_mode_effective": "none", "calibration_samples": 3})
    save_graph(model, tmp_path / "told.onnx")
    assert facts_of(tmp_path / "told.onnx") == {
        "quant_mode_effective": "none",
        "calibration_samples": "3",
    }
    assert facts_of(graph) == {}


def test_other_files_are_no_graphs(tmp_path, onnx):
    with pytest.raises(EngineError, match="no such ONNX file"):
        load_graph(tmp_path / "missing.onnx")
    for content in (b"", b"not an ONNX file at all", bytes(100)):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(EngineError, match=r"bad\.onnx"):
            load_graph(tmp_path / "bad.onnx")


def test_checker_errors_are_one_line(onnx, make_graph, tmp_path):
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    path = make_graph(tmp_path / "g.onnx", [node], {"x": [2]}, {"y": [2]})
    with pytest.raises(EngineError, match="not a valid ONNX graph") as error:
        check_model(path)
    assert "\n" not in str(error.value)
