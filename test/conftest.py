"""What all tests share."""

import os
from pathlib import Path

import pytest

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
