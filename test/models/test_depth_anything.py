"""Depth Anything through transformers: strict loading, and the same numbers as without us."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vggt_ros.errors import EngineError
from vggt_ros.types import DepthKind

pytest.importorskip("torch", reason="torch is not installed (pip install .[torch])")
pytest.importorskip(
    "transformers", reason="transformers is not installed (pip install .[depth-anything])"
)

from vggt_ros.models.depth_anything import LICENCES, depth_kind, load_depth_anything
from vggt_ros.models.depth_anything import load_with_report as load
from vggt_ros.synthetic.network_fixtures import LICENCE, write_tiny_depth_anything


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_tiny_depth_anything(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(made, tmp_path):
    """A copy that a test may spoil."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def images(torch):
    return torch.from_numpy(
        np.random.default_rng(0).normal(size=(2, 3, 56, 84)).astype(np.float32)
    )


@pytest.mark.slow
def test_torchvision_is_not_needed(made):
    """PyPI's does not match the CPU builds of torch, and breaks transformers where it is there."""
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from vggt_ros.models.depth_anything import load_depth_anything\n"
        f"load_depth_anything({str(made)!r})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_the_answer_is_that_of_transformers(torch, made, images):
    from transformers import AutoModelForDepthEstimation

    theirs = AutoModelForDepthEstimation.from_pretrained(made, local_files_only=True).eval()
    ours, report = load(made)
    with torch.inference_mode():
        expected = theirs(pixel_values=images).predicted_depth
        (found,) = ours(images)
    assert expected.std() > 0.01
    assert torch.equal(found, expected)
    assert found.shape == (2, 56, 84)
    assert report.fits
    assert not report.unexpected
    assert report.parameters == sum(p.numel() for p in theirs.parameters())
    assert ours.output_names == ("depth",)


def test_baked_for_a_size_nothing_changes_and_others_are_refused(torch, made, images):
    free, baked = load_depth_anything(made), load_depth_anything(made)
    baked.bake(56, 84)
    with torch.inference_mode():
        assert torch.equal(baked(images)[0], free(images)[0])
        with pytest.raises(
            ValueError, match=r"\(56, 84\), for which it was baked, got \(56, 56\)"
        ):
            baked(images[..., :56])
    with pytest.raises(ValueError, match="multiples of 14, got height 50"):
        free.bake(50, 84)
    with pytest.raises(ValueError, match="multiples of 14"):
        free(images[..., :50])
    with pytest.raises(ValueError, match="expected images"):
        free(images[0])


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_graph_gives_the_same(torch, made, images, tmp_path, dynamic):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    network = load_depth_anything(made)
    network.bake(56, 84)
    path = tmp_path / "graph.onnx"
    shapes = ({0: torch.export.Dim("batch", min=1, max=16)},) if dynamic else None
    torch.onnx.export(
        network,
        (images,),
        path,
        dynamo=True,
        verbose=False,
        opset_version=18,
        input_names=["images"],
        output_names=["depth"],
        dynamic_shapes=shapes,
    )
    session = runtime.InferenceSession(str(path))
    for count in (1, 2, 3) if dynamic else (2,):
        several = torch.cat([images, images])[:count]
        (found,) = session.run(None, {"images": several.numpy()})
        (expected,) = network(several)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_kind_and_licence_are_those_of_the_configuration(made, tmp_path):
    network = load_depth_anything(made)
    assert network.kind is DepthKind.DISPARITY
    assert network.licence == LICENCE
    metric = write_tiny_depth_anything(tmp_path / "metric", kind=DepthKind.METRIC_DEPTH)
    assert load_depth_anything(metric).kind is DepthKind.METRIC_DEPTH
    assert depth_kind({}) is DepthKind.DISPARITY  # Depth Anything V1
    with pytest.raises(EngineError, match="expected one of relative, metric, got 'inverse'"):
        depth_kind({"depth_estimation_type": "inverse"})
    assert LICENCES == {384: "Apache-2.0", 768: "CC-BY-NC-4.0", 1024: "CC-BY-NC-4.0"}


def spoil(folder, change):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


KEY = "head.conv2.weight"


def test_missing_tensors_are_named(folder):
    spoil(folder, lambda w: w.pop(KEY))
    with pytest.raises(EngineError, match=rf"1 tensors missing \({KEY}\)"):
        load(folder)


def test_wrong_shapes_are_named(torch, folder):
    spoil(folder, lambda w: w.update({KEY: torch.zeros(7)}))
    with pytest.raises(EngineError, match=rf"{KEY}: expected \[8, 8, 3, 3\], got \[7\]"):
        load(folder)


def test_numbers_that_are_not_finite_are_named(folder):
    spoil(folder, lambda w: w[KEY].view(-1)[3:4].fill_(float("nan")))
    with pytest.raises(EngineError, match=rf"1 with NaN or infinity \({KEY}\)"):
        load(folder)


def test_unknown_tensors_are_told(torch, folder, caplog):
    spoil(folder, lambda w: w.update({"other.weight": torch.zeros(2)}))
    assert load(folder)[1].unexpected == ("other.weight",)
    assert "unknown and unused: other.weight" in caplog.text


def test_truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EngineError, match="truncated"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "found no config.json"),
        ("config.json", "{", "not readable as JSON"),
        ("config.json", '{"model_type": "dpt"}', "expected model_type depth_anything, got dpt"),
        ("model.safetensors", None, "expected one of model.safetensors, pytorch_model.bin"),
    ],
)
def test_wrong_folders(folder, name, content, said):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(EngineError, match=said):
        load(folder)


def test_a_configuration_of_another_size(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["fusion_hidden_size"] = 24
    path.write_text(json.dumps(content))
    with pytest.raises(EngineError, match=r"does not fit its config\.json: .* of another shape"):
        load(folder)


@pytest.mark.slow
def test_without_transformers_it_says_what_to_install(made):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from vggt_ros.errors import EngineError\n"
        "from vggt_ros.models.depth_anything import load_depth_anything\n"
        f"try: load_depth_anything({str(made)!r})\n"
        "except EngineError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install 'vggt_ros[depth-anything]'" in result.stdout
