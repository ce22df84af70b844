"""PCD, checked with Open3D."""

import numpy as np
import pytest

from vggt_ros.errors import ExportError, SourceError
from vggt_ros.export.pcd import read_pcd, write_pcd
from vggt_ros.types import PointCloud


def make_cloud(count, *, normals=True, confidence=True):
    rng = np.random.default_rng(1)
    return PointCloud(
        rng.normal(0, 10, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), np.uint8),
        rng.normal(0, 1, (count, 3)).astype(np.float32) if normals else None,
        rng.random(count).astype(np.float32) if confidence else None,
        "odom",
    )


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize("confidence", [False, True])
def test_own_reader_gives_everything_back(tmp_path, ascii, normals, confidence):
    cloud = make_cloud(100, normals=normals, confidence=confidence)
    write_pcd(tmp_path / "a.pcd", cloud, ascii=ascii, comments=["scale rig"])
    read = read_pcd(tmp_path / "a.pcd")
    np.testing.assert_array_equal(read.points, cloud.points)
    np.testing.assert_array_equal(read.colours, cloud.colours)
    if normals:
        np.testing.assert_array_equal(read.normals, cloud.normals)
    if confidence:
        np.testing.assert_array_equal(read.confidence, cloud.confidence)
    assert (read.normals is None, read.confidence is None) == (not normals, not confidence)
    assert (read.frame, read.is_metric) == ("odom", True)


@pytest.mark.parametrize("ascii", [False, True])
def test_open3d_reads_points_colours_normals(tmp_path, ascii):
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    cloud = make_cloud(50)
    write_pcd(tmp_path / "a.pcd", cloud, ascii=ascii)
    read = o3d.io.read_point_cloud(str(tmp_path / "a.pcd"))
    tolerance = 1e-8 if ascii else 0  # it keeps the float64 that the text stands for
    np.testing.assert_allclose(np.asarray(read.points), cloud.points, rtol=tolerance)
    np.testing.assert_array_equal(np.rint(np.asarray(read.colors) * 255), cloud.colours)
    np.testing.assert_allclose(np.asarray(read.normals), cloud.normals, rtol=tolerance)


@pytest.mark.parametrize("ascii", [False, True])
def test_reads_what_open3d_writes(tmp_path, ascii):
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    cloud = make_cloud(20)
    theirs = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.points.astype(float)))
    theirs.colors = o3d.utility.Vector3dVector(cloud.colours / 255)
    o3d.io.write_point_cloud(str(tmp_path / "a.pcd"), theirs, write_ascii=ascii)
    read = read_pcd(tmp_path / "a.pcd")
    np.testing.assert_allclose(read.points, cloud.points, rtol=1e-6)
    np.testing.assert_array_equal(read.colours, cloud.colours)
    assert read.frame == ""
    assert not read.is_metric


def test_header_and_bytes_are_as_documented(tmp_path):
    cloud = PointCloud(np.float32([[1, 2, 3]]), np.uint8([[1, 2, 255]]))
    write_pcd(tmp_path / "a.pcd", cloud)
    header, _, data = (tmp_path / "a.pcd").read_bytes().partition(b"DATA binary\n")
    assert header.decode().splitlines() == [
        "# .PCD v0.7 - Point Cloud Data file format",
        "# frame map",
        "# unit m",
        "VERSION 0.7",
        "FIELDS x y z rgb",
        "SIZE 4 4 4 4",
        "TYPE F F F F",
        "COUNT 1 1 1 1",
        "WIDTH 1",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        "POINTS 1",
    ]
    assert data == np.float32([1, 2, 3]).tobytes() + bytes([255, 2, 1, 0])


def test_padding_and_unsigned_colours_as_pcl_writes_them(tmp_path):
    rows = np.zeros(2, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("_", "u1", 4), ("c", "<u4")])
    rows["z"], rows["c"] = [5, 6], 0xFF0A0B0C
    head = "VERSION .7\nFIELDS x y z _ rgba\nSIZE 4 4 4 1 4\nTYPE F F F U U\nCOUNT 1 1 1 4 1\n"
    head += "WIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA binary\n"
    (tmp_path / "a.pcd").write_bytes(head.encode() + rows.tobytes())
    read = read_pcd(tmp_path / "a.pcd")
    np.testing.assert_array_equal(read.points, [[0, 0, 5], [0, 0, 6]])
    np.testing.assert_array_equal(read.colours, [[10, 11, 12]] * 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a PCD"),
        ("FIELDS x y z\nDATA ascii\n", "header is damaged"),
        ("FIELDS x y\nSIZE 4 4\nTYPE F F\nPOINTS 1\nDATA ascii\n1 2\n", "x, y, z"),
        ("FIELDS x\nSIZE 4\nTYPE F\nPOINTS 2\nDATA ascii\n1\n", "cut off"),
        ("FIELDS x\nSIZE 4\nTYPE F\nPOINTS 2\nDATA binary\n1234", "expected 2 points, got 1"),
        ("FIELDS x\nSIZE 4\nTYPE F\nPOINTS 2\nDATA binary_compressed\n", "pcl_convert"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "a.pcd").write_text(content)
    with pytest.raises(SourceError, match=message):
        read_pcd(tmp_path / "a.pcd")


def test_missing_folder(tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        write_pcd(tmp_path / "no" / "a.pcd", make_cloud(1))
