"""What all tests share."""

import os
from pathlib import Path

import pytest

from vggt_ros.mapping.open3d_import import load_libusb

load_libusb()  # tests read files with Open3D, and this machine may lack what it links against

# Before anything imports rclpy: tests neither hear other ROS graphs of the network nor disturb
# them, and two runs on one machine keep apart.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))

REPOSITORY = Path(__file__).resolve().parents[1]


def find_shared_data() -> tuple[Path | None, str]:
    """Find the folder of reference images.

    Returns:
        The folder, or None; and, where it is None, the reason for people to read.
    """
    named = os.environ.get("VGGT_ROS_SHARED")
    shared = [Path(named)] if named else [parent / "shared" for parent in REPOSITORY.parents]
    for folder in (shared[0], *(folder / "data" for folder in shared)):
        if folder.name == "data" and (folder / "README.md").is_file():
            return folder, ""
    if named:
        return None, f"VGGT_ROS_SHARED={named} holds no data/README.md"
    return None, "no ../shared/data beside the repository, and VGGT_ROS_SHARED is not set"


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree, for tests of the files in it."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of reference images with ground truth; the test is skipped where it is absent."""
    folder, reason = find_shared_data()
    if folder is None:
        pytest.skip(f"reference data: {reason}")
    return folder


class FakeBackend:
    """A back end that answers with given arrays, whatever it is asked."""

    name = "fake"
    device = "cpu"
    precision = "fp32"

    def __init__(self, shape, answer):
        from vggt_ros.inference.backend import TensorSpec

        self.answer = answer
        self.inputs = (TensorSpec("images", shape, "float32"),)
        self.outputs = tuple(TensorSpec(n, a.shape, "float32") for n, a in answer.items())
        self.calls = []
        self.closed = 0
        self.error = None

    def run(self, inputs):
        assert not self.closed
        if self.error is not None:
            raise self.error
        self.calls.append({name: array.copy() for name, array in inputs.items()})
        return {name: array.copy() for name, array in self.answer.items()}

    def close(self):
        self.closed += 1


@pytest.fixture(scope="session")
def fake_engine():
    """Make an open engine of a family that answers with given arrays."""

    def make(family, shape, answer, depth_kind="", normalisation="zero_to_one"):
        from vggt_ros.inference.engine_store import Engine
        from vggt_ros.inference.passport import ModelFacts, Passport, Precision, Runtime

        facts = ModelFacts(
            family, f"fixture of {family}", "test only", "", normalisation, depth_kind
        )
        passport = Passport(
            "fake.onnx",
            "00",
            facts,
            Precision("fp32", "fp32"),
            Runtime("fake", "1"),
            inputs=(),
            outputs=(),
        )
        return Engine(Path("fake.onnx"), FakeBackend(shape, answer), passport, None)

    return make
