"""Every format says that lengths are not metres, where they are not; one table for all."""

import json
import struct

import numpy as np
import pytest

from vggt_ros.config import Config
from vggt_ros.export.formats import FORMATS, export_map
from vggt_ros.export.mesh import Mesh
from vggt_ros.export.trajectory import static_poses
from vggt_ros.pipeline.report import map_frame, scene_report


def head(path):
    return path.read_bytes()[:1000].decode("ascii", "replace")


def glb_extras(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    return json.dumps(json.loads(data[20 : 20 + length])["asset"]["extras"])


def npz_text(path):
    with np.load(path, allow_pickle=False) as arrays:
        return f"unit {arrays['unit']} frame {arrays['frame']} {' '.join(arrays['comments'])}"


def las_text(path):
    laspy = pytest.importorskip("laspy", reason="laspy is not installed")
    with laspy.open(path) as file:
        records = [v for v in file.header.vlrs if v.description == "frame, unit and scale"]
    data = getattr(records[0], "record_data", b"") or records[0].record_data_bytes()
    return data.decode() if isinstance(data, bytes) else str(data)


SAYS = {
    "ply": head,
    "pcd": head,
    "tum": head,
    "glb": glb_extras,
    "colmap": lambda path: head(path / "points.ply"),
    "nerfstudio": lambda path: json.dumps(json.loads(path.read_text())["vggt_ros"]),
    "npz": npz_text,
    "las": las_text,
    "laz": las_text,
    "3dgs": head,
    "obj": head,
}
"""Where the unit stands in each format, for people and programs."""


def test_the_table_has_every_format():
    assert set(SAYS) == set(FORMATS)


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_the_unit_stands_in_every_export(name, metric, tmp_path, wall, scene, unscaled_scene):
    if name in ("las", "laz"):
        pytest.importorskip("laspy", reason="laspy is not installed")
    scene = scene if metric else unscaled_scene
    frame = map_frame(Config().frame.map, scene)
    cloud = type(wall)(wall.points, wall.colours, wall.normals, wall.confidence, frame, metric)
    mesh = Mesh(
        wall.points[:3], np.array([[0, 1, 2]], np.int32), wall.colours[:3], None, frame, metric
    )
    path = tmp_path / f"map{FORMATS[name].suffix}"
    export_map(
        path,
        name,
        cloud,
        static_poses(scene.map_from_camera, 0),
        scene=scene,
        mesh=mesh if name == "obj" else None,
        comments=[f"scale {scene.scale}"],
    )
    text = SAYS[name](path).replace('"', "").replace(":", "")
    assert ("unit m" in text) is metric
    assert ("unit unscaled" in text) is not metric
    assert ("map_unscaled" in text) is not metric
    assert ("lengths are not metres" in text) is not metric


def test_the_report_says_it_too(scene, unscaled_scene):
    assert scene_report(scene, [])["unit"] == "m"
    assert scene_report(unscaled_scene, [])["unit"] == "unscaled"
    assert scene_report(unscaled_scene, [])["scale"]["value"] is None
    assert map_frame("map", None) == "map"
