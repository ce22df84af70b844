#!/usr/bin/env python3
"""Run `benchmark_trt_engines` from a checkout: `python tools/benchmark_trt_engines.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vggt_ros.cli.benchmark_trt_engines import main

if __name__ == "__main__":
    sys.exit(main())
