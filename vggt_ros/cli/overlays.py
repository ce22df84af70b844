"""Python packages of pip that lie over those a ROS distribution was built with.

An environment made with `--system-site-packages` sees both; what pip installed wins. Some pairs
then break far from their cause: `KeyError: 16` in cv_bridge, a crash in a type support library.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_INDEX = Path("share/ament_index/resource_index/packages")

_PIP_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)

_EMPY_3 = ("humble", "iron", "jazzy")
"""Distributions whose generators need empy 3; 4 ends with "no attribute 'BUFFERED_OPT'"."""

_ROUND_TRIP = """
import numpy, cv2
from cv_bridge import CvBridge
image = numpy.arange(4 * 6 * 3, dtype=numpy.uint8).reshape(4, 6, 3)
message = CvBridge().cv2_to_imgmsg(image, encoding="bgr8")
back = CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
assert (back == image[..., ::-1]).all()
"""
"""What the mapper asks of cv_bridge; one that does not fit numpy or cv2 raises or crashes here."""


@dataclass(frozen=True)
class Overlay:
    """Something of pip in the way of the distribution."""

    what: str
    detail: str
    mend: str


def ros_prefixes() -> list[Path]:
    """Prefixes of a sourced distribution and its workspaces.

    Empty for the wheels of PyPI, also where a workspace was built on them.
    """
    own = Path(sys.prefix).resolve()
    named = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes = [Path(p) for p in named if p and Path(p).resolve() != own]
    return prefixes if any((p / _INDEX / "rcl").exists() for p in prefixes) else []


def find_overlays(prefixes: Iterable[Path] | None = None) -> list[Overlay]:
    """All that lies over the distribution; empty where none is sourced."""
    prefixes = ros_prefixes() if prefixes is None else list(prefixes)
    if not prefixes:
        return []
    found = _ros_packages(prefixes)
    opencv = [name for name in _PIP_OPENCV if _version(name)]
    has_bridge = importlib.util.find_spec("cv_bridge") is not None
    if has_bridge:
        failure = _bridge_failure()
        if failure:
            installed = ", ".join(
                f"{name} {_version(name)}" for name in ("numpy", *opencv) if _version(name)
            )
            found.append(
                Overlay(
                    "cv_bridge",
                    f"does not work with what pip has put over apt's ({installed}): {failure}",
                    "pip install 'numpy>=1.26,<2'"
                    + (f" && pip uninstall -y {' '.join(opencv)}" if opencv else ""),
                )
            )
        elif opencv:
            found.append(
                Overlay(
                    "opencv",
                    f"{', '.join(opencv)} of pip lies over python3-opencv, which cv_bridge was "
                    "built with",
                    f"pip uninstall -y {' '.join(opencv)}",
                )
            )
    empy = _version("empy")
    if empy.split(".")[0] not in ("", "0", "1", "2", "3") and _distribution() in _EMPY_3:
        found.append(
            Overlay(
                "empy",
                f'{empy} of pip lies over python3-empy 3: colcon build fails with "no attribute '
                "'BUFFERED_OPT'\"",
                "pip uninstall -y empy",
            )
        )
    return found


def _ros_packages(prefixes: list[Path]) -> list[Overlay]:
    """Python packages of the distribution that come from somewhere else."""
    names = {
        entry.name
        for prefix in prefixes
        if (prefix / _INDEX).is_dir()
        for entry in (prefix / _INDEX).iterdir()
    }
    roots = [prefix.resolve() for prefix in prefixes]
    covered: dict[Path, list[str]] = {}
    for name in sorted(names - {"vggt_ros"}):
        origin = _origin(name)
        if origin is None or any(origin.is_relative_to(root) for root in roots):
            continue
        if origin.is_relative_to("/usr/lib") or origin.is_relative_to("/usr/share"):
            continue  # of apt, as some distributions pack them
        covered.setdefault(origin.parent.parent, []).append(name)
    return [
        Overlay(
            "ROS packages",
            f"{', '.join(group[:6])}{' ...' if len(group) > 6 else ''} come from {folder}, not "
            f"from {roots[-1]}",
            "pip uninstall the ros-* wheels, or do not source the distribution",
        )
        for folder, group in covered.items()
    ]


def _origin(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin).resolve()


def _bridge_failure() -> str:
    """Why a round trip through cv_bridge fails; in a process of its own, for it may crash."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ROUND_TRIP],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer within 60 s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with code {done.returncode}"


def _distribution() -> str:
    return os.environ.get("ROS_DISTRO", "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
