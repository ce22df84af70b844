"""PLY, checked with plyfile and Open3D."""

import numpy as np
import pytest

from vggt_ros.errors import ExportError, SourceError
from vggt_ros.export import rows
from vggt_ros.export.ply import read_ply, write_ply
from vggt_ros.types import PointCloud


def make_cloud(count, *, normals=True, confidence=True, metric=True, seed=0):
    rng = np.random.default_rng(seed)
    return PointCloud(
        rng.normal(0, 10, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), np.uint8),
        rng.normal(0, 1, (count, 3)).astype(np.float32) if normals else None,
        rng.random(count).astype(np.float32) if confidence else None,
        "odom",
        metric,
    )


def assert_same(a, b):
    np.testing.assert_array_equal(a.points, b.points)
    np.testing.assert_array_equal(a.colours, b.colours)
    for name in ("normals", "confidence"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_array_equal(x, y)
    assert (a.frame, a.is_metric) == (b.frame, b.is_metric)


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize("confidence", [False, True])
def test_own_reader_and_plyfile_agree(tmp_path, ascii, normals, confidence):
    plyfile = pytest.importorskip("plyfile")
    cloud = make_cloud(100, normals=normals, confidence=confidence)
    write_ply(tmp_path / "a.ply", cloud, ascii=ascii, comments=["scale rig 1.0"])
    assert_same(read_ply(tmp_path / "a.ply"), cloud)
    data = plyfile.PlyData.read(str(tmp_path / "a.ply"))
    vertex = data["vertex"]
    assert data.comments == ["frame odom", "unit m", "scale rig 1.0"]
    names = ["x", "y", "z"] + ["nx", "ny", "nz"] * normals + ["red", "green", "blue"]
    assert [p.name for p in vertex.properties] == names + ["confidence"] * confidence
    np.testing.assert_array_equal(np.stack([vertex[n] for n in "xyz"], 1), cloud.points)
    np.testing.assert_array_equal(vertex["green"], cloud.colours[:, 1])


@pytest.mark.parametrize("ascii", [False, True])
def test_open3d_reads_points_colours_normals(tmp_path, ascii):
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    cloud = make_cloud(50)
    write_ply(tmp_path / "a.ply", cloud, ascii=ascii)
    read = o3d.io.read_point_cloud(str(tmp_path / "a.ply"))
    np.testing.assert_allclose(np.asarray(read.points), cloud.points, atol=0)
    np.testing.assert_array_equal(np.rint(np.asarray(read.colors) * 255), cloud.colours)
    np.testing.assert_allclose(np.asarray(read.normals), cloud.normals, atol=0)


def test_header_is_as_documented(tmp_path):
    write_ply(tmp_path / "a.ply", make_cloud(2, normals=False, confidence=False, metric=False))
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[0].decode()
    assert header.splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "comment frame odom",
        "comment unit unscaled",
        "element vertex 2",
        "property float x",
        "property float y",
        "property float z",
        "property uchar red",
        "property uchar green",
        "property uchar blue",
    ]


def test_same_cloud_same_bytes_over_several_chunks(tmp_path, monkeypatch):
    cloud = make_cloud(1000)
    write_ply(tmp_path / "a.ply", cloud)
    monkeypatch.setattr(rows, "CHUNK", 64)
    write_ply(tmp_path / "b.ply", cloud)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert_same(read_ply(tmp_path / "b.ply"), cloud)


@pytest.mark.parametrize("ascii", [False, True])
def test_empty_cloud(tmp_path, ascii):
    write_ply(tmp_path / "a.ply", make_cloud(0), ascii=ascii)
    assert len(read_ply(tmp_path / "a.ply")) == 0


@pytest.mark.parametrize("order", ["<", ">", "="])
def test_files_of_others(tmp_path, order):
    """Faces before the vertices, doubles, another order, sixteen-bit colours."""
    plyfile = pytest.importorskip("plyfile")
    dtype = [("blue", "u2"), ("green", "u2"), ("z", "f8"), ("x", "f8"), ("y", "f4"), ("red", "u2")]
    rows = np.zeros(3, dtype)
    rows["x"], rows["y"], rows["z"] = [1, 2, 3], [4, 5, 6], [7, 8, 9]
    rows["red"], rows["blue"] = 65535, 257 * 3
    faces = np.empty(2, [("vertex_indices", "i4", (3,)), ("quality", "f4")])
    faces["vertex_indices"] = [[0, 1, 2], [2, 1, 0]]
    elements = [
        plyfile.PlyElement.describe(faces, "face"),
        plyfile.PlyElement.describe(np.zeros(2, [("a", "i2"), ("b", "f8")]), "other"),
        plyfile.PlyElement.describe(rows, "vertex"),
    ]
    text = order == "="
    plyfile.PlyData(elements, text=text, byte_order=order).write(str(tmp_path / "a.ply"))
    cloud = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.points, [[1, 4, 7], [2, 5, 8], [3, 6, 9]])
    np.testing.assert_array_equal(cloud.colours, [[255, 0, 3]] * 3)
    assert cloud.normals is None
    assert cloud.frame == ""
    assert not cloud.is_metric


def test_float_colours_and_no_colours(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 1\n"
    head += "".join(f"property float {name}\n" for name in "xyz")
    (tmp_path / "a.ply").write_text(head + "end_header\n1 2 3\n")
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply").colours, [[0, 0, 0]])
    head += "".join(f"property float {name}\n" for name in "rgb")
    (tmp_path / "b.ply").write_text(head + "end_header\r\n1 2 3 0 0.5 1\r\n")
    np.testing.assert_array_equal(read_ply(tmp_path / "b.ply").colours, [[0, 128, 255]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY"),
        (b"solid\n", "not a PLY"),
        (b"ply\nformat middle_endian 1.0\n", "not understood: 'format middle_endian"),
        (b"ply\nformat ascii 1.0\n", "ends before"),
        (b"ply\nend_header\n", "no 'format' line"),
        (b"ply\nformat ascii 1.0\nelement vertex x\n", "not understood"),
        (b"ply\nformat ascii 1.0\nproperty float x\n", "not understood"),
        (b"ply\nformat ascii 1.0\nend_header\n", "no 'vertex'"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "x, y, z"),
        (b"ply\nformat ascii 1.0\nelement vertex 2\nproperty int x\nend_header\n1\n", "cut off"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nend_header\nq\n", "damaged"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_ply(tmp_path / "a.ply")


def test_cut_off_and_missing(tmp_path):
    write_ply(tmp_path / "a.ply", make_cloud(10))
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data[:-1])
    with pytest.raises(SourceError, match="cut off: expected 10 points, got 9"):
        read_ply(tmp_path / "a.ply")
    with pytest.raises(SourceError, match="No such file"):
        read_ply(tmp_path / "b.ply")


def test_bad_clouds_are_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, make_cloud(3))
    before = path.read_bytes()
    good = make_cloud(3)
    short = PointCloud(good.points, good.colours[:2])
    floats = PointCloud(good.points, good.colours / 255)
    for bad, message in ((short, r"colours of shape \(3, 3\)"), (floats, "uint8")):
        with pytest.raises(ExportError, match=message):
            write_ply(path, bad)
    with pytest.raises(ExportError, match="one line"):
        write_ply(path, good, comments=["a\nend_header"])
    assert path.read_bytes() == before
