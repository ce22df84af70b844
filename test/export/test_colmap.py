"""COLMAP's files, checked with pycolmap."""

import dataclasses
import os

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.colmap import FILES, POINTS_PLY, colmap_camera, write_colmap
from vggt_ros.export.ply import read_ply
from vggt_ros.export.select import select_features
from vggt_ros.geometry import CameraModel
from vggt_ros.types import PointCloud

EMPTY = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))


def read(folder):
    return pytest.importorskip("pycolmap").Reconstruction(str(folder))


def join(a, b):
    return PointCloud(
        np.concatenate([a.points, b.points]),
        np.concatenate([a.colours, b.colours]),
        np.concatenate([a.normals, b.normals]),
    )


def test_exactly_the_files_of_the_contract(tmp_path, wall, scene):
    summary = write_colmap(tmp_path / "a", wall, scene, comments=["scale is so"])
    assert sorted(os.listdir(tmp_path / "a")) == sorted([*FILES, POINTS_PLY])
    assert [f.name for f in summary.files] == [*FILES, POINTS_PLY]
    cloud = read_ply(tmp_path / "a" / POINTS_PLY)
    np.testing.assert_array_equal(cloud.points, wall.points)
    assert cloud.is_metric
    assert b"comment scale is so" in (tmp_path / "a" / POINTS_PLY).read_bytes()


def test_cameras_points_and_colours(tmp_path, wall, scene):
    write_colmap(tmp_path / "a", wall, scene, image_names={"front": "0001.jpg"})
    model = read(tmp_path / "a")
    assert {image.name for image in model.images.values()} == {"0001.jpg", "side.png"}
    for image, name in zip((model.images[1], model.images[2]), scene.map_from_camera, strict=True):
        camera_from_map = scene.map_from_camera[name].inverse()
        matrix = image.cam_from_world().matrix()
        np.testing.assert_allclose(matrix, camera_from_map.matrix[:3], atol=1e-12)
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == scene.cameras[name].size
    ids = sorted(model.points3D)
    points = np.array([model.points3D[i].xyz for i in ids])
    colours = np.array([model.points3D[i].color for i in ids])
    np.testing.assert_allclose(points, wall.points, atol=1e-5)
    np.testing.assert_array_equal(colours, wall.colours)


@pytest.mark.parametrize("name", ["front", "side"])
def test_a_point_at_a_known_pixel_projects_to_it(tmp_path, scene, name):
    """Half a pixel: our (0, 0) is COLMAP's (0.5, 0.5), the middle of the same pixel."""
    model, pose = scene.cameras[name], scene.map_from_camera[name]
    pixels = np.array([[10, 20], [model.width - 30.0, 40], [100, 150], [0, 0]])
    straight = dataclasses.replace(model, distortion_model="none", distortion=())
    rays = np.stack(
        [(pixels[:, 0] - model.cx) / model.fx, (pixels[:, 1] - model.cy) / model.fy, np.ones(4)], 1
    )
    for _ in range(50):  # undistort by iteration
        rays[:, :2] += (pixels - model.project(rays)) / [straight.fx, straight.fy]
    points = pose.apply(rays * 2.5).astype(np.float32)
    write_colmap(tmp_path / "a", PointCloud(points, np.zeros((4, 3), np.uint8)), scene)
    found = read(tmp_path / "a")
    image = next(i for i in found.images.values() if i.name == f"{name}.png")
    for k, point_id in enumerate(sorted(found.points3D)):
        projected = image.project_point(found.points3D[point_id].xyz)
        np.testing.assert_allclose(projected, pixels[k] + 0.5, atol=0.01)
        mine = [p for p in image.points2D if p.point3D_id == point_id]
        if k < 3:  # the corner may fall out by rounding
            assert len(mine) == 1
            np.testing.assert_allclose(mine[0].xy, pixels[k] + 0.5, atol=0.01)


def test_tracks_are_of_the_cameras_that_see_a_point(tmp_path, wall, second_wall, scene):
    cloud = join(wall, second_wall)
    summary = write_colmap(tmp_path / "a", cloud, scene)
    model = read(tmp_path / "a")
    ids = sorted(model.points3D)
    seen = {1: set(), 2: set()}
    observations = 0
    for row, point_id in enumerate(ids):
        for element in model.points3D[point_id].track.elements:
            image = model.images[element.image_id]
            point = image.points2D[element.point2D_idx]
            assert point.point3D_id == point_id
            projected = image.project_point(model.points3D[point_id].xyz)
            np.testing.assert_allclose(point.xy, projected, atol=1e-3)
            seen[element.image_id].add(row)
            observations += 1
    assert observations == summary.observations
    assert summary.points == len(ids) == len(cloud)
    # What the first wall hides from the camera in front of it.
    behind = second_wall.points.astype(float)
    eye = scene.map_from_camera["front"].translation
    at_first = eye + (behind - eye) * (3 - eye[0]) / (behind[:, 0:1] - eye[0])
    hidden = (np.abs(at_first[:, 1]) < 0.45) & (np.abs(at_first[:, 2] - 1) < 0.35)
    rows = len(wall) + np.flatnonzero(hidden)
    assert len(rows) > 50
    assert np.isin(rows, list(seen[1])).mean() < 0.02
    assert len(seen[1] & set(range(len(wall)))) > 0.95 * len(wall)


def test_features_keep_their_places_and_errors(tmp_path, wall, scene_with_features):
    scene = scene_with_features
    summary = write_colmap(tmp_path / "a", wall, scene)
    assert summary.measured_points == 4  # the fifth point was seen by none
    assert summary.measured_observations == 8
    assert summary.mean_error_px == pytest.approx(0.5)
    assert "mean reprojection error 0.50 px" in str(summary)
    model = read(tmp_path / "a")
    assert len(model.points3D) == 4 + len(wall)
    assert model.compute_mean_reprojection_error() == pytest.approx(0.5)
    for point_id in range(1, 5):
        point = model.points3D[point_id]
        np.testing.assert_allclose(point.xyz, scene.points_in_map[point_id - 1], atol=1e-12)
        assert point.error == pytest.approx(0.5)
        assert point.track.length() == 2
        for element in point.track.elements:
            image = model.images[element.image_id]
            xy = image.points2D[element.point2D_idx].xy
            np.testing.assert_allclose(xy - image.project_point(point.xyz), [0.3, -0.4], atol=1e-6)
    assert model.points3D[5].error == -1
    model.update_point_3d_errors()  # COLMAP's own computation agrees
    assert model.points3D[1].error == pytest.approx(0.5, abs=1e-6)


def test_a_box_holds_for_features_too(tmp_path, scene_with_features):
    boxed = select_features(scene_with_features, (2.95, -1, 0, 4, 1, 2))
    summary = write_colmap(tmp_path / "a", EMPTY, boxed)
    assert (summary.measured_points, summary.measured_observations) == (3, 6)


@pytest.mark.parametrize(
    ("kind", "coefficients", "name", "extra"),
    [
        ("none", (), "PINHOLE", []),
        ("plumb_bob", (0.1, 0.2, 0.01, 0.02), "OPENCV", [0.1, 0.2, 0.01, 0.02]),
        (
            "plumb_bob",
            (0.1, 0.2, 0.01, 0.02, 0.3),
            "FULL_OPENCV",
            [0.1, 0.2, 0.01, 0.02, 0.3, 0, 0, 0],
        ),
        (
            "rational_polynomial",
            (0.1, 0.2, 0.01, 0.02, 0.3, 0.4, 0.5, 0.6),
            "FULL_OPENCV",
            [0.1, 0.2, 0.01, 0.02, 0.3, 0.4, 0.5, 0.6],
        ),
        ("equidistant", (0.1, 0.2, 0.3, 0.4), "OPENCV_FISHEYE", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_lenses_project_as_ours_do(kind, coefficients, name, extra):
    pycolmap = pytest.importorskip("pycolmap")
    ours = CameraModel(640, 480, 500.0, 510.0, 317.0, 244.0, kind, coefficients)
    number, params = colmap_camera(ours, "a")
    model = pycolmap.CameraModelId(number)
    assert model.name == name
    np.testing.assert_allclose(params[4:], extra)
    theirs = pycolmap.Camera(model=model.name, width=640, height=480, params=params)
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3)) + [0, 0, 1]
    projected = np.array([np.ravel(theirs.img_from_cam(p)) for p in points])
    np.testing.assert_allclose(projected, ours.project(points) + 0.5, atol=1e-6)


def test_thin_prisms_are_refused():
    lens = (0.1, 0, 0, 0, 0, 0, 0, 0, 0.1, 0, 0, 0)
    with pytest.raises(ExportError, match=r"'a'.*thin prism.*undistort"):
        colmap_camera(CameraModel(9, 9, 5, 5, 4, 4, "rational_polynomial", lens), "a")


def test_cameras_alone(tmp_path, scene):
    write_colmap(tmp_path / "a", EMPTY, scene)
    model = read(tmp_path / "a")
    assert len(model.images) == 2
    assert len(model.points3D) == 0


def test_several_chunks_give_the_same_model(tmp_path, wall, second_wall, scene, monkeypatch):
    cloud = join(wall, second_wall)
    write_colmap(tmp_path / "a", cloud, scene)
    monkeypatch.setattr("vggt_ros.export.colmap._CHUNK", 97)
    write_colmap(tmp_path / "b", cloud, scene)
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    assert sorted(a.points3D) == sorted(b.points3D)
    for point_id, point in a.points3D.items():
        other = b.points3D[point_id]
        np.testing.assert_array_equal(point.xyz, other.xyz)
        elements = [
            sorted((e.image_id, e.point2D_idx) for e in p.track.elements) for p in (point, other)
        ]
        assert elements[0] == elements[1]
    for name in ("cameras.bin", "images.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_refusals_leave_nothing(tmp_path, wall, scene, monkeypatch):
    none = dataclasses.replace(scene, map_from_camera={}, cameras={})
    with pytest.raises(ExportError, match="expected at least one camera"):
        write_colmap(tmp_path / "a", wall, none)
    bad = dataclasses.replace(wall, points=np.where(wall.points > 1, np.inf, wall.points))
    with pytest.raises(ExportError, match="finite"):
        write_colmap(tmp_path / "a", bad, scene)
    with pytest.raises(ExportError, match="cannot be made"):
        write_colmap(tmp_path / "missing" / "a", wall, scene)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rigs.bin").touch()
    with pytest.raises(ExportError, match=r"rigs\.bin of another model"):
        write_colmap(tmp_path / "other", wall, scene)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vggt_ros.export.files._sync", full)
    with pytest.raises(ExportError, match="no space left"):
        write_colmap(tmp_path / "a", wall, scene)
    assert os.listdir(tmp_path) == ["other"]


def test_all_files_change_together_or_none(tmp_path, wall, second_wall, scene, monkeypatch):
    write_colmap(tmp_path, wall, scene)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vggt_ros.export.colmap.write_ply", fail)
    with pytest.raises(ExportError, match="no space left"):
        write_colmap(tmp_path, second_wall, scene)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
