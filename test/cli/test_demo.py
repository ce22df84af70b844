"""Parts of `vggt-ros demo`; the whole of it is run by `make demo`."""

import subprocess

import pytest

from vggt_ros.cli import demo


class Stubborn:
    """A process that does not end before it is killed."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def poll(self):
        return None if "kill" not in self.calls else -9

    def terminate(self):
        self.calls.append("terminate")

    def kill(self):
        self.calls.append("kill")

    def wait(self, timeout=None):
        self.calls.append("wait")
        if "kill" not in self.calls:
            raise self.answer


def test_an_impatient_user_leaves_no_node_behind(tmp_path, monkeypatch):
    """The second Ctrl-C comes while the first waits for a node to end."""
    process = Stubborn(KeyboardInterrupt())
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: process)
    with pytest.raises(KeyboardInterrupt), demo._node(["mapper"], tmp_path / "log"):
        raise KeyboardInterrupt
    assert process.calls == ["terminate", "wait", "kill", "wait"]


def test_a_node_that_does_not_end_is_killed(tmp_path, monkeypatch):
    process = Stubborn(subprocess.TimeoutExpired("mapper", 15))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **options: process)
    with demo._node(["mapper"], tmp_path / "log"):
        pass
    assert process.calls == ["terminate", "wait", "kill", "wait"]


def test_no_depth_image_is_a_missed_goal_and_no_crash():
    truth = demo._Truth(world=None, rig=None, world_from_rig=None, end_s=0.0)
    assert truth.scale_error({}) is None
    assert demo._scale_row(None) == ("scale error", "no depth image arrived", "<= 1 %", "MISSED")
    assert demo._scale_row(0.004) == ("scale error", "0.4 %", "<= 1 %", "met")
