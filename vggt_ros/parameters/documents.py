"""The configuration written for people and for ROS: YAML and Markdown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from vggt_ros.config import CameraConfig, Config
from vggt_ros.parameters.tree import ParameterInfo, flatten

_NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf", "infinity")
"""Words that some YAML parser takes for something other than text."""


def dump_config(config: Config, node: str = "/**", header: Sequence[str] = ()) -> str:
    """All parameters as a ROS parameter file, each with its meaning above.

    `load_config` and `ros2 run ... --params-file` read it. Empty lists stand in a comment,
    because ROS refuses a parameter file with an empty list.

    Args:
        config: the values.
        node: whose parameters; `/**` for whatever the node is called.
        header: lines for the beginning.
    """
    lines = [*(f"# {line}".rstrip() for line in header), f"{_yaml(node)}:", "  ros__parameters:"]
    path: list[str] = []
    for info in flatten(config).values():
        parts = _parts(info.name)
        common = 0
        while common < len(parts) - 1 and path[common : common + 1] == [parts[common]]:
            common += 1
        for depth in range(common, len(parts) - 1):
            lines.append(f"{_indent(depth)}{_yaml(parts[depth])}:")
        path = parts[:-1]
        indent = _indent(len(path))
        lines.append(f"{indent}# {_comment(info)}")
        mark = "# " if info.default == [] else ""
        lines.append(f"{indent}{mark}{_yaml(parts[-1])}: {_yaml(info.default)}")
    return "\n".join(lines) + "\n"


def parameters_markdown(config: Any, title: str = "General") -> str:
    """A table for each group of parameters, `title` above those of the top level.

    Args:
        config: a `Config`, or another dataclass made with `config.parameter`.
        title: heading of the first table.
    """
    if isinstance(config, Config) and not config.cameras:
        config = dataclasses.replace(config, camera={**config.camera, "<name>": CameraConfig()})
    blocks: dict[str, list[str]] = {}
    for info in flatten(config).values():
        group = info.name.rpartition(".")[0]
        blocks.setdefault(group, []).append(_row(info))
    lines: list[str] = []
    for group, rows in blocks.items():
        owner = CameraConfig if group.startswith("camera.") else getattr(config, group, None)
        lines += [
            f"## {f'`{group}`' if group else title}",
            "",
            *([_summary(owner), ""] if group else []),
            "| parameter | type | default | allowed | at run time | meaning |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _row(info: ParameterInfo) -> str:
    allowed = ", ".join(f"`{choice}`" for choice in info.choices) or info.bounds
    unit = f" {info.unit}" if info.unit else ""
    cells = (
        f"`{info.name}`",
        info.type,
        f"`{_yaml(info.default)}`{unit}",
        allowed,
        "yes" if info.runtime else "",
        info.doc.replace("<", "&lt;"),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _summary(owner: Any) -> str:
    """The first line of the dataclass's docstring, without the group's name in front."""
    text = (owner.__doc__ or "").strip().splitlines()[0]
    _, colon, rest = text.partition("`: ")
    text = rest if colon else text
    return text[:1].upper() + text[1:]


def _comment(info: ParameterInfo) -> str:
    notes = [info.unit, info.bounds, ", ".join(info.choices), "at run time" * info.runtime]
    extra = "; ".join(note for note in notes if note)
    return f"{info.doc} [{extra}]" if extra else info.doc


def _parts(name: str) -> list[str]:
    """Levels of the YAML tree; a camera's name is one level even with dots in it."""
    if name.startswith("camera."):
        camera, _, key = name[len("camera.") :].rpartition(".")
        return ["camera", camera, key]
    return name.split(".")


def _indent(depth: int) -> str:
    return "  " * (depth + 2)


def _yaml(value: Any) -> str:
    """A scalar or a list of strings as YAML 1.1 and 1.2 both read it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)  # the shortest that reads back the same
        mantissa, e, exponent = text.partition("e")
        return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else text
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, str):
        plain = value.replace("_", "").isalnum() and value.isascii() and value[0].isalpha()
        if (plain and value.lower() not in _NOT_TEXT) or value == "/**":
            return value
        return json.dumps(value, ensure_ascii=False)
    return str(value)
