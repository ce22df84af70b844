"""What the tests of the networks share; all of them need torch."""

from functools import partial

import pytest


@pytest.fixture(scope="session")
def torch():
    """The module, on one thread; tests that ask for it are skipped where it is not installed."""
    module = pytest.importorskip("torch", reason="torch is not installed (pip install .[torch])")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def randomise(torch):
    """Fill a network with weights that make every part of it matter."""

    def fill(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")):
                    parameter.copy_(1.0 + 0.2 * noise)
                elif parameter.ndim > 1 and not name.endswith(("token", "tokens", "embed")):
                    parameter.copy_(noise * parameter[0].numel() ** -0.5)
                else:
                    parameter.copy_(0.2 * noise)
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def real_images(torch, shared_data):
    """Make a network input (1, S, 3, height, width) of the first photographs of a set."""
    import cv2

    from vggt_ros.inference.vggt_input import prepare

    def load(views, height, width):
        files = sorted((shared_data / "fountain_p11").glob("*.jpg"))[:views]
        images = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
        return torch.from_numpy(prepare(images, "pad", shape=(height, width)).images)[None]

    return load


@pytest.fixture(scope="session")
def independent_vggt(torch):
    """Build another implementation of VGGT, of any size, from PyPI's `depth-estimation`."""
    reason = "not installed (pip install --no-deps depth-estimation==0.1.3)"
    pytest.importorskip("depth_estimation", reason=f"depth-estimation: {reason}")
    parts = pytest.importorskip("depth_estimation.models.vggt.modeling_vggt", reason=reason)

    def build(config):
        side = 14 * config.backbone_grid
        network = parts._VGGT.__new__(parts._VGGT)
        torch.nn.Module.__init__(network)
        network.aggregator = parts.Aggregator(
            img_size=side,
            embed_dim=config.dim,
            depth=config.pairs,
            num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            num_register_tokens=config.registers,
            patch_embed="conv",
            rope_freq=config.rope_base,
        )
        network.aggregator.patch_embed = parts.DinoVisionTransformer(
            img_size=side,
            patch_size=14,
            embed_dim=config.dim,
            depth=config.backbone_depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            num_register_tokens=config.registers,
            block_fn=partial(parts.Block, attn_class=parts.MemEffAttention),
            init_values=1.0,
            block_chunks=0,
            drop_path_uniform=True,  # the other way does not build on `meta`
            interpolate_antialias=True,
            interpolate_offset=0.0,
        )
        network.camera_head = parts.CameraHead(
            dim_in=2 * config.dim, trunk_depth=config.camera_depth, num_heads=config.heads
        )
        dense = partial(
            parts.DPTHead,
            dim_in=2 * config.dim,
            features=config.dpt_features,
            out_channels=list(config.dpt_channels),
            intermediate_layer_idx=list(config.taps),
        )
        network.depth_head = dense(output_dim=2, activation="exp")
        network.point_head = dense(output_dim=4, activation="inv_log")
        return network.eval()

    return build
