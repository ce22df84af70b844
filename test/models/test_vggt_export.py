"""Both ONNX exporters follow the network, and what they write takes any number of views."""

import copy

import numpy as np
import pytest

from vggt_ros.models.vggt_config import VggtConfig

CONFIG = VggtConfig.tiny()
HEIGHT, WIDTH = 42, 70
TOLERANCE = 1e-5


def export_dynamo(torch, network, example, path):
    torch.onnx.export(
        network,
        (example,),
        path,
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=list(CONFIG.output_names),
        dynamic_shapes=({1: torch.export.Dim("S", min=1, max=16)},),
    )


def export_legacy(torch, network, example, path):
    torch.onnx.export(
        network,
        (example,),
        path,
        dynamo=False,
        opset_version=18,
        input_names=["images"],
        output_names=list(CONFIG.output_names),
        dynamic_axes={name: {1: "S"} for name in ("images", *CONFIG.output_names)},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exporter", [export_dynamo, export_legacy], ids=["dynamo", "legacy"])
def test_exported_network_takes_any_number_of_views(torch, randomise, tmp_path, exporter):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if exporter is export_dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from vggt_ros.models.vggt import Vggt

    network = randomise(Vggt(CONFIG)).requires_grad_(False)
    baked = copy.deepcopy(network)
    baked.bake(HEIGHT, WIDTH)
    path = str(tmp_path / "tiny.onnx")
    exporter(torch, baked, torch.rand(1, 2, 3, HEIGHT, WIDTH), path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for views in (1, 2, 3, 8):
        x = torch.rand(1, views, 3, HEIGHT, WIDTH)
        found = session.run(None, {"images": x.numpy()})
        for (name, expected), value in zip(network.predict(x).items(), found, strict=True):
            assert value.shape == tuple(expected.shape), name
            error = np.abs(value - expected.numpy()).max() / expected.abs().max()
            assert error < TOLERANCE, (name, views)
