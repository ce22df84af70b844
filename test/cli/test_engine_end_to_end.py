"""From a tiny checkpoint to verified graphs in every precision, on a CPU."""

import json
import os
import subprocess
import sys

import pytest

from vggt_ros.cli.main import main

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.slow

STEM = "vggt-2x3x56x84-pcd"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shared_data, repository):
    """Run `vggt_to_trt` once as a user would: a folder with everything that it makes."""
    from vggt_ros.engine.random_weights import random_vggt
    from vggt_ros.models.checkpoint import save_vggt
    from vggt_ros.models.vggt_config import VggtConfig

    folder = tmp_path_factory.mktemp("exported")
    save_vggt(random_vggt(VggtConfig.tiny(), 3), folder / "tiny.safetensors")
    sizes = ["--num-cams", "2", "--height", "56", "--width", "84", "--pcd-only"]
    done = run(
        folder,
        *(sys.executable, str(repository / "tools" / "vggt_to_trt.py")),
        *("--export", "--model-name", "tiny.safetensors", *sizes, "--onnx-only"),
        *("--all-precisions", "--calib-data", str(shared_data / "fountain_p11")),
        *("--calib-batches", "4"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def run(folder, *command, **variables):
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_files_have_the_documented_names(exported):
    folder = exported / "onnx_exports" / "none"
    names = {path.name for path in folder.iterdir()}
    for name in (f"{STEM}.onnx", *(f"{STEM}_{p}.onnx" for p in ("fp16", "bf16", "fp8", "int8"))):
        assert {name, f"{name}.json"} <= names
    assert "calibration-2x3x56x84.cache" in names
    log = (exported / "logs" / "export_logs.txt").read_text()
    assert log.count("[INFO] stage: export") == 1  # four precisions of one export
    assert log in (exported / "stdout").read_text()


def test_errors_against_pytorch(exported):
    folder = exported / "onnx_exports" / "none"
    limits = {"": 1e-5, "_fp16": 5e-3, "_int8": 0.1, "_fp8": 0.1}
    for suffix, limit in limits.items():
        passport = json.loads((folder / f"{STEM}{suffix}.onnx.json").read_text())
        golden = passport["golden"]
        assert golden["reference"].startswith("torch ")
        assert {o["name"] for o in golden["outputs"]} == {"pose_enc", "depth", "depth_conf"}
        for output in golden["outputs"]:
            assert output["parity"] < limit, (suffix, output["name"])
    report = json.loads((folder / f"{STEM}_int8.onnx.report.json").read_text())
    assert report["parity"]["depth"]["median_rel"] < 0.03
    assert report["calibration_samples"] == 8


def test_verify_bench_and_list(exported, capsys):
    folder = exported / "onnx_exports" / "none"
    graphs = [str(folder / f"{STEM}{suffix}.onnx") for suffix in ("", "_fp16", "_int8")]
    assert main(["engine", "verify", *graphs]) == 0
    for graph in graphs:
        assert main(["engine", "bench", graph, "--iterations", "2", "--warmup", "1"]) == 0
    capsys.readouterr()
    assert main(["engine", "list", str(folder)]) == 0
    (chosen,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("*")]
    assert f"{STEM}_fp16.onnx" in chosen


def test_quantise_takes_the_ranges_of_before(exported, shared_data, capsys, caplog):
    graph = exported / "onnx_exports" / "none" / f"{STEM}.onnx"
    words = ["engine", "quantise", str(graph), "--precision", "int8", "--calib-batches", "4"]
    words += ["--calib-data", str(shared_data / "fountain_p11"), "--out", str(exported / "q")]
    with caplog.at_level("INFO"):
        assert main(words) == 0
    assert "errors: pose_enc" in capsys.readouterr().out
    assert main(["engine", "verify", str(exported / "q" / f"{STEM}_int8.onnx")]) == 0


def test_the_script_for_all_precisions(exported, repository):
    script = str(repository / "scripts" / "run_all_precisions.sh")
    done = run(
        exported,
        script,
        *("precs=fp32,fp16", "num_cams=2", "height=56", "width=84", "pcd_only=1", "onnx_only=1"),
        *(f"onnx_in=onnx_exports/none/{STEM}.onnx", "iters=2", "warmup=1"),
        PYTHON=sys.executable,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (exported / "logs" / "out.txt").read_text()
    for suffix in ("", "_fp16"):
        assert f"onnx_exports/none/{STEM}{suffix}.onnx: " in summary
    assert " FPS" in summary
    assert "?" not in summary
    assert (exported / "logs" / "infer_fp16.log").is_file()


def test_the_script_for_all_exports_skips_what_is_there(exported, repository):
    script = str(repository / "scripts" / "run_all_exports.sh")
    done = run(
        exported,
        script,
        PYTHON=sys.executable,
        NUM_CAMS="2",
        HEIGHT="56",
        WIDTH="84",
        PCD_ONLY="1",
        ONNX_ONLY="1",
        QUANT_MODES="none",
        CALIB_DATA="unused",
        BENCHMARK_ITERS="2",
        BENCHMARK_WARMUP="0",
    )
    # bf16 does not run in ONNX Runtime on a CPU: it is told and left out
    assert done.returncode == 1
    assert "skipped" in done.stdout
    assert "TensorRT Engine Benchmark Summary" in done.stdout
    assert "Benchmark failed for onnx_exports/none/vggt-2x3x56x84-pcd_bf16.onnx" in done.stdout
