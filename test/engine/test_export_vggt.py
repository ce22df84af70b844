import dataclasses

import numpy as np
import pytest

from vggt_ros.engine.export_vggt import VggtExport, estimate_memory, export_vggt
from vggt_ros.engine.model_files import facts_of, load_graph
from vggt_ros.errors import EngineError

PARITY = 1e-5
NAMES = ["pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"]


def test_inputs_and_outputs_are_the_documented_ones(exported):
    assert exported.path.name == "vggt-2x3x42x70.onnx"
    assert exported.inputs == {"images": (2, 3, 42, 70)}
    assert exported.outputs == {
        "pose_enc": (1, 2, 9),
        "depth": (1, 2, 42, 70, 1),
        "depth_conf": (1, 2, 42, 70),
        "world_points": (1, 2, 42, 70, 3),
        "world_points_conf": (1, 2, 42, 70),
    }
    assert exported.opset == 18
    graph = load_graph(exported.path).graph
    assert {v.dtype.name for v in (*graph.inputs, *graph.outputs)} == {"FLOAT"}


def test_same_numbers_as_torch(exported, checkpoint, images, torch, run):
    from vggt_ros.models.checkpoint import load_vggt

    network, _ = load_vggt(checkpoint)
    expected = network.predict(torch.from_numpy(images)[None])
    got = run(exported.path, {"images": images})
    assert list(got) == NAMES
    for name, value in expected.items():
        error = np.abs(got[name] - value.numpy()).max() / np.abs(value.numpy()).max()
        assert error < PARITY, name


def test_the_graph_says_where_it_is_from_and_nothing_of_this_machine(exported, checkpoint):
    from vggt_ros.engine.model_files import sha256_of_file, sha256_of_model

    facts = facts_of(exported.path)
    assert facts["checkpoint_sha256"] == sha256_of_file(checkpoint) == exported.checkpoint_sha256
    assert facts["quant_mode_effective"] == "none"
    assert sha256_of_model(exported.path) == exported.sha256
    content = exported.path.read_bytes()
    assert b"stack_trace" not in content
    assert b"site-packages" not in content
    assert str(checkpoint.parent).encode() not in content


def test_nodes_are_named_after_modules_and_weights_stored_as_read(exported):
    graph = load_graph(exported.path).graph
    products = [n for n in graph if n.op_type == "MatMul"]
    assert any(n.name.startswith("vggt.camera_head.trunk.0.attn.qkv/") for n in products)
    for node in graph:
        if node.op_type == "Transpose":
            assert not node.inputs[0].is_initializer()
    # the camera head runs twice on one set of weights
    assert sum(v.const_value.size for v in graph.initializers.values()) < 1.1 * exported.parameters


@pytest.mark.slow
@pytest.mark.parametrize(("views", "height", "width"), [(1, 28, 56), (3, 56, 28), (8, 42, 42)])
def test_other_sizes_and_only_what_depth_and_cameras_need(
    checkpoint, torch, run, tmp_path, views, height, width
):
    from vggt_ros.engine.calibration import synthetic_images
    from vggt_ros.models.checkpoint import load_vggt

    options = VggtExport(views, height, width, pcd_only=True)
    report = export_vggt(checkpoint, tmp_path, options)
    assert report.path.name == f"vggt-{views}x3x{height}x{width}-pcd.onnx"
    assert list(report.outputs) == NAMES[:3]
    assert not [k for k in load_graph(report.path).graph.initializers if "point_head" in k]
    images = synthetic_images((views, 3, height, width))
    expected = load_vggt(checkpoint)[0].predict(torch.from_numpy(images)[None])
    for name, value in run(report.path, {"images": images}).items():
        error = np.abs(value - expected[name].numpy()).max() / expected[name].abs().max()
        assert error < PARITY, name


@pytest.mark.slow
def test_quantised_weights_are_exported_and_told(checkpoint, torch, images, run, tmp_path):
    from vggt_ros.engine.quantise_weights import quantise_weights
    from vggt_ros.models.checkpoint import load_vggt

    options = VggtExport(2, 42, 70, quant_mode="bitsandbytes-nf4", pcd_only=True)
    report = export_vggt(checkpoint, tmp_path, options)
    assert report.quant_mode_effective == "bitsandbytes-nf4"
    assert "dequantised" in facts_of(report.path)["quantisation"]
    network, _ = load_vggt(checkpoint)
    quantise_weights(network, "bitsandbytes-nf4")
    expected = network.predict(torch.from_numpy(images)[None])
    for name, value in run(report.path, {"images": images}).items():
        error = np.abs(value - expected[name].numpy()).max() / expected[name].abs().max()
        assert error < PARITY, name


@pytest.mark.slow
def test_random_weights_are_asked_for_and_said(torch, tmp_path, caplog):
    options = VggtExport(1, 28, 28, random_weights=True, tiny=True, pcd_only=True, seed=3)
    report = export_vggt(None, tmp_path / "fixture.onnx", options)
    assert report.checkpoint == "random, seed 3"
    assert report.parameters == pytest.approx(1.23e6, rel=0.01)
    assert "depth and poses mean nothing" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 500}, "multiples of 14, got height 500"),
        ({"width": 519}, "multiples of 14, got height 42 and width 519"),
        ({"num_cams": 0}, "num_cams: expected 1 to 64, got 0"),
        ({"opset": 11}, "opset: expected 17 to 23, got 11"),
        ({"quant_mode": "int3"}, "quant mode: expected one of"),
        ({"random_weights": True}, "expected no checkpoint beside them"),
        ({"tiny": True}, "expected random weights with it"),
    ],
)
def test_wrong_options(change, message, tmp_path):
    options = dataclasses.replace(VggtExport(2, 42, 70), **change)
    with pytest.raises(EngineError, match=message):
        export_vggt(tmp_path / "model.safetensors", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_wrong_checkpoints(torch, checkpoint, tmp_path):
    options, out = VggtExport(2, 42, 70), tmp_path / "out"
    with pytest.raises(EngineError, match="no such checkpoint"):
        export_vggt(tmp_path / "missing.safetensors", out, options)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(EngineError, match="truncated"):
        export_vggt(cut, out, options)
    with pytest.raises(EngineError, match="no CUDA device"):
        export_vggt(checkpoint, out, dataclasses.replace(options, quant_mode="modelopt-fp8"))
    assert not out.exists()


def test_too_little_memory_is_refused_before_anything_is_loaded(
    torch, checkpoint, tmp_path, monkeypatch
):
    from vggt_ros.engine import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 1e8)
    with pytest.raises(EngineError, match=r"needs about 1\.\d GiB of memory, 0\.1 GiB"):
        export_vggt(checkpoint, tmp_path / "out", VggtExport(2, 42, 70))
    assert not (tmp_path / "out").exists()


def test_vggt_1b_is_estimated_within_the_limit():
    # measured: 5.0 GiB at 8 x 518 x 518 with all heads (bench/export.py)
    assert 5.0 < estimate_memory(1_190_600_000) / 2**30 < 7.0
