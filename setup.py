"""Install with pip: runs the CMakeLists.txt that colcon runs and packs the result.

Name, version and dependencies stand in pyproject.toml.

The installed tree looks like that of the ROS 2 wheels of PyPI: shared libraries in `<prefix>/lib`,
ament index and headers in `<prefix>/share` and `<prefix>/include`, Python in site-packages.

On a robot with a ROS distribution use colcon, which does not read this file.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
INDEX = Path("share/ament_index/resource_index/packages")

# Filled by BuildInterfaces, read by setuptools' install_data afterwards.
DATA_FILES: list[tuple[str, list[str]]] = []


def ros_prefixes() -> list[Path]:
    """Find the prefixes that hold ROS: a sourced distribution, or else the wheels of PyPI."""
    sourced = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    if any((p / INDEX / "rosidl_default_generators").exists() for p in sourced):
        return sourced
    # The wheels lie in the environment that pip builds in: its own temporary one, or, with
    # --no-build-isolation, the one it installs to.
    import ament_package

    for folder in Path(ament_package.__file__).resolve().parents:
        if (folder / INDEX / "rosidl_default_generators").exists():
            return [folder, *sourced]
    raise SystemExit(
        "vggt_ros: no ROS 2 interface generators found.\n"
        "Source a ROS distribution and use colcon, or let pip install the build requirements of "
        "pyproject.toml (leave out --no-build-isolation)."
    )


def lacks_tf2_msgs(prefixes: list[Path]) -> bool:
    """Tell whether tf2_msgs must be built: nobody but an earlier install of ours provides it."""
    forced = os.environ.get("VGGT_ROS_BUILD_TF2_MSGS")
    if forced is not None:
        return forced == "1"
    found = [p / INDEX / "tf2_msgs" for p in prefixes if (p / INDEX / "tf2_msgs").exists()]
    try:
        own = importlib.metadata.distribution("vggt_ros").files or []
    except importlib.metadata.PackageNotFoundError:
        own = []
    # pip removes the files of the earlier install, so they do not count.
    ours = {Path(f.locate()).resolve() for f in own if f.name == "tf2_msgs"}
    return all(path.resolve() in ours for path in found)


class RosDistribution(Distribution):
    """Distribution that keeps data files in editable installs.

    setuptools' editable_wheel asks for `has_data()`, which Distribution lacks; without it
    `pip install -e .` silently drops every data file.
    """

    def has_data(self) -> bool:
        return bool(self.data_files)


class BuildInterfaces(build_ext):
    """Run CMake once per interface package and hand the results to setuptools."""

    def run(self) -> None:
        prefixes = ros_prefixes()
        # Kept between runs: a second `pip install -e .` takes seconds. Started anew when what it
        # was made with has changed.
        work = HERE / "build" / f"pip-{sys.implementation.cache_tag}"
        made_with = hashlib.sha256()
        for part in (sys.executable, *prefixes, (HERE / "pyproject.toml").read_text()):
            made_with.update(str(part).encode() + b"\0")
        key = work / "made_with"
        if not key.exists() or key.read_text() != made_with.hexdigest():
            shutil.rmtree(work, ignore_errors=True)
        stage = work / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        packages = [HERE]
        if lacks_tf2_msgs(prefixes):
            packages.append(HERE / "third_party" / "tf2_msgs")
        for source in packages:
            self.build_package(source, work / source.name, stage, prefixes)
        key.write_text(made_with.hexdigest())
        self.collect(stage)

    def build_package(self, source: Path, build: Path, stage: Path, prefixes: list[Path]) -> None:
        joined = os.pathsep.join(map(str, prefixes))
        # For the build step too: ninja may configure again.
        env = {**os.environ, "AMENT_PREFIX_PATH": joined, "CMAKE_PREFIX_PATH": joined}
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(min(4, os.cpu_count() or 1)))
        for command in (
            [
                *("cmake", "-S", str(source), "-B", str(build), "-G", "Ninja"),
                "-DCMAKE_BUILD_TYPE=Release",
                "-DBUILD_TESTING=OFF",
                f"-DPython3_EXECUTABLE={sys.executable}",
                f"-DCMAKE_INSTALL_PREFIX={stage}",
                "-DPYTHON_INSTALL_DIR=site-packages",
                # site-packages/vggt_ros/*.so find lib/*.so
                "-DCMAKE_INSTALL_RPATH=$ORIGIN:$ORIGIN/../../..",
            ],
            ["cmake", "--build", str(build), "-j", jobs],
            ["cmake", "--install", str(build)],
        ):
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(
                    f"{done.stdout}\n{done.stderr}\nvggt_ros: building the ROS interfaces of "
                    f"{source.name} failed at: {' '.join(command[:4])} ..."
                )

    def collect(self, stage: Path) -> None:
        site = stage / "site-packages"
        in_place = self.inplace or getattr(self, "editable_mode", False)
        site_from_prefix = Path(sysconfig.get_path("platlib")).relative_to(
            sysconfig.get_path("data")
        )
        self._outputs: list[str] = []
        for file in sorted(f for f in site.rglob("*") if f.is_file()):
            path = file.relative_to(site)
            if "__pycache__" in path.parts or path.parts[0].endswith(".egg-info"):
                continue
            if file.suffix == ".c":
                continue
            if path.parts[0] == "vggt_ros":
                if path.parts[1] not in ("msg", "srv") and file.suffix != ".so":
                    continue  # our own modules: build_py packs them
                target = (HERE if in_place else Path(self.build_lib)) / path
            elif in_place:
                # An editable install only redirects vggt_ros: tf2_msgs is copied as data.
                DATA_FILES.append((str(site_from_prefix / path.parent), [str(file)]))
                continue
            else:
                target = Path(self.build_lib) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
            self._outputs.append(str(target))
        for file in sorted(f for f in stage.rglob("*") if f.is_file()):
            path = file.relative_to(stage)
            if path.parts[0] in ("lib", "share", "include"):
                DATA_FILES.append((str(path.parent), [str(file)]))

    def get_outputs(self) -> list[str]:
        return list(getattr(self, "_outputs", []))

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        folders = ("msg", "srv", "cmake", "third_party", "scripts", "launch", "config")
        return [
            str(p.relative_to(HERE)) for d in folders for p in (HERE / d).rglob("*") if p.is_file()
        ] + ["CMakeLists.txt", "package.xml"]


setup(
    packages=find_packages(
        include=["vggt_ros", "vggt_ros.*"], exclude=["vggt_ros.msg*", "vggt_ros.srv*"]
    ),
    include_package_data=True,
    # No source of its own: makes setuptools call BuildInterfaces and tag the wheel as binary.
    ext_modules=[Extension("vggt_ros._interfaces", sources=[])],
    distclass=RosDistribution,
    cmdclass={"build_ext": BuildInterfaces},
    data_files=DATA_FILES,
    zip_safe=False,
)
