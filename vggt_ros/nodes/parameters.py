"""ROS parameters from the dataclasses that hold every default, and back.

A misspelt name in a parameter file is silently ignored by ROS, and a wrong type or value comes as
a bare exception. Here all overrides are checked before any is declared, and all that is wrong is
said in one readable error.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.errors import ConfigError, nearest

T = TypeVar("T")

_SET_BY_ROS = ("qos_overrides.", "diagnostic_updater.")
_SET_BY_ROS_EXACT = ("use_sim_time", "start_type_description_service")
_INT64 = 2**63 - 1

_TYPES: dict[Any, Parameter.Type] = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    list[str]: Parameter.Type.STRING_ARRAY,
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a decimal point",
    str: "a string",
    list[str]: "a list of strings",
}


@dataclass(frozen=True)
class Leaf:
    """One parameter: its full name, its type (bool, int, float, str or list[str]) and default."""

    name: str
    type: Any
    default: Any
    metadata: dict[str, Any]


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """The parameters of an instance of a config dataclass, groups and `dict`s of them included."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{name}.")
        elif isinstance(value, dict):
            for key, entry in value.items():
                yield from leaves(entry, f"{name}.{key}.")
        else:
            yield Leaf(name, hints[field.name], value, dict(field.metadata))


def replace_leaves(config: T, values: dict[str, Any], prefix: str = "") -> T:
    """`config` with the parameters of these full names replaced."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, config)):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            changes[field.name] = replace_leaves(value, values, f"{name}.")
        elif isinstance(value, dict):
            changes[field.name] = {
                key: replace_leaves(entry, values, f"{name}.{key}.")
                for key, entry in value.items()
            }
        elif name in values:
            changes[field.name] = values[name]
    return dataclasses.replace(typing.cast(Any, config), **changes)


def read_override(node: Node, name: str, default: T) -> T:
    """The value given for a parameter before it is declared, of the type of `default`.

    Raises:
        ConfigError: another type was given.
    """
    given = _overrides(node).get(name)
    if given is None or given.value is None:
        return default
    kind = list[str] if isinstance(default, list) else type(default)
    problem = _type_problem(name, kind, given)
    if problem:
        raise ConfigError(problem)
    return typing.cast(T, given.value)


def declare(
    node: Node, config: T, args: list[str] | None = None, read_only: Iterable[str] = ()
) -> T:
    """Declare every parameter of a config on a node, after checking what was given.

    Args:
        node: a node with nothing of `config` declared yet.
        config: an instance whose values are the defaults.
        args: the command line, to tell what stands under `/**` in a parameter file; None: that
            of the process.
        read_only: prefixes of names that never change once the node has started.

    Returns:
        `config` with the values that were given.

    Raises:
        ConfigError: unknown names (with the nearest valid one), wrong types, values out of
            bounds; all of them in one message.
    """
    known = {leaf.name: leaf for leaf in leaves(config)}
    overrides = _overrides(node)
    problems, warnings = _unknown_names(overrides, known, _wildcard_names(args or sys.argv))
    for name, given in overrides.items():
        if name in known:
            problems += _problems(known[name], given)
    if problems:
        raise ConfigError("wrong parameters:\n  " + "\n  ".join(problems))
    for text in warnings:
        node.get_logger().warning(text)
    frozen = tuple(read_only)
    values = {}
    for leaf in known.values():
        if leaf.name in overrides and overrides[leaf.name].value is None:
            # `[]` of a parameter file arrives without a type.
            del overrides[leaf.name]
        descriptor = describe(leaf, leaf.name.startswith(frozen) if frozen else False)
        default = Parameter(leaf.name, _TYPES[leaf.type], leaf.default)
        values[leaf.name] = node.declare_parameter(leaf.name, default.value, descriptor).value
        if leaf.type == list[str]:
            values[leaf.name] = list(values[leaf.name] or [])
    return replace_leaves(config, values)


def describe(leaf: Leaf, read_only: bool = False) -> ParameterDescriptor:
    """The descriptor that `ros2 param describe` shows."""
    meta = leaf.metadata
    unit = f" [{meta['unit']}]" if meta.get("unit") else ""
    constraints = []
    if meta.get("choices"):
        constraints.append("one of " + ", ".join(meta["choices"]))
    if not meta.get("runtime") and not read_only:
        constraints.append("can be changed only while the node is unconfigured")
    descriptor = ParameterDescriptor(
        name=leaf.name,
        type=_TYPES[leaf.type].value,
        description=f"{meta.get('doc', '')}{unit}",
        additional_constraints="; ".join(constraints),
        read_only=read_only,
        # An empty list has no type of its own.
        dynamic_typing=leaf.type == list[str],
    )
    low, high = meta.get("low"), meta.get("high")
    if low is not None or high is not None:
        if leaf.type is int:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=int(low) if low is not None else -_INT64,
                    to_value=int(high) if high is not None else _INT64,
                )
            ]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(low) if low is not None else -sys.float_info.max,
                    to_value=float(high) if high is not None else sys.float_info.max,
                )
            ]
    return descriptor


def check_changes(
    config: Any, changes: Iterable[Parameter], configured: bool
) -> SetParametersResult:
    """The answer to an on-set callback: right types and values, and changeable now.

    Args:
        config: the present values.
        changes: what is asked for; names that are not in the config pass.
        configured: whether the node has left the unconfigured state.
    """
    known = {leaf.name: leaf for leaf in leaves(config)}
    problems = []
    for change in changes:
        leaf = known.get(change.name)
        if leaf is None:
            continue
        problems += _problems(leaf, change)
        if configured and not leaf.metadata.get("runtime") and change.value != leaf.default:
            problems.append(
                f"parameter '{change.name}' cannot change while the node is configured: "
                "deactivate and clean it up first"
            )
    return SetParametersResult(successful=not problems, reason="; ".join(problems))


def _overrides(node: Node) -> dict[str, Parameter]:
    """What parameter files and `-p` gave; rclpy has no public way to list them."""
    return node._parameter_overrides


def _unknown_names(
    overrides: dict[str, Parameter], known: dict[str, Leaf], wildcard: set[str]
) -> tuple[list[str], list[str]]:
    """Errors and warnings for names that nothing declares.

    What stands under `/**` may be meant for another node: refused only when it is close to a
    valid name.
    """
    problems, warnings = [], []
    for name in overrides:
        if name in known or name in _SET_BY_ROS_EXACT or name.startswith(_SET_BY_ROS):
            continue
        hint = nearest(name, known)
        if name not in wildcard or hint:
            problems.append(f"unknown parameter '{name}'{hint}")
        else:
            warnings.append(f"parameter '{name}', given for all nodes, means nothing here")
    return problems, warnings


def _problems(leaf: Leaf, given: Parameter) -> list[str]:
    if given.value is None:
        if leaf.type == list[str]:
            return []
        return [f"parameter '{leaf.name}': expected {_WORDS[leaf.type]}, got nothing"]
    problem = _type_problem(leaf.name, leaf.type, given)
    if problem:
        return [problem]
    value, meta = given.value, leaf.metadata
    if meta.get("choices") and value not in meta["choices"]:
        return [
            f"parameter '{leaf.name}': expected one of {', '.join(meta['choices'])}, got "
            f"'{value}'{nearest(str(value), meta['choices'])}"
        ]
    if leaf.type in (int, float):
        low, high = meta.get("low"), meta.get("high")
        low = -math.inf if low is None else low
        high = math.inf if high is None else high
        if not low <= value <= high or not math.isfinite(value):
            unit = f" {meta['unit']}" if meta.get("unit") else ""
            return [f"parameter '{leaf.name}': expected {low:g} to {high:g}{unit}, got {value:g}"]
    return []


def _type_problem(name: str, kind: Any, given: Parameter) -> str:
    """An empty string, or what is wrong with the type of a value and how to write it."""
    if given.type_ == _TYPES[kind]:
        return ""
    value = given.value
    text = f"parameter '{name}': expected {_WORDS[kind]}, got {_shown(given)}"
    if kind is float and given.type_ == Parameter.Type.INTEGER:
        return f"{text} (write {value}.0)"
    if kind is int and given.type_ == Parameter.Type.DOUBLE and float(value).is_integer():
        return f"{text} (write {int(value)})"
    if kind in (str, list[str]) and given.type_ in (
        Parameter.Type.BOOL,
        Parameter.Type.BOOL_ARRAY,
    ):
        return f"{text} (YAML reads on, off, yes, no, true, false as booleans: quote them)"
    if kind == list[str] and given.type_ == Parameter.Type.STRING:
        return f"{text} (write ['{value}'])"
    return text


def _shown(given: Parameter) -> str:
    word = given.type_.name.lower().replace("_", " ").replace("double", "float")
    article = "an" if word[0] in "aeiou" else "a"
    value = given.value
    if isinstance(value, bool):
        return f"{article} {word}, {str(value).lower()}"
    if isinstance(value, str):
        return f"{article} {word}, '{value}'"
    if hasattr(value, "tolist"):
        value = value.tolist()
    return f"{article} {word}, {value}"


def _wildcard_names(args: list[str]) -> set[str]:
    """Names given under `/**` (or another pattern) of the parameter files in a command line.

    launch_ros writes a dict of parameters under `/**` too.
    """
    import yaml

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--params-file", action="append", default=[])
    files = parser.parse_known_args(args)[0].params_file
    names: set[str] = set()
    for file in files:
        # rclpy has read the same file before, so it exists and is YAML.
        content = yaml.safe_load(Path(file).read_text()) or {}
        for node_name, entry in content.items():
            if "*" in str(node_name) and isinstance(entry, dict):
                names |= set(_flat(entry.get("ros__parameters") or {}))
    return names


def _flat(tree: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_camera_names(names: Iterable[str]) -> None:
    """Camera names become parts of parameter and topic names.

    Raises:
        ConfigError: an empty, impossible or repeated name.
    """
    seen: set[str] = set()
    for name in names:
        if not CAMERA_NAME.fullmatch(name):
            raise ConfigError(
                f"parameter 'cameras': expected names of letters, digits and _ that begin with a "
                f"letter, got '{name}'"
            )
        if name in seen:
            raise ConfigError(f"parameter 'cameras': '{name}' is there twice")
        seen.add(name)
