"""CUDA without a GPU: NVIDIA's Python bindings by their surface, and PyCUDA by its reference.

Memory of the device is memory of this process; streams hold their work back until they are
synchronised; a thread that did not make the device current is refused.
"""

from __future__ import annotations

import ctypes
import runpy
import threading
import types
from pathlib import Path

import numpy as np

_fake = runpy.run_path(str(Path(__file__).with_name("fake.py")))
surface, _enum = _fake["surface"], _fake["_enum"]


class Gpu:
    """What both modules see."""

    def __init__(self, capability=(9, 0), memory=2**34, count=1):
        self.name = "NVIDIA Fake"
        self.capability = capability
        self.memory = memory
        self.count = count
        self.broken = False
        self.blocks: dict[int, object] = {}
        self.streams: dict[int, list] = {}
        self.current = threading.local()

    def allocate(self, size):
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address):
        del self.blocks[address]  # KeyError: freed twice, or never allocated

    def new_stream(self):
        handle = 0x1000 + len(self.streams)
        self.streams[handle] = []
        return handle

    def queue(self, handle, work):
        self.streams[handle].append(work)

    def synchronise(self, handle):
        work, self.streams[handle] = self.streams[handle], []
        for step in work:
            step()

    def check_current(self):
        if not getattr(self.current, "depth", 0):
            raise AssertionError("CUDA was used in a thread without a current device")


def fake_cuda_runtime(gpu: Gpu) -> types.ModuleType:
    """A module `cuda.bindings.runtime` with names of the real one."""
    described = surface("cuda_bindings")
    runtime = types.ModuleType("cuda.bindings.runtime")
    for name, members in described["enums"].items():
        setattr(runtime, name, _enum(name, members))
    runtime.cudaStreamNonBlocking = described["constants"]["cudaStreamNonBlocking"]
    ok = runtime.cudaError_t.cudaSuccess
    out_of_memory = runtime.cudaError_t.cudaErrorMemoryAllocation
    no_device = runtime.cudaError_t.cudaErrorNoDevice

    def set_device(device):
        gpu.current.depth, gpu.current.index = 1, device
        return (ok,)

    def malloc(size):
        gpu.check_current()
        if size > gpu.memory:
            return out_of_memory, None
        return ok, gpu.allocate(size)

    def free(address):
        gpu.free(address)
        return (ok,)

    def copy(to, source, size, kind, stream):
        gpu.check_current()
        assert isinstance(kind, runtime.cudaMemcpyKind)
        to_device = kind is runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert (to if to_device else source) in gpu.blocks
        gpu.queue(int(stream), lambda: ctypes.memmove(to, source, size))
        return (ok,)

    def synchronise(stream):
        gpu.synchronise(int(stream))
        return (ok,)

    def properties(device):
        values = {"name": gpu.name.encode(), "totalGlobalMem": gpu.memory}
        values |= dict(zip(("major", "minor"), gpu.capability, strict=True))
        assert set(values) <= set(described["properties"])
        return ok, types.SimpleNamespace(**values)

    functions = {
        "cudaGetDeviceCount": lambda: (ok, gpu.count) if gpu.count else (no_device, 0),
        "cudaGetDeviceProperties": properties,
        "cudaDriverGetVersion": lambda: (ok, 13000),
        "cudaGetErrorString": lambda error: (ok, repr(error).encode()),
        "cudaGetDevice": lambda: (ok, getattr(gpu.current, "index", 0)),
        "cudaSetDevice": set_device,
        "cudaMalloc": malloc,
        "cudaFree": free,
        "cudaMallocHost": malloc,
        "cudaFreeHost": free,
        "cudaMemGetInfo": lambda: (ok, gpu.memory // 2, gpu.memory),
        "cudaStreamCreateWithFlags": lambda flags: (ok, gpu.new_stream()),
        "cudaStreamDestroy": lambda stream: (ok,),
        "cudaStreamSynchronize": synchronise,
        "cudaMemcpyAsync": copy,
    }
    for name, function in functions.items():
        assert name in described["functions"], f"the real bindings have no {name}"
        setattr(runtime, name, function)
    return runtime


def fake_pycuda_driver(gpu) -> types.ModuleType:
    """A module `pycuda.driver` with what documen.tician.de/pycuda/driver.html has."""
    driver = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class OutOfMemory(Error):
        pass

    class Context:
        def push(self):
            gpu.current.depth = getattr(gpu.current, "depth", 0) + 1

        @staticmethod
        def pop():
            gpu.current.depth -= 1

        def detach(self):
            gpu.detached = True

    class Device:
        def __init__(self, number):
            assert number < gpu.count

        @staticmethod
        def count():
            return gpu.count

        def name(self):
            return gpu.name

        def compute_capability(self):
            return gpu.capability

        def total_memory(self):
            return gpu.memory

        def retain_primary_context(self):
            return Context()

    class DeviceAllocation:
        def __init__(self, size):
            self._address = gpu.allocate(size)

        def __int__(self):
            return self._address

        def free(self):
            gpu.free(self._address)

    class HostAllocation:
        def __init__(self, size):
            self._address = gpu.allocate(size)
            block = gpu.blocks[self._address]
            self.__array_interface__ = np.frombuffer(block, np.uint8).__array_interface__

        def free(self):
            gpu.free(self._address)

    class Stream:
        def __init__(self, flags=0):
            assert flags == 1
            self.handle = gpu.new_stream()

        def synchronize(self):
            gpu.synchronise(self.handle)

    def mem_alloc(size):
        gpu.check_current()
        if size > gpu.memory:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        return DeviceAllocation(size)

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        assert dtype is np.uint8
        return np.asarray(HostAllocation(shape))

    def copy_in(dest, src, stream=None):
        assert isinstance(dest, int)
        gpu.queue(stream.handle, lambda: ctypes.memmove(dest, src.ctypes.data, src.nbytes))

    def copy_out(dest, src, stream=None):
        gpu.queue(stream.handle, lambda: ctypes.memmove(dest.ctypes.data, src, dest.nbytes))

    driver.Error, driver.MemoryError = Error, OutOfMemory
    driver.Device, driver.Context, driver.Stream = Device, Context, Stream
    driver.init = lambda flags=0: None
    driver.get_driver_version = lambda: 12060
    driver.mem_get_info = lambda: (gpu.memory // 2, gpu.memory)
    driver.mem_alloc, driver.pagelocked_empty = mem_alloc, pagelocked_empty
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = copy_in, copy_out
    return driver
