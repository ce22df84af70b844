"""Random weights in the place of a checkpoint: a fixture for tests and timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from vggt_ros.types import Float32


@dataclass(frozen=True)
class RandomSource:
    """Which random network is meant."""

    seed: int = 0
    tiny: bool = False

    @property
    def text(self) -> str:
        """For passports and people."""
        return f"random weights, {'tiny' if self.tiny else 'VGGT-1B'}, seed {self.seed}"

    def answer(self, images: Float32) -> Mapping[str, NDArray[Any]]:
        """Outputs of the network in PyTorch for (N, 3, H, W), with a leading axis of one."""
        import torch

        from vggt_ros.engine.random_weights import random_vggt
        from vggt_ros.models.vggt_config import VggtConfig

        config = VggtConfig.tiny() if self.tiny else VggtConfig.vggt_1b()
        network = random_vggt(config, self.seed)
        found = network.predict(torch.from_numpy(images)[None])
        return {name: value.numpy() for name, value in found.items()}
