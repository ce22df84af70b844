"""The export dispatcher."""

import dataclasses
import resource
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vggt_ros.errors import ExportError
from vggt_ros.export.formats import FORMATS, export_map
from vggt_ros.export.mesh import Mesh
from vggt_ros.export.pcd import read_pcd
from vggt_ros.export.ply import read_ply
from vggt_ros.export.select import select
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
    files = export_map(tmp_path / name, format, CLOUD, CAMERAS, config_text="a: 1\n").files
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
        (
            "map",
            "plyy",
            CLOUD,
            CAMERAS,
            r"ply, pcd, .*got format 'plyy' \(did you mean 'ply'",
        ),
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


@pytest.mark.parametrize(
    ("name", "format", "expected", "count", "what"),
    [
        ("a.glb", "", ["a.glb"], 1, "points"),
        ("a.npz", "", ["a.npz"], 1, "points"),
        ("a", "3dgs", ["a.ply"], 1, "Gaussians"),
        ("a", "colmap", ["cameras.bin", "images.bin", "points3D.bin", "points.ply"], 1, "points"),
        ("transforms.json", "", ["transforms.json", "transforms_points.ply"], 1, "points"),
        ("a.obj", "", ["a.obj"], 2, "triangles"),
        ("a.ply", "", ["a.ply"], 2, "triangles"),
    ],
)
def test_every_other_format(tmp_path, scene, name, format, expected, count, what):
    mesh = None
    if what == "triangles":
        mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2], [2, 1, 0]]))
    done = export_map(tmp_path / name, format, CLOUD, CAMERAS, scene=scene, mesh=mesh)
    assert [f.name for f in done.files] == expected
    assert all(f.stat().st_size for f in done.files)
    assert (done.count, done.what) == (count, what)


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_las(tmp_path, name):
    pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    assert export_map(tmp_path / name, "", CLOUD).files == [tmp_path / name]


def test_formats_that_need_cameras_say_so(tmp_path, scene):
    no_intrinsics = dataclasses.replace(scene, cameras={})
    for format in ("colmap", "nerfstudio"):
        for given, message in (
            (None, "needs cameras"),
            (no_intrinsics, "of front, side"),
        ):
            with pytest.raises(ExportError, match=f"{format} needs|{message}"):
                export_map(tmp_path / "a", format, CLOUD, scene=given)
    with pytest.raises(ExportError, match="expected a mesh"):
        export_map(tmp_path / "a.obj", "", CLOUD)
    for name, format in (
        ("a.las", "laz"),
        ("a.glb", "ply"),
        ("a.json", "colmap"),
        ("a.tum", "npz"),
    ):
        with pytest.raises(ExportError, match=f"got {format} and the suffix of"):
            export_map(tmp_path / name, format, CLOUD, scene=scene)
    with pytest.raises(ExportError, match=r"expected the suffix \.laz, which decides"):
        export_map(tmp_path / "a.dat", "laz", CLOUD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("metric", [True, False])
def test_every_format_tells_the_unit(tmp_path, scene, unscaled_scene, format, metric):
    """Also those that one would not think of; COLMAP's own three files have no place for it."""
    cloud = dataclasses.replace(CLOUD, is_metric=metric)
    if format in ("las", "laz"):
        pytest.importorskip("laspy")
        pytest.importorskip("lazrs")
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]), is_metric=metric)
    done = export_map(
        tmp_path / "a",
        format,
        cloud,
        CAMERAS,
        scene=scene if metric else unscaled_scene,
        mesh=mesh if format == "obj" else None,
    )
    if format == "npz":
        with np.load(done.files[0]) as read:
            assert str(read["unit"]) == ("m" if metric else "unscaled")
        return
    text = b"".join(f.read_bytes() for f in done.files if f.suffix != ".bin")
    said = b'"unit": "%s"' if format == "nerfstudio" else b"unit %s"
    assert (said % b"unscaled" in text) != metric
    assert (said % b"m" in text) == metric


@pytest.mark.parametrize("format", ["ply", "pcd", "glb", "npz", "las"])
def test_no_second_copy_of_a_large_cloud(tmp_path, format):
    if format == "las":
        pytest.importorskip("laspy")
    count = 1_500_000
    points = np.zeros((count, 3), np.float32)
    points[:, 0] = np.arange(count) * 1e-3
    cloud = PointCloud(points, np.zeros((count, 3), np.uint8), points, points[:, 0])
    tracemalloc.start()
    try:
        export_map(tmp_path / f"a.{format}", "", select(cloud, slice(0, 20_000)))  # imports
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        export_map(tmp_path / f"a.{format}", "", cloud)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # NumPy writes NPZ through buffers of 16 MiB, laspy takes 8 MB for a chunk.
    assert peak - before < 20e6 < 0.45 * count * 31


@pytest.mark.slow
@pytest.mark.parametrize("format", ["ply", "pcd", "glb", "npz", "las", "colmap"])
def test_fifty_million_points(tmp_path, format):
    """The peak of a process that writes them, above what it held before."""
    if format == "las":
        pytest.importorskip("laspy")
    # A model of COLMAP takes 83 bytes for a point that one camera sees.
    count = 10_000_000 if format == "colmap" else 50_000_000
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no peak of a process to be had here")
    if shutil.disk_usage(tmp_path).free < 4e9:
        pytest.skip("too little room on the disk")
    code = f"""
import sys
from pathlib import Path
import numpy as np
from vggt_ros.export.formats import export_map
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.types import AlignedScene, PointCloud, ScaleEstimate, ScaleSource

def status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024

count, path = {count}, sys.argv[1]
points = np.empty((count, 3), np.float32)
points[:, 0] = np.arange(count) % 5000 * 1e-3 - 2.5
points[:, 1] = np.arange(count) // 5000 * 1e-3 - 5
points[:, 2] = 4
colours = np.full((count, 3), 90, np.uint8)
cameras = {{"a": CameraModel(64, 48, 60.0, 60.0, 31.5, 23.5)}}
poses = {{"a": Rigid3.identity()}}
scene = AlignedScene(
    cameras, poses, np.zeros((0, 3)), np.zeros((0, 3), np.uint8),
    ScaleEstimate(1.0, 0.0, ScaleSource.RIG), Sim3.identity(), {{}}, "rig", (), "rig",
)
small = Path(path).parent / "small" / Path(path).name
small.parent.mkdir()
export_map(small, "{format}", PointCloud(points[:50000], colours[:50000]), scene=scene)
cloud = PointCloud(points, colours)
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = status("VmRSS")
export_map(path, "{format}", cloud, scene=scene)
print(status("VmHWM") - before)
"""
    name = "model" if format == "colmap" else f"a.{format}"
    words = [sys.executable, "-c", code, str(tmp_path / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    grown_mb = float(done.stdout)
    print(f"{format}: {grown_mb:.0f} MB above the cloud of {count * 15 / 1e6:.0f} MB")
    assert grown_mb < 0.5 * count * 15 / 1e6


@pytest.mark.parametrize("format", ["ply", "pcd"])
def test_axes_of_rviz(tmp_path, scene, format):
    """Clouds and poses lie in the map: x ahead, y to the left, z up, whoever reads them."""
    open3d = pytest.importorskip("open3d")
    ahead_left_up = PointCloud(np.diag(np.float32([1, 2, 3])), np.zeros((3, 3), np.uint8))
    path = export_map(tmp_path / f"a.{format}", "", ahead_left_up).files[0]
    read = np.asarray(open3d.io.read_point_cloud(str(path)).points)
    np.testing.assert_allclose(read, [[1, 0, 0], [0, 2, 0], [0, 0, 3]], atol=1e-5)
    path = export_map(tmp_path / "a.tum", "", CLOUD, static_poses(scene.map_from_camera)).files[0]
    values = [float(v) for v in path.read_text().splitlines()[-1].split()]
    np.testing.assert_allclose(values[1:4], scene.map_from_camera["side"].translation, atol=1e-9)
    x, y, z, w = values[4:]
    looks = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
    np.testing.assert_allclose(looks, scene.map_from_camera["side"].rotation[:, 2], atol=1e-8)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_disk_that_fills_up_leaves_the_previous_files(tmp_path, scene, format):
    """The file system itself refuses to go on, in the middle of the file."""
    if format in ("las", "laz"):
        pytest.importorskip("laspy")
        pytest.importorskip("lazrs")
    points = np.random.default_rng(0).normal(0, 1, (20_000, 3)).astype(np.float32)
    cloud = PointCloud(points, np.zeros((20_000, 3), np.uint8))
    poses = CAMERAS * 2000
    mesh = Mesh(points, np.arange(19_998).reshape(-1, 3)) if format == "obj" else None

    def write():
        export_map(tmp_path / "a", format, cloud, poses, scene=scene, mesh=mesh)

    write()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, hard))
    try:
        with pytest.raises(ExportError, match="size limit"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
