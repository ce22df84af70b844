"""Depth Anything V1 and V2 with the definition of `transformers`, loaded strictly, for export.

Without torchvision and without the network: a folder as `huggingface-cli download
depth-anything/Depth-Anything-V2-Small-hf` leaves it, with `config.json` and weights.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggt_ros.errors import EngineError
from vggt_ros.models.checkpoint import CheckpointReport
from vggt_ros.models.safetensors_file import open_safetensors
from vggt_ros.models.vggt_config import PATCH
from vggt_ros.types import DepthKind

FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder, in the order in which they are sought."""

LICENCES = {384: "Apache-2.0", 768: "CC-BY-NC-4.0", 1024: "CC-BY-NC-4.0"}
"""Of the published weights, by the width of the backbone (Small, Base, Large); Base and Large are
for non-commercial use. (Model cards of depth-anything/Depth-Anything-V2-*-hf.)"""

_KINDS = {"relative": DepthKind.DISPARITY, "metric": DepthKind.METRIC_DEPTH}
"""`depth_estimation_type` of the configuration: relative ones give affine-invariant disparity."""
_KNOWN_EXTRAS = ("backbone.embeddings.mask_token",)
_HINT = "give all files of depth-anything/Depth-Anything-V2-Small-hf, or another of its size"

_logger = logging.getLogger(__name__)


class DepthAnythingNetwork(nn.Module):
    """Images to disparity or depth, (B, H, W), as `kind` says.

    Args:
        network: `transformers.DepthAnythingForDepthEstimation`.
        kind: what the output means.
        licence: of the weights; "unknown" for sizes that nobody has published.
    """

    def __init__(self, network: nn.Module, kind: DepthKind, licence: str) -> None:
        super().__init__()
        self.network: Any = network
        self.kind = kind
        self.licence = licence
        self.baked_size: tuple[int, int] | None = None

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return ("depth",)

    def bake(self, height: int, width: int) -> None:
        """Fix the image size: the position embedding becomes a constant.

        Wanted before an export: its bicubic resampling is in no runtime as PyTorch does it. Call
        it after weights, device and dtype are in place. Other sizes are refused then.

        Raises:
            ValueError: a side that is not a multiple of 14.
        """
        _check_size(height, width)
        embeddings = self.network.backbone.embeddings
        count = height // PATCH * (width // PATCH) + 1
        tokens = embeddings.position_embeddings.new_empty(1).expand(
            1, count, embeddings.position_embeddings.shape[-1]
        )
        with torch.no_grad():
            table = type(embeddings).interpolate_pos_encoding(embeddings, tokens, height, width)
        baked = table.detach().clone()
        embeddings.interpolate_pos_encoding = lambda *_: baked
        self.baked_size = (height, width)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Run the network.

        Args:
            images: (B, 3, H, W) RGB, less the ImageNet mean, over the deviation.

        Raises:
            ValueError: another shape, H or W not a multiple of 14, or not the baked size.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"Depth Anything: expected images (B, 3, H, W), got {tuple(images.shape)}"
            )
        height, width = images.shape[2], images.shape[3]
        _check_size(height, width)
        if self.baked_size not in (None, (height, width)):
            raise ValueError(
                f"Depth Anything: expected height and width {self.baked_size}, for which it was "
                f"baked, got {(height, width)}"
            )
        return (self.network(pixel_values=images).predicted_depth,)


def _check_size(height: int, width: int) -> None:
    if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
        raise ValueError(
            f"Depth Anything: expected height and width to be multiples of {PATCH}, got height "
            f"{height} and width {width}"
        )


def load_depth_anything(folder: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """The network of a folder, on the CPU, ready for inference; see `load_with_report`."""
    return load_with_report(folder, dtype)[0]


def load_with_report(
    folder: str | Path, dtype: torch.dtype | None = None
) -> tuple[DepthAnythingNetwork, CheckpointReport]:
    """Build a network as `config.json` says, with the weights beside it.

    Every tensor that the network wants must be there and have its shape.

    Args:
        folder: as downloaded.
        dtype: of the parameters; None: as they are stored.

    Raises:
        EngineError: no `transformers`, a file is missing or broken, another model, or weights
            that do not fit; the message names the tensors.
    """
    folder = Path(folder)
    content = read_config(folder)
    file = next((folder / n for n in FILE_NAMES if (folder / n).is_file()), None)
    if file is None:
        raise EngineError(
            f"{folder}: expected one of {', '.join(FILE_NAMES)} in it, found none; download it: "
            "huggingface-cli download depth-anything/Depth-Anything-V2-Small-hf"
        )
    kind = depth_kind(content, folder)
    network, report = _load(folder, file, dtype)
    if not report.fits:
        raise EngineError(
            f"{file}: the checkpoint does not fit its config.json: {report.problem()}; {_HINT}"
        )
    if report.unexpected:
        _logger.warning(
            "%s: %d tensors are unknown and unused: %s",
            file,
            len(report.unexpected),
            ", ".join(report.unexpected[:5]),
        )
    width = network.config.backbone_config.hidden_size
    licence = str(content.get("license") or LICENCES.get(width, "unknown"))
    wrapped = DepthAnythingNetwork(network, kind, licence)
    return wrapped.eval().requires_grad_(False), report


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        EngineError: it is missing, unreadable, or of another model.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{folder}: expected a folder with config.json and weights of Depth Anything, found "
            "no config.json; download all of it: huggingface-cli download "
            "depth-anything/Depth-Anything-V2-Small-hf"
        ) from None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: not readable as JSON ({error}); download it again") from error
    found = content.get("model_type") if isinstance(content, dict) else type(content).__name__
    if found != "depth_anything":
        raise EngineError(
            f"{path}: expected model_type depth_anything, got {found}; give a folder of Depth "
            "Anything in the layout of transformers (names end in -hf)"
        )
    return dict(content)


def depth_kind(content: dict[str, Any], where: str | Path = "config.json") -> DepthKind:
    """What the outputs of a configuration mean.

    Raises:
        EngineError: an unknown `depth_estimation_type`.
    """
    asked = content.get("depth_estimation_type", "relative")  # V1 has none and is relative
    if asked not in _KINDS:
        raise EngineError(
            f"{where}: depth_estimation_type: expected one of {', '.join(_KINDS)}, got '{asked}'"
        )
    return _KINDS[asked]


def _load(folder: Path, file: Path, dtype: torch.dtype | None) -> tuple[Any, CheckpointReport]:
    """The network and what its file holds; names of old and new releases are told apart there."""
    if file.suffix == ".safetensors":
        open_safetensors(file)  # says of a truncated file and of an LFS pointer what they are
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is looked up on the hub
    try:
        from transformers import DepthAnythingForDepthEstimation
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise EngineError(
            f"Depth Anything in PyTorch: transformers is not installed ({error}); pip install "
            "'vggt_ros[depth-anything]'"
        ) from error
    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()  # the report says what it would
    transformers_logging.disable_progress_bar()
    try:
        network, info = DepthAnythingForDepthEstimation.from_pretrained(
            folder,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            torch_dtype=dtype or "auto",
        )
    except (OSError, RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(
            f"{folder}: not a checkpoint of Depth Anything ({first}); download it again"
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    state = network.state_dict()
    extras = sorted(info["unexpected_keys"])
    wrong = [(name, tuple(want), tuple(got)) for name, got, want in info["mismatched_keys"]]
    not_finite = [name for name, t in state.items() if not bool(torch.isfinite(t).all())]
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in state.values())
    return network, CheckpointReport(
        path=str(file),
        format="safetensors" if file.suffix == ".safetensors" else "torch",
        tensors=len(state) - len(info["missing_keys"]) + len(extras),
        parameters=sum(t.numel() for t in state.values()),
        dtypes=dict(dtypes),
        missing=tuple(sorted(info["missing_keys"])),
        wrong_shapes=tuple(sorted(wrong)),
        known_extras=tuple(n for n in extras if n.startswith(_KNOWN_EXTRAS)),
        unexpected=tuple(n for n in extras if not n.startswith(_KNOWN_EXTRAS)),
        not_finite=tuple(not_finite) if not info["missing_keys"] and not wrong else (),
    )
