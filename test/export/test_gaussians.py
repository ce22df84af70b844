"""3-D Gaussians, checked with gsply and plyfile."""

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.gaussians import (
    SH_C0,
    THICKNESS,
    GaussianOptions,
    neighbour_scales,
    rotations,
    write_gaussians,
)
from vggt_ros.types import PointCloud

NAMES = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
TAIL = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def vertices(path):
    return pytest.importorskip("plyfile").PlyData.read(str(path))["vertex"]


@pytest.mark.parametrize(("degree", "rest"), [(0, 0), (1, 9), (2, 24), (3, 45)])
def test_properties_and_their_order(tmp_path, wall, degree, rest):
    write_gaussians(tmp_path / "a.ply", wall, GaussianOptions(sh_degree=degree))
    data = vertices(tmp_path / "a.ply")
    names = [p.name for p in data.properties]
    assert names == NAMES + [f"f_rest_{i}" for i in range(rest)] + TAIL
    assert all(p.val_dtype == "f4" for p in data.properties)
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[0] + b"end_header\n"
    size = (tmp_path / "a.ply").stat().st_size - len(header)
    assert size == len(wall) * 4 * (17 + rest)
    if rest:
        assert not np.any([data[f"f_rest_{i}"] for i in range(rest)])


@pytest.mark.parametrize("degree", [0, 3])
def test_values_as_gsply_reads_them(tmp_path, wall, degree):
    gsply = pytest.importorskip("gsply")
    write_gaussians(tmp_path / "a.ply", wall, GaussianOptions(sh_degree=degree))
    read = gsply.plyread(str(tmp_path / "a.ply"))
    np.testing.assert_array_equal(read.means, wall.points)
    colours = np.asarray(read.sh0).reshape(-1, 3) * SH_C0 + 0.5
    np.testing.assert_array_equal(np.rint(colours * 255).astype(np.uint8), wall.colours)
    opacity = 1 / (1 + np.exp(-np.asarray(read.opacities, float).ravel()))
    np.testing.assert_allclose(opacity, np.clip(wall.confidence, 0.01, 0.99), atol=1e-6)
    scales = np.exp(np.asarray(read.scales, float))
    expected = neighbour_scales(wall.points)
    np.testing.assert_allclose(scales[:, :2], np.stack([expected, expected], 1), rtol=1e-5)
    np.testing.assert_allclose(scales[:, 2], THICKNESS * expected, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(read.quats, axis=1), 1, atol=1e-6)


def matrix(q):
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_the_thin_axis_lies_along_the_normal():
    rng = np.random.default_rng(0)
    normals = rng.normal(0, 1, (50, 3)).astype(np.float32)
    normals[:6] = [[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0], [0, 0, 0], [np.nan, 0, 0]]
    for normal, q in zip(normals, rotations(normals), strict=True):
        if not (np.isfinite(normal).all() and normal.any()):
            assert q.tolist() == [1, 0, 0, 0]
            continue
        np.testing.assert_allclose(
            matrix(q.astype(float))[:, 2], normal / np.linalg.norm(normal), atol=1e-6
        )


def test_scales_against_brute_force():
    points = np.random.default_rng(1).normal(0, 1, (300, 3)).astype(np.float32)
    apart = np.linalg.norm(points[:, None].astype(float) - points[None], axis=2)
    nearest = np.sort(apart, axis=1)[:, 1:4]
    expected = np.sqrt((nearest**2).mean(axis=1))
    np.testing.assert_allclose(neighbour_scales(points), expected, rtol=1e-5)


def test_few_and_equal_points(tmp_path):
    assert neighbour_scales(np.zeros((1, 3), np.float32)).tolist() == [1.0]
    assert neighbour_scales(np.zeros((9, 3), np.float32)).tolist() == [0.0] * 9
    cloud = PointCloud(np.zeros((9, 3), np.float32), np.zeros((9, 3), np.uint8))
    write_gaussians(tmp_path / "a.ply", cloud)
    data = vertices(tmp_path / "a.ply")
    assert np.isfinite([data[name] for name in NAMES + TAIL]).all()
    np.testing.assert_allclose(1 / (1 + np.exp(-data["opacity"])), 0.1, rtol=1e-6)
    assert (data["rot_0"] == 1).all()


def test_given_scale_and_opacity(tmp_path, wall):
    write_gaussians(tmp_path / "a.ply", wall, GaussianOptions(scale=0.02, opacity=0.7))
    data = vertices(tmp_path / "a.ply")
    np.testing.assert_allclose(np.exp(data["scale_0"]), 0.02, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-data["opacity"])), 0.7, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GaussianOptions(sh_degree=4), "sh_degree: expected 0, 1, 2 or 3, got 4"),
        (GaussianOptions(scale=-1), "scale: expected a length"),
        (GaussianOptions(opacity=1.0), "opacity: expected 0 to 1"),
    ],
)
def test_wrong_options(tmp_path, wall, options, message):
    with pytest.raises(ExportError, match=message):
        write_gaussians(tmp_path / "a.ply", wall, options)
    assert not list(tmp_path.iterdir())


def test_unit_and_refusals(tmp_path, wall):
    unscaled = PointCloud(wall.points, wall.colours, is_metric=False)
    write_gaussians(tmp_path / "a.ply", unscaled, comments=["scale unknown"])
    header = (tmp_path / "a.ply").read_bytes()[:200].decode("ascii", "replace")
    assert "comment unit unscaled\ncomment scale unknown\n" in header
    bad = wall.points.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ExportError, match="finite"):
        write_gaussians(tmp_path / "a.ply", PointCloud(bad, wall.colours))
    none = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    with pytest.raises(ExportError, match="at least one point"):
        write_gaussians(tmp_path / "a.ply", none)
