"""`vggt-ros check-rig`: are the cameras of a bag where its TF or the rig file says?"""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vggt_ros import results
from vggt_ros.cli.arguments import count
from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError

if TYPE_CHECKING:
    from vggt_ros.pipeline.check_rig import CameraCheck, RigCheck
    from vggt_ros.rig import Rig

_EXAMPLES = """\
examples:
  vggt-ros check-rig robot_bag
  vggt-ros check-rig robot_bag --set rig_file=RIG.yaml --write RIG_new.yaml --urdf cameras.urdf

exit codes: 0 all cameras that were compared are in their places; 1 one is not, or nothing could
be compared
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "check-rig",
        help="find cameras that were bumped",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder or file")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of parameters")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one parameter, for instance check_rig.sets=3; may be repeated",
    )
    parser.add_argument(
        "--skip", type=int, default=0, metavar="N", help="leave out the first N sets"
    )
    parser.add_argument("--checks", type=count, default=1, metavar="N", help="checks in a row")
    parser.add_argument("--write", type=Path, metavar="RIG.yaml", help="corrected rig file")
    parser.add_argument("--urdf", type=Path, metavar="FILE", help="corrected joints for a URDF")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vggt_ros.parameters import load_config
    from vggt_ros.pipeline.check_rig import Level
    from vggt_ros.pipeline.check_rig_files import write_rig_file, write_urdf

    config = load_config(args.config, args.set)
    checks, rig = check_bag(args.bag, config, args.checks, args.skip)
    for check in checks:
        rows = [(c.name, c.level.name, *_figures(c)) for c in check.cameras]
        print(results.table(rows, ("camera", "level", "centre [mm]", "rotation [deg]")))
        print(f"{check.message}\n")
    last = checks[-1]
    if args.write:
        print(f"written: {write_rig_file(args.write, rig, last)}")
    if args.urdf:
        print(f"written: {write_urdf(args.urdf, rig, last)}")
    return 0 if all(check.level is Level.OK for check in checks) else 1


def _figures(camera: CameraCheck) -> tuple[str, str]:
    if camera.rig_from_camera is None:
        return "", ""
    turn, sigma = math.degrees(camera.rotation_rad), math.degrees(camera.rotation_sigma_rad)
    return (
        f"{1e3 * camera.centre_m:.1f} +- {1e3 * camera.centre_sigma_m:.1f}",
        f"{turn:.2f} +- {sigma:.2f}",
    )


def check_bag(
    path: Path, config: Config, checks: int = 1, skip: int = 0
) -> tuple[list[RigCheck], Rig]:
    """Check the sets of a bag, `check_rig.sets` at a time.

    Raises:
        SourceError: no bag, no image topics.
        ConfigError: a camera or topic that the bag does not have.
        CalibrationError: impossible intrinsics or transforms.
        AlignmentError: no sets, they do not register, or cannot be compared.
    """
    from vggt_ros.cli.replay_images import BagImages
    from vggt_ros.pipeline.check_rig_images import check_rig_of_sets
    from vggt_ros.pipeline.ingest import Ingest
    from vggt_ros.sources.bag import BagReader
    from vggt_ros.sources.bag_cameras import choose_cameras

    found: list[RigCheck] = []
    with ExitStack() as stack:
        bag = stack.enter_context(BagReader(path))
        chosen = choose_cameras(bag, config)
        rig = chosen.rig
        config = replace(config, cameras=list(rig.names))
        ingest = stack.enter_context(
            Ingest(rig.names, {n: rig.models.get(n) for n in rig.names}, config.ingest)
        )
        images = BagImages(chosen.topics, ingest)
        waiting = []
        for number, frame_set in enumerate(images.frame_sets(bag.messages(list(chosen.topics)))):
            if number < skip:
                continue
            waiting.append(frame_set)
            if len(waiting) == config.check_rig.sets:
                found.append(check_rig_of_sets(waiting, rig, {}, config))
                waiting = []
            if len(found) == checks:
                break
    if not found:
        raise AlignmentError(
            f"{path}: expected {config.check_rig.sets} complete frame sets or more after the "
            f"first {skip}, got fewer; lower check_rig.sets or --skip"
        )
    return found, rig
