"""Meshes as PLY, OBJ and GLB, checked with trimesh, Open3D and plyfile."""

import numpy as np
import pytest

from vggt_ros.errors import ExportError, SourceError
from vggt_ros.export.mesh import Mesh, write_mesh, write_mesh_ply
from vggt_ros.export.ply_faces import read_mesh


def make_mesh(colours=True, normals=True, metric=True):
    rng = np.random.default_rng(0)
    vertices = rng.normal(0, 3, (50, 3)).astype(np.float32)
    directions = (vertices / np.linalg.norm(vertices, axis=1, keepdims=True)).astype(np.float32)
    triangles = np.array([rng.permutation(50)[:3] for _ in range(80)], np.int32)
    return Mesh(
        vertices,
        triangles,
        rng.integers(0, 256, (50, 3), np.uint8) if colours else None,
        directions if normals else None,
        "odom",
        metric,
    )


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize("format", ["ply", "obj", "glb"])
def test_trimesh_reads_it(tmp_path, format, colours, normals):
    trimesh = pytest.importorskip("trimesh")
    mesh = make_mesh(colours, normals)
    path = tmp_path / f"a.{format}"
    write_mesh(path, mesh)
    loaded = trimesh.load(path, process=False, maintain_order=True, force="scene")
    (node,) = loaded.graph.nodes_geometry
    matrix, name = loaded.graph[node]
    read = loaded.geometry[name]
    expected = mesh.vertices
    if format == "glb":
        expected = np.stack([expected[:, 0], expected[:, 2], -expected[:, 1]], axis=1)
    corners = trimesh.transform_points(read.vertices, matrix)[read.faces]
    np.testing.assert_allclose(corners, expected[mesh.triangles], atol=1e-5)
    if colours:
        found = np.asarray(read.visual.vertex_colors)[read.faces][..., :3]
        np.testing.assert_array_equal(found, mesh.colours[mesh.triangles])


@pytest.mark.parametrize("ascii", [False, True])
def test_ply_reads_back(tmp_path, ascii):
    plyfile = pytest.importorskip("plyfile")
    mesh = make_mesh(metric=False)
    write_mesh_ply(tmp_path / "a.ply", mesh, ascii=ascii, comments=["so"])
    data = plyfile.PlyData.read(str(tmp_path / "a.ply"))
    assert data.comments == ["frame odom", "unit unscaled", "so"]
    np.testing.assert_array_equal(np.stack(data["face"]["vertex_indices"]), mesh.triangles)
    np.testing.assert_array_equal(data["vertex"]["ny"], mesh.normals[:, 1])
    read = read_mesh(tmp_path / "a.ply")
    for name in ("vertices", "triangles", "colours", "normals"):
        np.testing.assert_array_equal(getattr(read, name), getattr(mesh, name))
    assert (read.frame, read.is_metric) == ("odom", False)


def test_open3d_reads_ply_and_obj(tmp_path):
    open3d = pytest.importorskip("open3d")
    mesh = make_mesh()
    for format in ("ply", "obj"):
        write_mesh(tmp_path / f"a.{format}", mesh)
        read = open3d.io.read_triangle_mesh(str(tmp_path / f"a.{format}"))
        corners = np.asarray(read.vertices)[np.asarray(read.triangles)]
        np.testing.assert_allclose(corners, mesh.vertices[mesh.triangles], atol=1e-5)


def test_obj_says_its_unit(tmp_path):
    write_mesh(tmp_path / "a.obj", make_mesh(metric=False), comments=["scale unknown"])
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert lines[:3] == ["# frame odom", "# unit unscaled", "# scale unknown"]
    assert lines[-1].count("//") == 3


def test_refusals(tmp_path):
    mesh = make_mesh()
    empty = Mesh(mesh.vertices, mesh.triangles[:0])
    beyond = Mesh(mesh.vertices, mesh.triangles + 10)
    flat = Mesh(mesh.vertices, mesh.triangles[:, :2])
    floats = Mesh(mesh.vertices, mesh.triangles.astype(float))
    for name, bad, message in (
        ("a.stl", mesh, "ply, obj, glb, got 'stl'"),
        ("a.ply", empty, "no triangles"),
        ("a.ply", beyond, "rows of the 50 vertices"),
        ("a.obj", flat, r"triangles \(T, 3\)"),
        ("a.glb", floats, "whole numbers"),
    ):
        with pytest.raises(ExportError, match=message):
            write_mesh(tmp_path / name, bad)
    assert not list(tmp_path.iterdir())


def test_faces_of_others(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    points = np.zeros(4, [("x", "f4"), ("y", "f4"), ("z", "f4")])

    def write(name, faces, text):
        dtype = [("vertex_indices", "i4", (len(faces[0]),)), ("quality", "f4")]
        rows = np.zeros(len(faces), dtype)
        rows["vertex_indices"] = faces
        elements = [
            plyfile.PlyElement.describe(rows, "face"),
            plyfile.PlyElement.describe(points, "vertex"),
        ]
        plyfile.PlyData(elements, text=text).write(str(tmp_path / name))
        return tmp_path / name

    for text in (False, True):
        read = read_mesh(write("a.ply", [[0, 1, 2], [3, 2, 1]], text))
        assert read.triangles.tolist() == [[0, 1, 2], [3, 2, 1]]
        with pytest.raises(SourceError, match="face of 4 vertices"):
            read_mesh(write("b.ply", [[0, 1, 2, 3]] * 2, text))
        with pytest.raises(SourceError, match="not among the 4"):
            read_mesh(write("c.ply", [[0, 1, 9]], text))
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "d.ply").write_bytes(data[: data.index(b"end_header") + 14])
    with pytest.raises(SourceError, match="cut off"):
        read_mesh(tmp_path / "d.ply")
    (tmp_path / "e.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nend_header\n")
    assert read_mesh(tmp_path / "e.ply") is None
