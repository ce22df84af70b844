"""Weights of VGGT from the files they are published in, checked to the last tensor."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggt_ros.errors import EngineError
from vggt_ros.models.safetensors_file import open_safetensors, write_safetensors
from vggt_ros.models.vggt import Vggt
from vggt_ros.models.vggt_config import VggtConfig

FILE_NAMES = ("model.safetensors", "model.pt", "vggt-1b.pt")
"""Names of the published files, in the order in which a folder is searched."""

KNOWN_EXTRAS = ("track_head.", "aggregator.patch_embed.mask_token")
"""What published checkpoints hold and nothing here uses: beginnings of names."""

_METADATA_KEY = "vggt_config"
_WRAPPERS = ("model", "state_dict")
"""Keys under which training checkpoints hide the weights."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_SHOWN = 5
"""Names of tensors in an error message, at most; the report has all."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint holds, against what the network wants."""

    path: str
    format: str
    """"safetensors" or "torch"."""
    tensors: int
    """In the file."""
    parameters: int
    """Numbers that the network takes from it."""
    dtypes: dict[str, int]
    """Tensors that the network takes, by type."""
    missing: tuple[str, ...]
    wrong_shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Name, expected shape, shape in the file."""
    known_extras: tuple[str, ...]
    """Not wanted, but known to be there: see `KNOWN_EXTRAS`, and heads that are left out."""
    unexpected: tuple[str, ...]
    """Neither wanted nor known."""
    not_finite: tuple[str, ...] = ()
    """Wanted tensors with NaN or infinity in them; known only once they are loaded."""

    @property
    def fits(self) -> bool:
        """Every wanted tensor is there, in its shape, with finite numbers."""
        return not (self.missing or self.wrong_shapes or self.not_finite)

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`: lists for tuples, and whether it fits."""
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"fits": self.fits, **fields}

    def problem(self) -> str:
        """One line that names what does not fit; empty if all does."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} tensors missing ({_some(self.missing)})")
        if self.wrong_shapes:
            told = [
                f"{name}: expected {list(want)}, got {list(got)}"
                for name, want, got in self.wrong_shapes
            ]
            parts.append(f"{len(told)} of another shape ({_some(told)})")
        if self.not_finite:
            parts.append(f"{len(self.not_finite)} with NaN or infinity ({_some(self.not_finite)})")
        if parts and self.unexpected:
            parts.append(f"{len(self.unexpected)} unknown ones ({_some(self.unexpected)})")
        return "; ".join(parts)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = [f"and {len(listed) - _SHOWN} more"] if len(listed) > _SHOWN else []
    return ", ".join(listed[:_SHOWN] + more)


def load_vggt(
    path: str | Path,
    config: VggtConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Vggt, CheckpointReport]:
    """Build a network with the weights of a file, on the CPU, ready for inference.

    Every tensor that the network wants must be there and have its shape. Those it does not want
    are listed in the report, and in a warning if they are not known. Memory: the network once,
    in `dtype`, and one tensor more.

    Args:
        path: `model.safetensors`, `model.pt`, `vggt-1b.pt`, or a folder with one of them.
        config: sizes and heads; None takes those written by `save_vggt`, else VGGT-1B.
        dtype: of the parameters.

    Raises:
        EngineError: no file, not a checkpoint, truncated, or weights that do not fit; the
            message names the tensors.
    """
    file = find_checkpoint(path)
    source = _open(file)
    if config is None:
        config = _stored_config(file, source.metadata) or VggtConfig.vggt_1b()
    with torch.device("meta"):
        network = Vggt(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    report = _compare(file, source, wanted)
    _refuse(report)
    weights, not_finite = {}, []
    for name in wanted:
        tensor = source.read(name)
        if not bool(torch.isfinite(tensor).all()):
            not_finite.append(name)
        weights[name] = tensor.to(dtype, copy=True)
    report = dataclasses.replace(report, not_finite=tuple(not_finite))
    _refuse(report)
    if report.unexpected:
        _logger.warning(
            "%s: %d tensors are unknown and unused: %s",
            file,
            len(report.unexpected),
            _some(report.unexpected),
        )
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False), report


def _refuse(report: CheckpointReport) -> None:
    if not report.fits:
        raise EngineError(
            f"{report.path}: the checkpoint does not fit the network: {report.problem()}; give "
            "the weights of facebook/VGGT-1B, or the configuration they were made for"
        )


def find_checkpoint(path: str | Path) -> Path:
    """The file that is meant.

    Raises:
        EngineError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in FILE_NAMES:
            if (path / name).is_file():
                return path / name
        raise EngineError(f"{path}: expected one of {', '.join(FILE_NAMES)} in it, found none")
    if not path.is_file():
        raise EngineError(
            f"{path}: no such checkpoint; download {FILE_NAMES[0]} of facebook/VGGT-1B first"
        )
    return path


@dataclass(frozen=True)
class _Source:
    """An opened checkpoint: what is in it, and a way to get at each tensor."""

    format: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    read: Callable[[str], Tensor]


def _open(path: Path) -> _Source:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise EngineError(f"{path}: this is a Git LFS pointer, not the weights; run git lfs pull")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return _open_torch(path, start)


def _open_safetensors(path: Path) -> _Source:
    file = open_safetensors(path)

    def read(name: str) -> Tensor:
        entry = file.tensors[name]
        if entry.dtype not in _DTYPES:
            raise EngineError(
                f"{path}: tensor '{name}': expected a type of {', '.join(_DTYPES)}, got "
                f"{entry.dtype}"
            )
        return torch.from_numpy(file.read(name)).view(_DTYPES[entry.dtype]).reshape(entry.shape)

    return _Source(
        "safetensors",
        {name: entry.shape for name, entry in file.tensors.items()},
        {name: entry.dtype for name, entry in file.tensors.items()},
        file.metadata,
        read,
    )


def _open_torch(path: Path, start: bytes) -> _Source:
    is_zip = zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not is_zip:
        raise EngineError(f"{path}: the file is truncated: download it again")
    try:
        # weights_only: a checkpoint is data from the network and must not run code
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in first:  # PyTorch's advice is to load it anyway, which may run code
            first = "it is no checkpoint, or holds more than tensors"
        raise EngineError(
            f"{path}: expected a PyTorch checkpoint of tensors, got something that cannot be "
            f"read ({first}); download it again"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise EngineError(
            f"{path}: expected tensors by name, got {type(content).__name__}; export the "
            "state_dict of the model"
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    return _Source(
        "torch",
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()},
        {},
        tensors.__getitem__,
    )


def _compare(
    path: Path, source: _Source, wanted: Mapping[str, tuple[int, ...]]
) -> CheckpointReport:
    """Report on an opened checkpoint without reading its weights."""
    present = [name for name in wanted if name in source.shapes]
    heads = {name.split(".")[0] + "." for name in wanted}
    left_out = tuple({"camera_head.", "depth_head.", "point_head."} - heads)
    extras = [name for name in source.shapes if name not in wanted]
    known = tuple(name for name in extras if name.startswith(KNOWN_EXTRAS + left_out))
    dtypes: dict[str, int] = {}
    for name in present:
        dtypes[source.dtypes[name]] = dtypes.get(source.dtypes[name], 0) + 1
    return CheckpointReport(
        path=str(path),
        format=source.format,
        tensors=len(source.shapes),
        parameters=sum(int(torch.Size(wanted[name]).numel()) for name in present),
        dtypes=dtypes,
        missing=tuple(name for name in wanted if name not in source.shapes),
        wrong_shapes=tuple(
            (name, wanted[name], source.shapes[name])
            for name in present
            if source.shapes[name] != wanted[name]
        ),
        known_extras=known,
        unexpected=tuple(name for name in extras if name not in known),
    )


def check_checkpoint(path: str | Path, config: VggtConfig | None = None) -> CheckpointReport:
    """Compare names and shapes of a file with those of a network, without loading weights.

    Raises:
        EngineError: no file, not a checkpoint, or truncated.
    """
    file = find_checkpoint(path)
    source = _open(file)
    if config is None:
        config = _stored_config(file, source.metadata) or VggtConfig.vggt_1b()
    with torch.device("meta"):
        network = Vggt(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return _compare(file, source, wanted)


def checkpoint_config(path: str | Path) -> VggtConfig | None:
    """The configuration that `save_vggt` wrote; None for files of others.

    Raises:
        EngineError: no file, not a checkpoint, truncated, or a broken configuration.
    """
    file = find_checkpoint(path)
    return _stored_config(file, _open(file).metadata)


def save_vggt(network: Vggt, path: str | Path) -> None:
    """Write a `.safetensors` file with the weights and the configuration, atomically.

    Raises:
        ExportError: the file cannot be written; what stood there is untouched.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    tensors = {}
    for name, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        data = values.view(torch.uint8).numpy().data if values.numel() else memoryview(b"")
        tensors[name] = (names[values.dtype], tuple(values.shape), data)
    write_safetensors(path, tensors, {"format": "pt", _METADATA_KEY: network.config.to_json()})


def _stored_config(path: Path, metadata: Mapping[str, str]) -> VggtConfig | None:
    text = metadata.get(_METADATA_KEY)
    if text is None:
        return None
    try:
        return VggtConfig.from_mapping(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: broken configuration in the metadata: {error}") from error
