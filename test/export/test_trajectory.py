"""TUM trajectories."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.errors import ExportError, SourceError
from vggt_ros.export.trajectory import (
    StampedPose,
    format_stamp,
    read_tum,
    static_poses,
    write_tum,
)
from vggt_ros.geometry import Rigid3


def random_pose(rng):
    return Rigid3.from_rotation_vector(rng.normal(0, 1, 3), rng.normal(0, 5, 3))


def test_written_and_read(tmp_path):
    rng = np.random.default_rng(0)
    stamps = 1_712_345_678_123_456_789 + np.arange(20) * 33_333_333
    poses = [StampedPose(int(stamp), random_pose(rng)) for stamp in stamps]
    write_tum(tmp_path / "a.tum", poses)
    read = read_tum(tmp_path / "a.tum")
    assert [p.stamp_ns for p in read] == stamps.tolist()
    for a, b in zip(poses, read, strict=True):
        np.testing.assert_allclose(a.map_from_body.matrix, b.map_from_body.matrix, atol=3e-9)
        assert b.name == ""


def test_numpy_reads_the_columns(tmp_path):
    """An independent reader: the format is columns of numbers and comments."""
    pose = Rigid3.from_quaternion([0, 0, np.sqrt(0.5), np.sqrt(0.5)], [1, 2, -3])
    write_tum(tmp_path / "a.tum", [StampedPose(1_500_000_000, pose, "front")])
    expected = [1.5, 1, 2, -3, 0, 0, np.sqrt(0.5), np.sqrt(0.5)]
    np.testing.assert_allclose(np.loadtxt(tmp_path / "a.tum"), expected, atol=1e-9)


def test_cameras_of_a_static_rig_are_named(tmp_path):
    cameras = {"front": Rigid3.identity(), "left": Rigid3(np.eye(3), [-1e-12, 2, 0])}
    write_tum(tmp_path / "cameras.tum", static_poses(cameras, 7), is_metric=False)
    assert (tmp_path / "cameras.tum").read_text().splitlines() == [
        "# stamp tx ty tz qx qy qz qw",
        "# frame map",
        "# unit unscaled",
        "# camera front",
        "0.000000007 " + " ".join(["0.000000000"] * 6 + ["1.000000000"]),
        "# camera left",
        "0.000000007 0.000000000 2.000000000" + " 0.000000000" * 4 + " 1.000000000",
    ]
    assert [p.name for p in read_tum(tmp_path / "cameras.tum")] == ["front", "left"]


@given(st.integers(-(10**12), 2**63 - 1))
def test_stamps_are_exact(stamp_ns):
    from decimal import Decimal

    assert Decimal(format_stamp(stamp_ns)) * 10**9 == stamp_ns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no poses"),
        ("# only a comment\n", "no poses"),
        ("1 2 3\n", r":1: expected 8 numbers .*, got 3"),
        ("# x\n\nx 0 0 0 0 0 0 1\n", r":3: 'x' is not a stamp"),
        ("nan 0 0 0 0 0 0 1\n", r":1: "),
        ("1 0 0 zero 0 0 0 1\n", r":1: could not convert"),
        ("1 0 0 0 0 0 0 0\n", r":1: quaternion xyzw: expected length 1"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    (tmp_path / "a.tum").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_tum(tmp_path / "a.tum")


def test_missing_file_and_bad_name(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        read_tum(tmp_path / "a.tum")
    with pytest.raises(ExportError, match="one line"):
        write_tum(tmp_path / "a.tum", [StampedPose(0, Rigid3.identity(), "a\nb")])
    assert not (tmp_path / "a.tum").exists()
