"""GLB, checked with trimesh and pygltflib, and against VGGT's way to draw cameras."""

import io
import json
import struct

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export import rows
from vggt_ros.export.camera_cones import camera_cone, gist_rainbow, scene_size
from vggt_ros.export.glb import Primitive, write_glb
from vggt_ros.export.glb_scene import predictions_to_glb, write_scene_glb
from vggt_ros.export.mesh import Mesh
from vggt_ros.geometry import Rigid3
from vggt_ros.types import PointCloud

EMPTY = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))


def document(data):
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    assert length % 4 == size % 4 == 0
    return json.loads(data[20 : 20 + size])


def arrays(data, mesh=0):
    """Positions, colours and indices of a mesh, by the accessors as the specification says."""
    pygltflib = pytest.importorskip("pygltflib")
    gltf = pygltflib.GLTF2.load_from_bytes(data)
    blob = gltf.binary_blob()
    primitive = gltf.meshes[mesh].primitives[0]
    kinds = {5126: "<f4", 5121: "u1", 5125: "<u4"}
    widths = {"VEC3": 3, "VEC4": 4, "SCALAR": 1}

    def read(number):
        if number is None:
            return None
        accessor = gltf.accessors[number]
        view = gltf.bufferViews[accessor.bufferView]
        width = widths[accessor.type]
        flat = np.frombuffer(
            blob, kinds[accessor.componentType], accessor.count * width, view.byteOffset
        )
        return flat.reshape(accessor.count, width)

    attributes = primitive.attributes
    return read(attributes.POSITION), read(attributes.COLOR_0), read(primitive.indices)


def test_points_and_cameras_as_pygltflib_reads_them(tmp_path, wall, scene):
    pygltflib = pytest.importorskip("pygltflib")
    path = tmp_path / "a.glb"
    assert write_scene_glb(path, wall, scene.map_from_camera, placement="none") == len(wall)
    gltf = pygltflib.GLTF2().load(str(path))
    assert gltf.asset.version == "2.0"
    assert [m.name for m in gltf.meshes] == ["points", "front", "side"]
    assert [m.primitives[0].mode for m in gltf.meshes] == [0, 4, 4]
    data = path.read_bytes()
    positions, colours, indices = arrays(data)
    np.testing.assert_array_equal(positions, wall.points)
    np.testing.assert_array_equal(colours[:, :3], wall.colours)
    assert (colours[:, 3] == 255).all()
    assert indices is None
    accessor = gltf.accessors[gltf.meshes[0].primitives[0].attributes.POSITION]
    np.testing.assert_array_equal(accessor.min, wall.points.min(0).astype(float))
    np.testing.assert_array_equal(accessor.max, wall.points.max(0).astype(float))
    for view in gltf.bufferViews:
        assert view.byteOffset % 4 == 0


def test_trimesh_reads_it_and_the_axes_are_those_of_gltf(tmp_path, scene):
    """What is up in the map is +y, what is ahead is +x, what is left is -z."""
    trimesh = pytest.importorskip("trimesh")
    points = np.float32([[1, 0, 0], [0, 2, 0], [0, 0, 3], [0.25, 0.5, 0.125]])
    cloud = PointCloud(points, np.uint8([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 128, 255]]))
    write_scene_glb(tmp_path / "a.glb", cloud, scene.map_from_camera, show_cameras=False)
    loaded = trimesh.load(tmp_path / "a.glb", force="scene")
    (name,) = loaded.graph.nodes_geometry
    matrix, geometry = loaded.graph[name]
    cloud_read = loaded.geometry[geometry]
    np.testing.assert_array_equal(np.asarray(cloud_read.colors)[:, :3], cloud.colours)
    seen = trimesh.transform_points(cloud_read.vertices, matrix)
    np.testing.assert_allclose(
        seen, [[1, 0, 0], [0, 0, -2], [0, 3, 0], [0.25, 0.125, -0.5]], atol=1e-5
    )
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)


def vggt_scene(world_from_camera, points, colours):
    """The shapes of VGGT's visual_util.py, built with trimesh."""
    trimesh = pytest.importorskip("trimesh")
    size = np.linalg.norm(np.percentile(points, 95, axis=0) - np.percentile(points, 5, axis=0))
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    about_z = trimesh.transformations.rotation_matrix
    meshes = []
    for pose in world_from_camera:
        cone = trimesh.creation.cone(0.05 * size, 0.1 * size, sections=4)
        place = about_z(np.pi / 4, [0, 0, 1])
        place[2, 3] = -0.1 * size
        turned = trimesh.transform_points(cone.vertices, about_z(np.radians(2), [0, 0, 1]))
        vertices = np.concatenate([cone.vertices, 0.95 * cone.vertices, turned])
        vertices = trimesh.transform_points(vertices, pose @ flip @ place)
        faces, n = [], len(cone.vertices)
        for face in cone.faces:
            if 0 in face:
                continue
            a, b, c = face
            for k in (n, 2 * n):
                faces += [(a, b, b + k), (a, a + k, c), (c + k, b, c)]
        faces += [(c, b, a) for a, b, c in faces]
        meshes.append((vertices, np.array(faces)))
    node = world_from_camera[0] @ flip @ about_z(np.pi, [0, 1, 0])
    return meshes, node


def test_cameras_and_transform_are_those_of_vggt(tmp_path, wall, scene):
    poses = [pose.matrix for pose in scene.map_from_camera.values()]
    meshes, node = vggt_scene(poses, wall.points, wall.colours)
    path = tmp_path / "a.glb"
    write_scene_glb(path, wall, scene.map_from_camera, placement="first_camera")
    data = path.read_bytes()
    for number, (vertices, faces) in enumerate(meshes, 1):
        positions, colours, indices = arrays(data, number)
        triangles = np.sort(positions[indices.reshape(-1, 3)], axis=1)
        expected = np.sort(vertices[faces], axis=1)
        order = [np.lexsort(np.round(t.reshape(len(t), -1), 4).T) for t in (triangles, expected)]
        np.testing.assert_allclose(triangles[order[0]], expected[order[1]], atol=1e-5)
        assert (colours[:, :3] == gist_rainbow((number - 1) / 2)).all()
    tree = document(data)
    root = tree["nodes"][tree["scenes"][0]["nodes"][0]]
    np.testing.assert_allclose(np.reshape(root["matrix"], (4, 4)).T, node, atol=1e-12)
    assert len(root["children"]) == 3


def test_a_cone_opens_where_its_camera_looks(scene):
    for pose in scene.map_from_camera.values():
        cone = camera_cone("a", pose, 2.0, (1, 2, 3))
        in_camera = pose.inverse().apply(cone.positions.astype(float))
        used = in_camera[np.unique(cone.triangles)]
        assert used[:, 2].min() > -1e-6  # nothing behind the centre
        assert used[:, 2].max() == pytest.approx(0.2, abs=1e-6)
        assert np.linalg.norm(in_camera[2]) < 1e-6  # the tip is the centre


def test_gist_rainbow_is_that_of_matplotlib():
    known = {0: (255, 0, 40), 1 / 5: (255, 234, 0), 2 / 5: (0, 255, 0), 4 / 5: (41, 0, 255)}
    for fraction, colour in known.items():
        assert gist_rainbow(fraction) == colour
    matplotlib = pytest.importorskip("matplotlib")
    for n in range(1, 40):
        for i in range(n):
            rgba = matplotlib.colormaps["gist_rainbow"](i / n)
            assert gist_rainbow(i / n) == tuple(int(255 * x) for x in rgba[:3])


@pytest.mark.parametrize("metric", [True, False])
def test_the_unit_is_said(tmp_path, scene, wall, metric):
    cloud = PointCloud(wall.points, wall.colours, frame="odom", is_metric=metric)
    write_scene_glb(tmp_path / "a.glb", cloud, {}, comments=["scale is so"])
    said = document((tmp_path / "a.glb").read_bytes())["asset"]["extras"]["comments"]
    assert said == ["frame odom", "unit m" if metric else "unit unscaled", "scale is so"]


def test_nothing_left_is_one_white_point(tmp_path):
    assert write_scene_glb(tmp_path / "a.glb", EMPTY, {}) == 0
    positions, colours, _ = arrays((tmp_path / "a.glb").read_bytes())
    assert positions.tolist() == [[1, 0, 0]]
    assert colours.tolist() == [[255, 255, 255, 255]]


def test_percentile_and_backgrounds(tmp_path):
    colours = np.uint8([[5, 5, 5], [6, 5, 5], [241, 241, 241], [240, 255, 255]])
    cloud = PointCloud(
        np.eye(4, 3, dtype=np.float32), colours, confidence=np.float32([0, 0.2, 0.4, 0.6])
    )
    for options, expected in (
        ({}, [0, 1, 2, 3]),
        ({"confidence_percentile": 50}, [2, 3]),
        ({"confidence_percentile": 1e-9}, [1, 2, 3]),
        ({"mask_black": True}, [1, 2, 3]),
        ({"mask_white": True}, [0, 1, 3]),
        ({"mask_white": True, "mask_black": True, "confidence_percentile": 50}, [3]),
    ):
        count = write_scene_glb(tmp_path / "a.glb", cloud, {}, **options)
        positions, _, _ = arrays((tmp_path / "a.glb").read_bytes())
        np.testing.assert_array_equal(positions, cloud.points[expected])
        assert count == len(expected)


def predictions(views=2, height=6, width=8, seed=0):
    rng = np.random.default_rng(seed)
    extrinsic = np.zeros((views, 3, 4), np.float32)
    for i in range(views):
        extrinsic[i] = Rigid3(np.eye(3), [0.1 * i, 0, 0]).matrix[:3]
    return {
        "world_points": rng.normal(0, 1, (views, height, width, 3)).astype(np.float32),
        "world_points_conf": rng.random((views, height, width)).astype(np.float32),
        "world_points_from_depth": rng.normal(9, 1, (views, height, width, 3)),
        "depth_conf": rng.random((views, height, width)).astype(np.float32),
        "images": rng.random((views, 3, height, width)).astype(np.float32),
        "extrinsic": extrinsic,
    }


def test_predictions_as_the_demo_shows_them():
    given = predictions()
    data = predictions_to_glb(given, conf_thres=30)
    positions, colours, _ = arrays(data)
    confidence = given["world_points_conf"].ravel()
    keep = confidence >= np.percentile(confidence, 30)
    np.testing.assert_array_equal(positions, given["world_points"].reshape(-1, 3)[keep])
    expected = (given["images"].transpose(0, 2, 3, 1).reshape(-1, 3) * 255).astype(np.uint8)
    np.testing.assert_array_equal(colours[:, :3], expected[keep])
    tree = document(data)
    assert len(tree["meshes"]) == 3
    root = tree["nodes"][tree["scenes"][0]["nodes"][0]]
    np.testing.assert_allclose(np.reshape(root["matrix"], (4, 4)), np.diag([-1, -1, 1, 1]))
    trimesh = pytest.importorskip("trimesh")
    assert len(trimesh.load(io.BytesIO(data), file_type="glb").geometry) == 3


def test_options_of_predictions():
    given = predictions()
    every, _, _ = arrays(predictions_to_glb(given, conf_thres=0, show_cam=False))
    assert len(every) == 2 * 6 * 8
    one, _, _ = arrays(predictions_to_glb(given, conf_thres=0, filter_by_frames="1: b.png"))
    np.testing.assert_array_equal(one, given["world_points"][1].reshape(-1, 3))
    depth, _, _ = arrays(predictions_to_glb(given, 0, prediction_mode="Depthmap and Camera"))
    assert depth.mean() > 5
    given["sky_masks"] = np.zeros((2, 6, 8))
    given["sky_masks"][0] = 255
    ground, _, _ = arrays(predictions_to_glb(given, 0, mask_sky=True))
    np.testing.assert_array_equal(ground, given["world_points"][0].reshape(-1, 3))
    given["alpha_masks"] = np.zeros((2, 1, 6, 8))
    nothing, _, _ = arrays(predictions_to_glb(given))
    assert nothing.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("images", {}, "expected 'images'"),
        ("", {"filter_by_frames": "7"}, "0 to 1, got '7'"),
        ("", {"filter_by_frames": "x"}, "number of an image"),
        ("", {"mask_sky": True}, "expected 'sky_masks'"),
        ("", {"conf_thres": 101.0}, "0 to 100"),
    ],
)
def test_wrong_predictions(change, options, message):
    given = predictions()
    given.pop(change, None)
    with pytest.raises(ExportError, match=message):
        predictions_to_glb(given, **options)


def test_mesh_beside_points(tmp_path, wall):
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]), np.full((3, 3), 9, np.uint8))
    write_scene_glb(tmp_path / "a.glb", wall, {}, mesh=mesh, placement="none")
    positions, colours, indices = arrays((tmp_path / "a.glb").read_bytes(), 1)
    np.testing.assert_array_equal(positions, np.eye(3))
    assert colours[0].tolist() == [9, 9, 9, 255]
    assert indices.ravel().tolist() == [0, 1, 2]


def test_several_chunks_give_the_same_bytes(tmp_path, wall, monkeypatch):
    write_scene_glb(tmp_path / "a.glb", wall, {})
    monkeypatch.setattr("vggt_ros.export.glb.chunks", lambda n, w, p, s: rows.chunks(n, w, p, 7))
    write_scene_glb(tmp_path / "b.glb", wall, {})
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_what_cannot_be_written(tmp_path, wall, monkeypatch):
    with pytest.raises(ExportError, match=r"got 'y_upp' \(did you mean 'y_up'"):
        write_scene_glb(tmp_path / "a.glb", wall, {}, placement="y_upp")
    with pytest.raises(ExportError, match="at least one camera"):
        write_scene_glb(tmp_path / "a.glb", wall, {}, placement="first_camera")
    bad = wall.points.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ExportError, match="at point 3"):
        write_scene_glb(tmp_path / "a.glb", PointCloud(bad, wall.colours), {})
    monkeypatch.setattr("vggt_ros.export.glb._LARGEST", (1 << 20) + 100)
    with pytest.raises(ExportError, match=r"at most 4 GiB.*thin the points"):
        write_glb(tmp_path / "a.glb", [Primitive("a", wall.points)])
    assert not list(tmp_path.iterdir())


def test_size_of_a_scene():
    line = np.zeros((101, 3), np.float32)
    line[:, 0] = np.arange(101)
    assert scene_size(line) == pytest.approx(90)
    assert scene_size(line, most=51) == pytest.approx(90)
