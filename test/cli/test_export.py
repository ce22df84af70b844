"""`vggt-ros export` on a folder of results."""

import json

import numpy as np
import pytest

from vggt_ros.cli.main import main
from vggt_ros.export.mesh import Mesh, write_mesh_ply
from vggt_ros.export.pcd import read_pcd
from vggt_ros.export.ply import read_ply, write_ply
from vggt_ros.geometry import Rigid3
from vggt_ros.types import PointCloud


@pytest.fixture
def result(tmp_path):
    """What replay leaves: 400 points 2 m before two cameras."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (400, 3)).astype(np.float32) + np.float32([2, 0, 1])
    cloud = PointCloud(
        points,
        rng.integers(0, 256, (400, 3), np.uint8),
        confidence=np.linspace(0, 1, 400, dtype=np.float32),
        is_metric=False,
    )
    write_ply(tmp_path / "map.ply", cloud)
    forward = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    cameras = {
        name: {
            "registered": True,
            "map_from_camera": Rigid3(forward, [0, y, 1]).matrix.tolist(),
            "size": [64, 48],
            "intrinsics": [50.0, 50.0, 31.5, 23.5],
        }
        for name, y in (("left", 0.1), ("right", -0.1))
    }
    scale = {"value": None, "sigma": None, "source": "none"}
    report = {"cameras": cameras, "scale": scale, "up_source": "cameras", "unit": "unscaled"}
    (tmp_path / "report.json").write_text(json.dumps(report))
    return tmp_path


def test_many_formats_at_once(result, capsys):
    formats = "glb,npz,pcd,tum,colmap,nerfstudio,3dgs"
    assert main(["export", str(result), "--format", formats]) == 0
    said = capsys.readouterr().out
    assert said.count("unscaled, not metres") == 7
    assert "2 images, 400 points" in said
    names = {p.name for p in result.iterdir()}
    assert names == {
        *("map.ply", "report.json", "map.glb", "map.npz", "map.pcd", "map.tum", "map_colmap"),
        *("transforms.json", "transforms_points.ply", "map_3dgs.ply"),
    }
    np.testing.assert_array_equal(
        read_pcd(result / "map.pcd").points, read_ply(result / "map.ply").points
    )
    assert b"scale unknown: lengths are not metres" in (result / "map.pcd").read_bytes()


def test_filters_and_suffix(result):
    out = result / "small.ply"
    options = ["--min-confidence", "0.5", "--box", "1.5", "-1", "0", "3", "0", "2", "--ascii"]
    assert main(["export", str(result / "map.ply"), "--out", str(out), *options]) == 0
    cloud, whole = read_ply(out), read_ply(result / "map.ply")
    keep = (whole.confidence >= 0.5) & (whole.points[:, 1] <= 0)
    np.testing.assert_array_equal(cloud.points, whole.points[keep])
    assert b"format ascii" in out.read_bytes()
    assert main(["export", str(result), "--out", str(out), "--voxel", "0.5"]) == 0
    assert 8 <= len(read_ply(out)) <= 27
    assert main(["export", str(result), "--out", str(out), "--conf-percentile", "90"]) == 0
    assert len(read_ply(out)) == 40


def test_image_names_are_those_of_the_folder(result):
    photos = result / "photos"
    photos.mkdir()
    for name in ("left.JPG", "notes.txt", "right.png"):
        (photos / name).touch()
    path = result / "t.json"
    assert main(["export", str(result), "--out", str(path), "--images", str(photos)]) == 0
    frames = json.loads(path.read_text())["frames"]
    assert [f["file_path"] for f in frames] == ["photos/left.JPG", "photos/right.png"]


def test_numbered_photographs_are_found_and_missing_ones_named(result, capsys):
    report = json.loads((result / "report.json").read_text())
    report["cameras"] = dict(
        zip(("cam_0001", "cam_0002"), report["cameras"].values(), strict=True)
    )
    (result / "report.json").write_text(json.dumps(report))
    photos = result / "photos"
    photos.mkdir()
    (photos / "0001.jpg").touch()
    args = ["export", str(result), "--out", str(result / "t.json"), "--images", str(photos)]
    assert main(args) == 1
    assert "got none for cam_0002 among 1 images" in capsys.readouterr().err
    (photos / "0002.jpg").touch()
    assert main(args) == 0
    frames = json.loads((result / "t.json").read_text())["frames"]
    assert [f["file_path"] for f in frames] == ["photos/0001.jpg", "photos/0002.jpg"]


def test_a_mesh(result, capsys):
    trimesh = pytest.importorskip("trimesh")
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]), np.full((3, 3), 9, np.uint8),
                is_metric=False)  # fmt: skip
    write_mesh_ply(result / "mesh.ply", mesh)
    for name in ("mesh.obj", "mesh.glb"):
        assert main(["export", str(result / "mesh.ply"), "--out", str(result / name)]) == 0
    loaded = trimesh.load(result / "mesh.glb", force="scene")
    assert len(loaded.geometry) == 3  # the mesh and two cameras, no points
    assert "1 triangles" in capsys.readouterr().out
    assert main(["export", str(result / "mesh.ply"), "--format", "obj", "--voxel", "1"]) == 1
    assert "leave the filters out" in capsys.readouterr().err


def test_options_of_glb_and_gaussians(result):
    pygltflib = pytest.importorskip("pygltflib")
    out = result / "a.glb"
    assert main(["export", str(result), "--out", str(out), "--no-cameras"]) == 0
    assert len(pygltflib.GLTF2().load(str(out)).meshes) == 1
    args = ["--out", str(out), "--placement", "first_camera"]
    assert main(["export", str(result), *args]) == 0
    gltf = pygltflib.GLTF2().load(str(out))
    matrix = np.reshape(gltf.nodes[gltf.scenes[0].nodes[0]].matrix, (4, 4)).T
    assert not np.allclose(matrix[:3, 3], 0)
    args = ["--format", "3dgs", "--sh-degree", "3"]
    assert main(["export", str(result), *args]) == 0
    assert b"f_rest_44" in (result / "map_3dgs.ply").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format", "plyy"], "did you mean 'ply'"),
        ([], "expected --format or --out, got neither"),
        (["--out", "{}/a.xyz"], "without a known suffix"),
        (["--format", "ply"], "another file than the map itself"),
        (["--format", "glb,npz", "--out", "{}/none"], "expected a folder that exists"),
        (["--format", "glb", "--out", "{}/none/a.glb"], "does not exist; create it"),
        (["--format", "glb", "--placement", "up"], "placement: expected one of"),
        (["--format", "3dgs", "--sh-degree", "7"], "sh_degree: expected"),
        (["--format", "npz", "--min-confidence", "2"], "min_confidence: expected 0 to 1"),
        (["--format", "npz", "--box", "0", "0", "0", "0", "1", "1"], "lower corner"),
        (["--format", "npz", "--voxel", "1e-9"], "--voxel"),
        (["--format", "npz", "--images", "{}/none"], "--images {}/none: expected a folder"),
        (["--format", "colmap", "--cameras", "{}/empty"], "expected report.json"),
        (["--format", "obj"], "expected a mesh"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_1(result, capsys, args, message):
    (result / "empty").mkdir()
    before = sorted(p.name for p in result.iterdir())
    args = [arg.format(result) for arg in args]
    assert main(["export", str(result), *args]) == 1
    captured = capsys.readouterr()
    assert message.format(result) in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(p.name for p in result.iterdir()) == before


def test_maps_that_are_none(result, capsys):
    for path, message in (
        (result / "none.ply", "does not exist"),
        (result / "photos", "without map.ply"),
        (result / "report.json", "is not a PLY"),
    ):
        (result / "photos").mkdir(exist_ok=True)
        assert main(["export", str(path), "--format", "npz"]) == 1
        assert message in capsys.readouterr().err


def test_a_map_without_cameras_beside_it(result, capsys):
    (result / "report.json").unlink()
    assert main(["export", str(result), "--format", "colmap"]) == 1
    assert "needs cameras" in capsys.readouterr().err
    assert main(["export", str(result), "--format", "glb"]) == 0


def test_cameras_of_another_run_are_refused(result, capsys):
    report = json.loads((result / "report.json").read_text())
    report["scale"] = {"value": 0.5, "sigma": 0.1, "source": "rig"}
    (result / "report.json").write_text(json.dumps(report))
    assert main(["export", str(result), "--format", "npz"]) == 1
    assert "unscaled, but report.json" in capsys.readouterr().err


def test_no_space_keeps_the_previous_file(result, monkeypatch, capsys):
    assert main(["export", str(result), "--format", "glb"]) == 0
    before = (result / "map.glb").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vggt_ros.export.files._sync", full)
    assert main(["export", str(result), "--format", "glb", "--no-cameras"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert (result / "map.glb").read_bytes() == before
    assert len(list(result.iterdir())) == 3
