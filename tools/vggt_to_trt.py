#!/usr/bin/env python3
"""Run `vggt_to_trt` from a checkout: `python tools/vggt_to_trt.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.vggt_to_trt import main

if __name__ == "__main__":
    sys.exit(main())
