"""ROS parameters from the dataclasses that hold every default, and back.

A misspelt name in a parameter file is silently ignored by ROS, and a wrong type or value comes as
a bare exception. Here all overrides are checked before any is declared, and all that is wrong is
said in one readable error.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import typing
from collections.abc import Iterable, Iterator
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
from vggt_ros.parameters.tree import ParameterInfo, check_value, flatten

T = TypeVar("T")

_SET_BY_ROS = ("qos_overrides.", "diagnostic_updater.")
_SET_BY_ROS_EXACT = ("use_sim_time", "start_type_description_service")
_INT64 = 2**63 - 1

_TYPES: dict[str, Parameter.Type] = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
    "str": Parameter.Type.STRING,
    "list[str]": Parameter.Type.STRING_ARRAY,
}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number with a decimal point",
    "str": "a string",
    "list[str]": "a list of strings",
}


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
    given = given_overrides(node).get(name)
    if given is None or given.value is None:
        return default
    kind = "list[str]" if isinstance(default, list) else type(default).__name__
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
    known = flatten(typing.cast(Any, config))
    overrides = given_overrides(node)
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
    for info in known.values():
        if info.name in overrides and overrides[info.name].value is None:
            # `[]` of a parameter file arrives without a type.
            del overrides[info.name]
        default = Parameter(info.name, _TYPES[info.type], info.default)
        descriptor = describe(info, info.name.startswith(frozen) if frozen else False)
        value = node.declare_parameter(info.name, default.value, descriptor).value
        values[info.name] = list(value or []) if info.type == "list[str]" else value
    return replace_leaves(config, values)


def describe(info: ParameterInfo, read_only: bool = False) -> ParameterDescriptor:
    """The descriptor that `ros2 param describe` shows."""
    constraints = []
    if info.choices:
        constraints.append("one of " + ", ".join(info.choices))
    if not info.runtime and not read_only:
        constraints.append("can be changed only while the node is unconfigured")
    descriptor = ParameterDescriptor(
        name=info.name,
        type=_TYPES[info.type].value,
        description=f"{info.doc} [{info.unit}]" if info.unit else info.doc,
        additional_constraints="; ".join(constraints),
        read_only=read_only,
        # An empty list has no type of its own.
        dynamic_typing=info.type == "list[str]",
    )
    low, high = info.low, info.high
    if low is None and high is None:
        return descriptor
    if info.type == "int":
        descriptor.integer_range = [
            IntegerRange(
                from_value=-_INT64 if low is None else int(low),
                to_value=_INT64 if high is None else int(high),
            )
        ]
    else:
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=-sys.float_info.max if low is None else float(low),
                to_value=sys.float_info.max if high is None else float(high),
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
    known = flatten(config)
    problems = []
    for change in changes:
        info = known.get(change.name)
        if info is None:
            continue
        problems += _problems(info, change)
        if configured and not info.runtime and change.value != info.default:
            problems.append(
                f"parameter '{change.name}' cannot change while the node is configured: "
                "deactivate and clean it up first"
            )
    return SetParametersResult(successful=not problems, reason="; ".join(problems))


def given_overrides(node: Node) -> dict[str, Parameter]:
    """What parameter files and `-p` gave; rclpy has no public way to list them."""
    return node._parameter_overrides


def _unknown_names(
    overrides: dict[str, Parameter], known: dict[str, ParameterInfo], wildcard: set[str]
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


def _problems(info: ParameterInfo, given: Parameter) -> list[str]:
    if given.value is None:
        if info.type == "list[str]":
            return []
        return [f"parameter '{info.name}': expected {_WORDS[info.type]}, got nothing"]
    problem = _type_problem(info.name, info.type, given)
    if not problem:
        try:
            check_value(info, list(given.value) if info.type == "list[str]" else given.value)
        except ConfigError as error:
            problem = str(error)
    return [problem] if problem else []


def _type_problem(name: str, kind: str, given: Parameter) -> str:
    """An empty string, or what is wrong with the type of a value and how to write it."""
    if given.type_ == _TYPES[kind]:
        return ""
    value = given.value
    text = f"parameter '{name}': expected {_WORDS[kind]}, got {_shown(given)}"
    if kind == "float" and given.type_ == Parameter.Type.INTEGER:
        return f"{text} (write {value}.0)"
    if kind == "int" and given.type_ == Parameter.Type.DOUBLE and float(value).is_integer():
        return f"{text} (write {int(value)})"
    if kind in ("str", "list[str]") and given.type_ in (
        Parameter.Type.BOOL,
        Parameter.Type.BOOL_ARRAY,
    ):
        return f"{text} (YAML reads on, off, yes, no, true, false as booleans: quote them)"
    if kind == "list[str]" and given.type_ == Parameter.Type.STRING:
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
