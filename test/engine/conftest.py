"""Graphs that the tests of the build-time passes share."""

import numpy as np
import pytest

VIEWS, HEIGHT, WIDTH = 2, 42, 70


@pytest.fixture(scope="session")
def torch():
    module = pytest.importorskip("torch", reason="torch is not installed (pip install .[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install .[export])")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def onnx():
    module = pytest.importorskip("onnx", reason="onnx is not installed (pip install .[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install .[export])")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return module


@pytest.fixture(scope="session")
def small_config():
    """Every part of VGGT, each as few times as possible: its export takes seconds."""
    from vggt_ros.models.vggt_config import VggtConfig

    return VggtConfig(
        dim=32,
        heads=2,
        backbone_depth=1,
        backbone_grid=5,
        pairs=4,
        taps=(0, 1, 2, 3),
        camera_depth=1,
        camera_iterations=2,
        dpt_features=16,
        dpt_channels=(8, 16, 16, 16),
    )


@pytest.fixture(scope="session")
def checkpoint(torch, small_config, tmp_path_factory):
    from vggt_ros.engine.random_weights import random_vggt
    from vggt_ros.models.checkpoint import save_vggt

    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_vggt(random_vggt(small_config), path)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory):
    """Report of an export with all heads."""
    from vggt_ros.engine.export_vggt import VggtExport, export_vggt

    folder = tmp_path_factory.mktemp("exported")
    return export_vggt(checkpoint, folder, VggtExport(VIEWS, HEIGHT, WIDTH))


@pytest.fixture(scope="session")
def images():
    """One input of the exported graph."""
    from vggt_ros.engine.calibration import synthetic_images

    return synthetic_images((VIEWS, 3, HEIGHT, WIDTH), seed=7)


@pytest.fixture(scope="session")
def make_graph(onnx):
    """Write a graph from nodes; inputs and outputs as {name: shape}, weights as arrays."""

    def make(path, nodes, inputs, outputs, weights=None, opset=18, free_outputs=False):
        helper, floats = onnx.helper, onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(n, floats, s) for n, s in inputs.items()],
            [
                helper.make_tensor_value_info(n, floats, None if free_outputs else s)
                for n, s in outputs.items()
            ],
            [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 10
        onnx.save(model, path)
        return path

    return make


@pytest.fixture(scope="session")
def run():
    """Run a graph on inputs by name."""

    def run_once(path, feeds, optimise=True):
        from vggt_ros.engine.run_onnx import OnnxSession

        return OnnxSession(path, threads=1, optimise=optimise).run(feeds)

    return run_once
