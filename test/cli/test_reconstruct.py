"""`vggt-ros reconstruct` from folders: files, forms, truth, and what ends it."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros import results
from vggt_ros.cli import pcd_inference, reconstruct
from vggt_ros.cli.main import main
from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import Rigid3
from vggt_ros.synthetic.truth import distance_to_surface

QUICK = ("--set", "plane_sweep.width=160", "--voxel_size", "0.02")


def run(*words):
    return main(["reconstruct", *map(str, words)])


def given(folders, *words):
    """Images with intrinsics and poses: the quickest way to a map."""
    root = folders.path
    calibration = ("--intrinsics", root / "k.json", "--poses", root / "poses.json")
    return ("--images", root / "images", *calibration, *QUICK, *words)


def report_of(out):
    return json.loads((out / results.REPORT).read_text())


@pytest.fixture(scope="session")
def mapped(folders, tmp_path_factory):
    """The results of an ordinary run with given poses."""
    out = tmp_path_factory.mktemp("mapped_folders") / "result"
    assert run(*given(folders, "--out_dir", out, "--save_per_frame_depth", 1)) == 0
    return out


def test_the_files_are_those_of_the_document(mapped):
    names = {path.name for path in mapped.iterdir()}
    documented = {"bootstrap_map.ply", "map_updated.ply", "metrics.json", "depth_metric"}
    assert names == documented | {
        *("report.json", "preview.png", "timings.json", "config.yaml", "map.ply", "cameras.tum"),
        *("intrinsics.json", "poses.json", "calibration_rectified"),
    }
    for name in ("bootstrap_map.ply", "map_updated.ply"):
        header = (mapped / name).read_bytes().split(b"end_header")[0].decode()
        assert "format ascii 1.0" in header
        properties = re.findall(r"property (\w+ \w+)", header)
        colours = ["uchar red", "uchar green", "uchar blue"]
        assert properties == ["float x", "float y", "float z", *colours]
    rows = json.loads((mapped / "metrics.json").read_text())
    keys = ["batch", "camera", "frame", "model", "scale", "shift", "residual"]
    assert [list(row) for row in rows] == [[*keys, "depth_ms", "total_ms"]] * 12
    assert [row["batch"] for row in rows] == [k for k in range(4) for _ in range(3)]
    assert {row["frame"] for row in rows} == {0, 1, 2, 3}
    assert all(row["total_ms"] >= row["depth_ms"] >= 0 for row in rows)
    depths = sorted(path.name for path in (mapped / "depth_metric").iterdir())
    assert depths[0] == "camera_cam0_batch_00000.npz"
    assert len(depths) == 12
    with np.load(mapped / "depth_metric" / depths[0]) as file:
        depth = file["depth"]
        assert depth.dtype == np.float32
        assert 1.2 < np.nanmedian(depth) < 3.0
    assert cv2.imread(str(mapped / "preview.png")).shape[1] > 1000
    matrix = json.loads((mapped / "calibration_rectified" / "cam1.json").read_text())
    assert matrix["camera"] == "cam1"
    assert np.shape(matrix["matrix"]) == (3, 3)


def test_given_poses_are_the_frame_of_the_map(mapped, folders):
    report = report_of(mapped)
    assert report["bootstrapper"] == "rig"
    assert report["unit"] == "m"
    for name, pose in folders.rig.poses.items():
        found = Rigid3.from_matrix(report["cameras"][name]["map_from_camera"])
        expected = folders.world_from_rig @ pose
        np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-12)
    cloud = read_ply(mapped / "map_updated.ply")
    assert cloud.is_metric
    assert len(cloud) == report["map"]["points"] == len(read_ply(mapped / "map.ply"))
    distance = distance_to_surface(folders.world, cloud.points)
    assert np.median(distance) < 0.01
    assert (distance < 0.05).mean() > 0.95


def test_without_poses_it_bootstraps_by_itself(folders, tmp_path):
    words = ("--images", folders.path / "images", *QUICK, "--max_batches", 2)
    assert run(*words, "--out_dir", tmp_path / "out", "--fusion", "tsdf") == 0
    report = report_of(tmp_path / "out")
    assert report["bootstrapper"] == "sfm"
    assert report["unit"] == "unscaled"
    assert report["sets"]["received"] == 2
    for name in ("bootstrap_map.ply", "map_updated.ply"):
        header = (tmp_path / "out" / name).read_text()[:400]
        assert "comment unit unscaled" in header
        assert "comment frame map_unscaled" in header
    with np.load(tmp_path / "out" / "tsdf_volume.npz") as file:
        coords, values = file["coords"], file["values"]
        weights, colours = file["weights"], file["colours"]
        truncation = float(file["truncation"])
    assert coords.dtype == values.dtype == np.float32
    assert coords.shape == (len(values), 3)
    assert len(weights) == len(colours) == len(values)
    assert (weights > 0).all()
    assert truncation == pytest.approx(4 * 0.02)  # the documented 0.04 at 0.01
    # The surface is where the distance is zero.
    near = np.abs(values) < 0.2
    cloud = read_ply(tmp_path / "out" / "map.ply").points
    gaps = [np.linalg.norm(cloud - point, axis=1).min() for point in coords[near][::997]]
    assert np.median(gaps) < 0.03
    assert (values[::101] > 0.9).any()
    assert (values < 0).any()


def test_on_with_the_map_of_an_earlier_run(mapped, folders, tmp_path):
    out = tmp_path / "out"
    root = folders.path
    calibration = ("--intrinsics", mapped / "intrinsics.json", "--poses", mapped / "poses.json")
    words = ("--images", root / "images", *calibration, *QUICK, "--max_batches", 1)
    assert run(*words, "--initial_map", mapped / "map_updated.ply", "--out_dir", out) == 0
    assert not (out / "bootstrap_map.ply").exists()  # there was no bootstrap
    before, after = read_ply(mapped / "map_updated.ply"), read_ply(out / "map_updated.ply")
    assert len(after) > 0.9 * len(before)
    assert np.median(distance_to_surface(folders.world, after.points)) < 0.01
    rows = json.loads((out / "metrics.json").read_text())
    assert all(row["residual"] < 0.02 for row in rows)  # compared with the map that was there


def test_a_tsdf_goes_on_from_its_volume(folders, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    words = given(folders, "--fusion", "tsdf", "--trunc_margin", 0.1, "--max_batches", 1)
    assert run(*words, "--out_dir", first) == 0
    volume = first / "tsdf_volume.npz"
    assert run(*words, "--initial_map", volume, "--out_dir", second) == 0
    with np.load(volume) as old, np.load(second / "tsdf_volume.npz") as new:
        assert len(new["values"]) >= len(old["values"])
        assert new["weights"].max() > old["weights"].max()
    assert run(*words, "--initial_map", first / "map.ply", "--out_dir", second) == 1


def test_a_map_without_scale_stays_without(folders, tmp_path, mapped):
    text = (
        (mapped / "map_updated.ply").read_text().replace("comment unit m", "comment unit unscaled")
    )
    (tmp_path / "old.ply").write_text(text)
    words = given(folders, "--initial_map", tmp_path / "old.ply", "--max_batches", 1)
    assert run(*words, "--out_dir", tmp_path / "out") == 0
    report = report_of(tmp_path / "out")
    assert report["unit"] == "unscaled"
    assert any("no metric scale" in note for note in report["notes"])
    # nor do poses of such a run give one
    words = ("--intrinsics", folders.path / "k.json", "--poses", tmp_path / "out" / "poses.json")
    words = ("--images", folders.path / "images", *words, *QUICK, "--max_batches", 1)
    assert run(*words, "--out_dir", tmp_path / "again") == 0
    report = report_of(tmp_path / "again")
    assert report["unit"] == "unscaled"
    assert any("are unscaled" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--initial_map", "no.ply"), "there is no such file"),
        (("--bootstrap", "rig"), "expected --poses"),
        (("--pose-source", "dataset"), "expected --poses"),
        (("--vggt-norm", "tanh"), "the passport of the engine says"),
        (("--hf-fallback",), "no network stands in for another"),
        (("--rectify-size", "518", "392"), "expected a square"),
        (("--smooth_scale", "1.5"), "expected 0 to 1"),
        (("--views", "cam0", "--view-select", "random"), "expected one of them, got both"),
        (("--num_cams", "2", "--view-select", "max-spread"), "expected poses of all cameras"),
        (("--scene", "x"), "expected both or neither"),
        (("--use-dataset-cameras",), "expected a folder cams"),
        (("--undistort", "on"), "expected a distortion of every camera"),
        (("--set", "map.voxelm=1"), "did you mean 'map.voxel_m'"),
        (("--set", "motion=tf"), "have no TF; give --poses"),
        (("--views", "camO"), "no camera for view 'camO' (did you mean"),
        (("--random_views", "9"), "expected at least the 9 cameras"),
        (("--intrinsics", "no.npz"), "cannot be read"),
    ],
)
def test_flags_that_cannot_be_honoured(folders, tmp_path, capsys, words, said):
    assert run("--images", folders.path / "images", "--out_dir", tmp_path / "out", *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vggt-ros reconstruct: ")
    assert said in error


def test_an_initial_map_needs_the_places_of_the_cameras(folders, mapped, tmp_path, capsys):
    words = ("--images", folders.path / "images", "--initial_map", mapped / "map.ply")
    assert run(*words, "--out_dir", tmp_path) == 1
    assert "--poses and --intrinsics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--framestep", "--frame_step"),
        ("--frame-stepp=2", "--frame_step"),
        ("--random-view", "--random_views"),
        ("--testmode", "--test_mode"),
        ("--n_view", "--n-views"),
    ],
)
def test_an_unknown_flag_names_the_nearest(word, nearest, capsys):
    for command in (lambda w: main(["reconstruct", *w]), reconstruct.main, pcd_inference.main):
        with pytest.raises(SystemExit) as stop:
            command([word, "2"])
        assert stop.value.code == 2
        assert f"did you mean '{nearest}'?" in capsys.readouterr().err.splitlines()[-1]


def test_dashes_and_underscores_are_the_same():
    parser = reconstruct.build_parser()
    for action in parser._actions:
        for flag in action.option_strings:
            if not flag.startswith("--") or flag == "--help":
                continue
            other = "--" + (
                flag[2:].replace("_", "-") if "_" in flag else flag[2:].replace("-", "_")
            )
            value = [] if action.nargs == 0 else ["1"] * (action.nargs == 2 or 1)
            if action.nargs == 2:
                value = ["28", "28"]
            elif action.choices:
                value = [str(action.choices[-1])]
            first, second = (parser.parse_args([f, *value]) for f in (flag, other))
            assert getattr(first, action.dest) == getattr(second, action.dest)
    assert parser.parse_args(["--test-mode=1"]).test_mode == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.linalg.inv, "world to camera: give the inverse"),
        (lambda m: m @ np.diag([1.0, -1, -1, 1]), "y up and z back"),
    ],
)
def test_poses_of_another_convention_are_named(folders, tmp_path, capsys, change, said):
    content = json.loads((folders.path / "poses.json").read_text())
    for entry in content["poses"]:
        # turned by some other frame, so that no camera has the identity
        other = Rigid3.from_rotation_vector((0.3, 0.5, 0.1), (0.4, 0.2, 1.0)).matrix
        entry["matrix"] = change(other @ np.array(entry["matrix"])).tolist()
    path = tmp_path / "poses.json"
    path.write_text(json.dumps(content))
    words = ("--images", folders.path / "images", "--intrinsics", folders.path / "k.json")
    assert run(*words, "--poses", path, *QUICK, "--out_dir", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in error
    assert said in error


def test_poses_that_move_from_frame_to_frame(folders, tmp_path):
    """A rig that is pushed: the world stays where it is."""
    from vggt_ros.synthetic.scenes import simulate

    poses, root = [], tmp_path / "images"
    for k in range(3):
        step = Rigid3(np.eye(3), np.array([0.08 * k, 0.0, 0.0]))
        world_from_rig = step @ folders.world_from_rig
        (taken,) = simulate(folders.world, folders.rig, world_from_rig, 1, 10.0, noise=False)
        for name in folders.rig.names:
            (root / name).mkdir(parents=True, exist_ok=True)
            bgr = cv2.cvtColor(taken.images[name], cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(root / name / f"{k}.png"), bgr)
            matrix = (world_from_rig @ folders.rig.poses[name]).matrix.tolist()
            poses.append({"cam": name, "t": k, "matrix": matrix})
    (tmp_path / "p.json").write_text(json.dumps(poses))
    words = ("--intrinsics", folders.path / "k.json", "--poses", tmp_path / "p.json")
    assert run("--images", root, *words, *QUICK, "--out_dir", tmp_path / "out") == 0
    cloud = read_ply(tmp_path / "out" / "map.ply")
    distance = distance_to_surface(folders.world, cloud.points)
    assert np.median(distance) < 0.01
    assert (distance < 0.05).mean() > 0.95
    report = report_of(tmp_path / "out")
    found = report["cameras"]["cam0"]["map_from_camera"]
    np.testing.assert_allclose(found, poses[-3]["matrix"], atol=1e-12)
    assert report["sets"]["used"] == 3


def test_an_image_that_is_empty_ends_it_with_what_there_is(folders, tmp_path, capsys):
    root = tmp_path / "images"
    shutil.copytree(folders.path / "images", root)
    (root / "cam1" / "2.png").write_bytes(b"")
    words = ("--intrinsics", folders.path / "k.json", "--poses", folders.path / "poses.json")
    assert run("--images", root, *words, *QUICK, "--out_dir", tmp_path / "out") == 1
    assert "2.png: the file is empty" in capsys.readouterr().err
    assert report_of(tmp_path / "out")["sets"]["received"] == 2
    assert len(json.loads((tmp_path / "out" / "metrics.json").read_text())) == 6
    assert len(read_ply(tmp_path / "out" / "map_updated.ply")) > 1000


def test_places_that_cannot_be_written(folders, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert run(*given(folders, "--out_dir", tmp_path / "file" / "out")) == 1
    assert "output folder" in capsys.readouterr().err
    from vggt_ros.cli import reconstruct_output
    from vggt_ros.errors import ExportError
    from vggt_ros.export import tsdf_volume  # noqa: F401

    def full(path, *_, **__):
        raise ExportError(f"cannot write {path}: no space left in {tmp_path}")

    monkeypatch.setattr(reconstruct_output, "write_ply", full)
    assert run(*given(folders, "--out_dir", tmp_path / "out", "--max_batches", 1)) == 1
    assert "no space left" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".*"))  # no half of a file


def test_session_folder_by_time(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*given(folders, "--max_batches", 1)) == 0
    (session,) = (tmp_path / "outputs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", session.name)
    assert (session / "map_updated.ply").is_file()


def test_export_takes_the_folder(mapped, tmp_path):
    assert main(["export", str(mapped), "--format", "colmap", "--out", str(tmp_path / "s")]) == 0
    assert {p.name for p in (tmp_path / "s").iterdir()} >= {"cameras.bin", "images.bin"}


def test_the_volume_is_a_plain_archive(folders, tmp_path):
    words = given(folders, "--fusion", "tsdf", "--max_batches", 1, "--out_dir", tmp_path)
    assert run(*words) == 0
    with zipfile.ZipFile(tmp_path / "tsdf_volume.npz") as archive:
        assert archive.testzip() is None
        assert {"coords.npy", "values.npy"} <= set(archive.namelist())


def test_a_flat_folder_is_one_camera_and_that_is_said(folders, tmp_path, capsys):
    for k, name in enumerate(folders.rig.names):
        shutil.copy(folders.path / "images" / name / "0.png", tmp_path / f"{k}.png")
    assert run("--images", tmp_path, *QUICK, "--out_dir", tmp_path / "out") == 1
    assert "--camera_per_image" in capsys.readouterr().err.splitlines()[-1]
    assert report_of(tmp_path / "out")["state"] == "failed"


@pytest.mark.slow
def test_the_fountain(shared_data, tmp_path, capsys):
    """The commands of docs/reconstruct.md: dense, and sharp in COLMAP."""
    pycolmap = pytest.importorskip("pycolmap")
    photographs, out = shared_data / "fountain_p11", tmp_path / "fountain"
    words = ("--images", photographs, "--camera_per_image", "--bootstrap", "sfm")
    assert run(*words, "--out_dir", out) == 0
    cloud = read_ply(out / "map_updated.ply")
    assert len(cloud) >= 300_000
    assert len(read_ply(out / "bootstrap_map.ply")) >= 300_000
    assert main(["export", str(out), "--format", "colmap", "--images", str(photographs)]) == 0
    model = pycolmap.Reconstruction(str(out / "map_colmap"))
    assert len(model.images) == 11
    measured = [p.error for p in model.points3D.values() if p.error >= 0]
    assert len(measured) > 5_000
    assert np.mean(measured) <= 0.7
    # The preview shows the fountain: its stone is red, and it stands in the middle of both views.
    sheet = cv2.imread(str(out / "preview.png")).astype(int)
    for half in (slice(None, 960), slice(960, None)):
        view = sheet[-640:, half]
        red = (view[..., 2] > view[..., 1] + 25) & (view[..., 2] > 60)
        assert red[160:520, 240:720].sum() > 8_000


def test_reasons_without_their_figures():
    from types import SimpleNamespace

    from vggt_ros.cli.reconstruct_output import Output
    from vggt_ros.types import DepthAlignment, DepthKind

    output = Output(Path("unused"))
    output._metrics = io.BytesIO()
    for k in range(50):
        reason = f"{k}.5% inliers, 50% needed; contradicts cam1 ({k + 0.25}% farther)"
        fit = DepthAlignment("cam0", DepthKind.DISPARITY, 1, 0, 0.1, np.nan, 9, False, reason)
        result = SimpleNamespace(depth_maps=(SimpleNamespace(alignment=fit, camera="cam0"),))
        output.add_batch(k, k, result, 1.0, 2.0)
    expected = "cam0: N% inliers, N% needed; contradicts cam1 (N% farther)"
    assert output.rejected == {expected: 50}
    rows = json.loads(output._metrics.getvalue() + b"]")
    assert rows[0]["scale"] is None
    assert rows[0]["residual"] is None


def test_ctrl_c_writes_what_there_is(folders, tmp_path):
    root = tmp_path / "images"
    for name in folders.rig.names:
        (root / name).mkdir(parents=True)
        for k in range(2000):
            source = folders.path / "images" / name / f"{k % 4}.png"
            (root / name / f"{k}.png").symlink_to(source)
    words = ("--intrinsics", folders.path / "k.json", "--poses", folders.path / "poses.json")
    words = ("reconstruct", "--images", root, *words, *QUICK, "--out_dir", tmp_path / "out")
    command = [sys.executable, "-m", "vggt_ros.cli.main", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        limit = time.monotonic() + 120
        while not (tmp_path / "out" / "bootstrap_map.ply").exists():
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted: writing what there is" in errors
    assert "Traceback" not in errors
    assert len(read_ply(tmp_path / "out" / "map_updated.ply")) > 1000
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())
