"""Every example command of the two documents of the TensorRT toolkit, and what it does here.

`python -m onnx.inference_pcd` is `inference_pcd` (a package called `onnx` is somebody else's),
`python onnx/tools/X.py` and `python X.py` are `X` or `python tools/X.py`.
"""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros import results
from vggt_ros.cli import (
    benchmark_trt_engines,
    inference_depth_anything,
    pcd_inference,
    pcd_to_3dgs,
    reconstruct,
    trt_inference,
    vggt_to_trt,
)
from vggt_ros.export.ply import read_ply
from vggt_ros.synthetic.scenes import arc_rig, box_world, simulate
from vggt_ros.synthetic.sensor import apply_sensor
from vggt_ros.synthetic.truth import distance_to_surface

_spec = importlib.util.spec_from_file_location(
    "mjpeg_camera", Path(__file__).parents[1] / "sources" / "mjpeg_camera.py"
)
mjpeg_camera = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mjpeg_camera)

TOOLS = {
    "benchmark_trt_engines": benchmark_trt_engines.main,
    "inference_depth_anything": inference_depth_anything.main,
    "inference_pcd": reconstruct.main,
    "pcd_inference": pcd_inference.main,
    "pcd_to_3dgs": pcd_to_3dgs.main,
    "trt_inference": trt_inference.main,
    "vggt_to_trt": vggt_to_trt.main,
    "vggt_to_trt_chatgpt": vggt_to_trt.main,
}

DOME = """python -m onnx.inference_pcd --source videos --videos data/dome_videos --num_cams 8
    --random_views 8 --intrinsics config/dome_intrinsics.npz --poses config/dome_poses.npz
    --vggt_engine onnx_exports/torch-int8-dynamic/vggt-8x3x518x518-pcd_int8.engine
    --depth_engine_dir onnx_exports/depth_anything --frame_step 2 --out_dir outputs/dome_session
    --test_mode 1"""
PKU = """python -m onnx.inference_pcd --source images --images data/pku_scene
    --views cam001,cam005,cam012,cam020,cam024,cam028,cam033,cam040
    --intrinsics configs/pku_intrinsics.json --poses configs/pku_poses.json
    --vggt_engine onnx_exports/none/vggt-8x3x518x518-pcd_fp16.engine
    --out_dir outputs/pku_scene"""
DOME_RUN = """python -m onnx.inference_pcd --source videos --videos data/dome_videos --num_cams 8
    --random_views 8 --frame_step 2 --intrinsics configs/dome_intrinsics.npz
    --poses configs/dome_poses.npz
    --vggt_engine onnx_exports/torch-int8-dynamic/vggt-8x3x518x518-pcd_int8.engine
    --depth_engine_dir onnx_exports/depth_anything --out_dir outputs/dome_run"""
WEBCAMS = """python -m onnx.inference_pcd --source webcams
    --webcams front=0 back=1 left=2 right=3 down=4 up=5 aux1=6 aux2=7 --num_cams 8
    --intrinsics configs/webcam_intrinsics.yaml --poses configs/webcam_poses.yaml
    --initial_map outputs/bootstrap_map.ply --depth_workers 8 --out_dir outputs/webcam_session"""

RECONSTRUCTIONS = {
    "dome_session": (DOME, "build it: vggt_to_trt --export --num-cams 8 --height 518 --width 518 "
                     "--precision int8 --pcd-only --quant-mode torch-int8-dynamic"),
    "pku_scene": (PKU, "build it: vggt_to_trt --export --num-cams 8 --height 518 --width 518 "
                  "--precision fp16 --pcd-only --output-dir onnx_exports/none"),
    "dome_run": (DOME_RUN, "--depth_engine_dir onnx_exports/depth_anything: no engine of Depth"),
    "webcam_session": (WEBCAMS, "--initial_map outputs/bootstrap_map.ply: there is no such file"),
}  # fmt: skip

CONVERSIONS = [
    "python onnx/tools/vggt_to_trt.py --export --model-name facebook/VGGT-1B --num-cams 8 "
    "--height 518 --width 518 --precision fp16 --pcd-only --output-dir onnx_exports/none",
    "python vggt_to_trt_chatgpt.py --export --num-cams 8 --precision fp16",
    "python vggt_to_trt_chatgpt.py --onnx-in onnx_exports/vggt-8x3x518x518.onnx --precision int8 "
    "--calib-data /path/to/mvs/images --calib-batches 32",
    "python vggt_to_trt_chatgpt.py --export --num-cams 8 --all-precisions "
    "--calib-data data/mvs360 --calib-batches 48",
    "python vggt_to_trt_chatgpt.py --export --num-cams 8 --pcd-only --precision fp8 "
    "--quant-mode modelopt-fp8",
    "python vggt_to_trt_chatgpt.py --onnx-in onnx_exports/vggt-8x3x518x518.onnx --precision int8 "
    "--calib-data calibration_batches.npy --calib-batches 64 --calib-cpu",
]

OTHERS = [
    ("python onnx/tools/trt_inference.py --engine onnx_exports/none/x.engine", "x.engine"),
    (
        "python onnx/tools/inference_depth_anything.py "
        "--engine onnx_exports/depth_anything/depth_rtl.engine",
        "build it: vggt-ros engine export depth-anything/Depth-Anything-V2-Small-hf",
    ),
    (f"python onnx/tools/pcd_inference.py {PKU.split('inference_pcd ')[1]}", "vggt_to_trt"),
    ("python onnx/tools/pcd_to_3dgs.py --output seed.ply", "missing: --depth, --confidence"),
]


def tool_and_words(command):
    """The tool of a documented command, and its words."""
    words = shlex.split(command)
    assert words[0] == "python"
    name = words[2].rpartition(".")[2] if words[1] == "-m" else Path(words[1]).stem
    return name, words[3:] if words[1] == "-m" else words[2:]


def run(command, *more):
    name, words = tool_and_words(command)
    return TOOLS[name]([*words, *map(str, more)])


@pytest.mark.parametrize("command", [*(c for c, _ in RECONSTRUCTIONS.values()), *CONVERSIONS])
def test_it_parses(command):
    name, words = tool_and_words(command)
    module = reconstruct if name == "inference_pcd" else vggt_to_trt
    module.build_parser().parse_args(words)


@pytest.mark.parametrize(("command", "said"), [*RECONSTRUCTIONS.values(), *OTHERS])
def test_what_is_missing_is_one_clear_line(command, said, tmp_path, monkeypatch, capsys):
    """In an empty folder: what the command needs, and how it is made."""
    monkeypatch.chdir(tmp_path)
    for name in ("none", "depth_anything"):
        (tmp_path / "onnx_exports" / name).mkdir(parents=True)
    assert run(command) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_benchmark_of_no_engines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "onnx_exports").mkdir()
    assert run("python onnx/tools/benchmark_trt_engines.py --root onnx_exports") == 0
    assert "onnx_exports: no engines there" in capsys.readouterr().out


@pytest.mark.parametrize("command", CONVERSIONS)
def test_conversions_refuse_in_one_line(command, tmp_path, monkeypatch, capsys):
    """Without TensorRT, weights or calibration images; what they do is shown elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name, words = tool_and_words(command)
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is here: this would build for hours")
    assert TOOLS[name](words) == 1
    assert re.match(r"vggt_to_trt\w*: \[ERROR\] ", capsys.readouterr().err.splitlines()[-1])


def test_no_documented_command_is_missing_here(shared_data):
    """The documents lie beside the reference data."""
    folder = shared_data.parent / "seeds"
    documents = [*folder.glob("001_*.txt"), *folder.glob("004_*.txt")]
    if len(documents) != 2:
        pytest.skip("the documents are not there")
    here = {tuple(tool_and_words(c)[1]) for c, _ in RECONSTRUCTIONS.values()}
    here |= {tuple(tool_and_words(c)[1]) for c in CONVERSIONS}
    found = 0
    for document in documents:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["python"]:
                    found += 1
                    assert tuple(tool_and_words(line)[1]) in here, line
    assert found == 10


# ------------------------------------------------------------------ with data, without engines

PKU_NAMES = PKU.split("--views ")[1].split()[0].split(",")
WEBCAM_NAMES = [word.split("=")[0] for word in WEBCAMS.split("--webcams ")[1].split()[:8]]


@pytest.fixture(scope="module")
def dome(tmp_path_factory):
    """Eight cameras before a box, as every command expects them; returns (folder, world)."""
    rig = arc_rig(8, 0.1, np.deg2rad(3), 240, 180, np.deg2rad(65), pitch_rad=0.0)
    world = box_world(1.6, 2.4)
    from vggt_ros.geometry import Rigid3
    from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL

    world_from_rig = Rigid3(RIG_FROM_OPTICAL.T, np.zeros(3))
    (taken,) = simulate(world, rig, world_from_rig, 1, 10.0, noise=False)
    root = tmp_path_factory.mktemp("dome")
    poses = [(world_from_rig @ rig.poses[name]).matrix for name in rig.names]
    k = rig.models[rig.names[0]].matrix
    videos = root / "data" / "dome_videos"
    videos.mkdir(parents=True)
    images = {name: [] for name in rig.names}
    for index, name in enumerate(rig.names):
        code = cv2.VideoWriter.fourcc(*"mp4v")
        path = str(videos / f"cam{index:02d}.mp4")
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, code, 10.0, (240, 180))
        (root / "data" / "pku_scene" / PKU_NAMES[index]).mkdir(parents=True)
        for number in range(4):
            rgb = apply_sensor(taken.images[name], name, number)
            bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
            images[name].append(cv2.imencode(".jpg", bgr)[1].tobytes())
            writer.write(bgr)
            folder = root / "data" / "pku_scene" / PKU_NAMES[index]
            cv2.imwrite(str(folder / f"{number}.png"), bgr)
        writer.release()
    for folder in ("config", "configs"):
        (root / folder).mkdir()
        names = [f"cam{index:02d}" for index in range(8)]
        np.savez(root / folder / "dome_intrinsics.npz", **dict.fromkeys(names, k))
        keyed = {f"{name}/0": pose for name, pose in zip(names, poses, strict=True)}
        np.savez(root / folder / "dome_poses.npz", **keyed)
    for kind, names in (("pku", PKU_NAMES), ("webcam", WEBCAM_NAMES)):
        suffix = "json" if kind == "pku" else "yaml"  # JSON is YAML, too
        intrinsics = {"intrinsics": {name: k.tolist() for name in names}}
        listed = [
            {"cam": name, "t": 0, "matrix": pose.tolist()}
            for name, pose in zip(names, poses, strict=True)
        ]
        (root / "configs" / f"{kind}_intrinsics.{suffix}").write_text(json.dumps(intrinsics))
        (root / "configs" / f"{kind}_poses.{suffix}").write_text(json.dumps(listed))
    return root, world, list(images.values())


def check(out, world):
    cloud = read_ply(out / "map_updated.ply")
    assert len(cloud) > 5000
    assert np.median(distance_to_surface(world, cloud.points)) < 0.015
    report = json.loads((out / results.REPORT).read_text())
    assert report["unit"] == "m"
    assert sum(c["registered"] for c in report["cameras"].values()) == 8
    assert (out / "metrics.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("session", ["dome_session", "pku_scene", "dome_run"])
def test_it_runs_with_the_classical_bootstrap(session, dome, monkeypatch):
    """The command as it stands, and `--bootstrap sfm`: no engine is there."""
    root, world, _ = dome
    monkeypatch.chdir(root)
    assert run(RECONSTRUCTIONS[session][0], "--bootstrap", "sfm") == 0
    check(root / "outputs" / session, world)
    assert (root / "outputs" / session / "bootstrap_map.ply").is_file()


@pytest.mark.slow
def test_eight_webcams_go_on_with_a_map(dome, monkeypatch):
    """The command as it stands but for the devices, which are cameras on the network."""
    root, world, images = dome
    monkeypatch.chdir(root)
    assert run(PKU, "--bootstrap", "rig", "--max_batches", 1, "--depth", "plane_sweep") == 0
    made = (root / "outputs" / "pku_scene" / "bootstrap_map.ply").read_bytes()
    (root / "outputs" / "bootstrap_map.ply").write_bytes(made)
    cameras = []
    command = WEBCAMS
    try:
        for index, jpegs in enumerate(images):
            cameras.append(mjpeg_camera.MjpegCamera(rate_hz=4.0))
            cameras[-1]._jpegs = jpegs
            device = f"{WEBCAM_NAMES[index]}={index}"
            command = command.replace(device, f"{device[:-1]}{cameras[-1].address}")
        words = ("--bootstrap", "sfm", "--max_batches", 4, "--max_skew_ms", 200)
        assert run(command, *words) == 0
    finally:
        for camera in cameras:
            camera.unplug()
    check(root / "outputs" / "webcam_session", world)
