"""`vggt-ros convert`: files of other systems to ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Write intrinsics.json and poses.json from the camera files of PKU-DyMVHumans or MVSNet:
<id>_cam.txt with "extrinsic" (4x4, world to camera) and "intrinsic" (3x3). The poses that are
written are camera to world.
"""
_EXAMPLES = """\
examples:
  vggt-ros convert pku-cams pku_scene/cams --out configs
"""


def add_parser(subparsers: Any) -> None:
    words = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    convert = subparsers.add_parser(
        "convert",
        help="camera files of other systems to ours",
        description="Convert camera files of other systems.",
        **words,
    )
    actions = convert.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "pku-cams",
        help="PKU and MVSNet cam.txt to intrinsics.json and poses.json",
        description=_DESCRIPTION,
        **words,
    )
    parser.add_argument("directory", metavar="CAMS_DIR", type=Path, help="folder of *_cam.txt")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="an existing folder"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert; returns the exit code.

    Raises:
        VggtRosError: no or wrong camera files, or a folder that cannot be written.
    """
    from vggt_ros.sources.pku_cams import convert_pku_cams

    for path in convert_pku_cams(args.directory, args.out):
        print(path)
    return 0
