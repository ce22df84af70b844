#!/usr/bin/env python3
"""Run `pcd_to_3dgs` from a checkout: `python tools/pcd_to_3dgs.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.pcd_to_3dgs import main

if __name__ == "__main__":
    sys.exit(main())
