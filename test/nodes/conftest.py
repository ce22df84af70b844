"""Nodes in processes of their own, watched from this one through rclpy only."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: rclpy is not installed")
pytest.importorskip("vggt_ros.msg", reason="needs the interfaces of this package: build it")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagWriter
from vggt_ros.types import StampedImage

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def domain():
    """The ROS domain of this test run (see the conftest above), so that runs do not meet."""
    return int(os.environ["ROS_DOMAIN_ID"])


@pytest.fixture(scope="session")
def ros_environment(domain):
    """The environment for node processes."""
    environment = dict(os.environ, ROS_DOMAIN_ID=str(domain), PYTHONUNBUFFERED="1")
    environment.pop("RCUTILS_COLORIZED_OUTPUT", None)
    # The ROS wheels re-execute Python once; the guard variable would keep a child from it.
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return environment


class NodeProcess:
    """A node as a process in a session of its own, with its output kept."""

    def __init__(self, module, arguments, environment, cwd):
        command = [sys.executable]
        command += [str(module)] if Path(str(module)).suffix == ".py" else ["-m", str(module)]
        self.lines = []
        self.popen = subprocess.Popen(
            [*command, *arguments],
            env=environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stdout:
            self.lines.append(line)

    @property
    def output(self):
        return "".join(self.lines)

    def interrupt(self, number=signal.SIGINT):
        os.killpg(self.popen.pid, number)

    def wait(self, timeout_s=40.0):
        code = self.popen.wait(timeout_s)
        self._reader.join(5.0)
        return code

    def wait_for(self, text, timeout_s=60.0):
        limit = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.popen.poll() is None, f"ended before '{text}':\n{self.output}"
            assert time.monotonic() < limit, f"no '{text}' in:\n{self.output}"
            time.sleep(0.05)

    def close(self):
        if self.popen.poll() is None:
            self.interrupt(signal.SIGKILL)
            self.popen.wait(10.0)


@pytest.fixture
def start(ros_environment, tmp_path):
    """Start a node: a module name or a script, with ROS parameters as keywords `p`."""
    processes = []

    def start_node(module, p=None, arguments=(), env=None):
        extra = []
        for name, value in (p or {}).items():
            extra += ["-p", f"{name}:={value}"]
        process = NodeProcess(
            module,
            [*arguments, "--ros-args", *extra] if extra else list(arguments),
            {**ros_environment, **(env or {})},
            tmp_path,
        )
        processes.append(process)
        return process

    yield start_node
    for process in processes:
        process.close()


@pytest.fixture
def build(domain, ros_environment):
    """Make a node in this process from ROS parameters, as the command line gives them."""
    made = []

    def build_node(kind, p, **arguments):
        args = ["--ros-args"]
        for name, value in p.items():
            args += ["-p", f"{name}:={value}"]
        rclpy.init(args=args, domain_id=domain)
        made.append(kind(threading.Event(), **arguments))
        return made[-1]

    yield build_node
    while made:
        node = made.pop()
        node.close()
        node.destroy_node()
        del node
    # The services of a lifecycle node live in C until the node itself is gone, which refers to
    # itself: as long as they do, those of the next test's process look as if they were there.
    gc.collect()
    rclpy.try_shutdown()


class Observer:
    """A node of this process that is spun in a thread."""

    def __init__(self, domain):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("observer", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._stop = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        while not self._stop:
            self._executor.spin_once(0.05)

    def listen(self, kind, topic, qos=10):
        """A list that fills with the messages of a topic."""
        received = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def call(self, kind, name, request, timeout_s=15.0):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_s), f"no service {name}"
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(timeout_s), f"no answer of {name}"
        return future.result()

    def close(self):
        if self._stop:
            return
        self._stop = True
        self._thread.join(5.0)
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def observer(domain, ros_environment):
    watching = Observer(domain)
    yield watching
    watching.close()


def wait_until(condition, timeout_s=60.0, what="condition"):
    limit = time.monotonic() + timeout_s
    while not condition():
        said = what() if callable(what) else what
        assert time.monotonic() < limit, f"not within {timeout_s} s: {said}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def until():
    return wait_until


CAMERAS = ("left", "right")
MODEL = CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)
BASE_FROM_LEFT = Rigid3.from_quaternion((-0.5, 0.5, -0.5, 0.5), (0.1, 0.2, 0.3))
"""The optical frame of a camera that looks along x of the robot."""


@pytest.fixture(scope="session")
def rig_poses():
    second = Rigid3(BASE_FROM_LEFT.rotation, BASE_FROM_LEFT.translation + [0.0, -0.25, 0.0])
    return {"left": BASE_FROM_LEFT, "right": second}


@pytest.fixture(scope="session")
def make_bag(rig_poses):
    """Write a small bag of two cameras, 64x48, 10 Hz."""

    def make(
        path,
        sets=20,
        cameras=CAMERAS,
        info=True,
        tf=True,
        period_s=0.1,
        start_ns=1_700_000_000_000_000_000,
        frame=lambda name: f"{name}_optical",
        storage="mcap",
    ):
        rng = np.random.default_rng(1)
        with BagWriter(path, storage) as bag:
            if tf:
                # two messages, so that a player must join them
                for name in cameras:
                    message = messages.tf_message(
                        [("base_link", frame(name), rig_poses[name])], start_ns
                    )
                    bag.write("/tf_static", message, start_ns)
            for i in range(sets):
                stamp = start_ns + int(i * period_s * 1e9)
                for name in cameras:
                    pixels = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
                    image = StampedImage(name, stamp, pixels, "rgb8", frame(name))
                    bag.write(f"/{name}/image_raw", messages.image_message(image), stamp)
                    if info:
                        bag.write(
                            f"/{name}/camera_info",
                            messages.camera_info_message(MODEL, stamp, frame(name)),
                            stamp,
                        )
        return path

    return make


@pytest.fixture(scope="session")
def stub():
    """Script that runs the mapper with a pipeline that computes nothing."""
    return HERE / "stub_pipeline.py"
