"""`reconstruct` from videos, webcams, folders that grow, PKU and DeepView scenes."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros import results
from vggt_ros.cli.main import main
from vggt_ros.cli.reconstruct_cameras import select_views
from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.synthetic.truth import distance_to_surface

_spec = importlib.util.spec_from_file_location(
    "mjpeg_camera", Path(__file__).parents[1] / "sources" / "mjpeg_camera.py"
)
mjpeg_camera = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mjpeg_camera)

QUICK = ("--set", "plane_sweep.width=160", "--voxel_size", "0.02")


def run(*words):
    return main(["reconstruct", *map(str, words), *QUICK])


def calibration(folders):
    return ("--intrinsics", folders.path / "k.json", "--poses", folders.path / "poses.json")


def check_truth(folders, out, sets=None):
    cloud = read_ply(out / "map_updated.ply")
    distance = distance_to_surface(folders.world, cloud.points)
    assert len(cloud) > 2000
    assert np.median(distance) < 0.012
    report = json.loads((out / results.REPORT).read_text())
    if sets is not None:
        assert report["sets"]["used"] == sets
    return report


def image_of(folders, name, k=0):
    return cv2.imread(str(folders.path / "images" / name / f"{k}.png"))


def write_videos(folders, root, counts, rates, suffix=".avi"):
    """One video per camera, with its number of frames and rate."""
    root.mkdir(parents=True)
    for name, count, rate in zip(folders.rig.names, counts, rates, strict=True):
        code = cv2.VideoWriter.fourcc(*("MJPG" if suffix == ".avi" else "mp4v"))
        path = str(root / f"{name}{suffix}")
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, code, rate, (320, 240))
        if not writer.isOpened():
            pytest.skip("this OpenCV writes no such video")
        for k in range(count):
            writer.write(image_of(folders, name, k % 4))
        writer.release()
    return root


def test_videos_with_a_step(folders, tmp_path):
    root = write_videos(folders, tmp_path / "videos", (8, 8, 8), (10.0, 10.0, 10.0))
    words = ("--source", "videos", "--videos", root, "--frame_step", 2, "--frame-index", 2)
    assert run(*words, *calibration(folders), "--out_dir", tmp_path / "out") == 0
    check_truth(folders, tmp_path / "out", sets=3)
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sorted({row["frame"] for row in rows}) == [2, 4, 6]


def test_videos_of_other_rates_one_of_which_ends_early(folders, tmp_path):
    root = write_videos(folders, tmp_path / "videos", (6, 12, 3), (10.0, 20.0, 10.0))
    words = ("--source", "videos", "--videos", root, *calibration(folders))
    assert run(*words, "--out_dir", tmp_path / "out") == 0
    report = check_truth(folders, tmp_path / "out", sets=6)
    assert report["depth_maps"]["accepted"] == {"cam0": 6, "cam1": 6, "cam2": 3}


def test_a_video_with_a_broken_index_is_named(folders, tmp_path, capsys):
    root = write_videos(folders, tmp_path / "videos", (4, 4, 4), (10.0,) * 3, ".mp4")
    path = root / "cam1.mp4"
    path.write_bytes(path.read_bytes()[:-400])  # the index of an mp4 stands at its end
    words = ("--source", "videos", "--videos", root, *calibration(folders))
    assert run(*words, "--out_dir", tmp_path / "out") == 1
    assert "cam1.mp4" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def cameras(folders):
    """The cameras of the world on the network; see `mjpeg_camera.py`."""
    made = {}
    for name in folders.rig.names:
        made[name] = mjpeg_camera.MjpegCamera(rate_hz=10.0)
        made[name]._jpegs = [
            cv2.imencode(".jpg", image_of(folders, name, k))[1].tobytes() for k in range(4)
        ]
    yield made
    for camera in made.values():
        camera.unplug()


def test_webcams_through_opencv(folders, cameras, tmp_path, monkeypatch):
    """The same path as a V4L2 device; one is unplugged while it is mapped."""
    devices = [f"{name}={camera.address}" for name, camera in cameras.items()]
    words = ("--source", "webcams", "--webcams", *devices, *calibration(folders))
    from vggt_ros.cli.reconstruct_output import Output

    add_batch = Output.add_batch

    def note(self, batch, *words):
        if batch == 3:
            cameras["cam2"].unplug()
        add_batch(self, batch, *words)

    monkeypatch.setattr(Output, "add_batch", note)
    assert run(*words, "--max_batches", 16, "--max_skew_ms", 90, "--out_dir", tmp_path) == 0
    report = check_truth(folders, tmp_path, sets=16)
    assert report["source"] == "webcams"
    accepted = report["depth_maps"]["accepted"]
    assert accepted["cam0"] == 16
    assert 4 <= accepted["cam2"] < 16


def test_an_absent_webcam_is_named(tmp_path, capsys):
    words = ("--source", "webcams", "--webcams", "front=/dev/video99")
    assert run(*words, "--open_timeout_s", 0.5, "--out_dir", tmp_path) == 1
    assert "'front' (/dev/video99)" in capsys.readouterr().err.splitlines()[-1]


def test_on_with_images_that_come_into_another_folder(folders, tmp_path):
    first, live = tmp_path / "first", tmp_path / "live"
    for name in folders.rig.names:
        (first / name).mkdir(parents=True)
        shutil.copy(folders.path / "images" / name / "0.png", first / name)

    def deliver():
        time.sleep(1.0)
        for k in (1, 2):
            for name in folders.rig.names:
                (live / name).mkdir(parents=True, exist_ok=True)
                temporary = live / f".{name}.png"
                shutil.copy(folders.path / "images" / name / f"{k}.png", temporary)
                os.replace(temporary, live / name / f"{k}.png")

    thread = threading.Thread(target=deliver)
    thread.start()
    words = ("--images", first, "--images_live", live, "--idle_s", 3, *calibration(folders))
    assert run(*words, "--out_dir", tmp_path / "out") == 0
    thread.join()
    check_truth(folders, tmp_path / "out", sets=3)


def test_a_pku_scene_brings_its_cameras(folders, tmp_path):
    scene = tmp_path / "root" / "scene"
    shutil.copytree(folders.path / "images", scene / "images")
    (scene / "cams").mkdir()
    for k, name in enumerate(folders.rig.names):
        camera_from_world = (folders.world_from_rig @ folders.rig.poses[name]).inverse().matrix
        blocks = {"extrinsic": camera_from_world, "intrinsic": folders.rig.models[name].matrix}
        text = "\n\n".join(
            f"{title}\n" + "\n".join(" ".join(map(repr, row)) for row in block.tolist())
            for title, block in blocks.items()
        )
        (scene / "cams" / f"{k:08d}_cam.txt").write_text(text + "\n")
    words = ("--dataset-root", tmp_path / "root", "--scene", "scene", "--use-dataset-cameras")
    assert run(*words, "--max_batches", 1, "--out_dir", tmp_path / "out") == 0
    report = check_truth(folders, tmp_path / "out", sets=1)
    assert report["bootstrapper"] == "rig"


def test_a_deepview_scene_with_its_fisheyes(folders, tmp_path):
    scene = tmp_path / "root" / "scene"
    write_videos(folders, scene, (2, 2, 2), (10.0,) * 3)
    entries = []
    for name in folders.rig.names:
        model, pose = folders.rig.models[name], folders.world_from_rig @ folders.rig.poses[name]
        turn, _ = cv2.Rodrigues(pose.rotation.T)
        entries.append(
            {
                "name": name,
                "width": 320.0,
                "height": 240.0,
                "focal_length": model.fx,
                "principal_point": [model.cx, model.cy],
                "pixel_aspect_ratio": 1.0,
                "position": pose.translation.tolist(),
                "orientation": turn.ravel().tolist(),
                "projection_type": "perspective",
                "radial_distortion": [0.0, 0.0],
            }
        )
    (scene / "models.json").write_text(json.dumps(entries))
    words = ("--dataset", "deepview", "--dataset-root", tmp_path / "root", "--scene", "scene")
    assert run(*words, "--use-dataset-cameras", "--out_dir", tmp_path / "out") == 0
    check_truth(folders, tmp_path / "out", sets=2)

    from vggt_ros.sources.deepview import load_deepview

    entries[0].update(projection_type="fisheye", radial_distortion=[0.05, -0.01, 0.002])
    (scene / "models.json").write_text(json.dumps(entries))
    model = load_deepview(scene).models["cam0"]
    point = np.array([[0.5, -0.2, 1.0]])
    theta = np.arctan(np.hypot(0.5, 0.2))
    radius = theta * (1 + 0.05 * theta**2 - 0.01 * theta**4 + 0.002 * theta**6)
    expected = np.array([0.5, -0.2]) / np.hypot(0.5, 0.2) * radius * model.fx
    np.testing.assert_allclose(model.project(point)[0], expected + [model.cx, model.cy], atol=1e-9)


def test_selection_of_views():
    model = CameraModel(64, 48, 50, 50, 31.5, 23.5)

    def camera(k, x, yaw_deg=0.0):
        pose = Rigid3.from_rotation_vector((0, np.deg2rad(yaw_deg), 0), (x, 0, 0))
        return RigCamera(f"cam{k}", model=model, rig_from_camera=pose)

    line = Rig(tuple(camera(k, x) for k, x in enumerate((0.0, 0.1, 0.2, 1.0, 5.0))))
    assert select_views(line, "max-spread", 3, 0) == ["cam0", "cam3", "cam4"]
    ring = Rig(tuple(camera(k, 0.0, yaw) for k, yaw in enumerate((-90, -20, 0, 30, 120))))
    assert select_views(ring, "front-arc", 3, 0) == ["cam1", "cam2", "cam3"]
    assert len(set(select_views(ring, "random", 3, 1))) == 3


def test_random_and_limited_cameras(folders, tmp_path):
    words = ("--images", folders.path / "images", *calibration(folders), "--max_batches", 1)
    assert run(*words, "--random_views", 2, "--out_dir", tmp_path / "a") == 0
    assert len(json.loads((tmp_path / "a" / "poses.json").read_text())["poses"]) == 2
    select = ("--num_cams", 2, "--view-select", "max-spread")
    assert run(*words, *select, "--out_dir", tmp_path / "b") == 0
    poses = json.loads((tmp_path / "b" / "poses.json").read_text())["poses"]
    assert [pose["camera"] for pose in poses] == ["cam0", "cam2"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_sets(folders, tmp_path):
    """Peak of the process after 120 sets against that after 30, for a map of a small budget."""

    def peak_mb(sets):
        root = tmp_path / str(sets)
        for name in folders.rig.names:
            (root / name).mkdir(parents=True)
            for k in range(sets):
                source = folders.path / "images" / name / f"{k % 4}.png"
                (root / name / f"{k}.png").symlink_to(source)
        words = ["reconstruct", "--images", str(root), *map(str, calibration(folders)), *QUICK]
        words += ["--set", "map.budget_mb=16", "--save_per_frame_depth", "1"]
        words += ["--out_dir", str(root / "out")]
        code = (
            "import resource, sys; from vggt_ros.cli.main import main; code = main(sys.argv[1:]);"
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024);"
            "sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        report = json.loads((root / "out" / "report.json").read_text())
        assert report["sets"]["used"] == sets
        return float(done.stdout.split("peak")[1])

    few, many = peak_mb(30), peak_mb(120)
    assert many - few < 16, (few, many)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
