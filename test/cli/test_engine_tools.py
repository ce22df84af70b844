"""The documented tools: every flag with its default, messages, files, and bad input."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from vggt_ros.cli import benchmark_trt_engines, trt_inference, vggt_to_trt
from vggt_ros.inference.passport import read_passport, write_passport

DEFAULTS = {
    vggt_to_trt: {
        "--export": False,
        "--onnx-in": None,
        "--output-dir": "onnx_exports",
        "--num-cams": 8,
        "--height": 518,
        "--width": 518,
        "--pcd-only": False,
        "--model-name": "facebook/VGGT-1B",
        "--opset": 18,
        "--precision": "fp16",
        "--all-precisions": False,
        "--quant-mode": "none",
        "--workspace-gb": 32,
        "--opt-level": 5,
        "--max-aux-streams": 4,
        "--no-simplify": False,
        "--calib-data": None,
        "--calib-batches": 32,
        "--calib-seed": 1337,
        "--calib-cpu": False,
        "--allow-synthetic-calib": False,
        "--allow-fallback": False,
        "--log-file": "logs/export_logs.txt",
    },
    trt_inference: {
        "--images-dir": None,
        "--use-random": False,
        "--warmup": 20,
        "--iters": 100,
        "--cuda-events": False,
        "--save-outputs": None,
        "--validate-warmup": False,
        "--verbose": False,
    },
    benchmark_trt_engines: {
        "--root": "onnx_exports",
        "--iters": 100,
        "--warmup": 20,
        "--images-dir": None,
        "--use-random": False,
        "--cuda-events": False,
        "--verbose-runner": False,
        "--json": None,
    },
}
CHOICES = {
    "--precision": ("fp32", "fp16", "bf16", "fp8", "int8"),
    "--quant-mode": (
        "none",
        "torch-int8-dynamic",
        "bitsandbytes-8bit",
        "bitsandbytes-nf4",
        "bitsandbytes-fp4",
        "modelopt-fp8",
        "modelopt-nvfp4",
    ),
}


@pytest.mark.parametrize("tool", DEFAULTS, ids=lambda tool: tool.__name__.split(".")[-1])
def test_every_documented_flag_and_its_default(tool):
    parser = tool.build_parser()
    actions = {flag: a for a in parser._actions for flag in a.option_strings}
    for flag, default in DEFAULTS[tool].items():
        found = actions[flag].default
        assert (default is None and found is None) or str(found) == str(default), flag
        if flag in CHOICES:
            assert set(actions[flag].choices) == set(CHOICES[flag])
    assert "examples:" in parser.format_help()


@pytest.mark.parametrize(
    ("tool", "words", "message"),
    [
        (vggt_to_trt, ("--export", "--num-cam", "4"), "--num-cam (did you mean '--num-cams'?)"),
        (vggt_to_trt, ("--export", "--calib_data=x"), "(did you mean '--calib-data'?)"),
        (vggt_to_trt, ("--export", "--precision", "fp17"), "invalid choice: 'fp17'"),
        (vggt_to_trt, ("--export", "--quant-mode", "int7"), "invalid choice: 'int7'"),
        (vggt_to_trt, ("--export", "--height", "520"), "expected a multiple of 14, got '520'"),
        (vggt_to_trt, ("--export", "--num-cams", "0"), "expected a whole number > 0"),
        (vggt_to_trt, (), "expected one of --export and --onnx-in PATH"),
        (vggt_to_trt, ("--export", "--onnx-in", "x.onnx"), "expected one of --export and"),
        (trt_inference, (), "the following arguments are required: --engine"),
        (trt_inference, ("--engine", "x", "--iter", "5"), "(did you mean '--iters'?)"),
        (benchmark_trt_engines, ("--rot", "x"), "(did you mean '--root'?)"),
    ],
)
def test_wrong_usage_is_one_line(tool, words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("name", ["vggt_to_trt", "vggt_to_trt_chatgpt", "trt_inference"])
def test_tools_run_from_a_checkout(name, repository, tmp_path):
    done = subprocess.run(
        [sys.executable, str(repository / "tools" / f"{name}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}" in done.stdout


def test_console_scripts_exist(repository):
    text = (repository / "pyproject.toml").read_text()
    for name, module in (
        ("vggt_to_trt", "vggt_to_trt"),
        ("vggt_to_trt_chatgpt", "vggt_to_trt"),
        ("trt_inference", "trt_inference"),
        ("benchmark_trt_engines", "benchmark_trt_engines"),
    ):
        assert f'{name} = "vggt_ros.cli.{module}:main"' in text


def failed(tool, capsys, *words):
    assert tool.main([str(word) for word in words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


# --- vggt_to_trt: what cannot become an engine ---------------------------------------------


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Work in an empty folder, and see that nothing but the log is written."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    yield tmp_path
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p not in before]
    assert [p.name for p in left if p.suffix in (".onnx", ".engine", ".data", ".cache")] == []


def export(*words):
    sizes = ("--num-cams", 2, "--height", 28, "--width", 42)
    return ("--export", "--onnx-only", *sizes, *words)


def test_missing_checkpoint(empty, capsys):
    line = failed(vggt_to_trt, capsys, *export("--model-name", "weights/none.safetensors"))
    assert "weights/none.safetensors" in line
    assert "no such file" in line
    log = (empty / "logs" / "export_logs.txt").read_text()
    assert "[ERROR] weights/none.safetensors" in log


def tiny_checkpoint(path, **sizes):
    from vggt_ros.engine.random_weights import random_vggt
    from vggt_ros.models.checkpoint import save_vggt
    from vggt_ros.models.vggt_config import VggtConfig

    save_vggt(random_vggt(dataclasses.replace(VggtConfig.tiny(), **sizes)), path)
    return path


def test_truncated_checkpoint(empty, capsys):
    path = tiny_checkpoint(empty / "tiny.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    line = failed(vggt_to_trt, capsys, *export("--model-name", path))
    assert "tiny.safetensors" in line
    assert "truncated" in line or "bytes" in line


def test_weights_of_another_shape_are_named(empty, capsys):
    import torch

    from vggt_ros.engine.random_weights import random_vggt
    from vggt_ros.models.vggt_config import VggtConfig

    weights = random_vggt(VggtConfig.tiny()).state_dict()  # no configuration: taken for VGGT-1B
    torch.save(weights, empty / "model.pt")
    line = failed(vggt_to_trt, capsys, *export("--model-name", empty / "model.pt"))
    assert "does not fit the network" in line
    assert "aggregator.camera_token: expected [1, 2, 1, 1024], got [1, 2, 1, 64]" in line


def test_no_calibration_data(empty, capsys):
    words = export("--random-weights", "--tiny", "--precision", "int8")
    assert "--allow-synthetic-calib" in failed(vggt_to_trt, capsys, *words)
    words = export("--random-weights", "--tiny", "--all-precisions")
    assert "int8 and fp8 need calibration images" in failed(vggt_to_trt, capsys, *words)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "no such file or folder"),
        ("folder", "expected images"),
        ("pattern", "expected images"),
        ("shape", "expected shape (B, 2, 3, 28, 42) or (N, 3, 28, 42), got (3, 3, 28, 28)"),
        ("views", "got (4, 3, 3, 28, 42)"),
        ("range", "expected RGB in [0, 1], got values from 0 to 255"),
        ("junk", "not a readable array"),
        ("image", "0.png: expected an image"),
    ],
)
def test_wrong_calibration_data(empty, capsys, made, message):
    source = empty / "calibration.npy"
    if made == "folder":
        source = empty / "photos"
        source.mkdir()
    elif made == "pattern":
        source = empty / "photos*.png"
    elif made == "junk":
        source.write_bytes(b"junk")
    elif made == "image":
        source = empty / "photos"
        source.mkdir()
        (source / "0.png").write_bytes(b"junk")
    elif made is None:
        source = empty / "nowhere"
    else:
        shapes = {"shape": (3, 3, 28, 28), "views": (4, 3, 3, 28, 42), "range": (4, 3, 28, 42)}
        values = np.zeros(shapes[made], np.float32)
        values[..., :2] = 255.0
        np.save(source, values)
    words = ("--random-weights", "--tiny", "--precision", "int8", "--calib-data", source)
    line = failed(vggt_to_trt, capsys, *export(*words))
    assert str(source) in line
    assert message in line


def test_too_little_memory(empty, capsys, monkeypatch):
    from vggt_ros.engine import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 3.0 * 2**30)
    line = failed(vggt_to_trt, capsys, *export("--random-weights"))
    assert "needs about" in line
    assert "GiB of memory, 3.0 GiB are available" in line


def test_no_tensorrt_or_gpu_is_told_before_the_export(empty, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    words = [word for word in export("--random-weights", "--tiny") if word != "--onnx-only"]
    line = failed(vggt_to_trt, capsys, *words)
    assert "tensorrt" in line.lower() or "gpu" in line.lower()


def test_modelopt_without_modelopt(empty, capsys):
    if importlib.util.find_spec("modelopt"):
        pytest.skip("modelopt is installed")
    words = export("--random-weights", "--tiny", "--quant-mode", "modelopt-fp8")
    line = failed(vggt_to_trt, capsys, *words)
    assert "quant mode modelopt-fp8" in line
    assert "--allow-fallback" in line


def test_a_graph_that_is_none(empty, capsys):
    (empty / "junk.onnx").write_bytes(b"junk")
    line = failed(vggt_to_trt, capsys, "--onnx-in", empty / "junk.onnx", "--onnx-only")
    assert "junk.onnx" in line
    (empty / "junk.onnx").unlink()


def test_a_log_that_cannot_be_written(empty, capsys):
    (empty / "file").write_text("")
    line = failed(vggt_to_trt, capsys, *export("--log-file", "file/log.txt"))
    assert "give --log-file" in line


# --- trt_inference and benchmark_trt_engines ------------------------------------------------


def test_time_one_with_synthetic_images(small_graph, capsys, tmp_path):
    path = small_graph()
    words = ["--engine", path, "--use-random", "--iters", 3, "--warmup", 1, "--validate-warmup"]
    words += ["--save-outputs", tmp_path / "out.npz", "--json", tmp_path / "out.json"]
    assert trt_inference.main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert "========== Performance Stats ==========" in text
    assert "Camera-level throughput" in text
    assert "out0: name=depth" in text
    assert "small.onnx (verified)" in text
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["depth"].shape == (2, 28, 42)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["iters"] == 3
    assert figures["fps"] == pytest.approx(1e3 / figures["mean_ms"])


def test_time_one_with_photographs(small_graph, photographs, capsys, tmp_path):
    import cv2

    words = ["--engine", small_graph(), "--images-dir", photographs, "--iters", "1"]
    words += ["--save-outputs", tmp_path / "out.npz", "--warmup", "0"]
    assert trt_inference.main([str(word) for word in words]) == 0
    with np.load(tmp_path / "out.npz") as outputs:
        brightness = [cv2.imread(str(photographs / f"{k}.png")).mean() / 255 for k in (0, 1)]
        np.testing.assert_allclose(
            outputs["depth"].mean(axis=(1, 2)), 1 + np.array(brightness), atol=0.01
        )


def test_what_cannot_be_timed(small_graph, photographs, capsys, tmp_path):
    path = small_graph()
    assert "found nothing there" in failed(trt_inference, capsys, "--engine", "none.onnx")
    line = failed(
        trt_inference, capsys, "--engine", path, "--images-dir", photographs, "--norm", "imagenet"
    )
    assert "--norm: expected zero_to_one as the passport" in line
    line = failed(trt_inference, capsys, "--engine", path, "--cuda-events")
    assert "--cuda-events: expected an engine that runs in TensorRT" in line
    line = failed(trt_inference, capsys, "--engine", path, "--num-cams", 4)
    assert "expected all three or none" in line
    (photographs / "0.png").write_bytes(b"junk")
    line = failed(trt_inference, capsys, "--engine", path, "--images-dir", photographs)
    assert "0.png: expected an image" in line
    assert "verify" not in line
    wrong = small_graph("wrong.onnx", gain=3.0)
    assert "golden output depth" in failed(trt_inference, capsys, "--engine", wrong)
    words = ["--engine", str(wrong), "--no-verify", "--iters", "1", "--warmup", "0"]
    assert trt_inference.main(words) == 0
    assert "(not verified)" in capsys.readouterr().out


@pytest.mark.parametrize("tool", [trt_inference, benchmark_trt_engines])
def test_too_little_memory_for_a_run(tool, small_graph, capsys, monkeypatch, tmp_path):
    from vggt_ros.cli import engine_memory
    from vggt_ros.engine import memory

    monkeypatch.setattr(engine_memory, "SMALL_BYTES", 0)
    monkeypatch.setattr(memory, "available_memory", lambda: 2.0**20)
    path = small_graph("engines/small.onnx")
    words = ("--engine", path) if tool is trt_inference else ("--root", path.parent, "--onnx")
    line = failed(tool, capsys, *words)
    assert "small.onnx: needs about 0.3 GiB of memory, 0.0 GiB are available" in line


def test_benchmark_of_all(small_graph, capsys, tmp_path):
    small_graph("onnx_exports/none/a_fp32.onnx")
    half = small_graph("onnx_exports/bitsandbytes-nf4/a_fp16.onnx")
    passport = read_passport(half)
    precision = dataclasses.replace(
        passport.precision,
        effective="fp16",
        quant_mode_requested="bitsandbytes-nf4",
        quant_mode_effective="bitsandbytes-nf4",
    )
    write_passport(half, dataclasses.replace(passport, precision=precision))
    out = tmp_path / "bench.json"
    words = ["--root", tmp_path / "onnx_exports", "--onnx", "--iters", 2, "--warmup", 0]
    assert benchmark_trt_engines.main([str(w) for w in (*words, "--json", out)]) == 0
    text = capsys.readouterr().out
    assert "[INFO] Benchmarking quantisation mode 'bitsandbytes-nf4'" in text
    assert "=== TensorRT Engine Benchmark Summary ===" in text
    assert "Fastest configuration:" in text
    records = json.loads(out.read_text())
    assert len(records) == 2
    for record in records:
        keys = {"quant_mode", "precision", "engine", "fps", "mean_ms", "std_ms"}
        assert set(record) == keys
    modes = {(r["quant_mode"], r["precision"]) for r in records}
    assert modes == {("none", "fp32"), ("bitsandbytes-nf4", "fp16")}


def test_benchmark_leaves_out_what_is_not_right(small_graph, capsys, tmp_path):
    root = tmp_path / "onnx_exports"
    small_graph("onnx_exports/none/a.onnx")
    small_graph("onnx_exports/none/b.onnx", gain=5.0)
    (root / "none" / "foreign.engine").write_bytes(b"no passport")
    words = ["--root", str(root), "--onnx", "--iters", "1", "--warmup", "0"]
    assert benchmark_trt_engines.main(words) == 1
    streams = capsys.readouterr()
    assert len(streams.err.splitlines()) == 2
    assert f"[ERROR] Benchmark failed for {root / 'none' / 'b.onnx'}: " in streams.err
    assert "expected its passport foreign.engine.json beside it" in streams.err
    assert "a.onnx" in streams.out


def test_benchmark_without_engines(tmp_path, capsys):
    assert "expected a folder" in failed(benchmark_trt_engines, capsys, "--root", "nowhere")
    assert benchmark_trt_engines.main(["--root", str(tmp_path)]) == 0
    assert "[INFO] No engines benchmarked." in capsys.readouterr().out
