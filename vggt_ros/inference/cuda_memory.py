"""Memory, copies and streams of an NVIDIA GPU: one small interface over PyCUDA and cuda-python.

PyCUDA where it is installed (Jetson, and whoever built it), else NVIDIA's `cuda.bindings`. Both
use the device's primary context, which TensorRT and PyTorch share; there is never a second one.
Each thread makes it current for as long as it works: `with device.current(): ...`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.errors import EngineError
from vggt_ros.inference.tensors import first_line

Bytes = NDArray[np.uint8]

_STREAM_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING of cuda.h, for which PyCUDA has no documented name."""
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class GpuFacts:
    """What an engine depends on."""

    index: int
    name: str
    """As NVIDIA writes it: "NVIDIA H200"."""
    compute_capability: str
    """Major and minor: "9.0"."""
    driver: str
    """Version of the kernel driver, or of CUDA that it supports where that is not told."""
    memory_bytes: int

    def __str__(self) -> str:
        return f"cuda:{self.index} ({self.name})"


class CudaStream(Protocol):
    """A queue of work."""

    handle: int
    """Address, for TensorRT."""

    def synchronise(self) -> None:
        """Wait until all of it is done."""
        ...


class CudaDevice(Protocol):
    """One GPU. All methods but `current` and `close` are called inside `current()`."""

    interface: str
    """"pycuda" or "cuda-python"."""
    facts: GpuFacts

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the primary context that of the calling thread."""
        ...

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device.

        Raises:
            EngineError: out of memory; the message has both figures.
        """
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...

    def allocate_host(self, size: int) -> Bytes:
        """`size` bytes of page-locked memory, from which copies need not wait."""
        ...

    def free_host(self, array: Bytes) -> None:
        """Give back what `allocate_host` gave; the array must not be used any more."""
        ...

    def stream(self) -> CudaStream:
        """A queue of its own."""
        ...

    def free_stream(self, stream: CudaStream) -> None:
        """Give back what `stream` gave."""
        ...

    def copy_to_device(self, address: int, host: Bytes, stream: CudaStream) -> None:
        """Queue a copy; `host` must live and stay until the stream got there."""
        ...

    def copy_to_host(self, host: Bytes, address: int, stream: CudaStream) -> None:
        """Queue a copy; `host` holds it once the stream was synchronised."""
        ...

    def close(self) -> None:
        """Let go of the context; everything was freed before."""
        ...


def open_cuda(index: int = 0) -> CudaDevice:
    """The GPU with an index.

    Raises:
        EngineError: no interface is installed, or no such GPU.
    """
    try:
        import pycuda.driver as pycuda_driver
    except ImportError:
        pass
    else:
        return _PyCudaDevice(pycuda_driver, index)
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"cuda:{index}: neither PyCUDA nor NVIDIA's CUDA bindings are installed "
            f"({first_line(error)}); pip install 'vggt_ros[tensorrt]'"
        ) from error
    return _CudaPythonDevice(runtime, index)


def _driver_version(cuda: int) -> str:
    """Of the kernel driver where /proc tells it (not on Jetson), else CUDA's as "CUDA 13.0"."""
    with contextlib.suppress(OSError):
        for word in _DRIVER_FILE.read_text(encoding="utf-8").split():
            if word.count(".") in (1, 2) and word.replace(".", "").isdigit():
                return word
    return f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"


def _no_device(index: int, there: int, reason: str) -> EngineError:
    found = f"{there} GPUs (cuda:0 to cuda:{there - 1})" if there else "no NVIDIA GPU"
    return EngineError(
        f"expected device cuda:{index}, found {found}{reason}; TensorRT builds and runs engines "
        "only on the GPU they are for"
    )


class _CudaPythonStream:
    def __init__(self, device: _CudaPythonDevice, stream: Any) -> None:
        self._device = device
        self.stream = stream
        self.handle = int(stream)

    def synchronise(self) -> None:
        self._device.call("cudaStreamSynchronize", self.stream)


class _CudaPythonDevice:
    """NVIDIA's bindings of the CUDA runtime, which uses the primary context by itself."""

    interface = "cuda-python"

    def __init__(self, runtime: Any, index: int) -> None:
        self._runtime = runtime
        self._index = index
        try:
            error, there = runtime.cudaGetDeviceCount()
        # the bindings raise their own exceptions where the driver's library is not found
        except (RuntimeError, OSError, ImportError) as missing:
            raise _no_device(index, 0, f" ({first_line(missing)})") from missing
        if error != runtime.cudaError_t.cudaSuccess:
            raise _no_device(index, 0, f" ({self._describe(error)})")
        if index >= there:
            raise _no_device(index, there, "")
        properties = self.call("cudaGetDeviceProperties", index)
        name = properties.name
        self.facts = GpuFacts(
            index,
            (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
            f"{properties.major}.{properties.minor}",
            _driver_version(int(self.call("cudaDriverGetVersion"))),
            int(properties.totalGlobalMem),
        )

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the runtime; its first answer is an error code, the second, if any, the result."""
        error, *results = getattr(self._runtime, function)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"cuda:{self._index}: {function} failed: {self._describe(error)}")
        return results[0] if len(results) == 1 else results

    def _describe(self, error: Any) -> str:
        _, text = self._runtime.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(text)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        before = self.call("cudaGetDevice")
        self.call("cudaSetDevice", self._index)
        try:
            yield
        finally:
            if before != self._index:
                self.call("cudaSetDevice", before)

    def allocate(self, size: int) -> int:
        error, address = self._runtime.cudaMalloc(size)
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            free, _ = self.call("cudaMemGetInfo")
            raise _too_little(self.facts, size, free)
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"{self.facts}: cudaMalloc failed: {self._describe(error)}")
        return int(address)

    def free(self, address: int) -> None:
        self.call("cudaFree", address)

    def allocate_host(self, size: int) -> Bytes:
        address = int(self.call("cudaMallocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_host(self, array: Bytes) -> None:
        self.call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> CudaStream:
        # not blocking: the legacy default stream of other code would order all of ours
        flags = self._runtime.cudaStreamNonBlocking
        return _CudaPythonStream(self, self.call("cudaStreamCreateWithFlags", flags))

    def free_stream(self, stream: CudaStream) -> None:
        self.call("cudaStreamDestroy", stream.stream)  # type: ignore[attr-defined]

    def copy_to_device(self, address: int, host: Bytes, stream: CudaStream) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, host.ctypes.data, host.nbytes, kind, stream)

    def copy_to_host(self, host: Bytes, address: int, stream: CudaStream) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(host.ctypes.data, address, host.nbytes, kind, stream)

    def _copy(self, to: int, source: int, size: int, kind: Any, stream: CudaStream) -> None:
        self.call("cudaMemcpyAsync", to, source, size, kind, stream.stream)  # type: ignore[attr-defined]

    def close(self) -> None:
        """The runtime keeps the primary context, which belongs to the process."""


class _PyCudaStream:
    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.handle = int(stream.handle)

    def synchronise(self) -> None:
        self.stream.synchronize()


class _PyCudaDevice:
    """PyCUDA, told to take the primary context."""

    interface = "pycuda"

    def __init__(self, driver: Any, index: int) -> None:
        self._driver = driver
        try:
            driver.init()
            there = driver.Device.count()
        except driver.Error as error:
            raise _no_device(index, 0, f" ({first_line(error)})") from error
        if index >= there:
            raise _no_device(index, there, "")
        device = driver.Device(index)
        major, minor = device.compute_capability()
        self.facts = GpuFacts(
            index,
            device.name(),
            f"{major}.{minor}",
            _driver_version(int(driver.get_driver_version())),
            int(device.total_memory()),
        )
        self._context = device.retain_primary_context()
        self._allocations: dict[int, Any] = {}
        self._pages: dict[int, Any] = {}

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        except self._driver.Error as error:
            raise EngineError(f"{self.facts}: {first_line(error)}") from error
        finally:
            self._context.pop()

    def allocate(self, size: int) -> int:
        try:
            allocation = self._driver.mem_alloc(size)
        except self._driver.MemoryError as error:
            free, _ = self._driver.mem_get_info()
            raise _too_little(self.facts, size, free) from error
        # PyCUDA frees what nobody holds
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def allocate_host(self, size: int) -> Bytes:
        pages: Bytes = self._driver.pagelocked_empty(size, np.uint8)
        self._pages[pages.ctypes.data] = pages
        return pages

    def free_host(self, array: Bytes) -> None:
        self._pages.pop(array.ctypes.data).base.free()

    def stream(self) -> CudaStream:
        return _PyCudaStream(self._driver.Stream(_STREAM_NON_BLOCKING))

    def free_stream(self, stream: CudaStream) -> None:
        """PyCUDA destroys a stream with its object."""

    def copy_to_device(self, address: int, host: Bytes, stream: CudaStream) -> None:
        self._driver.memcpy_htod_async(address, host, stream.stream)  # type: ignore[attr-defined]

    def copy_to_host(self, host: Bytes, address: int, stream: CudaStream) -> None:
        self._driver.memcpy_dtoh_async(host, address, stream.stream)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._context.detach()


def _too_little(facts: GpuFacts, size: int, free: int) -> EngineError:
    return EngineError(
        f"{facts}: too little memory: {size / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free; "
        "close what else runs on it, or give fewer contexts or views"
    )
