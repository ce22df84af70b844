"""`vggt-ros engine`: networks from a checkpoint to an engine that is checked on this machine."""

from __future__ import annotations

import argparse
from importlib import import_module

_ACTIONS = ("export", "quantise", "build", "inspect", "verify", "bench", "list")

_EXAMPLES = """\
examples:
  vggt-ros engine export checkpoints/VGGT-1B --pcd-only --precision fp16 --out engines
  vggt-ros engine build engines/vggt-8x3x518x518-pcd_fp16.onnx
  vggt-ros engine verify engines/vggt-8x3x518x518-pcd_fp16.engine
  vggt-ros engine quantise engines/vggt-8x3x518x518-pcd.onnx --precision int8 \\
      --calib-data photos
  vggt-ros engine bench engines
  vggt-ros engine list engines

docs/engines.md goes from the checkpoint to the running robot.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command with its actions."""
    parser = subparsers.add_parser(
        "engine",
        help="export, quantise, build, verify and time networks",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name in _ACTIONS:
        import_module(f"vggt_ros.cli.engine_{name}").add_parser(actions)
