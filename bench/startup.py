"""What `import vggt_ros` costs and pulls in."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.figures import Figure, at_most

_HEAVY = ("torch", "rclpy", "open3d", "cv2", "numba", "pycolmap")


def figures() -> list[Figure]:
    code = f"import sys, vggt_ros; print([m for m in {_HEAVY!r} if m in sys.modules])"
    times = []
    for _ in range(5):
        start = time.perf_counter()
        pulled = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        times.append(time.perf_counter() - start)
    note = f"whole process; heavy modules pulled in: {pulled}"
    return [at_most("import vggt_ros", sorted(times)[2], "s", 0.2, note)]
