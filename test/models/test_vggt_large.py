"""VGGT-1B at full size against an independent implementation: 5 GB of memory, minutes."""

from pathlib import Path

import pytest

from vggt_ros.models.vggt_config import VggtConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIG = VggtConfig.vggt_1b().only("camera", "depth")
PARITY = 1e-4


def random_weights(torch, shapes):
    """Weights of a size at which 72 blocks neither die out nor overflow."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")):
            values = 0.5 + 0.1 * values
        elif len(shape) > 1 and not name.endswith(("token", "tokens", "embed")):
            values *= values[0].numel() ** -0.5
        else:
            values *= 0.1
        weights[name] = values
    return weights


def available_memory():
    """Bytes; infinite where it is not told."""
    try:
        words = Path("/proc/meminfo").read_text().split()
    except OSError:
        return float("inf")
    return int(words[words.index("MemAvailable:") + 1]) * 1024


@pytest.mark.parametrize(("views", "height", "width"), [(2, 140, 252)])
def test_same_outputs_at_full_size(torch, independent_vggt, real_images, views, height, width):
    from vggt_ros.models.vggt import Vggt

    if available_memory() < 7e9:
        pytest.skip("less than 7 GB of memory available")
    with torch.device("meta"):
        ours = Vggt(CONFIG).eval().requires_grad_(False)
        other = independent_vggt(CONFIG)
    weights = random_weights(torch, {k: v.shape for k, v in ours.state_dict().items()})
    ours.load_state_dict(weights, strict=True, assign=True)
    # what is not in a checkpoint was left on `meta`
    aggregator = other.aggregator
    aggregator._resnet_mean, aggregator._resnet_std = ours.aggregator.mean, ours.aggregator.std
    other.point_head = None
    other.load_state_dict(weights, strict=True, assign=True)
    x = real_images(views, height, width)
    found = ours.predict(x)
    with torch.inference_mode():
        expected = other(x)
    for name, value in found.items():
        error = float((value - expected[name]).abs().max() / expected[name].abs().max())
        print(f"{name}: relative error {error:.2g}")
        assert error < PARITY, name
        assert value.std() > 0, name
