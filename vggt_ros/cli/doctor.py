"""`vggt-ros doctor`: what is installed, what is missing, and the command that adds it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OK, MISSING, OPTIONAL = "ok", "MISSING", "optional"

_REQUIRED = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "numba": "numba",
    "yaml": "pyyaml",
    "pycolmap": "pycolmap",
    "rosbags": "rosbags",
    "tqdm": "tqdm",
}
"""Import name to the package that pip installs."""

_OPTIONAL = {
    "open3d": ("open3d", "TSDF maps, meshes and viewing clouds"),
    "laspy": ("'laspy[lazrs]'", "LAS and LAZ files"),
    "torch": ("torch", "VGGT and Depth Anything in PyTorch"),
    "onnxruntime": ("onnxruntime", "networks on a CPU"),
    "openvino": ("openvino", "networks on an Intel CPU"),
    "tensorrt": ("tensorrt", "networks on an NVIDIA GPU"),
    "tf2_ros": ("", "comes with a ROS distribution; without it an own transform buffer is used"),
    "cv_bridge": ("", "comes with a ROS distribution; without it only common encodings"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; `mend` is a command or empty."""

    what: str
    state: str
    detail: str
    mend: str = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor", help="what is installed, what is missing, how to add it", description=__doc__
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = examine()
    width = max(len(f.what) for f in findings)
    for finding in findings:
        print(f"{finding.what:<{width}}  {finding.state:<8}  {finding.detail}")
        if finding.mend and finding.state != OK:
            print(f"{'':<{width}}  {'':<8}  -> {finding.mend}")
    missing = [f.what for f in findings if f.state == MISSING]
    if missing:
        print(f"\nmissing: {', '.join(missing)}")
        return 1
    print("\neverything that mapping needs is here")
    return 0


def examine() -> list[Finding]:
    """All findings, most basic first."""
    findings = [_python(), *_ros()]
    for module, package in _REQUIRED.items():
        findings.append(_module(module, package, "", required=True))
    for module, (package, purpose) in _OPTIONAL.items():
        findings.append(_module(module, package, purpose, required=False))
    findings.append(_gpu())
    findings.append(_shared_memory())
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 10)
    return Finding("Python", OK if good else MISSING, version, "install Python 3.10 or newer")


def _ros() -> list[Finding]:
    distribution = os.environ.get("ROS_DISTRO", "")
    wheels = _version("ros-jazzy-rclpy") or _version("ros-rclpy")
    mend = 'pip install ".[ros-wheels]", or source /opt/ros/<distribution>/setup.bash'
    if importlib.util.find_spec("rclpy") is None:
        return [Finding("ROS 2 (rclpy)", MISSING, "not importable; replay works without", mend)]
    if distribution and wheels:
        detail = f"distribution {distribution}, overlaid by wheels {wheels}"
        mend = "pip uninstall the ros-jazzy-* wheels, or do not source the distribution"
        return [Finding("ROS 2 (rclpy)", MISSING, detail, mend)]
    origin = f"distribution {distribution}" if distribution else f"wheels, rclpy {wheels}"
    findings = [Finding("ROS 2 (rclpy)", OK, origin)]
    if importlib.util.find_spec("vggt_ros.msg") is None:
        findings.append(
            Finding(
                "interfaces", MISSING, "vggt_ros.msg is not built", "make setup / colcon build"
            )
        )
    else:
        findings.append(Finding("interfaces", OK, "vggt_ros.msg, vggt_ros.srv"))
    return findings


def _module(module: str, package: str, purpose: str, required: bool) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding(module, OK, _version(package) or "found")
    mend = f"pip install {package}" if package else ""
    return Finding(module, MISSING if required else OPTIONAL, purpose or "not installed", mend)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("NVIDIA GPU", OPTIONAL, "none found: sfm and plane_sweep run on the CPU")
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if result.returncode != 0:
        return Finding("NVIDIA GPU", OPTIONAL, f"nvidia-smi failed: {result.stderr.strip()}")
    return Finding("NVIDIA GPU", OK, "; ".join(result.stdout.strip().splitlines()))


def _shared_memory() -> Finding:
    """Fast DDS leaves its segments behind after a SIGKILL."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", OPTIONAL, "no /dev/shm: DDS falls back to UDP")
    segments = list(folder.glob("fastrtps_*")) + list(folder.glob("fast_datasharing_*"))
    used_mb = sum(s.stat().st_size for s in segments if s.exists()) / 1e6
    detail = f"{len(segments)} Fast DDS segments, {used_mb:.0f} MB"
    if not segments:
        return Finding("shared memory", OK, detail)
    mend = "if no ROS process runs: rm /dev/shm/fastrtps_* /dev/shm/fast_datasharing_*"
    return Finding("shared memory", OPTIONAL, detail, mend)
