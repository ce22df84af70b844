#!/usr/bin/env python3
"""Run `pcd_inference` from a checkout: `python tools/pcd_inference.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.pcd_inference import main

if __name__ == "__main__":
    sys.exit(main())
