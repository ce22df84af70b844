"""The `vggt-ros` command: one sub-command per file of this folder."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from vggt_ros import __version__
from vggt_ros.cli.flags import FlagParser
from vggt_ros.cli.interrupts import hearing_lost_interrupts
from vggt_ros.cli.logs import log_to_stderr
from vggt_ros.errors import VggtRosError

_COMMANDS = (
    "demo",
    "bag",
    "convert",
    "check",
    "replay",
    "reconstruct",
    "export",
    "evaluate",
    "engine",
    "doctor",
    "check_rig",
)

_EXAMPLES = """\
examples:
  vggt-ros demo                                    the whole job on a synthetic room
  vggt-ros bag from-images photos --camera-per-image --out photos_bag
  vggt-ros check photos_bag                        will it map, and if not, why
  vggt-ros replay photos_bag --out result          the map, without ROS
  vggt-ros reconstruct --images photos --camera_per_image
                                                   the same from folders, videos, webcams
  vggt-ros export result --format glb,colmap       for other programs
  vggt-ros evaluate result --reference truth.json --align sim3
  vggt-ros engine list engines                     networks, checked on this machine
  vggt-ros convert pku-cams pku_scene/cams --out configs
  vggt-ros doctor                                  what is installed, what is missing

exit codes: 0 done; 1 it could not be done, one line says why; 2 wrong usage; 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog="vggt-ros",
        description="Dense, metric, live 3-D maps from ordinary cameras.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vggt_ros {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log debug messages")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        import_module(f"vggt_ros.cli.{name}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors of ours become one line on stderr and exit code 1."""
    args = build_parser().parse_args(arguments)
    log_to_stderr("DEBUG" if args.verbose else "INFO")
    try:
        with hearing_lost_interrupts():
            code = int(args.run(args))
        sys.stdout.flush()  # a closed pipe shows here and not while the interpreter ends
        return code
    except VggtRosError as error:
        print(f"vggt-ros {_words(args)}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if arguments is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if arguments is None:  # a second one must not end the end of this process
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return 130


def _words(args: argparse.Namespace) -> str:
    """The command that was given, with its action."""
    return " ".join(word for word in (args.command, getattr(args, "action", "")) if word)


if __name__ == "__main__":
    sys.exit(main())
