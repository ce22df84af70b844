"""The dataclass tree of `vggt_ros.config` as flat parameter names, and back with checks."""

from __future__ import annotations

import dataclasses
import math
import numbers
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import ConfigError, nearest

C = TypeVar("C", bound=Config)

_TYPE_NAMES = {bool: "bool", int: "int", float: "float", str: "str", list[str]: "list[str]"}


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter: its full name with dots, and what `config.parameter` says of it."""

    name: str
    default: Any
    """The value in the configuration that was flattened."""
    type: str
    """bool, int, float, str or list[str]."""
    doc: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    runtime: bool

    @property
    def expected(self) -> str:
        """What a value must be, for errors and documentation."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        what = {
            "bool": "true or false",
            "int": "a whole number",
            "float": "a number",
            "str": "text",
            "list[str]": "a list of texts",
        }[self.type]
        return " ".join(part for part in (what, self.bounds, self.unit) if part)

    @property
    def bounds(self) -> str:
        """The inclusive bounds in words, or an empty string."""
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"of at least {self.low:g}"
        return f"of at most {self.high:g}" if self.high is not None else ""


@dataclass(frozen=True)
class Entry:
    """A value that somebody set, and where."""

    name: str
    value: Any
    origin: str = ""
    """A file with its line, or the flag; it begins the error message."""


class Text(str):
    """A value from the command line, which is read by the type of its parameter."""


def flatten(config: Any) -> dict[str, ParameterInfo]:
    """All parameters by name: those of the top level first, then group by group.

    `camera.<name>.<key>` is there for every name in `config.cameras` and `config.camera`.

    Args:
        config: a `Config`, or another dataclass made with `config.parameter`.
    """
    top: dict[str, ParameterInfo] = {}
    groups: dict[str, ParameterInfo] = {}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, dict):
            for name in dict.fromkeys([*config.cameras, *value]):
                entry = value.get(name, CameraConfig())
                groups.update(_leaves(entry, f"{field.name}.{name}."))
        elif dataclasses.is_dataclass(value):
            groups.update(_leaves(value, f"{field.name}."))
        else:
            top[field.name] = _info(field, field.name, value, hints[field.name])
    return top | groups


def config_to_flat(config: Config) -> dict[str, Any]:
    """All values by name."""
    return {name: info.default for name, info in flatten(config).items()}


def config_from_flat(values: Mapping[str, Any], base: C | None = None) -> C:
    """A configuration from values by name; what is not named stays as in `base`.

    `camera.<name>.<key>` is accepted for the names in `cameras`, and for any name while
    `cameras` is empty (then the rig file or the bag names them).

    Args:
        values: by full name. A whole number is taken for a float; nothing else is converted.
        base: the defaults; None: `Config()`.

    Raises:
        ConfigError: unknown name, wrong type, out of bounds or not among the choices; all that
            is wrong is said.
    """
    # mypy: a default for a type variable cannot be written in the signature
    start = base if base is not None else typing.cast("C", Config())
    return apply_entries([Entry(name, value) for name, value in values.items()], start)


def apply_entries(entries: Iterable[Entry], base: C) -> C:
    """Apply values in their order; a later one of the same name wins.

    Raises:
        ConfigError: as `config_from_flat`.
    """
    last = {entry.name: entry for entry in entries}
    errors: list[str] = []
    tree = base
    if "cameras" in last:
        entry = last.pop("cameras")
        try:
            names = check_value(flatten(base)["cameras"], entry.value)
            _check_camera_names(names)
            tree = dataclasses.replace(tree, cameras=names)
        except ConfigError as error:
            errors.append(_at(entry, str(error)))
    known = flatten(with_cameras(tree, last))
    accepted: dict[str, Any] = {}
    for entry in last.values():
        info = known.get(entry.name)
        try:
            if info is None:
                raise ConfigError(unknown_parameter(entry.name, known, tree.cameras))
            accepted[entry.name] = check_value(info, entry.value)
        except ConfigError as error:
            errors.append(_at(entry, str(error)))
    if errors:
        raise ConfigError("; ".join(errors))
    return _replace(with_cameras(tree, last), accepted)


def with_cameras(config: C, names: Iterable[str]) -> C:
    """With a `camera` entry for each of `cameras`, or for those of the parameter names."""
    cameras: Sequence[str] = config.cameras
    if not cameras:
        found = [_camera_of(name) for name in names]
        cameras = [*config.camera, *(name for name in found if name)]
    entries = {name: config.camera.get(name, CameraConfig()) for name in dict.fromkeys(cameras)}
    return dataclasses.replace(config, camera=entries)


def unknown_parameter(name: str, known: Iterable[str], cameras: Sequence[str]) -> str:
    """The message for a name that is no parameter."""
    camera = _camera_of(name)
    if camera and cameras and camera not in cameras:
        return (
            f"parameter '{name}': no camera '{camera}'{nearest(camera, cameras)}; "
            f"cameras: {', '.join(cameras)}"
        )
    return f"unknown parameter '{name}'{nearest(name, known)}"


def check_value(info: ParameterInfo, value: Any) -> Any:
    """The value in the parameter's own type.

    Raises:
        ConfigError: it is of another type, out of bounds or not among the choices.
    """
    given = value
    if isinstance(value, Text):
        value = _from_text(info, value)
    converted = _convert(info.type, value)
    hint = ""
    if info.choices and isinstance(converted, str) and converted not in info.choices:
        hint, converted = nearest(converted, info.choices), None
    if isinstance(converted, (int, float)) and not isinstance(converted, bool):
        low = -math.inf if info.low is None else info.low
        high = math.inf if info.high is None else info.high
        if not low <= converted <= high:
            converted = None
    if converted is None:
        raise ConfigError(
            f"parameter '{info.name}': expected {info.expected}, got {_shown(given)}{hint}"
        )
    return converted


def _leaves(group: Any, prefix: str) -> dict[str, ParameterInfo]:
    hints = typing.get_type_hints(type(group))
    return {
        prefix + field.name: _info(
            field, prefix + field.name, getattr(group, field.name), hints[field.name]
        )
        for field in dataclasses.fields(group)
    }


def _info(field: dataclasses.Field[Any], name: str, value: Any, hint: Any) -> ParameterInfo:
    m = field.metadata
    return ParameterInfo(
        name,
        list(value) if isinstance(value, list) else value,
        _TYPE_NAMES[hint],
        m["doc"],
        m["unit"],
        m["low"],
        m["high"],
        m["choices"],
        m["runtime"],
    )


def _replace(config: C, values: Mapping[str, Any]) -> C:
    """With checked values put in their places."""
    groups: dict[str, dict[str, Any]] = {}
    cameras: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in values.items():
        camera = _camera_of(name)
        group, _, key = name.rpartition(".")
        if camera:
            cameras.setdefault(camera, {})[key] = value
        elif group:
            groups.setdefault(group, {})[key] = value
        else:
            top[name] = value
    for group, changes in groups.items():
        top[group] = dataclasses.replace(getattr(config, group), **changes)
    top["camera"] = {
        name: dataclasses.replace(entry, **cameras.get(name, {}))
        for name, entry in config.camera.items()
    }
    return dataclasses.replace(config, **top)


def _camera_of(name: str) -> str:
    """The camera's name in `camera.<name>.<key>`; empty for any other parameter."""
    if not name.startswith("camera.") or name.count(".") < 2:
        return ""
    return name[len("camera.") : name.rindex(".")]


def _check_camera_names(names: list[str]) -> None:
    for name in names:
        if not name or any(c.isspace() or c == "." for c in name):
            raise ConfigError(
                f"parameter 'cameras': expected names without blanks and dots, got '{name}'"
            )
        if names.count(name) > 1:
            raise ConfigError(f"parameter 'cameras': '{name}' is there twice")


def _convert(kind: str, value: Any) -> Any:
    """The value as `kind`, or None where it is something else."""
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "str":
        return str(value) if isinstance(value, str) else None
    if kind == "list[str]":
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return [str(item) for item in value]
        return None
    if isinstance(value, bool):
        return None
    if kind == "int":
        return int(value) if isinstance(value, numbers.Integral) else None
    if isinstance(value, numbers.Real) and math.isfinite(float(value)):
        return float(value)
    return None


def _from_text(info: ParameterInfo, text: str) -> Any:
    """A value of the command line; what does not read as the type stays text."""
    if info.type == "str":
        return str(text)
    if info.type == "list[str]":
        inner = text.strip()
        if inner.startswith("[") and inner.endswith("]"):
            inner = inner[1:-1]
        return [part.strip().strip("'\"") for part in inner.split(",") if part.strip()]
    if info.type == "bool":
        return {"true": True, "false": False}.get(text.strip().lower(), str(text))
    try:
        return int(text) if info.type == "int" else float(text)
    except ValueError:
        return str(text)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(str(value)) if isinstance(value, str) else repr(value)


def _at(entry: Entry, message: str) -> str:
    return f"{entry.origin}: {message}" if entry.origin else message
