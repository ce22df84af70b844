"""The export dispatcher."""

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.formats import export_map
from vggt_ros.export.pcd import read_pcd
from vggt_ros.export.ply import read_ply
from vggt_ros.export.trajectory import read_tum, static_poses
from vggt_ros.geometry import Rigid3
from vggt_ros.types import PointCloud

CLOUD = PointCloud(np.float32([[1, 2, 3]]), np.uint8([[4, 5, 6]]))
EMPTY = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
CAMERAS = static_poses({"front": Rigid3.identity()})


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("map", "ply", "map.ply"),
        ("map.ply", "", "map.ply"),
        ("map.PLY", "ply", "map.PLY"),
        ("map", "pcd", "map.pcd"),
        ("map.pcd", "PCD", "map.pcd"),
        ("cameras.txt", "tum", "cameras.txt"),
    ],
)
def test_writes_the_format(tmp_path, name, format, expected):
    files = export_map(tmp_path / name, format, CLOUD, CAMERAS, config_text="a: 1\n")
    assert [f.name for f in files] == [expected, expected + ".config.yaml"]
    assert files[1].read_text() == "a: 1\n"
    if files[0].suffix == ".txt":
        assert len(read_tum(files[0])) == 1
    else:
        read = read_ply if files[0].suffix.lower() == ".ply" else read_pcd
        np.testing.assert_array_equal(read(files[0]).points, CLOUD.points)


@pytest.mark.parametrize(
    ("name", "format", "cloud", "cameras", "message"),
    [
        ("map", "plyy", CLOUD, CAMERAS, r"ply, pcd, tum, got format 'plyy' \(did you mean 'ply'"),
        ("map.xyz", "", CLOUD, CAMERAS, "without a known suffix"),
        ("map", "tum", CLOUD, (), "no camera has a pose yet"),
        ("map", "ply", EMPTY, CAMERAS, "no points yet"),
        ("missing/map", "ply", CLOUD, CAMERAS, "does not exist"),
    ],
)
def test_refusals(tmp_path, name, format, cloud, cameras, message):
    with pytest.raises(ExportError, match=message):
        export_map(tmp_path / name, format, cloud, cameras)
    assert list(tmp_path.iterdir()) == []
