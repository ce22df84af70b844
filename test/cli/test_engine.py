"""`vggt-ros engine`: verify, bench, list, inspect on a small graph, and what cannot be made."""

import json
import sys

import pytest

from vggt_ros.cli.main import main
from vggt_ros.inference.passport import passport_path

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
ACTIONS = ("export", "quantise", "build", "inspect", "verify", "bench", "list")


def refused(capsys, *words, code=1):
    assert main(["engine", *map(str, words)]) == code
    streams = capsys.readouterr()
    errors = [line for line in streams.err.splitlines() if line.startswith("vggt-ros engine")]
    assert len(errors) == 1, streams.err
    return errors[0]


@pytest.mark.parametrize("action", ACTIONS)
def test_help(action, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["engine", action, "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_verify_of_right_ones(small_graph, capsys):
    paths = [small_graph(), small_graph("engines/b.onnx")]
    assert main(["engine", "verify", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "small.onnx: right; fp32 on cpu (onnxruntime), largest error" in lines[0]


def test_verify_of_a_wrong_and_a_right_one(small_graph, capsys):
    wrong, right = small_graph("w.onnx", gain=1.1), small_graph("r.onnx")
    line = refused(capsys, "verify", wrong, right)
    assert f"{wrong}: golden output depth: expected an error of at most 0.001" in line
    assert "mend: vggt-ros engine export facebook/VGGT-1B --num-cams 2 --height 28" in line


def test_verify_of_a_tampered_graph(small_graph, capsys):
    path = small_graph()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "sha256: expected" in refused(capsys, "verify", path)


def test_verify_of_a_tampered_passport(small_graph, capsys):
    path = small_graph()
    beside = passport_path(path)
    beside.write_text(beside.read_text().replace("zero_to_one", "imagenet"))
    assert "seal: expected" in refused(capsys, "verify", path)


def test_list(small_graph, capsys, tmp_path):
    small_graph("engines/m_fp32.onnx")
    small_graph("engines/m_fp16.onnx", precision="fp16")
    small_graph("engines/m_int8.onnx", precision="int8")
    small_graph("engines/m.simp.onnx")
    passport_path(tmp_path / "engines" / "m.simp.onnx").unlink()  # on the way to an engine
    (tmp_path / "engines" / "found.engine").write_bytes(b"somebody's")
    assert main(["engine", "list", str(tmp_path / "engines")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    chosen = [line for line in lines if line.startswith("*")]
    assert len(chosen) == 1
    assert "m_fp16.onnx" in chosen[0]
    assert "2x3x28x42" in chosen[0]
    assert any("found.engine" in line and "no passport" in line for line in lines)


def test_list_of_nothing(tmp_path, capsys):
    assert main(["engine", "list", str(tmp_path)]) == 0
    assert "no engines" in capsys.readouterr().out
    assert "expected a folder of engines" in refused_main(capsys, "list", tmp_path / "none")


def refused_main(capsys, *words):
    assert main(["engine", *map(str, words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vggt-ros engine ")
    return line


def test_bench_of_a_folder(small_graph, photographs, tmp_path, capsys):
    small_graph("engines/a.onnx")
    small_graph("engines/b.onnx", gain=2.0)
    out = tmp_path / "bench.json"
    words = ["engine", "bench", tmp_path / "engines", "--iterations", 3, "--warmup", 1]
    words += ["--images", photographs, "--json", out]
    assert main([str(word) for word in words]) == 1  # b answers wrongly and is not timed
    streams = capsys.readouterr()
    assert "b.onnx: left out: " in streams.err
    (record,) = json.loads(out.read_text())
    assert record["engine"].endswith("a.onnx")
    assert record["quant_mode"] == "none"
    assert record["precision"] == "fp32"
    assert record["iterations"] == 3
    assert 0 < record["p50_ms"] <= record["p95_ms"]
    assert record["fps"] == pytest.approx(1e3 / record["mean_ms"])
    assert record["input"] == [2, 3, 28, 42]


def test_bench_of_one(small_graph, capsys):
    assert main(["engine", "bench", str(small_graph()), "--iterations", "2"]) == 0
    assert "onnxruntime on cpu" in capsys.readouterr().out


def test_bench_with_too_few_photographs(small_graph, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "bench", small_graph(), "--images", tmp_path / "empty")
    assert "expected 2 images" in line
    assert "found 0" in line


def test_inspect(small_graph, capsys):
    assert main(["engine", "inspect", str(small_graph())]) == 0
    text = capsys.readouterr().out
    assert "input images [2, 3, 28, 42] float32: RGB" in text
    assert "golden depth: error not measured, at most 0.001" in text
    assert "[INFO] Weights by type: FP32:2" in text


def test_inspect_of_another_file_than_the_passport_is_for(small_graph, capsys):
    path = small_graph()
    path.write_bytes(path.read_bytes()[:-40])
    assert main(["engine", "inspect", str(path)]) == 1
    streams = capsys.readouterr()
    assert "sha256: expected" in streams.err
    assert streams.out == ""
    path.with_name(f"{path.name}.json").unlink()
    assert main(["engine", "inspect", str(path)]) == 1
    assert "cut off" in capsys.readouterr().err


def test_bench_without_passport_tells_what_to_do(small_graph, tmp_path, capsys):
    path = small_graph()
    path.with_name(f"{path.name}.json").unlink()
    assert main(["engine", "bench", str(path.parent)]) == 1
    assert "vggt-ros engine export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "none.engine"), "found nothing there"),
        (("build", "none.onnx"), "expected its passport none.onnx.json beside it"),
        (("quantise", "none.onnx", "--precision", "fp16"), "no such ONNX file"),
        (("bench", "none.onnx"), "found nothing there"),
        (("export",), "expected a checkpoint, or --random-weights"),
        (("export", "none.safetensors"), "there is no such file or folder"),
        (("export", "x", "--random-weights"), "expected a checkpoint, or --random-weights"),
        (("export", "--random-weights", "--tiny", "--opset", "9"), "opset: expected 17 to"),
        (
            ("export", "--random-weights", "--tiny", "--precision", "int8"),
            "int8 and fp8 need calibration images",
        ),
        (
            ("export", "--random-weights", "--precision", "int8", "--calib-data", "nowhere"),
            "--calib-data nowhere: no such file or folder",
        ),
    ],
)
def test_what_cannot_be_made_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    assert message in refused_main(capsys, *words)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "x", "--height", "500"), "expected a multiple of 14, got '500'"),
        (("export", "x", "--height", "500"), "the nearest is 504"),
        (("export", "x", "--precision", "fp17"), "invalid choice: 'fp17'"),
        (("export", "x", "--quant-mode", "int7"), "invalid choice: 'int7'"),
        (("build", "x", "--min-shape", "3x518"), "expected a shape like 4x3x518x518"),
        (("build", "x", "--opt-level", "6"), "invalid choice: 6"),
        (("bench", "x", "--iterations", "0"), "expected a whole number > 0"),
        (("quantise", "x"), "the following arguments are required: --precision"),
        (("verify", "x", "--backend", "cuda"), "invalid choice: 'cuda'"),
    ],
)
def test_wrong_usage(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["engine", *words])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_a_build_without_tensorrt_or_gpu(small_graph, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = small_graph()
    line = refused_main(capsys, "build", path)
    assert "tensorrt" in line.lower()
    assert not path.with_suffix(".engine").exists()
