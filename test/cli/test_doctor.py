"""Doctor names what is in the way, by the way of installing."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from vggt_ros.cli import doctor, overlays


def text(capsys, findings, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    code = doctor.run(SimpleNamespace(remove_stale_segments=False))
    return code, capsys.readouterr().out


def test_broken_is_loud_and_an_error(capsys, monkeypatch):
    finding = doctor.Finding("cv_bridge", doctor.BROKEN, "does not work", "pip install x")
    code, out = text(capsys, [finding], monkeypatch)
    assert code == 1
    assert out.rstrip().endswith("BROKEN: cv_bridge: does not work\n  mend it with: pip install x")


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """A sourced "distribution": a package index and Python packages, first on the path."""
    prefix = tmp_path / "opt" / "ros" / "jazzy"
    site = prefix / "lib" / "python3" / "site-packages"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "rcl").touch()  # by which a distribution is told from a workspace
    site.mkdir(parents=True)

    def add(name, source="", folder=None):
        (index / name).touch()
        package = (folder or site) / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)

    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    return SimpleNamespace(prefix=prefix, site=site, add=add)


BRIDGE = """
class CvBridge:
    def cv2_to_imgmsg(self, image, encoding):
        {fault}
        return image
    def imgmsg_to_cv2(self, message, desired_encoding):
        return message[..., ::-1]
"""


@pytest.fixture
def installed(monkeypatch):
    """What pip has installed; of OpenCV and empy what the test says."""
    versions = {"empy": "", "opencv-python-headless": "5.0.0.93"}
    real = overlays._version

    def version(package):
        is_told = package == "empy" or "opencv" in package
        return versions.get(package, "") if is_told else real(package)

    monkeypatch.setattr(overlays, "_version", version)
    return versions


def test_nothing_lies_over_a_clean_distribution(distribution, installed):
    installed.clear()
    distribution.add("some_robot_msgs")
    distribution.add("cv_bridge", BRIDGE.format(fault="pass"))
    assert overlays.find_overlays() == []


def test_a_bridge_that_does_not_fit_is_found_by_using_it(distribution, installed):
    distribution.add("cv_bridge", BRIDGE.format(fault="raise KeyError(16)"))
    (found,) = overlays.find_overlays()
    assert found.what == "cv_bridge"
    assert "KeyError: 16" in found.detail
    assert "numpy" in found.detail
    assert "pip uninstall -y opencv-python-headless" in found.mend


def test_a_bridge_that_crashes_does_not_take_doctor_along(distribution, installed):
    distribution.add("cv_bridge", BRIDGE.format(fault="import os; os.abort()"))
    (found,) = overlays.find_overlays()
    assert "ended with code -6" in found.detail


def test_opencv_of_pip_is_named_also_where_it_works(distribution, installed):
    installed.clear()
    installed["opencv-python"] = "4.12.0"
    distribution.add("cv_bridge", BRIDGE.format(fault="pass"))
    (found,) = overlays.find_overlays()
    assert (found.what, found.mend) == ("opencv", "pip uninstall -y opencv-python")


def test_wheels_over_packages_of_the_distribution(distribution, installed, tmp_path, monkeypatch):
    installed.clear()
    venv = tmp_path / "venv" / "site-packages"
    distribution.add("robot_msgs", folder=venv)
    monkeypatch.syspath_prepend(str(venv))
    (found,) = overlays.find_overlays()
    assert found.what == "ROS packages"
    assert "robot_msgs" in found.detail
    assert str(venv) in found.detail


def test_empy_4_is_named_before_colcon_fails_on_it(distribution, installed):
    installed.clear()
    installed["empy"] = "4.2"
    (found,) = overlays.find_overlays()
    assert found.mend == "pip uninstall -y empy"


def test_the_wheels_are_no_overlay_with_a_workspace_on_them_neither(tmp_path, monkeypatch):
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "vggt_ros").touch()
    for prefixes in (sys.prefix, f"{tmp_path}:{sys.prefix}"):
        monkeypatch.setenv("AMENT_PREFIX_PATH", prefixes)
        assert overlays.ros_prefixes() == []
        assert overlays.find_overlays() == []


def test_what_is_missing_is_named_by_the_way_of_installing(distribution, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = {f.what: f for f in (doctor._required("cv2", "opencv-python-headless", ""),)}
    assert found["cv2"].mend == "pip install opencv-python-headless"
    assert doctor._required("cv2", "x", "python3-opencv").mend == "sudo apt install python3-opencv"
    bridge = doctor._of_distribution("cv_bridge", on_distribution=True)
    assert bridge.state == doctor.MISSING
    assert "ros-jazzy-cv-bridge" in bridge.mend
    assert doctor._of_distribution("cv_bridge", on_distribution=False).state == doctor.OPTIONAL


def test_a_venv_that_does_not_see_apt_is_broken(distribution, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    found = doctor._way(on_distribution=True)
    assert found.state == doctor.BROKEN
    assert "--system-site-packages" in found.mend
    (tmp_path / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    assert doctor._way(on_distribution=True).state == doctor.OK


def test_removal_says_what_it_did():
    done = subprocess.run(
        [sys.executable, "-m", "vggt_ros.cli.main", "doctor", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--remove-stale-segments" in done.stdout
