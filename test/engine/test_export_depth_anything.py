import sys
import types

import numpy as np
import pytest

from vggt_ros.engine.export_depth_anything import DepthAnythingExport, export_depth_anything
from vggt_ros.engine.model_files import facts_of
from vggt_ros.errors import EngineError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def stand_in(torch, monkeypatch):
    """A network of the same signature in place of the real one."""

    class StandIn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, images):
            return (self.conv(images).squeeze(1).relu(),)

    module = types.ModuleType("vggt_ros.models.depth_anything")
    network = StandIn()
    module.load_depth_anything = lambda path: network
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return network


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_batch_is_fixed_or_free(stand_in, torch, run, folder, tmp_path, batch):
    report = export_depth_anything(folder, tmp_path, DepthAnythingExport(batch, 28, 42))
    name = "B" if batch is None else batch
    assert report.path.name == f"depth_anything-{name}x3x28x42.onnx"
    assert report.inputs == {"images": (-1 if batch is None else batch, 3, 28, 42)}
    assert report.outputs == {"depth": (-1 if batch is None else batch, 28, 42)}
    for count in (1, 3) if batch is None else (batch,):
        images = np.random.default_rng(0).standard_normal((count, 3, 28, 42)).astype(np.float32)
        expected = stand_in(torch.from_numpy(images))[0].detach().numpy()
        found = run(report.path, {"images": images})["depth"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [2, None])
def test_random_configuration_of_transformers(torch, run, tmp_path, batch):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("vggt_ros.models.depth_anything", reason="no loader of Depth Anything")
    backbone = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=70, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=8, head_hidden_size=8, patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    model.save_pretrained(tmp_path / "model")
    report = export_depth_anything(
        tmp_path / "model", tmp_path, DepthAnythingExport(batch, height=42, width=56)
    )
    assert facts_of(report.path)["depth_kind"] == "disparity"
    shape = (batch or 3, 3, 42, 56)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).predicted_depth.numpy()
    found = run(report.path, {"images": images})["depth"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_wrong_options_and_folders(stand_in, folder, tmp_path):
    with pytest.raises(EngineError, match="Depth Anything: expected height and width to be mult"):
        export_depth_anything(folder, tmp_path, DepthAnythingExport(height=250))
    with pytest.raises(EngineError, match="batch: expected at least 1"):
        export_depth_anything(folder, tmp_path, DepthAnythingExport(batch=0))
    with pytest.raises(EngineError, match="no such file or folder"):
        export_depth_anything(tmp_path / "missing", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EngineError, match=r"expected model\.safetensors or"):
        export_depth_anything(folder, tmp_path)
