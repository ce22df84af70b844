#!/usr/bin/env python3
"""Run `inference_depth_anything` from a checkout; `--help` tells its flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.inference_depth_anything import main

if __name__ == "__main__":
    sys.exit(main())
