"""Every way in which an engine is not what its passport says is found and named."""

import dataclasses
import json

import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference.backend import BackendOptions
from vggt_ros.inference.passport import (
    Runtime,
    Tensor,
    passport_path,
    read_passport,
    seal_of,
    write_passport,
)
from vggt_ros.inference.verify import mending_command, verify_passport

HERE = Runtime("tensorrt", "10.16.1", "NVIDIA H200", "9.0", "580.1")


def refused(path, facts=lambda name: HERE, **arguments):
    with pytest.raises(EngineError) as caught:
        verify_passport(path, facts=facts, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_right_engine_passes(fake_backends, make_engine):
    report = verify_passport(make_engine())
    assert report.errors == {"depth": 0.0, "depth_conf": 0.0}
    assert "right; fp32 on cpu (onnxruntime)" in report.text
    assert fake_backends[0].closed


def test_a_right_tensorrt_engine_passes_and_tells_of_another_driver(fake_backends, make_engine):
    here = dataclasses.replace(HERE, driver="590.2")
    report = verify_passport(make_engine("tiny_fp16.engine"), facts=lambda name: here)
    assert report.notes == ("driver: built on 580.1, here 590.2",)


def test_round_trip_and_seal(make_engine):
    path = make_engine()
    passport = read_passport(path)
    assert passport.seal == seal_of(passport)
    write_passport(path, passport)
    assert read_passport(path) == passport
    lines = passport_path(path).read_text().splitlines()
    assert len(lines) < 100  # samples stand on one line each: readable, and small in a diff


def test_tampered_engine(fake_backends, make_engine):
    path = make_engine()
    path.write_text("1.0001")
    message = refused(path)
    assert f"{path}: sha256: expected " in message
    assert ", found " in message
    assert "mend: vggt-ros engine export weights/tiny.safetensors --num-cams 2 --height 28" in (
        message
    )
    assert not fake_backends, "nothing of a tampered file may be loaded"


def test_tampered_data_file(fake_backends, make_engine, tmp_path):
    (tmp_path / "tiny.onnx.data").write_bytes(b"weights")
    path = make_engine(data_files={"tiny.onnx.data": "0" * 64})
    assert "tiny.onnx.data: sha256: expected 0000" in refused(path)
    (tmp_path / "tiny.onnx.data").unlink()
    assert "data file: expected" in refused(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (("model", "normalisation"), "imagenet"),
        (("precision", "effective"), "fp16"),
        (("golden", "seed"), 2),
        (("sha256",), "0" * 64),
        (("notes",), {}),
    ],
)
def test_tampered_passport(fake_backends, make_engine, field, value):
    path = make_engine()
    content = json.loads(passport_path(path).read_text())
    inner = content
    for key in field[:-1]:
        inner = inner[key]
    inner[field[-1]] = value
    passport_path(path).write_text(json.dumps(content))
    message = refused(path)
    assert "seal: expected" in message
    assert "edited or damaged" in message
    assert "vggt-ros engine export" in message
    assert not fake_backends


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable passport"),
        ("{", "not a readable passport"),
        ("[]", "not a passport"),
        ("{}", "not a passport (KeyError('format'))"),
        ('{"format": 2}', "expected passport format 1, got 2"),
        ('{"format": 1, "golden": null}', "not a passport"),
    ],
)
def test_broken_passport(make_engine, text, message):
    path = make_engine()
    passport_path(path).write_text(text)
    assert message in refused(path)


def test_no_passport(make_engine):
    path = make_engine("tiny_fp16.engine")
    passport_path(path).unlink()
    message = refused(path)
    assert "expected its passport tiny_fp16.engine.json beside it, found none" in message
    assert "vggt-ros engine build" in message


def test_no_engine(tmp_path):
    assert "found nothing there" in refused(tmp_path / "none.onnx")
    assert "expected a file ending in" in refused(tmp_path / "none.bin")
    (tmp_path / "model.safetensors").write_text("")
    message = refused(tmp_path / "model.safetensors")
    assert "a checkpoint has no passport to verify" in message
    assert "vggt-ros engine inspect" in message


def test_a_warning_of_the_passport_is_told(fake_backends, make_engine):
    """An engine whose reference is a graph of unknown origin is right only by that graph."""
    path = make_engine(notes={"warning": "it is its own reference"})
    assert verify_passport(path).notes == ("it is its own reference",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "11.4.0"}, "TensorRT major version: expected 10.16.1, found 11.4.0"),
        ({"version": "10.9.0"}, "TensorRT version: expected 10.16.1, found 10.9.0"),
        ({"version": ""}, "found none"),
        (
            {"compute_capability": "12.0", "gpu": "NVIDIA RTX 5090"},
            "GPU architecture: expected 9.0 (NVIDIA H200), found 12.0 (NVIDIA RTX 5090)",
        ),
    ],
)
def test_another_version_or_gpu(fake_backends, make_engine, change, message):
    path = make_engine("tiny_fp16.engine")
    here = dataclasses.replace(HERE, **change)
    told = refused(path, facts=lambda name: here)
    assert message in told
    assert f"mend: vggt-ros engine build {path.parent / 'tiny.onnx'} --out {path}" in told
    assert not fake_backends, "an engine of another version must not be opened"


def test_another_back_end(fake_backends, make_engine):
    rtx = dataclasses.replace(HERE, backend="tensorrt_rtx")
    path = make_engine("tiny_fp16.engine", runtime=rtx)
    assert "backend: expected tensorrt_rtx, found tensorrt" in refused(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"outputs": (Tensor("cat_322", (2, 28, 42), "float32"),)},
            "output names: expected cat_322, found depth, depth_conf",
        ),
        (
            {"inputs": (Tensor("images", (8, 3, 28, 42), "float32"),)},
            "input images: expected [8, 3, 28, 42] float32, found [2, 3, 28, 42] float32",
        ),
        (
            {"inputs": (Tensor("images", (2, 3, 28, 42), "float16"),)},
            "input images: expected [2, 3, 28, 42] float16, found [2, 3, 28, 42] float32",
        ),
    ],
)
def test_another_interface(fake_backends, make_engine, fields, message):
    assert message in refused(make_engine(**fields))
    assert fake_backends[0].closed


def test_free_sizes_fit(fake_backends, make_engine):
    verify_passport(make_engine(inputs=(Tensor("images", (-1, 3, 28, 42), "float32"),)))


def test_missing_golden(fake_backends, make_engine):
    assert "golden: expected an input with its outputs" in refused(make_engine(golden=None))


def test_golden_of_another_input(fake_backends, make_engine):
    path = make_engine()
    passport = read_passport(path)
    golden = dataclasses.replace(passport.golden, seed=5)
    write_passport(path, dataclasses.replace(passport, golden=golden))
    assert "golden input: expected sha256" in refused(path)


def test_wrong_answer(fake_backends, make_engine):
    message = refused(make_engine(gain=1.01))
    assert "golden output depth: expected an error of at most 0.001 against numpy fp32" in message
    assert "found 0.01 with fp32 on cpu" in message
    assert fake_backends[0].closed
    assert "inf" in refused(make_engine(gain=float("nan")))


def test_a_wish_for_less_precision_widens_the_tolerance(fake_backends, make_engine):
    path = make_engine(gain=1.03)
    verify_passport(path, "openvino", BackendOptions(precision="bf16"))
    refused(path, backend="openvino")


def test_mending_command_without_notes(make_engine):
    path = make_engine("tiny_fp16.engine")
    passport = dataclasses.replace(read_passport(path), notes={})
    assert mending_command(path, passport) == f"vggt-ros engine build MODEL.onnx --out {path}"


def test_mending_commands_make_the_same_again(make_engine):
    path = make_engine()
    passport = read_passport(path)
    folder = path.parent

    def command(name="m.onnx", **fields):
        return mending_command(folder / name, dataclasses.replace(passport, **fields))

    assert command() == (
        "vggt-ros engine export weights/tiny.safetensors --num-cams 2 --height 28 --width 42 "
        f"--pcd-only --precision fp32 --out {folder}"
    )
    int8 = dataclasses.replace(
        passport.precision, requested="int8", effective="int8", calibration="my photos"
    )
    gone = command(precision=int8)  # the graph in fp32 is not there: from the checkpoint
    assert gone.startswith("vggt-ros engine export weights/tiny.safetensors --num-cams 2 ")
    assert gone.endswith(f"--precision int8 --calib-data 'my photos' --out {folder}")
    (folder / "tiny.onnx").write_text("")
    assert command(precision=int8) == (
        f"vggt-ros engine quantise {folder / 'tiny.onnx'} --precision int8 "
        f"--calib-data 'my photos' --out {folder}"
    )
    made_up = dataclasses.replace(int8, calibration="synthetic")
    assert "--allow-synthetic-calib" in command(precision=made_up)
    depth = dataclasses.replace(passport.model, family="depth_anything")
    assert "--num-cams" not in command(model=depth)
    assert "--pcd-only" not in command(model=depth)
    random = {"checkpoint": "random weights, tiny, seed 0"}
    assert "engine export --random-weights --tiny --num-cams" in command(notes=random)
    flags = {"source": "../g/tiny.onnx", "build_flags": "--version-compatible"}
    assert command("m.engine", notes=flags, runtime=HERE) == (
        f"vggt-ros engine build {folder.parent / 'g' / 'tiny.onnx'} --version-compatible "
        f"--out {folder / 'm.engine'}"
    )
