"""Faults of a GPU that is there but does not answer."""

from types import SimpleNamespace

import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference.cuda_memory import _CudaPythonDevice


def test_a_gpu_whose_properties_cannot_be_read_is_a_clear_error():
    runtime = SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=0),
        cudaGetDeviceCount=lambda: (0, 1),
        cudaGetDeviceProperties=lambda index: (46, None),
        cudaGetErrorString=lambda error: (0, b"device is busy or unavailable"),
    )
    with pytest.raises(EngineError, match=r"cuda:0: cudaGetDeviceProperties failed: .* busy"):
        _CudaPythonDevice(runtime, 0)
