"""Where the weights of a model are: a file, a folder, or Hugging Face's cache and hub."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from vggt_ros.errors import EngineError

VGGT_FILES = ("model.safetensors", "model.pt", "vggt-1b.pt")
"""As in `models.checkpoint.FILE_NAMES`, which needs torch."""

_logger = logging.getLogger(__name__)


def resolve_checkpoint(model_name: str) -> Path:
    """Find the weights of VGGT.

    Args:
        model_name: a file, a folder, or a repository of the Hugging Face hub. The hub is asked
            through `huggingface_hub`, which honours HF_HOME, HF_HUB_CACHE, HF_TOKEN and
            HF_HUB_OFFLINE and downloads what is not in its cache.

    Raises:
        EngineError: nothing there, no `huggingface_hub`, or no connection.
    """
    if Path(model_name).expanduser().exists():
        return Path(model_name).expanduser()
    hub = _hub(model_name)
    refused: Exception | None = None
    for name in VGGT_FILES:
        try:
            path = Path(hub.hf_hub_download(model_name, name))
        except hub.errors.EntryNotFoundError as error:
            if isinstance(error, hub.errors.LocalEntryNotFoundError):
                refused = error  # not in the cache, and the hub does not answer
            continue
        except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
            raise _unreachable(model_name, error) from error
        _logger.info("%s: %s", model_name, path)
        return path
    if refused is not None:
        raise _unreachable(model_name, refused) from refused
    raise EngineError(f"{model_name}: expected one of {', '.join(VGGT_FILES)} there, found none")


def resolve_folder(model_name: str) -> Path:
    """Find the folder with configuration and weights of a `transformers` model.

    Raises:
        EngineError: nothing there, no `huggingface_hub`, or no connection.
    """
    local = Path(model_name).expanduser()
    if local.exists():
        if not (local / "config.json").is_file():
            raise EngineError(f"{local}: expected config.json in it, found none")
        return local
    hub = _hub(model_name)
    try:
        return Path(hub.snapshot_download(model_name, allow_patterns=["*.json", "*.safetensors"]))
    except (
        hub.errors.HfHubHTTPError,
        hub.errors.HFValidationError,
        hub.errors.LocalEntryNotFoundError,
        OSError,
    ) as error:
        raise _unreachable(model_name, error) from error


def told_name(model_name: str) -> str:
    """What graphs and passports call it: the repository, or the last part of a local path."""
    local = Path(model_name).expanduser()
    return local.name if local.exists() else model_name


def _hub(model_name: str):  # type: ignore[no-untyped-def]
    is_local = model_name.startswith(("/", "./", "../", "~")) or model_name.endswith(
        (".safetensors", ".pt", ".pth", ".bin", ".onnx")
    )
    if is_local or model_name.count("/") != 1:
        raise EngineError(
            f"{model_name}: expected a checkpoint, a folder with one, or a repository as "
            "owner/name; there is no such file or folder"
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise EngineError(
            f"{model_name}: no such file or folder, and huggingface_hub, which could download it, "
            "is not installed: pip install huggingface_hub, or give a local path"
        )
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub


def _unreachable(model_name: str, error: Exception) -> EngineError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"{model_name}: not in the Hugging Face cache, and it cannot be downloaded ({first}); "
        "check name, connection and HF_TOKEN, or download it elsewhere and give the local path"
    )
