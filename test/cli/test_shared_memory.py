"""Stale files of Fast DDS are told from live ones, with processes that really live and die."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from vggt_ros.cli import shared_memory
from vggt_ros.cli.shared_memory import LIVE, STALE, UNKNOWN, find_segments, remove_stale

SEGMENT = "fastrtps_0123456789abcdef"


@pytest.fixture
def everything_visible(monkeypatch):
    """As for root on a host: no process is hidden."""
    real = shared_memory._used_files
    monkeypatch.setattr(shared_memory, "_used_files", lambda: (real()[0], ""))


def state(folder, name, age=0.0):
    return next(s for s in find_segments(folder, age) if s.name == name)


class TestFiles:
    @pytest.fixture(autouse=True)
    def _visible(self, everything_visible):
        pass

    def test_names_are_grouped_and_others_left_alone(self, tmp_path):
        names = [SEGMENT, f"{SEGMENT}_el", "fastrtps_port7410", "fastrtps_port7410_el"]
        names += ["sem.fastrtps_port7410_mutex", "fast_datasharing_01.0f.ab_0.0.12.3"]
        foreign = ["lttng-ust-wait-6", "psm_1234", "fastrtps", "sem.other", "my_fastrtps_00"]
        for name in names + foreign:
            (tmp_path / name).write_bytes(b"x" * 10)
        groups = {s.name: len(s.files) for s in find_segments(tmp_path, 0.0)}
        assert groups == {
            SEGMENT: 2,
            "fastrtps_port7410": 3,
            "fast_datasharing_01.0f.ab_0.0.12.3": 1,
        }
        removed, refused = remove_stale(find_segments(tmp_path, 0.0))
        assert (len(removed), refused) == (3, [])
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(foreign)

    def test_a_lock_keeps_all_files_of_a_segment(self, tmp_path):
        (tmp_path / SEGMENT).write_bytes(b"x")
        with (tmp_path / f"{SEGMENT}_el").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = state(tmp_path, SEGMENT)
            assert found.state == LIVE
            assert remove_stale([found]) == ([], [])
        assert state(tmp_path, SEGMENT).state == STALE

    def test_a_mapping_without_a_lock_keeps_it(self, tmp_path):
        import mmap

        path = tmp_path / "fastrtps_port7411"
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 4096)
        found = state(tmp_path, path.name)
        assert (found.state, found.why) == (LIVE, f"used by process {os.getpid()}")
        mapped.close()
        assert state(tmp_path, path.name).state == STALE

    def test_who_comes_back_between_look_and_removal_is_kept(self, tmp_path):
        (tmp_path / SEGMENT).write_bytes(b"x")
        (tmp_path / f"{SEGMENT}_el").touch()
        stale = find_segments(tmp_path, 0.0)
        with (tmp_path / f"{SEGMENT}_el").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            removed, refused = remove_stale(stale)
        assert removed == []
        assert refused == [f"{SEGMENT}: used by process {os.getpid()}"]
        assert (tmp_path / SEGMENT).exists()

    def test_young_files_are_not_judged(self, tmp_path):
        (tmp_path / SEGMENT).write_bytes(b"x")
        assert state(tmp_path, SEGMENT, age=60.0).state == UNKNOWN


def test_where_processes_are_hidden_only_a_free_lock_of_an_owner_proves_anything(
    tmp_path, monkeypatch
):
    for name in (SEGMENT, f"{SEGMENT}_el", "fastrtps_port1", "fastrtps_port1_el", "fastrtps_ab"):
        (tmp_path / name).touch()
    monkeypatch.setattr(shared_memory, "_used_files", lambda: ({}, "3 processes are hidden"))
    found = {s.name: s.state for s in find_segments(tmp_path, 0.0)}
    assert found == {SEGMENT: STALE, "fastrtps_port1": UNKNOWN, "fastrtps_ab": UNKNOWN}


def test_no_folder_is_no_segments(tmp_path):
    assert find_segments(tmp_path / "missing") == []


NODE = """
import sys, rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node("in_shared_memory")
heard = []
node.create_subscription(String, "echo", heard.append, 10)
publisher = node.create_publisher(String, "echo", 10)
print("ready", flush=True)
for line in sys.stdin:
    del heard[:]
    while not heard:
        publisher.publish(String(data="x"))
        rclpy.spin_once(node, timeout_sec=0.1)
    print("alive", flush=True)
"""


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="no /dev/shm")
def test_a_killed_node_leaves_stale_segments_and_a_living_one_keeps_its_own(everything_visible):
    pytest.importorskip("rclpy", reason="needs ROS 2: rclpy is not installed")

    def names():
        return {s.name for s in find_segments(min_age_s=0.0)}

    def start():
        before = names()
        environment = dict(os.environ)
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        node = subprocess.Popen(
            [sys.executable, "-c", NODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert node.stdout.readline() == "ready\n"
        return node, {name for name in names() - before if "port" not in name}

    def states(of):
        return {s.name: s.state for s in find_segments(min_age_s=0.0) if s.name in of}

    nodes = []
    try:
        killed, killed_segments = start()
        nodes.append(killed)
        living, living_segments = start()
        nodes.append(living)
        if not killed_segments or not living_segments:
            pytest.skip("this middleware leaves nothing in /dev/shm")
        # Others on this machine may have come meanwhile; what must hold holds for them too.
        assert set(states(killed_segments | living_segments).values()) == {LIVE}
        killed.send_signal(signal.SIGKILL)
        killed.wait(10.0)
        limit = time.monotonic() + 10.0
        while STALE not in states(killed_segments).values() and time.monotonic() < limit:
            time.sleep(0.1)
        stale = [s for s in find_segments(min_age_s=0.0) if s.name in killed_segments]
        if not stale:
            pytest.skip("another Fast DDS on this machine has cleaned up what was left")
        assert STALE in {s.state for s in stale}
        assert set(states(living_segments).values()) == {LIVE}

        removed, refused = remove_stale(stale)
        assert removed
        assert refused == []
        assert not {s.name for s in removed} & names()
        assert set(states(living_segments).values()) == {LIVE}
        living.stdin.write("go on\n")  # a message from it to itself, through shared memory
        living.stdin.flush()
        assert living.stdout.readline() == "alive\n"
    finally:
        for node in nodes:
            node.kill()
            node.wait(10.0)
