"""Real photographs to a COLMAP model, through the commands that a user types."""

import shutil

import numpy as np
import pytest

from vggt_ros.cli.main import main
from vggt_ros.export.ply import read_ply


@pytest.mark.slow
def test_eleven_photographs(tmp_path, shared_data, capsys):
    pycolmap = pytest.importorskip("pycolmap")
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in (shared_data / "fountain_p11").glob("*.jpg"):
        shutil.copy(file, photos)
    bag, out, model = (str(tmp_path / name) for name in ("bag", "out", "model"))
    assert main(["bag", "from-images", str(photos), "--camera-per-image", "--out", bag]) == 0
    assert main(["replay", bag, "--out", out]) == 0
    args = ["--format", "colmap", "--out", model, "--images", str(photos)]
    assert main(["export", out, *args]) == 0
    assert "mean reprojection error 0." in capsys.readouterr().out
    found = pycolmap.Reconstruction(model)
    assert found.num_reg_images() == 11
    assert {image.name for image in found.images.values()} == {p.name for p in photos.iterdir()}
    assert found.compute_mean_reprojection_error() <= 0.7
    measured = [point for point in found.points3D.values() if point.error >= 0]
    assert len(measured) >= 3000
    found.update_point_3d_errors()  # by COLMAP, from poses, points and features
    assert np.mean([point.error for point in measured]) <= 0.7
    cloud = read_ply(tmp_path / "out" / "map.ply")
    ids = sorted(found.points3D)[-len(cloud) :]
    points = np.array([found.points3D[i].xyz for i in ids])
    np.testing.assert_allclose(points, cloud.points, atol=1e-5)
    lengths = np.array([found.points3D[i].track.length() for i in ids])
    assert (lengths >= 2).mean() >= 0.8
