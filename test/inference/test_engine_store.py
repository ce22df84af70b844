"""Which engine is opened, and what is known of it."""

import dataclasses
import json

import pytest

from vggt_ros.errors import EngineError
from vggt_ros.inference.engine_store import (
    describe_checkpoint,
    find_engine,
    list_engines,
    open_engine,
)
from vggt_ros.inference.passport import Precision, passport_path, read_passport, write_passport


def test_a_verified_engine(fake_backends, make_engine):
    path = make_engine()
    engine = open_engine(path)
    assert engine.report is not None
    assert engine.passport == read_passport(path)
    assert engine.summary == "onnxruntime on cpu, fp32, tiny_fp32.onnx (verified)"
    engine.close()
    assert fake_backends[0].closed


def test_verifying_can_be_declined_but_not_the_passport(fake_backends, make_engine):
    path = make_engine(gain=2.0)
    with pytest.raises(EngineError, match="golden output"):
        open_engine(path)
    engine = open_engine(path, verify=False)
    assert "(not verified)" in engine.summary
    passport_path(path).unlink()
    with pytest.raises(EngineError, match="passport"):
        open_engine(path, verify=False)


def test_a_bare_checkpoint(fake_backends, tmp_path):
    folder = tmp_path / "facebook" / "VGGT-1B"
    folder.mkdir(parents=True)
    engine = open_engine(folder)
    assert engine.report is None
    assert engine.passport.model.family == "vggt"
    assert "non-commercial" in engine.passport.model.licence
    assert "bare checkpoint" in engine.notes[0]
    assert engine.passport.inputs[0].shape == (2, 3, 28, 42)


@pytest.mark.parametrize(
    ("folder", "config", "facts"),
    [
        (
            "models--depth-anything--Depth-Anything-V2-Small-hf/snapshots/0a1b",
            {},
            ("depth-anything/Depth-Anything-V2-Small", "Apache-2.0", "disparity"),
        ),
        (
            "Depth-Anything-V2-Metric-Indoor-Large-hf",
            {"depth_estimation_type": "metric"},
            (
                "depth-anything/Depth-Anything-V2-Metric-Indoor-Large",
                "non-commercial (CC-BY-NC-4.0)",
                "metric_depth",
            ),
        ),
        ("mine", {}, ("depth_anything", "unknown", "disparity")),
        ("mine", {"license": "mit"}, ("depth_anything", "mit", "disparity")),
    ],
)
def test_depth_anything_is_known_by_its_configuration(tmp_path, folder, config, facts):
    path = tmp_path / folder
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "depth_anything", **config}))
    model = describe_checkpoint(path)
    assert model.family == "depth_anything"
    assert model.normalisation == "imagenet"
    assert (model.name, model.licence, model.depth_kind) == facts


def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dpt"}')
    with pytest.raises(EngineError, match=r"found 'dpt' in config.json"):
        describe_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EngineError, match="not a readable configuration"):
        describe_checkpoint(tmp_path)


def test_fp16_comes_first_whatever_the_names_say(make_engine, tmp_path):
    make_engine("z_int8.engine", precision="int8")
    make_engine("a_fp32.engine")
    fp16 = make_engine("sub/model.engine", precision="fp16")
    make_engine("sub/model.onnx", precision="fp16")
    assert find_engine(tmp_path, "vggt") == fp16
    assert find_engine(tmp_path, "vggt", 2, (28, 42)) == fp16
    assert find_engine(tmp_path, "vggt", precision="fp32").name == "a_fp32.engine"
    assert find_engine(tmp_path, "vggt", backend="onnxruntime").name == "model.onnx"


def test_int8_needs_a_parity_that_passes(make_engine, tmp_path, with_parity):
    path = make_engine("m_int8.engine", precision="int8")
    with pytest.raises(EngineError, match="int8 without a recorded parity that passes"):
        find_engine(tmp_path, "vggt")
    passport = read_passport(path)
    for error, passes in ((0.5, False), (0.05, True)):
        golden = with_parity(passport.golden, error)
        write_passport(path, dataclasses.replace(passport, golden=golden))
        if passes:
            assert find_engine(tmp_path, "vggt") == path
        else:
            with pytest.raises(EngineError, match="recorded parity"):
                find_engine(tmp_path, "vggt")


def test_a_name_proves_nothing(make_engine, tmp_path):
    make_engine("model_fp16.engine", precision="fp16")
    lying = Precision("fp16", "int8")
    make_engine("another_fp16.engine", precision="int8")
    write_passport(
        tmp_path / "another_fp16.engine",
        dataclasses.replace(read_passport(tmp_path / "another_fp16.engine"), precision=lying),
    )
    assert find_engine(tmp_path, "vggt").name == "model_fp16.engine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgt",), "family: expected one of vggt, depth_anything, got 'vgt'"),
        (("depth_anything",), "is vggt"),
        (("vggt", 8), "for 8 views, found none that fits (tiny_fp32.onnx: takes 2 views"),
        (("vggt", 2, (518, 518)), "takes 28x42"),
        (("vggt", None, None, "tensorrt"), "is not for tensorrt"),
        (("vggt", None, None, "auto", "bf16"), "is fp32"),
    ],
)
def test_why_none_fits(make_engine, tmp_path, arguments, message):
    make_engine()
    with pytest.raises(EngineError) as caught:
        find_engine(tmp_path, *arguments)
    assert message in str(caught.value)


def test_engines_without_passport_are_listed_and_never_chosen(make_engine, tmp_path):
    passport_path(make_engine()).unlink()
    (listed,) = list_engines(tmp_path)
    assert (listed.passport, listed.problem) == (None, "no passport")
    with pytest.raises(EngineError, match=r"tiny_fp32.onnx: no passport"):
        find_engine(tmp_path, "vggt")


def test_no_folder(tmp_path):
    with pytest.raises(EngineError, match="expected a folder of engines"):
        list_engines(tmp_path / "none")
    with pytest.raises(EngineError, match="the folder holds no engine"):
        find_engine(tmp_path, "vggt")
