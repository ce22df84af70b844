"""What `~/export_map` answers, without a node."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vggt_ros.config import Config
from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.mapping.cloud import voxel_average
from vggt_ros.nodes import exporting
from vggt_ros.srv import ExportMap
from vggt_ros.types import AlignedScene, PointCloud, ScaleEstimate, ScaleSource

METRIC = ScaleEstimate(0.05, 0.0002, ScaleSource.RIG)
UNKNOWN = ScaleEstimate(1.0, math.inf, ScaleSource.NONE)


class Worker:
    """Answers at once."""

    def __init__(self, scale=METRIC, mapped=True):
        points = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32)
        colours = np.zeros((100, 3), np.uint8)
        confidence = np.linspace(0, 1, 100).astype(np.float32)
        cloud = PointCloud(points, colours, None, confidence, "map", scale.is_metric)
        scene = SimpleNamespace(
            scale=scale,
            map_from_camera={"left": Rigid3.identity()},
            cameras={"left": CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)},
            features={},
        )
        self.pipeline = SimpleNamespace(
            config=Config(["left"]),
            scene=scene if mapped else None,
            path=list,
            cloud=lambda voxel_m: voxel_average(cloud, voxel_m) if voxel_m else cloud,
        )
        self.health = SimpleNamespace(stamp_ns=5)

    def call(self, function, timeout_s):
        return function()

    def report(self):
        return {"unit": "m"}


def export(worker, path, format="", **fields):
    request = ExportMap.Request(path=str(path), format=format, **fields)
    return exporting.answer(request, ExportMap.Response(), worker)


@pytest.mark.parametrize(
    ("scale", "unit", "comment"),
    [
        (METRIC, "metres", "scale 0.05 +- 0.0002 m per scene unit, from rig"),
        (UNKNOWN, "unscaled, not metres", "scale unknown: lengths are not metres"),
    ],
)
def test_the_scale_is_in_the_answer_and_in_the_file(tmp_path, scale, unit, comment):
    answer = export(Worker(scale), tmp_path / "map.ply")
    assert answer.success
    assert unit in answer.message
    assert answer.num_points == 100
    assert read_ply(tmp_path / "map.ply").is_metric == scale.is_metric
    for name in ("map.ply", "map.pcd", "cameras.tum"):
        assert export(Worker(scale), tmp_path / name).success
        assert comment in (tmp_path / name).read_bytes().decode("ascii", "replace")


def test_report_and_filters(tmp_path):
    assert export(Worker(), tmp_path / "report.json", "report").success
    assert json.loads((tmp_path / "report.json").read_text()) == {"unit": "m"}
    answer = export(Worker(), tmp_path / "map.ply", min_confidence=0.5)
    assert answer.num_points == 50
    assert export(Worker(), tmp_path / "map.ply", voxel_m=0.5).num_points <= 64


@pytest.mark.parametrize(
    ("name", "format", "count", "files"),
    [
        ("map.glb", "", 100, 2),
        ("map.npz", "", 100, 2),
        ("seed.ply", "3dgs", 100, 2),
        ("model", "colmap", 100, 5),
        ("transforms.json", "nerfstudio", 100, 3),
        ("cameras.tum", "", 1, 2),
    ],
)
def test_formats_with_cameras(tmp_path, name, format, count, files):
    answer = export(Worker(), tmp_path / name, format)
    assert answer.success, answer.message
    assert answer.num_points == count
    assert len(answer.files) == files
    for file in answer.files:
        assert Path(file).stat().st_size > 0
    if format == "colmap":
        assert "1 images, 100 points" in answer.message


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("missing/map.ply", {}, "does not exist; create it or give another path"),
        ("", {}, "path: expected a file to write or read"),
        ("map.ply", {"format": "plyy"}, "did you mean 'ply'?"),
        ("map.ply", {"voxel_m": -1.0}, "voxel_m: voxel average: expected voxel_m > 0"),
        ("map.ply", {"voxel_m": math.nan}, "expected voxel_m > 0"),
        ("map.ply", {"voxel_m": 1e-9}, "enlarge voxel_m"),
        ("map.ply", {"min_confidence": math.nan}, "min_confidence: expected 0 to 1"),
        ("map.ply", {"min_confidence": 2.0}, "min_confidence: expected 0 to 1"),
    ],
)
def test_refusals_say_why_and_write_nothing(tmp_path, name, fields, message, caplog):
    answer = export(Worker(), tmp_path / name if name else "", **fields)
    assert not answer.success
    assert message in answer.message
    assert not list(tmp_path.iterdir())
    assert not caplog.records  # no internal error


def test_no_map_yet(tmp_path):
    answer = export(Worker(mapped=False), tmp_path / "map.ply")
    assert not answer.success
    assert "no map yet" in answer.message


@pytest.mark.parametrize(
    ("number", "message"),
    [(28, "no space left"), (30, "is not writable"), (13, "is not writable")],
)
def test_full_disk_and_read_only_folder_keep_the_previous_file(
    tmp_path, monkeypatch, number, message
):
    path = tmp_path / "map.ply"
    assert export(Worker(), path).success
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(_):
        raise OSError(number, "from the file system")

    monkeypatch.setattr("vggt_ros.export.files._sync", fail)
    answer = export(Worker(UNKNOWN), path)
    assert not answer.success
    assert message in answer.message
    assert "the previous file is untouched" in answer.message
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_of_a_moving_rig_the_whole_path_is_exported_and_the_cameras_at_its_end(tmp_path):
    def at(x):
        return Rigid3(np.eye(3), [x, 0.0, 0.0])

    worker = Worker()
    scene = AlignedScene(
        {"left": CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)},
        {"left": at(1.5)},
        np.zeros((0, 3)),
        np.zeros((0, 3), np.uint8),
        METRIC,
        Sim3.identity(),
        {},
        "rig",
        (),
        "sfm",
        at(1.0),
    )
    worker.pipeline.scene = scene
    worker.pipeline.path = lambda: [(3 * 10**9, at(7.0)), (10**9, at(1.0)), (2 * 10**9, at(4.0))]
    assert export(worker, tmp_path / "path.tum").num_points == 3
    lines = (tmp_path / "path.tum").read_text().splitlines()
    rows = [[float(n) for n in line.split()[:2]] for line in lines if not line.startswith("#")]
    assert rows == [[1.0, 1.0], [2.0, 4.0], [3.0, 7.0]]
    taken = exporting._snapshot(ExportMap.Request(), worker)
    assert taken.scene.map_from_camera["left"].translation[0] == 7.5
