"""NPZ with NumPy, LAS and LAZ with laspy."""

import builtins

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.las import offset_and_step, write_las
from vggt_ros.export.npz import write_npz
from vggt_ros.types import PointCloud


def test_npz_holds_everything(tmp_path, wall, scene):
    write_npz(tmp_path / "a.npz", wall, scene, comments=["scale is so"])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        for name in ("points", "colours", "normals", "confidence"):
            np.testing.assert_array_equal(read[name], getattr(wall, name))
        assert (str(read["frame"]), str(read["unit"])) == ("map", "m")
        assert read["comments"].tolist() == ["scale is so"]
        assert read["camera_names"].tolist() == ["front", "side"]
        pose = scene.map_from_camera["side"]
        np.testing.assert_array_equal(read["map_from_camera"][1], pose.matrix)
        np.testing.assert_array_equal(read["intrinsics"][1], scene.cameras["side"].matrix)
        assert read["image_sizes"].tolist() == [[640, 480], [320, 240]]


def test_npz_without_cameras_or_scale(tmp_path, wall):
    cloud = PointCloud(wall.points, wall.colours, is_metric=False)
    write_npz(tmp_path / "a.npz", cloud)
    with np.load(tmp_path / "a.npz") as read:
        assert sorted(read) == ["colours", "comments", "frame", "points", "unit"]
        assert str(read["unit"]) == "unscaled"


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("far", [0.0, 15_000.0])
def test_las_as_laspy_reads_it(tmp_path, wall, suffix, far, monkeypatch):
    laspy = pytest.importorskip("laspy")
    if suffix == "laz":
        pytest.importorskip("lazrs")
    monkeypatch.setattr("vggt_ros.export.las._CHUNK", 100)
    points = wall.points.copy()
    points[0] = far
    cloud = PointCloud(points, wall.colours, wall.normals, wall.confidence, "odom", False)
    path = tmp_path / f"a.{suffix}"
    write_las(path, cloud, comments=["scale unknown"])
    read = laspy.read(path)
    assert read.header.version == "1.4"
    assert read.header.point_format.id == 7
    np.testing.assert_allclose(read.xyz, points.astype(float), atol=1e-5, rtol=0)
    colours = np.stack([read.red, read.green, read.blue], axis=1)
    np.testing.assert_array_equal(colours, wall.colours.astype(int) * 257)
    np.testing.assert_array_equal(read["confidence"], wall.confidence)
    np.testing.assert_array_equal(read["NormalX"], wall.normals[:, 0])
    (text,) = [v for v in read.vlrs if v.record_id == 3]
    said = bytes(text.record_data_bytes()).decode()
    assert said.splitlines() == ["frame odom", "unit unscaled", "scale unknown"]
    np.testing.assert_allclose(read.header.maxs, points.max(0), atol=1e-5)


def test_steps_are_as_fine_as_the_size_allows():
    for reach, step in ((10.0, 1e-6), (2000.0, 1e-6), (2200.0, 1e-5), (20_000.0, 1e-5)):
        offset, found = offset_and_step("a", np.full(3, -reach), np.full(3, reach))
        assert found == pytest.approx(step)
        assert (offset == 0).all()
    with pytest.raises(ExportError, match=r"less than 43 km wide.*got 60 km"):
        offset_and_step("a", np.full(3, -30_000.0), np.full(3, 30_000.0))


def test_las_refusals_leave_the_old_file(tmp_path, wall, monkeypatch):
    pytest.importorskip("laspy")
    path = tmp_path / "a.las"
    path.write_bytes(b"old")
    bad = wall.points.copy()
    bad[1, 2] = np.inf
    none = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    for cloud, message in ((PointCloud(bad, wall.colours), "point 1"), (none, "at least one")):
        with pytest.raises(ExportError, match=message):
            write_las(path, cloud)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vggt_ros.export.files._sync", full)
    with pytest.raises(ExportError, match="no space left"):
        write_las(path, wall)
    assert [p.name for p in tmp_path.iterdir()] == ["a.las"]
    assert path.read_bytes() == b"old"


def test_without_laspy_the_error_says_what_to_install(tmp_path, wall, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "laspy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExportError, match=r"pip install 'laspy\[lazrs\]'"):
        write_las(tmp_path / "a.las", wall)
    assert not list(tmp_path.iterdir())
