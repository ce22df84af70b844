"""VGGT against an independent implementation, and what must hold of any."""

import dataclasses

import pytest

from vggt_ros.models.vggt_config import VggtConfig, flops

TINY = VggtConfig.tiny()
PARITY = 1e-4
"""Allowed difference over the largest value of an output."""


@pytest.fixture(scope="module")
def network(torch, randomise):
    from vggt_ros.models.vggt import Vggt

    return randomise(Vggt(TINY))


def images(torch, views, height, width, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch * views, 3, 4, 4, generator=generator)
    fine = torch.rand(batch * views, 3, height, width, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (0.8 * smooth + 0.2 * fine).unflatten(0, (batch, views))


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def pair(network, independent_vggt):
    """Our network and the other one, with the same weights, loaded strictly."""
    other = independent_vggt(TINY)
    other.load_state_dict(network.state_dict(), strict=True)
    return network, other


@pytest.mark.parametrize("views", [1, 2, 3, 8])
@pytest.mark.parametrize(("height", "width"), [(70, 70), (56, 98), (126, 42)])
def test_same_outputs_as_an_independent_implementation(torch, pair, views, height, width):
    ours, other = pair
    x = images(torch, views, height, width)
    found = ours.predict(x)
    with torch.inference_mode():
        expected = other(x)
    assert list(found) == list(TINY.output_names)
    for name, value in found.items():
        assert value.shape == expected[name].shape, name
        assert relative_error(value, expected[name]) < PARITY, name
    with torch.inference_mode():
        steps = ours.camera_head(ours.aggregator(x)[-1])
    for step, reference in zip(steps, expected["pose_enc_list"], strict=True):
        assert relative_error(step, reference) < PARITY


def test_same_outputs_for_real_images(torch, pair, real_images):
    ours, other = pair
    x = real_images(3, 84, 112)
    with torch.inference_mode():
        expected = other(x)
    for name, value in ours.predict(x).items():
        assert relative_error(value, expected[name]) < PARITY, name


def test_same_tokens_as_an_independent_implementation(torch, pair):
    ours, other = pair
    x = images(torch, 3, 56, 98, batch=2)
    with torch.inference_mode():
        taps = ours.aggregator(x)
        pairs, patch_start = other.aggregator(x)
    assert patch_start == TINY.patch_start
    for tap, index in zip(taps, TINY.taps, strict=True):
        assert relative_error(tap, pairs[index]) < PARITY


def test_same_with_taps_that_leave_pairs_out(torch, randomise, independent_vggt):
    from vggt_ros.models.vggt import Vggt

    config = dataclasses.replace(TINY, pairs=6, taps=(1, 2, 4, 5))
    ours, other = randomise(Vggt(config), seed=3), independent_vggt(config)
    other.load_state_dict(ours.state_dict(), strict=True)
    x = images(torch, 2, 42, 70)
    with torch.inference_mode():
        expected = other(x)
    for name, value in ours.predict(x).items():
        assert relative_error(value, expected[name]) < PARITY, name


def test_the_weights_matter(torch, network, randomise):
    """Parity would mean little if the outputs hardly depended on the weights and the image."""
    from vggt_ros.models.vggt import Vggt

    x = images(torch, 2, 56, 98)
    found = network.predict(x)
    for other in (randomise(Vggt(TINY), seed=7).predict(x), network.predict(1 - x)):
        for name in TINY.output_names:
            assert relative_error(other[name], found[name]) > 0.01, name
    for name in ("depth", "world_points"):
        assert found[name].std() > 0.05 * found[name].abs().mean(), name
    assert (found["pose_enc"][..., 7:] > 0).any()


def test_view_order_is_kept_and_the_first_view_is_the_reference(torch, network):
    x = images(torch, 4, 42, 56)
    found = network.predict(x)
    swapped = network.predict(x[:, [0, 3, 2, 1]])
    turned = network.predict(x[:, [1, 2, 3, 0]])
    for name, value in found.items():
        assert relative_error(swapped[name], value[:, [0, 3, 2, 1]]) < PARITY, name
        assert relative_error(turned[name], value[:, [1, 2, 3, 0]]) > 0.01, name


def test_batch_elements_do_not_mix(torch, network):
    x = images(torch, 3, 42, 56, batch=2)
    found = network.predict(x)
    for k in range(2):
        alone = network.predict(x[k : k + 1])
        for name, value in found.items():
            assert relative_error(value[k : k + 1], alone[name]) < PARITY, name


@pytest.mark.parametrize(("height", "width"), [(70, 70), (56, 98)])
def test_baking_changes_nothing_but_the_sizes_it_takes(torch, network, height, width):
    import copy

    x = images(torch, 2, height, width)
    baked = copy.deepcopy(network)
    baked.bake(height, width)
    for name, value in network.predict(x).items():
        assert torch.equal(value, baked.predict(x)[name]), name
    assert baked.state_dict().keys() == network.state_dict().keys()
    with pytest.raises(ValueError, match="for which it was baked, got \\(14, 28\\)"):
        baked(torch.zeros(1, 1, 3, 14, 28))


def test_heads_are_optional(torch, network):
    from vggt_ros.models.vggt import Vggt

    x = images(torch, 2, 42, 42)
    full = network.predict(x)
    for heads in (("camera",), ("depth",), ("point",), ("camera", "depth")):
        part = Vggt(TINY.only(*heads)).eval()
        wanted = {k: v for k, v in network.state_dict().items() if k in part.state_dict()}
        part.load_state_dict(wanted, strict=True)
        found = part.predict(x)
        assert tuple(found) == TINY.only(*heads).output_names
        assert all(torch.equal(found[name], full[name]) for name in found)


def test_half_precision_runs_and_answers_in_float32(torch, network):
    import copy

    x = images(torch, 2, 42, 56)
    full = network.predict(x)
    half = copy.deepcopy(network).to(torch.bfloat16).predict(x)
    mixed = copy.deepcopy(network)
    mixed.aggregator.to(torch.bfloat16)
    for found in (half, mixed.predict(x)):
        for name, value in found.items():
            assert value.dtype == torch.float32
            assert torch.isfinite(value).all()
            assert relative_error(value, full[name]) < 0.5, name


@pytest.mark.parametrize(("height", "width"), [(300, 518), (518, 301), (13, 14)])
def test_sizes_that_are_no_multiple_of_14_are_named(torch, network, height, width):
    with pytest.raises(ValueError, match=f"height {height} and width {width}"):
        network(torch.zeros(1, 1, 3, height, width))


@pytest.mark.parametrize("shape", [(2, 3, 14, 14), (1, 2, 4, 14, 14), (1, 2, 14, 14, 3)])
def test_other_shapes_are_named(torch, network, shape):
    with pytest.raises(ValueError, match="expected images"):
        network(torch.zeros(shape))


def on_meta(torch, config):
    from vggt_ros.models.vggt import Vggt

    with torch.device("meta"):
        return Vggt(config).eval().requires_grad_(False).to("meta")


def test_parameters_of_the_large_network_to_three_digits(torch):
    from vggt_ros.models.vggt import count_parameters

    network = on_meta(torch, VggtConfig.vggt_1b())
    millions = {
        "aggregator": 909.1,
        "aggregator.patch_embed": 304.4,
        "camera_head": 216.2,
        "depth_head": 32.65,
        "point_head": 32.65,
    }
    for name, expected in millions.items():
        found = count_parameters(network.get_submodule(name)) / 1e6
        assert float(f"{found:.4g}") == expected, name
    without_points = count_parameters(network) - count_parameters(network.point_head)
    assert round(without_points / 1e6) == 1158


@pytest.mark.parametrize(
    ("config", "views", "height", "width"),
    [
        (TINY, 1, 70, 70),
        (TINY, 3, 56, 84),
        (TINY, 2, 42, 98),  # odd numbers of patches
        (VggtConfig.vggt_1b(), 2, 252, 350),
        (VggtConfig.vggt_1b().only("camera", "depth"), 8, 518, 518),
    ],
)
def test_flops_are_those_that_torch_counts(torch, config, views, height, width):
    from torch.utils.flop_counter import FlopCounterMode

    network = on_meta(torch, config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, views, 3, height, width, device="meta"))
    assert counter.get_total_flops() == flops(config, views, height, width).total


def test_keys_and_shapes_of_the_large_network(torch):
    """Spot checks of what `facebook/VGGT-1B` calls its tensors."""
    network = on_meta(torch, VggtConfig.vggt_1b())
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    expected = {
        "aggregator.camera_token": (1, 2, 1, 1024),
        "aggregator.register_token": (1, 2, 4, 1024),
        "aggregator.patch_embed.pos_embed": (1, 1370, 1024),
        "aggregator.patch_embed.register_tokens": (1, 4, 1024),
        "aggregator.patch_embed.patch_embed.proj.weight": (1024, 3, 14, 14),
        "aggregator.patch_embed.blocks.23.ls2.gamma": (1024,),
        "aggregator.frame_blocks.23.attn.q_norm.weight": (64,),
        "aggregator.global_blocks.0.attn.qkv.weight": (3072, 1024),
        "camera_head.trunk.3.mlp.fc1.weight": (8192, 2048),
        "camera_head.poseLN_modulation.1.weight": (6144, 2048),
        "camera_head.empty_pose_tokens": (1, 1, 9),
        "camera_head.pose_branch.fc2.weight": (9, 1024),
        "depth_head.resize_layers.3.weight": (1024, 1024, 3, 3),
        "depth_head.scratch.refinenet3.resConfUnit1.conv2.weight": (256, 256, 3, 3),
        "depth_head.scratch.layer4_rn.weight": (256, 1024, 3, 3),
        "depth_head.scratch.output_conv2.2.weight": (2, 32, 1, 1),
        "point_head.scratch.output_conv2.2.weight": (4, 32, 1, 1),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert "depth_head.scratch.refinenet4.resConfUnit1.conv1.weight" not in shapes


def test_keys_and_shapes_are_those_of_the_independent_implementation(torch, independent_vggt):
    config = VggtConfig.vggt_1b()
    with torch.device("meta"):
        other = independent_vggt(config)
    ours = on_meta(torch, config)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
