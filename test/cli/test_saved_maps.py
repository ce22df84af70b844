"""Maps that are saved by one replay, gone on with by the next and exported."""

import json

import numpy as np
import pytest

from vggt_ros import results
from vggt_ros.cli.main import main
from vggt_ros.export.ply import read_ply

RIG = ("--set", "bootstrap=rig", "--set", "plane_sweep.width=160")


@pytest.fixture(scope="module")
def saved(recording, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    words = ["replay", str(recording.path), "--out", str(folder), "--max-sets", "3"]
    assert main([*words, *RIG, "--save-map", str(folder / "map.vggtmap")]) == 0
    return folder / "map.vggtmap"


def test_a_second_replay_goes_on_without_a_bootstrap(recording, saved, tmp_path):
    words = ["replay", str(recording.path), "--out", str(tmp_path), "--max-sets", "1"]
    # structure from motion would be refused: this map has its cameras already
    assert main([*words, *RIG[2:], "--set", "sfm.min_views=99", "--load-map", str(saved)]) == 0
    report = json.loads((tmp_path / results.REPORT).read_text())
    first = json.loads((saved.parent / results.REPORT).read_text())
    assert report["bootstrapper"] == "rig"
    assert report["scale"] == first["scale"]
    for name, camera in report["cameras"].items():
        pose = first["cameras"][name]["map_from_camera"]
        np.testing.assert_allclose(camera["map_from_camera"], pose, atol=1e-12)
    assert "bootstrap" not in json.loads((tmp_path / results.TIMINGS).read_text())
    assert len(read_ply(tmp_path / results.MAP)) > 0.9 * first["map"]["points"]


def test_a_saved_map_is_exported_like_the_results(saved, tmp_path, capsys):
    words = ["export", str(saved), "--out", str(tmp_path), "--format", "ply,tum,colmap,glb"]
    assert main(words) == 0
    ours, theirs = read_ply(tmp_path / "map.ply"), read_ply(saved.parent / results.MAP)
    np.testing.assert_array_equal(ours.points, theirs.points)
    assert ours.is_metric
    assert (tmp_path / "map_colmap" / "points3D.bin").stat().st_size > 1000
    assert "3 poses (metres)" in capsys.readouterr().out


def test_wrong_saved_maps_end_with_a_sentence(recording, saved, tmp_path, capsys):
    words = ["replay", str(recording.path), "--out", str(tmp_path / "out"), *RIG]
    assert main([*words, "--set", "map.voxel_m=0.05", "--load-map", str(saved)]) == 1
    assert "map.voxel_m: " in capsys.readouterr().err
    half = tmp_path / "half.vggtmap"
    half.write_bytes(saved.read_bytes()[:5000])
    assert main([*words, "--load-map", str(half)]) == 1
    assert "cut off, damaged" in capsys.readouterr().err
    assert main(["export", str(saved), "--format", "ply", "--cameras", str(tmp_path)]) == 1
    assert "a saved map, which has its own" in capsys.readouterr().err
