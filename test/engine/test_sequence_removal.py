"""Graphs with sequences give the same numbers without them."""

import numpy as np
import pytest

from vggt_ros.engine.check import check_model
from vggt_ros.engine.model_files import load_graph
from vggt_ros.engine.sequence_removal import SEQUENCE_OPS, remove_sequences
from vggt_ros.errors import EngineError

INDEX = {f"i{k}": np.array(k, np.int64) for k in (-1, 0, 1, 2)}


def check_same(onnx, make_graph, run, folder, nodes, shape, outputs, weights=None, count=None):
    path = make_graph(
        folder / "a.onnx", nodes, {"x": shape}, outputs, {**INDEX, **(weights or {})}
    )
    check_model(path)
    out = folder / "b.onnx"
    removed = remove_sequences(path, out)
    assert removed == (count or sum(n.op_type in SEQUENCE_OPS for n in nodes))
    check_model(out)
    assert not {n.op_type for n in load_graph(out).graph} & SEQUENCE_OPS
    feeds = {"x": np.random.default_rng(0).random(shape, np.float32)}
    before, after = run(path, feeds), run(out, feeds)
    assert list(before) == list(after)
    for name, value in before.items():
        assert value.shape == after[name].shape
        np.testing.assert_array_equal(value, after[name])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_split_and_at(onnx, make_graph, run, tmp_path, axis, keepdims):
    make = onnx.helper.make_node
    shape = [3, 4, 5]
    piece = [n for k, n in enumerate(shape) if k != axis % 3] if not keepdims else list(shape)
    if keepdims:
        piece[axis] = 1
    nodes = [
        make("SplitToSequence", ["x"], ["s"], axis=axis, keepdims=keepdims),
        make("SequenceAt", ["s", "i1"], ["a"]),
        make("SequenceAt", ["s", "i-1"], ["b"]),
        make("Relu", ["a"], ["c"]),
    ]
    check_same(onnx, make_graph, run, tmp_path, nodes, shape, {"c": piece, "b": piece})


@pytest.mark.parametrize("split", [np.array(2, np.int64), np.array([1, 4], np.int64)])
def test_split_with_lengths(onnx, make_graph, run, tmp_path, split):
    make = onnx.helper.make_node
    nodes = [
        make("SplitToSequence", ["x", "lengths"], ["s"], axis=1),
        make("SequenceAt", ["s", "i-1"], ["y"]),
    ]
    last = 1 if split.ndim == 0 else 4
    check_same(
        onnx, make_graph, run, tmp_path, nodes, [2, 5], {"y": [2, last]}, {"lengths": split}
    )


@pytest.mark.parametrize("new_axis", [0, 1])
def test_construct_insert_erase_concat(onnx, make_graph, run, tmp_path, new_axis):
    make = onnx.helper.make_node
    nodes = [
        make("Neg", ["x"], ["n"]),
        make("SequenceConstruct", ["x", "n", "x"], ["s"]),
        make("SequenceInsert", ["s", "n", "i0"], ["t"]),
        make("SequenceErase", ["t", "i2"], ["u"]),
        make("Identity", ["u"], ["v"]),
        make("ConcatFromSequence", ["v"], ["y"], axis=1, new_axis=new_axis),
        make("SequenceLength", ["v"], ["length"]),
        make("Cast", ["length"], ["l"], to=1),
    ]
    shape = [2, 3, 3] if new_axis else [2, 9]
    check_same(onnx, make_graph, run, tmp_path, nodes, [2, 3], {"y": shape, "l": []})


def test_empty_sequence_and_piece_that_is_an_output_twice(onnx, make_graph, run, tmp_path):
    make = onnx.helper.make_node
    nodes = [
        make("SequenceEmpty", [], ["e"]),
        make("SequenceInsert", ["e", "x"], ["s"]),
        make("SequenceAt", ["s", "i0"], ["a"]),
        make("SequenceAt", ["s", "i0"], ["b"]),
    ]
    check_same(onnx, make_graph, run, tmp_path, nodes, [4], {"a": [4], "b": [4]})


def test_nothing_to_remove_writes_nothing(onnx, make_graph, tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = make_graph(tmp_path / "a.onnx", [node], {"x": [3]}, {"y": [3]})
    assert remove_sequences(path, tmp_path / "b.onnx") == 0
    assert not (tmp_path / "b.onnx").exists()


def test_unknown_length_is_named(onnx, make_graph, tmp_path):
    make = onnx.helper.make_node
    nodes = [
        make("SplitToSequence", ["x"], ["s"], name="splitter", axis=0),
        make("SequenceAt", ["s", "i0"], ["y"]),
    ]
    path = make_graph(tmp_path / "a.onnx", nodes, {"x": ["n", 3]}, {"y": [1, 3]}, INDEX)
    with pytest.raises(EngineError, match=r"SplitToSequence 'splitter'.*run time"):
        remove_sequences(path, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()
