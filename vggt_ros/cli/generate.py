"""Write from the code `config/default.yaml`, `docs/parameters.md` and `docs/diagnostics.md`.

Run `python -m vggt_ros.cli.generate` after a change of `vggt_ros/config/`,
`vggt_ros/nodes/node_config.py` or `vggt_ros/nodes/finding_texts.py`; with `--check` it only says
whether the files are current.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vggt_ros.errors import ExportError
from vggt_ros.export.files import write_text
from vggt_ros.nodes.finding_texts import diagnostics_markdown
from vggt_ros.nodes.node_config import BagPlayerConfig, CameraSourceConfig, MapperConfig
from vggt_ros.parameters import dump_config, parameters_markdown

COMMAND = "python -m vggt_ros.cli.generate"

_MARKDOWN_HEAD = f"""\
# Parameters

Written by `{COMMAND}` from `vggt_ros/config/` and
`vggt_ros/nodes/node_config.py`; do not edit.

The first tables are those of the mapper; `bag_player` and `camera_source` follow at the end.
The same names hold for the node (`--ros-args -p map.voxel_m:=0.01`, or a parameter file such as
[`config/default.yaml`](../config/default.yaml)) and for the command line
(`vggt-ros replay ... --set map.voxel_m=0.01`, `--config FILE`). Lengths are metres where the scale
is known. Parameters with "yes" under "at run time" can be changed while the node maps.

"""

_DIAGNOSTICS_HEAD = f"""\
# Diagnostics

Written by `{COMMAND}` from `vggt_ros/nodes/finding_texts.py`; do not edit.

The mapper publishes `/diagnostics` once a second: one status for the pipeline, one per camera,
one for the topics. The message of a status holds all that is found, the worst first, joined by
`; `; its level is that of the worst. The figures behind it (rates, age of stamps, skew, drops by
reason, alignment, overlap, memory, milliseconds of every stage as p50/p95) stand in its values,
and most of them in `~/status` too. From where on it warns is set by `diagnostics.*`
([parameters](parameters.md)). Words in braces are filled in.

"""


def documents() -> dict[str, str]:
    """The generated files: path in the repository to content."""
    header = (
        f"All parameters of the mapper with their defaults; written by {COMMAND}.",
        "Copy it and keep only what differs.",
    )
    return {
        "config/default.yaml": dump_config(MapperConfig(), header=header),
        "docs/parameters.md": "\n".join(
            [
                _MARKDOWN_HEAD + parameters_markdown(MapperConfig()),
                parameters_markdown(BagPlayerConfig(), "Node `bag_player`"),
                parameters_markdown(CameraSourceConfig(), "Node `camera_source`"),
            ]
        ),
        "docs/diagnostics.md": _DIAGNOSTICS_HEAD + diagnostics_markdown(),
    }


def stale(root: Path) -> list[str]:
    """The generated files that are missing or not current."""
    return [
        name
        for name, text in documents().items()
        if not (root / name).is_file() or (root / name).read_text() != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them; exit code 1 where one is not current or not writable."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[2],
        help="the source tree (default: the one this module is in)",
    )
    args = parser.parse_args(arguments)
    if not (args.root / "package.xml").is_file():
        print(f"{args.root} is not the source tree: it has no package.xml", file=sys.stderr)
        return 1
    names = stale(args.root)
    if args.check:
        for name in names:
            print(f"{name} is not current; run {COMMAND}", file=sys.stderr)
        return 1 if names else 0
    try:
        for name in names:
            (args.root / name).parent.mkdir(exist_ok=True)
            write_text(args.root / name, documents()[name])
            print(f"wrote {args.root / name}")
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
