"""Import Open3D, also where the system has no libusb, which its wheel asks for."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

from vggt_ros.errors import ConfigError


def load_libusb() -> None:
    """Load libusb from the wheel `libusb-package`, if that is installed.

    Open3D links against `libusb-1.0.so.0` for depth cameras and is not importable without it.
    A library of that name that is loaded already serves.
    """
    with contextlib.suppress(ImportError, OSError):
        import libusb_package

        path = libusb_package.get_library_path()
        if path:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def import_open3d() -> Any:
    """The module; ConfigError if it is not there."""
    try:
        try:
            import open3d
        except (ImportError, OSError):
            load_libusb()
            import open3d
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"map.kind: tsdf needs Open3D, which cannot be imported ({error}); "
            "pip install open3d libusb-package (or apt install libusb-1.0-0 libgomp1), or "
            "map.kind: surfel"
        ) from error
    return open3d
