"""`reconstruct` with networks that answer the truth, and without the engines it is told of."""

import json
import shutil

import cv2
import numpy as np
import pytest

from vggt_ros import results
from vggt_ros.cli import inference_depth_anything, reconstruct
from vggt_ros.cli.main import main
from vggt_ros.cli.reconstruct_engines import vggt_command
from vggt_ros.export.ply import read_ply

pytest.importorskip("onnx", reason="onnx is not installed (pip install .[export])")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from vggt_ros.synthetic.answers import disparity_answer, vggt_answer
from vggt_ros.synthetic.network_fixtures import write_fixed_answer
from vggt_ros.synthetic.truth import distance_to_surface
from vggt_ros.types import DepthKind


@pytest.fixture(scope="module")
def engines(folders, tmp_path_factory):
    """Fixed answers of VGGT and Depth Anything for the cameras of `folders`."""
    root = tmp_path_factory.mktemp("engines")
    models = [folders.rig.models[name] for name in folders.rig.names]
    poses = [folders.world_from_rig @ folders.rig.poses[name] for name in folders.rig.names]
    answer = vggt_answer(folders.world, models, poses, 154, metres_per_unit=0.37)
    vggt = write_fixed_answer(
        root / "vggt-3x3x112x154-pcd_fp32.onnx",
        (3, 3, *answer.size),
        {
            "pose_enc": answer.pose_enc[None],
            "depth": answer.depth[None],
            "depth_conf": answer.depth_conf[None],
        },
    )
    disparity = disparity_answer(folders.world, models, poses, 154, 0.8, 0.05)
    depth = write_fixed_answer(
        root / "depth_anything" / "depth_rtl.onnx",
        (3, 3, *disparity.shape[1:]),
        {"depth": disparity},
        DepthKind.DISPARITY,
    )
    return vggt, depth


def run(folders, *words):
    quick = ("--images", folders.path / "images", "--voxel_size", "0.02", "--log_level", "INFO")
    return main(["reconstruct", *map(str, (*quick, *words))])


def test_both_networks_and_the_calibration_they_leave(folders, engines, tmp_path, caplog):
    vggt, depth = engines
    calibration = ("--intrinsics", folders.path / "k.json", "--poses", folders.path / "poses.json")
    networks = ("--vggt_engine", vggt, "--depth_engine_dir", depth.parent, "--depth_workers", 1)
    kept = ("--per_camera_calib", tmp_path / "kept.json", "--smooth_scale", 0.1)
    words = (*calibration, *networks, *kept, "--debug-geo", "--log-depth-stats")
    assert run(folders, *words, "--out_dir", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / results.REPORT).read_text())
    assert report["bootstrapper"] == "vggt"
    assert report["depth_estimator"] == "depth_anything"
    assert report["scale"]["source"] == "rig"
    assert report["scale"]["value"] == pytest.approx(0.37, rel=0.02)
    assert set(report["engines"]) == {"bootstrap", "depth"}
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {row["model"] for row in rows} == {"invdepth_scale_shift"}
    assert all(row["residual"] < 0.03 for row in rows)
    cloud = read_ply(tmp_path / "out" / "map_updated.ply")
    assert np.median(distance_to_surface(folders.world, cloud.points)) < 0.02
    bootstrap = read_ply(tmp_path / "out" / "bootstrap_map.ply")
    assert np.median(distance_to_surface(folders.world, bootstrap.points)) < 0.02
    for path in (tmp_path / "kept.json", tmp_path / "out" / "per_camera_calib.json"):
        state = json.loads(path.read_text())
        assert all(len(state[name]) == 2 for name in folders.rig.names)
        assert set(state) == {*folders.rig.names, "_meta"}
    assert any("--debug-geo" in note for note in report["notes"])
    assert "depth of cam0:" in caplog.text
    # and a later run begins with it
    words = (*calibration, "--bootstrap", "rig", *networks[2:], *kept, "--max_batches", 1)
    assert run(folders, *words, "--out_dir", tmp_path / "later") == 0
    assert "scale and shift of 3 cameras from" in caplog.text


MISSING = "onnx_exports/torch-int8-dynamic/vggt-8x3x518x518-pcd_int8.engine"


def test_engines_that_are_missing_are_named_with_what_builds_them(
    folders, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ("--vggt_engine", MISSING, "--depth_engine_dir", "onnx_exports/depth_anything")
    assert run(folders, *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--vggt_engine {MISSING}: there is no such engine; build it: vggt_to_trt" in error
    for words in ("--num-cams 8", "--precision int8", "--pcd-only", "torch-int8-dynamic"):
        assert words in error
    assert "--depth_engine_dir onnx_exports/depth_anything: no engine" in error
    assert "vggt-ros engine export depth-anything/Depth-Anything-V2-Small-hf" in error
    assert "--bootstrap sfm" in error
    assert not (tmp_path / "outputs").exists()


def test_the_command_that_builds_an_engine_parses():
    from vggt_ros.cli import vggt_to_trt

    for path in (MISSING, "onnx_exports/none/vggt-8x3x518x518-pcd_fp16.engine", "x.engine", ""):
        words = vggt_command(path, 4).split()
        args = vggt_to_trt.build_parser().parse_args(words[1:])
        assert args.export
        assert args.num_cams == (8 if "8x3" in path else 4)


def test_the_classical_bootstrap_says_that_it_goes_without(folders, tmp_path, monkeypatch, caplog):
    """A command of the documents, with `--bootstrap sfm` added, needs no engine."""
    monkeypatch.chdir(tmp_path)
    words = ("--bootstrap", "sfm", "--vggt_engine", MISSING, "--depth_workers", 3)
    assert run(folders, *words, "--set", "plane_sweep.width=160", "--max_batches", 1) == 0
    (out,) = (tmp_path / "outputs").iterdir()
    report = json.loads((out / results.REPORT).read_text())
    assert report["depth_estimator"] == "plane_sweep"
    notes = " ".join(report["notes"])
    assert "--vggt_engine: not used, the bootstrap is sfm" in notes
    assert "--depth auto: plane_sweep; --depth_engine_dir" in notes
    assert "--depth_workers: not used" in notes
    assert run(folders, *words, "--depth", "depth_anything") == 1  # asked for by name: refused


def test_hugging_face_weights_that_are_not_there(folders, tmp_path, capsys):
    words = ("--vggt-backend", "huggingface", "--hf-weights", tmp_path / "no.pt")
    assert run(folders, *words, "--depth", "plane_sweep", "--out_dir", tmp_path) == 1
    assert "no.pt: expected a checkpoint" in capsys.readouterr().err


def test_defaults_are_those_of_the_documents():
    args = reconstruct.build_parser().parse_args([])
    assert (args.frame_step, args.seed, args.test_mode) == (1, 42, 0)
    assert (args.dataset, args.undistort, args.pose_source) == ("generic", "auto", "auto")
    assert reconstruct.NUM_CAMS == 8
    assert reconstruct.DEPTH_ENGINE_DIR == "onnx_exports/depth_anything"
    from vggt_ros.cli.reconstruct_plan import make_plan

    plan = make_plan(args)
    assert plan.kind == "images"
    assert plan.config.map.voxel_m == reconstruct.UNSCALED_VOXEL  # no metre is known
    options = plan.options
    assert (options.fps, options.idle_s, options.max_skew_ms) == (10.0, 30.0, 40.0)
    assert options.open_timeout_s == 10.0
    scale = ("--set", "scale.metres_per_unit=1.0")
    plan = make_plan(reconstruct.build_parser().parse_args(scale))
    assert plan.config.map.voxel_m == 0.01
    assert plan.config.map.truncation_voxels * plan.config.map.voxel_m == pytest.approx(0.04)
    assert plan.config.map.kind == "surfel"
    assert plan.config.align.model == "auto"
    assert plan.config.align.smoothing == pytest.approx(0.1)
    assert plan.options.num_cams == 8
    args = reconstruct.build_parser().parse_args(["--smooth_scale", "0", "--camera_per_image"])
    plan = make_plan(args)
    assert plan.config.align.smoothing == 1.0
    assert plan.options.num_cams == 0


@pytest.fixture(scope="module")
def pair_engine(tmp_path_factory):
    """Disparity that rises to the right, whatever is shown."""
    ramp = np.broadcast_to(np.linspace(0.5, 2.0, 70, dtype=np.float32), (2, 56, 70))
    path = tmp_path_factory.mktemp("pair") / "depth_rtl.onnx"
    return write_fixed_answer(path, (2, 3, 56, 70), {"depth": ramp}, DepthKind.DISPARITY)


def test_depth_of_two_cameras_side_by_side(folders, pair_engine, tmp_path, capsys):
    out = tmp_path / "demo"
    words = ["--engine", pair_engine, "--images", folders.path / "images", "--out_dir", out]
    words += ["--tile_width", 320, "--snapshot_every", 2]
    assert inference_depth_anything.main([*map(str, words)]) == 0
    text = capsys.readouterr().out
    assert "4 sets of 2 cameras" in text
    assert {p.name for p in out.iterdir()} == {
        *("depth.mp4", "latest.png", "snapshot_000002.png", "snapshot_000004.png")
    }
    picture = cv2.imread(str(out / "latest.png"))
    assert picture.shape == (2 * 240 + 24, 640, 3)
    image = cv2.imread(str(folders.path / "images" / "cam1" / "0.png"))
    np.testing.assert_array_equal(picture[270:480, :320], image[30:])
    near, far = picture[120, 630].astype(int), picture[120, 330].astype(int)
    assert near[2] > near[0] + 50  # red: near
    assert far[0] > far[2]  # blue: far
    video = cv2.VideoCapture(str(out / "depth.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
    good, frame = video.read()
    assert good
    assert frame.shape == picture.shape
    assert np.abs(frame.astype(int) - cv2.imread(str(out / "latest.png"))).mean() < 6


def test_wrong_words_for_the_demo(folders, pair_engine, tmp_path, capsys):
    demo = inference_depth_anything.main
    missing = str(tmp_path / "depth_rtl.engine")
    assert demo(["--engine", missing]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--engine {missing}: there is no such engine; build it: vggt-ros engine" in error
    both = ["--images", "a", "--videos", "b", "--out_dir", str(tmp_path / "o")]
    assert demo(["--engine", str(pair_engine), *both]) == 1
    assert "expected one of --images, --videos, --webcams" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        demo(["--engin", "x"])
    assert "did you mean '--engine'" in capsys.readouterr().err


def test_a_video_ends_whole_when_an_image_is_damaged(folders, pair_engine, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(folders.path / "images", root)
    (root / "cam0" / "3.png").write_bytes(b"no image")
    words = ["--engine", pair_engine, "--images", root, "--out_dir", tmp_path / "out"]
    assert inference_depth_anything.main([*map(str, words)]) == 1
    video = cv2.VideoCapture(str(tmp_path / "out" / "depth.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
