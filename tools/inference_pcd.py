#!/usr/bin/env python3
"""Run `inference_pcd` from a checkout: `python tools/inference_pcd.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.reconstruct import main

if __name__ == "__main__":
    sys.exit(main())
