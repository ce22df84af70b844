#!/usr/bin/env python3
"""Run `trt_inference` from a checkout: `python tools/trt_inference.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.trt_inference import main

if __name__ == "__main__":
    sys.exit(main())
