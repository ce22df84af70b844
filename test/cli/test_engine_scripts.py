"""The shell scripts call the tools as documented, keep logs, and stop at the first failure."""

import os
import shlex
import subprocess

import pytest

STUB = """#!/usr/bin/env bash
# records its arguments; fails where one of them is the word in $FAIL_AT
printf '%q ' "$@" >>"$CALLS"; echo >>"$CALLS"
echo "FORCE_SIMPLIFY=${FORCE_SIMPLIFY-unset}" >>"$CALLS.env"
for word in "$@"; do
    if [[ -n "${FAIL_AT-}" && "$word" == "$FAIL_AT" ]]; then echo "[ERROR] no"; exit 3; fi
done
if [[ "$1" == *trt_inference.py ]]; then
    echo "             mean_ms: 12.500"
    echo "                 fps: 80.000"
fi
if [[ "$1" == *benchmark_trt_engines.py ]]; then
    echo "=== TensorRT Engine Benchmark Summary ==="
fi
"""
MODES = (
    "none",
    "torch-int8-dynamic",
    "bitsandbytes-8bit",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "modelopt-fp8",
    "modelopt-nvfp4",
)


@pytest.fixture
def script(tmp_path, repository):
    """Run a script in an empty folder with a Python that only records."""
    python = tmp_path / "stub_python"
    python.write_text(STUB)
    python.chmod(0o755)
    calls = tmp_path / "calls"

    def run(name, *arguments, **variables):
        calls.unlink(missing_ok=True)
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        done = subprocess.run(
            [str(repository / "scripts" / name), *arguments],
            cwd=tmp_path,
            env={**keep, "PYTHON": str(python), "CALLS": str(calls), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done, [shlex.split(line) for line in lines]

    return run


def flags_of(call):
    """Tool, and flags with their values."""
    tool, *words = call
    flags = {}
    for k, word in enumerate(words):
        if word.startswith("--"):
            after = words[k + 1] if k + 1 < len(words) else "--"
            flags[word] = True if after.startswith("--") else after
    return os.path.basename(tool), flags


def test_every_mode_and_precision(script, tmp_path):
    done, calls = script("run_all_exports.sh", CALIB_DATA="photos")
    assert done.returncode == 0, done.stderr
    told = [flags_of(call) for call in calls]
    assert len(told) == 2 * len(MODES) + 1
    for mode, both in zip(MODES, zip(told[:-1:2], told[1:-1:2], strict=True), strict=True):
        for tool, flags in both:
            assert tool == "vggt_to_trt.py"
            assert flags["--quant-mode"] == mode
            assert flags["--output-dir"] == f"onnx_exports/{mode}"
            assert (flags["--num-cams"], flags["--height"], flags["--width"]) == (
                "8",
                "518",
                "518",
            )
            assert flags["--model-name"] == "facebook/VGGT-1B"
            assert (flags["--calib-data"], flags["--calib-batches"]) == ("photos", "32")
            assert flags["--calib-seed"] == "1337"
            assert "--calib-cpu" not in flags
            assert "--pcd-only" not in flags
        assert both[0][1]["--export"]
        assert both[0][1]["--all-precisions"]
        assert both[1][1]["--precision"] == "fp32"
        assert both[1][1]["--onnx-in"] == f"onnx_exports/{mode}/vggt-8x3x518x518.onnx"
    tool, flags = told[-1]
    assert tool == "benchmark_trt_engines.py"
    assert flags["--root"] == "onnx_exports"
    assert (flags["--iters"], flags["--warmup"], flags["--use-random"]) == ("100", "20", True)
    for mode in MODES:
        assert (tmp_path / "logs" / f"build_{mode}_all.log").is_file()
        assert (tmp_path / "logs" / f"build_{mode}_fp32.log").is_file()
    assert (tmp_path / "logs" / "infer_all.log").is_file()
    assert "Benchmark Summary" in (tmp_path / "logs" / "out.txt").read_text()
    assert "Quantisation mode: modelopt-nvfp4" in (tmp_path / "onnx/logs/out.txt").read_text()


def test_variables_of_all_exports(script, tmp_path):
    (tmp_path / "photos").mkdir()
    variables = {
        "NUM_CAMS": "4",
        "HEIGHT": "252",
        "WIDTH": "350",
        "MODEL": "weights/my model",
        "BASE_OUTPUT": "sweep",
        "CALIB_DATA": "data/*.png",
        "CALIB_BATCHES": "48",
        "CALIB_SEED": "7",
        "CALIB_CPU": "1",
        "PCD_ONLY": "1",
        "EXTRA_ARGS": "--no-simplify --opset 20",
        "QUANT_MODES": "none",
        "BENCHMARK_ITERS": "5",
        "BENCHMARK_WARMUP": "2",
        "BENCHMARK_CUDA_EVENTS": "1",
        "IMAGES_DIR": "photos",
    }
    done, calls = script("run_all_exports.sh", **variables)
    assert done.returncode == 0, done.stderr
    (_, first), (_, second), (_, bench) = (flags_of(call) for call in calls)
    for flags in (first, second):
        assert flags["--model-name"] == "weights/my model"
        assert flags["--calib-data"] == "data/*.png"  # the shell must not open the glob
        assert flags["--opset"] == "20"
        assert {"--calib-cpu", "--pcd-only", "--no-simplify"} <= set(flags)
    assert second["--onnx-in"] == "sweep/none/vggt-4x3x252x350-pcd.onnx"
    assert (bench["--iters"], bench["--warmup"], bench["--images-dir"]) == ("5", "2", "photos")
    assert bench["--cuda-events"]


def test_what_is_there_is_skipped(script, tmp_path):
    folder = tmp_path / "onnx_exports" / "none"
    folder.mkdir(parents=True)
    for name in ("", "_fp16", "_bf16", "_fp8", "_int8"):
        (folder / f"vggt-8x3x518x518{name}.{'engine' if name else 'onnx'}").touch()
    wanted = {"CALIB_DATA": "photos", "QUANT_MODES": "none", "BENCHMARK": "0"}
    _, calls = script("run_all_exports.sh", **wanted)
    assert [flags_of(call)[1]["--precision"] for call in calls] == ["fp32"]
    _, calls = script("run_all_exports.sh", **wanted, SKIP_EXISTING="0")
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["run_all_exports.sh", "run_all_precisions.sh"])
def test_the_first_failure_ends_it(script, tmp_path, name):
    word = "bitsandbytes-8bit" if "exports" in name else "bf16"
    done, calls = script(name, CALIB_DATA="photos", FAIL_AT=word)
    assert done.returncode == 3
    assert word in calls[-1]
    assert sum(word in call for call in calls) == 1
    assert "FAILED logs/build_" in (tmp_path / "logs" / "out.txt").read_text()
    assert "failed with exit code 3" in (tmp_path / "onnx/logs/out.txt").read_text()


def test_no_calibration_images_is_told_before_hours_of_export(script):
    done, calls = script("run_all_exports.sh")
    assert done.returncode == 1
    assert "CALIB_DATA is empty" in done.stderr
    assert not calls
    done, calls = script("run_all_exports.sh", EXTRA_ARGS="--allow-synthetic-calib")
    assert done.returncode == 0
    assert "--allow-synthetic-calib" in calls[0]


def test_no_python(script):
    for name in ("run_all_exports.sh", "run_all_precisions.sh"):
        done, _ = script(name, PYTHON="no_python_here", CALIB_DATA="photos")
        assert done.returncode == 1
        assert "'no_python_here' not found" in done.stderr


def test_one_configuration_exports_once(script, tmp_path):
    done, calls = script("run_all_precisions.sh", CALIB_DATA="photos", QUANT_MODE="none")
    assert done.returncode == 0, done.stderr
    told = [flags_of(call) for call in calls]
    precisions = ["fp32", "fp16", "bf16", "fp8", "int8"]
    assert [tool for tool, _ in told] == ["vggt_to_trt.py", "trt_inference.py"] * 5
    assert [flags["--precision"] for _, flags in told[::2]] == precisions
    assert "--export" in told[0][1]
    for _, flags in told[2::2]:
        assert flags["--onnx-in"] == "onnx_exports/none/vggt-8x3x518x518.onnx"
        assert "--export" not in flags
    for precision, (_, flags) in zip(precisions, told[1::2], strict=True):
        assert flags["--engine"] == f"onnx_exports/none/vggt-8x3x518x518_{precision}.engine"
        assert (tmp_path / "logs" / f"build_{precision}.log").is_file()
        assert (tmp_path / "logs" / f"infer_{precision}.log").is_file()
    summary = (tmp_path / "logs" / "out.txt").read_text()
    assert "vggt-8x3x518x518_int8.engine: 12.500 ms, 80.000 FPS" in summary


def test_words_and_variables_of_all_precisions(script, tmp_path):
    done, calls = script(
        "run_all_precisions.sh",
        *("precs=fp16,int8", "num_cams=2", "pcd_only=1", "calib_data=p h", "ENGINE_DIR=here"),
        *("export=0", "onnx_in=given.onnx", "force_simplify=0", "no_simplify=1"),
        *("iters=3", "warmup=1", "workspace_gb=8", "log_dir=l", "out_txt=sum.txt"),
        NUM_CAMS="9",
    )
    assert done.returncode == 0, done.stderr
    (_, build), (_, infer), (_, second), _ = (flags_of(call) for call in calls)
    for flags in (build, second):
        assert flags["--onnx-in"] == "given.onnx"
        assert flags["--num-cams"] == "2"  # a word wins over a variable
        assert flags["--calib-data"] == "p h"
        assert flags["--workspace-gb"] == "8"
        assert "--no-simplify" in flags
    assert infer["--engine"] == "here/vggt-2x3x518x518-pcd_fp16.engine"
    assert (infer["--iters"], infer["--warmup"]) == ("3", "1")
    assert (tmp_path / "l" / "build_int8.log").is_file()
    assert (tmp_path / "sum.txt").is_file()
    assert (tmp_path / "calls.env").read_text().splitlines()[0] == "FORCE_SIMPLIFY=0"


def test_wrong_words(script):
    done, calls = script("run_all_precisions.sh", "precz=fp16")
    assert (done.returncode, calls) == (2, [])
    assert "expected key=value with a key of: python num_cams" in done.stderr
    done, _ = script("run_all_precisions.sh", "export=0")
    assert done.returncode == 1
    assert "ONNX_IN" in done.stderr
