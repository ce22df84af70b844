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

from vggt_ros.cli import overlays, shared_memory
from vggt_ros.nodes.transport import PROFILE, PROFILE_VARIABLES, profile_file

OK, MISSING, BROKEN, OPTIONAL = "ok", "MISSING", "BROKEN", "optional"

_REQUIRED = {
    "numpy": ("numpy", "python3-numpy"),
    "cv2": ("opencv-python-headless", "python3-opencv"),
    "numba": ("numba", ""),
    "yaml": ("pyyaml", "python3-yaml"),
    "pycolmap": ("pycolmap", ""),
    "rosbags": ("rosbags", ""),
    "tqdm": ("tqdm", "python3-tqdm"),
}
"""Import name to the package of pip, and that of apt where a distribution must have apt's."""

_OF_DISTRIBUTION = ("cv_bridge", "tf2_ros", "launch_ros")
"""Named in package.xml: a distribution has them, the wheels of PyPI do not."""

_OPTIONAL = {
    "open3d": ("open3d", "TSDF maps, meshes and viewing clouds"),
    "laspy": ("'laspy[lazrs]'", "LAS and LAZ files"),
    "torch": ("torch", "VGGT and Depth Anything in PyTorch"),
    "onnxruntime": ("onnxruntime", "networks on a CPU"),
    "openvino": ("openvino", "networks on an Intel CPU"),
    "tensorrt": ("'.[tensorrt]'", "networks on an NVIDIA GPU; on Jetson it comes with JetPack"),
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
    parser.add_argument(
        "--remove-stale-segments",
        action="store_true",
        help="remove what killed processes of Fast DDS left in /dev/shm, never what is in use",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.remove_stale_segments:
        return _remove_stale_segments()
    findings = examine()
    width = max(len(f.what) for f in findings)
    for finding in findings:
        print(f"{finding.what:<{width}}  {finding.state:<8}  {finding.detail}")
        if finding.mend and finding.state != OK:
            print(f"{'':<{width}}  {'':<8}  -> {finding.mend}")
    missing = [f.what for f in findings if f.state == MISSING]
    broken = [f for f in findings if f.state == BROKEN]
    if missing:
        print(f"\nmissing: {', '.join(missing)}")
    for finding in broken:
        print(f"\nBROKEN: {finding.what}: {finding.detail}\n  mend it with: {finding.mend}")
    if missing or broken:
        return 1
    print("\neverything that mapping needs is here")
    return 0


def examine() -> list[Finding]:
    """All findings, most basic first."""
    on_distribution = bool(overlays.ros_prefixes())
    findings = [_python(), _way(on_distribution), *_ros()]
    findings += [Finding(o.what, BROKEN, o.detail, o.mend) for o in overlays.find_overlays()]
    for module, (pip, apt) in _REQUIRED.items():
        findings.append(_required(module, pip, apt if on_distribution else ""))
    for module in _OF_DISTRIBUTION:
        findings.append(_of_distribution(module, on_distribution))
    for module, (package, purpose) in _OPTIONAL.items():
        findings.append(_optional(module, package, purpose))
    findings.append(_gpu())
    findings.append(_transport())
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


def _way(on_distribution: bool) -> Finding:
    """How this environment was made, for each way lacks other things."""
    if on_distribution:
        named = os.environ.get("ROS_DISTRO", "unnamed")
        in_venv = sys.prefix != sys.base_prefix
        sees_apt = not in_venv or _sees_system_packages()
        detail = f"colcon on the distribution {named}, {'in a venv' if in_venv else 'no venv'}"
        if not sees_apt:
            return Finding(
                "installed by",
                BROKEN,
                f"{detail} that does not see the packages of apt",
                f"python3 -m venv --system-site-packages {sys.prefix} (again)",
            )
        return Finding("installed by", OK, detail)
    if importlib.util.find_spec("rclpy") is not None:
        return Finding("installed by", OK, "pip, with the ROS 2 wheels of PyPI")
    return Finding("installed by", OK, "pip, without ROS")


def _sees_system_packages() -> bool:
    settings = Path(sys.prefix) / "pyvenv.cfg"
    try:
        lines = settings.read_text().lower().splitlines()
    except OSError:
        return True  # not made by venv: nothing is known against it
    values = dict(line.replace(" ", "").partition("=")[::2] for line in lines)
    return values.get("include-system-site-packages") == "true"


def _required(module: str, pip: str, apt: str) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding(module, OK, _version(pip) or "found")
    mend = f"sudo apt install {apt}" if apt else f"pip install {pip}"
    return Finding(module, MISSING, "not installed", mend)


def _of_distribution(module: str, on_distribution: bool) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding(module, OK, "found")
    if not on_distribution:
        return Finding(module, OPTIONAL, "only a ROS distribution has it; works without")
    package = f"ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{module.replace('_', '-')}"
    mend = f"rosdep install --from-paths src -y --ignore-src, or sudo apt install {package}"
    return Finding(module, MISSING, "package.xml asks for it", mend)


def _optional(module: str, package: str, purpose: str) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding(module, OK, _version(package) or _version(module) or "found")
    return Finding(module, OPTIONAL, purpose, f"pip install {package}")


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


def _transport() -> Finding:
    """The profile for large messages; Cyclone DDS and Zenoh have settings of their own."""
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    where = "see docs/operations.md"
    if "fastrtps" not in middleware:
        return Finding("large messages", OPTIONAL, f"{middleware}: {where}")
    for name in PROFILE_VARIABLES:
        if os.environ.get(name):
            return Finding("large messages", OK, f"{name}={os.environ[name]}")
    if os.environ.get("FASTDDS_BUILTIN_TRANSPORTS"):
        detail = f"FASTDDS_BUILTIN_TRANSPORTS={os.environ['FASTDDS_BUILTIN_TRANSPORTS']}"
        if os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() != "LOCALHOST":
            return Finding("large messages", OK, detail)
        detail += ", without effect where ROS_AUTOMATIC_DISCOVERY_RANGE is LOCALHOST"
    else:
        detail = "this shell has no profile; the launch files set one for their own nodes"
    file = profile_file() or f"config/{PROFILE}"
    mend = f"export {PROFILE_VARIABLES[0]}={file}, for camera drivers too"
    return Finding("large messages", OPTIONAL, detail, mend)


def _shared_memory() -> Finding:
    """Fast DDS leaves its segments behind after a SIGKILL."""
    if not shared_memory.FOLDER.is_dir():
        return Finding("shared memory", OPTIONAL, "no /dev/shm: DDS falls back to UDP")
    segments = shared_memory.find_segments()
    stale = [s for s in segments if s.state == shared_memory.STALE]
    counts = ", ".join(
        f"{sum(s.state == state for s in segments)} {state}"
        for state in (shared_memory.LIVE, shared_memory.STALE, shared_memory.UNKNOWN)
        if any(s.state == state for s in segments)
    )
    detail = f"{len(segments)} Fast DDS segments{f': {counts}' if counts else ''}"
    if not stale:
        return Finding("shared memory", OK, detail)
    size_mb = sum(s.size_bytes for s in stale) / 1e6
    mend = "vggt-ros doctor --remove-stale-segments"
    return Finding("shared memory", OPTIONAL, f"{detail} ({size_mb:.0f} MB)", mend)


def _remove_stale_segments() -> int:
    segments = shared_memory.find_segments()
    removed, refused = shared_memory.remove_stale(segments)
    size_mb = sum(s.size_bytes for s in removed) / 1e6
    print(f"removed {len(removed)} stale segments of Fast DDS, {size_mb:.1f} MB")
    for text in refused:
        print(f"kept: {text}")
    for state in (shared_memory.LIVE, shared_memory.UNKNOWN):
        kept = [s for s in segments if s.state == state]
        for why in sorted({s.why for s in kept if state == shared_memory.UNKNOWN}):
            print(f"kept {sum(s.why == why for s in kept)}: {why}")
        if kept and state == shared_memory.LIVE:
            print(f"kept {len(kept)} in use")
    return 1 if refused else 0
