"""One measured figure, the machine it was taken on, and where the reference data lie."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """A measured value beside its goal; `met` is None where there is no goal."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    note: str = ""


def at_most(name: str, value: float, unit: str, limit: float, note: str = "") -> Figure:
    return Figure(name, value, unit, f"<= {limit:g}", value <= limit, note)


def at_least(name: str, value: float, unit: str, limit: float, note: str = "") -> Figure:
    return Figure(name, value, unit, f">= {limit:g}", value >= limit, note)


def shared_data() -> Path | None:
    """The folder of reference images, or None: then what needs it is left out and said."""
    given = os.environ.get("VGGT_ROS_SHARED")
    folders = [Path(given) / "data", Path(given)] if given else []
    folders.append(REPOSITORY.parent / "shared" / "data")
    return next((f for f in folders if (f / "fountain_p11").is_dir()), None)


def machine() -> dict[str, str]:
    """Processor, cores, versions and commit, for the head of the results."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [li.split(":", 1)[1].strip() for li in cpuinfo.read_text().splitlines()
                 if li.startswith("model name")]  # fmt: skip
        processor = names[0] if names else processor
    packages = ("numpy", "opencv-python-headless", "numba", "pycolmap", "open3d", "rosbags")
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "packages": ", ".join(versions),
        "commit": commit or "unknown",
    }
