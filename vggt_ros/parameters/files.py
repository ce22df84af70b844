"""Parameter files: plain nested YAML, or the layout of ROS 2 parameter files."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, nearest
from vggt_ros.parameters.tree import (
    Entry,
    Text,
    apply_entries,
    flatten,
    unknown_parameter,
    with_cameras,
)

log = logging.getLogger(__name__)

NODE = "mapper"
"""The node whose parameters these are."""
SET_BY_ROS = ("use_sim_time", "start_type_description_service")
"""Parameters that ROS itself declares on every node, and the groups of such."""
SET_BY_ROS_GROUPS = ("qos_overrides.", "diagnostic_updater.")
NODE_ONLY = ("autostart", "calibration_wait_s", "max_internal_errors", "after_error")
NODE_ONLY_GROUPS = ("diagnostics.",)
"""Parameters of the running mapper (`nodes/node_config.py`) that mean nothing without ROS."""

_PARAMETERS = "ros__parameters"
_NEAR = 0.8
"""Similarity (difflib) from which a name is a slip of the pen and not somebody else's."""


@dataclass(frozen=True)
class _Section:
    """The parameters of one node, or of all (`/**`)."""

    node: str
    entries: list[Entry]
    is_wildcard: bool


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    base: Config | None = None,
) -> Config:
    """Read a configuration.

    A file is either plain nested YAML (`map: {voxel_m: 0.01}` or `map.voxel_m: 0.01`) or a ROS
    parameter file (`mapper: {ros__parameters: ...}`, also under a namespace, `/**` or several
    of them). What is set twice takes the value that comes later. In ROS files, parameters of
    other nodes and those that ROS sets are passed over; under `/**`, unknown names are only
    refused when they look misspelt, and warned of otherwise.

    Args:
        path: the file; None: defaults.
        overrides: `name=value`, which win over the file.
        base: the defaults; None: `Config()`.

    Raises:
        ConfigError: unreadable file, or a wrong name or value; file and line are named.
    """
    config = base or Config()
    entries = _file_entries(Path(path), config) if path is not None else []
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {override}: expected NAME=VALUE, for example map.carve=true")
        entries.append(Entry(name.strip(), Text(value), f"--set {override}"))
    return apply_entries(entries, config)


def _file_entries(path: Path, config: Config) -> list[Entry]:
    import yaml

    try:
        text = path.read_text()
        loader = _make_loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return []
            if not isinstance(root, yaml.MappingNode):
                raise ConfigError(f"{path}: expected parameters, got {root.tag.split(':')[-1]}")
            sections = list(_sections(loader, root, "", path))
            if not sections:
                return list(_leaves(loader, root, "", path))
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    return _chosen(sections, path, config)


def _make_loader(text: str) -> Any:
    """PyYAML's safe loader that reads `1e-3` as a number, as YAML 1.2 and ROS do."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )
    return Loader(text)


def _pairs(loader: Any, node: Any, path: Path) -> Iterator[tuple[str, Any, int]]:
    """Keys, value nodes and line numbers; unlike a dict this keeps keys that come twice."""
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ConfigError(f"{path}:{line}: expected the name of a parameter, got {key!r}")
        yield key, value_node, line


def _leaves(loader: Any, node: Any, prefix: str, path: Path) -> Iterator[Entry]:
    import yaml

    for key, value, line in _pairs(loader, node, path):
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(loader, value, f"{prefix}{key}.", path)
        else:
            constructed = loader.construct_object(value, deep=True)
            yield Entry(prefix + key, constructed, f"{path}:{line}")


def _sections(loader: Any, node: Any, parent: str, path: Path) -> Iterator[_Section]:
    """The parts of a ROS parameter file; none for a plain file."""
    import yaml

    if not _is_ros(loader, node, path):
        return
    for key, value, line in _pairs(loader, node, path):
        name = f"{parent}/{key.strip('/')}"
        if not isinstance(value, yaml.MappingNode):
            raise ConfigError(
                f"{path}:{line}: '{key}' stands outside of '{_PARAMETERS}'; "
                "expected node names at this level"
            )
        if key == _PARAMETERS:
            if not parent:
                raise ConfigError(f"{path}:{line}: expected the name of a node above '{key}'")
            last = parent.rsplit("/", 1)[-1]
            entries = list(_leaves(loader, value, "", path))
            yield _Section(parent, entries, last in ("*", "**"))
        elif _is_ros(loader, value, path):
            yield from _sections(loader, value, name, path)
        else:
            raise ConfigError(f"{path}:{line}: expected '{_PARAMETERS}' under '{key}'")


def _is_ros(loader: Any, node: Any, path: Path) -> bool:
    import yaml

    return any(
        key == _PARAMETERS
        or (isinstance(value, yaml.MappingNode) and _is_ros(loader, value, path))
        for key, value, _ in _pairs(loader, node, path)
    )


def _chosen(sections: Sequence[_Section], path: Path, config: Config) -> list[Entry]:
    """What concerns the mapper, in the order of the file."""
    ours: list[tuple[Entry, bool]] = []
    matched = False
    for section in sections:
        node = section.node.rsplit("/", 1)[-1]
        if node == NODE or section.is_wildcard:
            matched = True
            ours += [(entry, section.is_wildcard) for entry in section.entries]
        elif difflib.get_close_matches(node, [NODE], 1, _NEAR):
            raise ConfigError(f"{path}: no node '{node}'{nearest(node, [NODE])}")
        else:
            log.debug("%s: parameters of %s are passed over", path, section.node)
    if not matched:
        nodes = ", ".join(section.node for section in sections)
        raise ConfigError(
            f"{path}: expected parameters of '{NODE}' or '/**', got those of {nodes}"
        )
    names = [entry.name for entry, _ in ours]
    for entry, _ in ours:
        if entry.name == "cameras" and isinstance(entry.value, list):
            config = dataclasses.replace(config, cameras=[str(name) for name in entry.value])
    known = list(flatten(with_cameras(config, names)))
    kept: list[Entry] = []
    for entry, is_wildcard in ours:
        if entry.name in SET_BY_ROS + NODE_ONLY or entry.name.startswith(
            SET_BY_ROS_GROUPS + NODE_ONLY_GROUPS
        ):
            continue
        if is_wildcard and entry.name not in known:
            if difflib.get_close_matches(entry.name, known, 1, _NEAR):
                message = unknown_parameter(entry.name, known, config.cameras)
                raise ConfigError(f"{entry.origin}: {message}")
            log.warning("%s: '%s' is no parameter of %s", entry.origin, entry.name, NODE)
            continue
        kept.append(entry)
    return kept
