import numpy as np
import pytest

from vggt_ros.errors import EngineError

NATIVE = {
    # mode, and the error of normally distributed weights: 16 levels or 255
    "torch-int8-dynamic": (0.003, 0.012),
    "bitsandbytes-8bit": (0.003, 0.012),
    "bitsandbytes-nf4": (0.06, 0.12),
    "bitsandbytes-fp4": (0.06, 0.2),
}


@pytest.fixture
def network(torch, small_config):
    from vggt_ros.engine.random_weights import random_vggt

    return random_vggt(small_config)


@pytest.mark.parametrize("mode", NATIVE)
def test_weights_of_blocks_change_by_the_steps_and_no_others(network, torch, mode):
    from vggt_ros.engine.quantise_weights import quantise_weights, quantised_layers

    before = {k: v.clone() for k, v in network.state_dict().items()}
    report = quantise_weights(network, mode)
    assert (report.requested, report.effective) == (mode, mode)
    assert "dequantised" in report.description
    low, high = NATIVE[mode]
    assert low < report.rel_l2 < high
    touched = {f"{name}.weight" for name, _ in quantised_layers(network)}
    assert len(touched) == report.layers
    assert any("camera_head.trunk" in name for name in touched)
    for name, after in network.state_dict().items():
        assert torch.equal(after, before[name]) == (name not in touched), name
    weight = dict(quantised_layers(network))["aggregator.frame_blocks.0.mlp.fc1"].weight
    if "4" in mode:
        first = weight.detach().numpy().ravel()[:64]
        assert len(np.unique(first)) <= 16
    else:
        assert max(len(np.unique(row)) for row in weight.detach().numpy()) <= 255


def test_none_changes_nothing(network, torch):
    from vggt_ros.engine.quantise_weights import quantise_weights

    before = {k: v.clone() for k, v in network.state_dict().items()}
    report = quantise_weights(network, "none")
    assert report.effective == "none"
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("mode", ["modelopt-fp8", "modelopt-nvfp4"])
def test_modelopt_needs_modelopt_and_a_gpu(network, torch, mode, caplog):
    from vggt_ros.engine.quantise_weights import quantise_weights

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match=r"no CUDA device.*--allow-fallback"):
        quantise_weights(network, mode)
    report = quantise_weights(network, mode, allow_fallback=True)
    assert (report.requested, report.effective) == (mode, "none")
    assert "--allow-fallback" in caplog.text


def test_modelopt_rounds_to_its_eight_bits(torch):
    """Its fp8 also runs on a CPU, its nvfp4 does not."""
    pytest.importorskip("modelopt.torch.quantization", reason="nvidia-modelopt is not installed")
    import ml_dtypes

    from vggt_ros.engine.quantise_weights import _modelopt

    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    found = _modelopt("modelopt-fp8", "cpu")(weight)
    scale = np.abs(weight).max() / 448
    expected = (weight / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_unknown_mode(network):
    from vggt_ros.engine.quantise_weights import quantise_weights

    with pytest.raises(EngineError, match="got 'int4'"):
        quantise_weights(network, "int4")
