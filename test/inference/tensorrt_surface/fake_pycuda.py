"""PyCUDA's driver as its reference documents it (documen.tician.de/pycuda/driver.html)."""

from __future__ import annotations

import types

import numpy as np


def fake_pycuda_driver(gpu) -> types.ModuleType:
    """A module `pycuda.driver` with what is documented, as far as something here needs it."""
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

    class Pages(np.ndarray):
        pass

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
        import ctypes

        assert isinstance(dest, int)
        gpu.queue(stream.handle, lambda: ctypes.memmove(dest, src.ctypes.data, src.nbytes))

    def copy_out(dest, src, stream=None):
        import ctypes

        gpu.queue(stream.handle, lambda: ctypes.memmove(dest.ctypes.data, src, dest.nbytes))

    driver.Error, driver.MemoryError = Error, OutOfMemory
    driver.Device, driver.Context, driver.Stream = Device, Context, Stream
    driver.init = lambda flags=0: None
    driver.get_driver_version = lambda: 12060
    driver.mem_get_info = lambda: (gpu.memory // 2, gpu.memory)
    driver.mem_alloc, driver.pagelocked_empty = mem_alloc, pagelocked_empty
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = copy_in, copy_out
    return driver
