#!/usr/bin/env python3
r"""Make small networks for tests. FIXTURES: they see nothing and give no working depth.

    python scripts/make_tiny_checkpoint.py fixtures

writes
    fixtures/vggt_tiny_fixture/              random weights, in the architecture of VGGT
    fixtures/depth_anything_tiny_fixture/    random weights, in that of Depth Anything
    fixtures/vggt_fixture.onnx               what VGGT should say of the demo's room
    fixtures/depth_anything_fixture.onnx     what Depth Anything should say of it

A bootstrap from random weights is refused, because its views do not confirm each other. The two
graphs always give the same, true, answer for the four cameras of `vggt-ros demo`, in this order;
each has a passport, as a real engine has:

    vggt-ros replay demo_out/bag --out result --set bootstrap=vggt \
        --set cameras=[front_left,center_left,center_right,front_right] \
        --set vggt.engine=fixtures/vggt_fixture.onnx --set depth=depth_anything \
        --set depth_anything.engine=fixtures/depth_anything_fixture.onnx
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.errors import VggtRosError
from vggt_ros.synthetic import network_fixtures as fixtures


def main() -> int:
    """Write the files; exit code 1 where they cannot be written or a package is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="folder for the fixtures")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument(
        "--image-px", type=int, default=252, help="width of the input of the graphs [px]"
    )
    args = parser.parse_args()
    try:
        made = [
            fixtures.write_tiny_vggt(args.out / "vggt_tiny_fixture", args.seed),
            fixtures.write_tiny_depth_anything(
                args.out / "depth_anything_tiny_fixture", args.seed
            ),
            *fixtures.write_room_answers(args.out, args.image_px),
        ]
    except (VggtRosError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except ImportError as error:
        print(
            f"{error}; pip install 'vggt_ros[depth-anything,export]'",
            file=sys.stderr,
        )
        return 1
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
