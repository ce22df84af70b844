"""The ways to install the package, each from a clean copy of the source tree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

USE = """
import sys, rclpy, vggt_ros
from vggt_ros.msg import MapStatus
from vggt_ros.srv import ExportMap
from tf2_msgs.msg import TFMessage
from rclpy.serialization import deserialize_message, serialize_message
for message in (MapStatus(map_points=3), TFMessage(), ExportMap.Request(path="a")):
    assert deserialize_message(serialize_message(message), type(message)) == message
print(vggt_ros.__file__)
"""


@pytest.fixture
def source(repository, tmp_path) -> Path:
    """Copy what git tracks, as a clone would."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git work tree")
    # Not in tmp_path itself: Python started there would take the folder for a namespace package.
    copy = tmp_path / "clone" / "vggt_ros"
    for name in listed.stdout.split("\0")[:-1]:
        if (repository / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, copy / name)
    return copy


def run(*command, cwd, **extra_env) -> str:
    """Run as from a fresh shell, not as from this environment's Python."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "LANG": "C.UTF-8", **extra_env}
    result = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


def base_python() -> str:
    """Return the interpreter that this environment was made from."""
    return getattr(sys, "_base_executable", sys.executable)


def test_pip_install_with_ros_wheels(source, tmp_path):
    run(base_python(), "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", ".[ros-wheels]", cwd=source)

    where = run(python, "-c", USE, cwd=tmp_path).strip().splitlines()[-1]
    assert Path(where).is_relative_to(tmp_path / "venv")
    assert not (source / "vggt_ros" / "msg").exists()  # the source tree stays as it was
    prefix = tmp_path / "venv"
    for name in ("mapper", "bag_player", "camera_source"):
        assert os.access(prefix / "lib" / "vggt_ros" / name, os.X_OK)
    for folder in ("config", "launch"):
        for file in (source / folder).rglob("*"):
            if file.is_file():
                assert (prefix / "share" / "vggt_ros" / folder / file.name).is_file() or list(
                    (prefix / "share" / "vggt_ros" / folder).rglob(file.name)
                )


def test_editable_install_twice(source, tmp_path):
    run("make", "setup", f"PYTHON={base_python()}", cwd=source)
    python = source / ".venv" / "bin" / "python"
    assert run("make", "setup", cwd=source).strip() == "make: Nothing to be done for 'setup'."
    # Without build isolation the second build sees the first one's tf2_msgs, which then goes.
    (source / "msg" / "MapStatus.msg").touch()
    assert "installing" in run("make", "setup", cwd=source)
    where = run(python, "-c", USE, cwd=tmp_path).strip().splitlines()[-1]
    assert Path(where) == source / "vggt_ros" / "__init__.py"
    run("make", "clean", cwd=source)
    assert not (source / ".venv").exists()
    assert not (source / "vggt_ros" / "msg").exists()


def test_colcon_builds_and_tests_against_the_wheels(source, tmp_path):
    text = run(
        "make", "colcon", f"PYTHON={base_python()}", cwd=source, PYTEST_ADDOPTS="-k test_package"
    )
    assert re.search(r"^tf2_msgs\t.*\t\(ros\.ament_cmake\)$", text, re.MULTILINE)
    assert re.search(r"^vggt_ros\t.*\t\(ros\.ament_cmake\)$", text, re.MULTILINE)
    counts = re.search(r"Summary: (\d+) tests, 0 errors, 0 failures, (\d+) skipped", text)
    assert int(counts.group(1)) - int(counts.group(2)) >= 10

    install = source / "build" / "colcon" / "install"
    script = f". {install}/setup.bash && {source}/.venv-colcon/bin/python -c '{USE}'"
    where = run("bash", "-c", script, cwd=tmp_path).strip().splitlines()[-1]
    assert Path(where).is_relative_to(install / "vggt_ros")
    for name in ("mapper", "bag_player", "camera_source"):
        assert os.access(install / "vggt_ros" / "lib" / "vggt_ros" / name, os.X_OK)
    assert "installed by" in run(
        "bash",
        "-c",
        f". {install}/setup.bash && PATH={source}/.venv-colcon/bin:$PATH && vggt-ros doctor",
        cwd=tmp_path,
    )
    packaged = install / "vggt_ros" / "share" / "vggt_ros"
    for folder in ("config", "launch"):
        assert (packaged / folder).is_dir() == (source / folder).is_dir()
