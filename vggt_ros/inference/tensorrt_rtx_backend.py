"""TensorRT for RTX: its engines run on GeForce and RTX GPUs, not on Hopper or Jetson.

Its Python module has nearly the same names as TensorRT's; what is used here is the same.
"""

from __future__ import annotations

from pathlib import Path

from vggt_ros.inference.backend import BackendOptions
from vggt_ros.inference.tensorrt_backend import TensorRtBackend, open_engine


def open_file(path: Path, options: BackendOptions) -> TensorRtBackend:
    """Load an engine; see `tensorrt_backend.open_engine`."""
    return open_engine("tensorrt_rtx", path, options)
