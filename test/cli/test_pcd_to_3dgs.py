"""`pcd_to_3dgs` with maps and with arrays of predictions."""

import numpy as np
import pytest

from vggt_ros.cli.pcd_to_3dgs import main
from vggt_ros.export.ply import read_ply, write_ply
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.inference.vggt import encode_cameras
from vggt_ros.types import PointCloud

MODEL = CameraModel(28, 14, 20.0, 20.0, 13.5, 6.5)
POSES = [Rigid3.identity(), Rigid3.from_quaternion([0, 0.1, 0, 0.995], [0.5, 0, 0])]


@pytest.fixture
def arrays(tmp_path):
    """Two views of the plane z = 2 of the first camera's frame."""
    depth = np.full((1, 2, 14, 28, 1), 2.0, np.float32)
    rays = POSES[1].rotation @ np.moveaxis(MODEL.rays().astype(float), -1, 0).reshape(3, -1)
    depth[0, 1, ..., 0] = ((2 - POSES[1].translation[2]) / rays[2]).reshape(14, 28)
    files = {
        "depth": depth,
        "confidence": np.linspace(0, 1, 2 * 14 * 28).reshape(1, 2, 14, 28),
        "camera": encode_cameras(POSES, [MODEL, MODEL])[None],
        "colors": np.random.default_rng(0).random((1, 2, 3, 14, 28)),
    }
    paths = {}
    for name, array in files.items():
        paths[name] = tmp_path / f"{name}.npy"
        np.save(paths[name], array)
    return paths


def run(paths, *more):
    return main([*(str(x) for n, p in paths.items() for x in (f"--{n}", p)), *map(str, more)])


def test_arrays_in_the_documented_form(tmp_path, arrays, capsys):
    out = tmp_path / "scene.ply"
    assert run(arrays, "--min-conf", "0.5", "--use-sh", "--verbose", "--output", out) == 0
    assert "392 Gaussians (unscaled, not metres)" in capsys.readouterr().out
    cloud = read_ply(out)
    np.testing.assert_allclose(cloud.points[:, 2], 2, atol=1e-4)
    np.testing.assert_allclose(cloud.normals, np.tile([0, 0, -1], (392, 1)), atol=1e-3)
    data = pytest.importorskip("plyfile").PlyData.read(str(out))["vertex"]
    assert len(data.properties) == 17 + 45
    confidence = np.linspace(0, 1, 2 * 14 * 28)[392:]
    logit = data["opacity"].astype(float)
    expected = np.clip(confidence, 0.01, 0.99)
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), expected, atol=1e-5)
    colours = np.load(arrays["colors"])[0].transpose(0, 2, 3, 1).reshape(-1, 3)[392:]
    np.testing.assert_allclose(data["f_dc_1"] * 0.28209479 + 0.5, colours[:, 1], atol=0.003)


def test_defaults_filter_as_documented(tmp_path, arrays, capsys):
    out = tmp_path / "scene.ply"
    assert run(arrays, "--output", out) == 0
    assert f"{(np.linspace(0, 1, 784) >= 0.3).sum()} Gaussians" in capsys.readouterr().out
    assert run(arrays, "--output", out, "--max-depth", "1") == 1
    assert "no points are left" in capsys.readouterr().err


def test_a_map(tmp_path, capsys):
    points = np.random.default_rng(0).normal(0, 1, (50, 3)).astype(np.float32)
    confidence = np.linspace(0, 1, 50, dtype=np.float32)
    cloud = PointCloud(points, np.zeros((50, 3), np.uint8), confidence=confidence)
    write_ply(tmp_path / "map.ply", cloud)
    out = tmp_path / "seed.ply"
    args = [str(tmp_path / "map.ply"), "--output", str(out), "--sh-degree", "0"]
    assert main([*args, "--min-conf", "0.5"]) == 0
    assert "25 Gaussians (metres)" in capsys.readouterr().out
    data = pytest.importorskip("plyfile").PlyData.read(str(out))["vertex"]
    assert len(data.properties) == 17
    np.testing.assert_array_equal(data["x"], points[25:, 0])
    assert main([*args, "--scale", "0.5"]) == 0
    scale = pytest.importorskip("plyfile").PlyData.read(str(out))["vertex"]["scale_1"]
    np.testing.assert_allclose(np.exp(scale), 0.5, rtol=1e-5)


def test_an_engine_is_named_with_the_way_to_build_it(tmp_path, capsys):
    args = ["--engine", str(tmp_path / "a.engine"), "--images-dir", "x", "--output", "y.ply"]
    assert main(args) == 1
    said = capsys.readouterr().err
    assert "a.engine: expected a VGGT engine, got no file" in said
    assert "vggt_to_trt --export" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": None}, "missing: --camera"),
        ({"depth": np.zeros((3, 3))}, "3 axes"),
        ({"confidence": np.zeros((2, 3, 3))}, "--confidence: expected shape (2, 14, 28)"),
        ({"camera": np.zeros((2, 9))}, "row 0 is no camera"),
        ({"colors": np.zeros((2, 3, 9, 9))}, "--colors: expected shape"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, change, message, capsys):
    for name, value in change.items():
        if value is None:
            del arrays[name]
        else:
            np.save(arrays[name], value)
    assert run(arrays, "--output", tmp_path / "a.ply") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.ply").exists()


def test_no_input_and_no_array(tmp_path, arrays, capsys):
    assert main(["--output", str(tmp_path / "a.ply")]) == 1
    assert "expected MAP, or --depth" in capsys.readouterr().err
    arrays["depth"].write_text("x")
    assert run(arrays, "--output", tmp_path / "a.ply") == 1
    assert "expected a .npy file" in capsys.readouterr().err
