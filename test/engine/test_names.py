from pathlib import Path

import pytest

from vggt_ros.engine import names
from vggt_ros.engine.names import EngineName, Stem
from vggt_ros.errors import EngineError

STEM = Stem(8, 518, 518, pcd_only=True)


def test_documented_names():
    assert str(STEM) == "vggt-8x3x518x518-pcd"
    assert str(Stem(2, 252, 336)) == "vggt-2x3x252x336"
    folder = names.mode_folder("onnx_exports", "none")
    assert str(folder) == "onnx_exports/none"
    assert names.mode_folder("sweep/bitsandbytes-nf4", "bitsandbytes-nf4").name != "none"
    assert str(names.mode_folder("onnx_exports/none", "none")) == "onnx_exports/none"
    assert names.onnx_path(folder, STEM).name == "vggt-8x3x518x518-pcd.onnx"
    assert names.noseq_path(folder, STEM).name == "vggt-8x3x518x518-pcd.NOSEQ.onnx"
    assert names.simp_path(folder, STEM).name == "vggt-8x3x518x518-pcd.simp.onnx"
    assert names.engine_path(folder, STEM, "fp16").name == "vggt-8x3x518x518-pcd_fp16.engine"
    assert names.engine_path(folder, STEM, "fp32").name == "vggt-8x3x518x518-pcd_fp32.engine"
    assert names.timing_cache_path(folder).name == "trt_timing.cache"
    cache = names.calibration_cache_path(folder, STEM.shape)
    assert cache.name == "calibration-8x3x518x518.cache"


@pytest.mark.parametrize("precision", names.PRECISIONS)
@pytest.mark.parametrize("pcd_only", [False, True])
def test_names_are_read_back(precision, pcd_only):
    stem = Stem(3, 140, 252, pcd_only)
    for path in (
        names.engine_path("f", stem, precision),
        names.precision_path("f", stem, precision),
    ):
        assert names.parse_name(path) == EngineName(stem, precision)


def test_bare_and_foreign_names():
    assert names.parse_name("vggt-8x3x518x518.engine") == EngineName(Stem(8, 518, 518), "fp32")
    assert names.parse_name("vggt-8x3x518x518.simp.onnx") is not None
    for name in ("depth_rtl.engine", "vggt-8x3x518x518_fp13.engine", "vggt-8x1x518x518.engine"):
        assert names.parse_name(name) is None


def test_bare_engine_is_found_as_fp32(tmp_path):
    bare = tmp_path / f"{STEM}.engine"
    bare.touch()
    assert names.find_engine(tmp_path, STEM, "fp32") == bare
    ours = names.engine_path(tmp_path, STEM, "fp32")
    ours.touch()
    assert names.find_engine(tmp_path, STEM, "fp32") == ours
    with pytest.raises(EngineError, match=r"expected .*_fp16\.engine, found none"):
        names.find_engine(tmp_path, STEM, "fp16")


def test_unknown_words_are_named():
    with pytest.raises(EngineError, match=r"got 'fp13'.*did you mean 'fp"):
        names.check_precision("fp13")
    with pytest.raises(EngineError, match=r"got 'bitsandbytes-nf5'.*did you mean 'bitsandbytes"):
        names.mode_folder("x", "bitsandbytes-nf5")


@pytest.mark.parametrize(
    ("graph", "precision", "engine"),
    [
        (f"{STEM}.onnx", "fp32", f"{STEM}_fp32.engine"),
        ("any_fp32.onnx", "fp32", "any_fp32.engine"),
        (f"{STEM}_int8.onnx", "int8", f"{STEM}_int8.engine"),
    ],
)
def test_engine_of_a_graph(graph, precision, engine):
    assert names.engine_of_graph(Path("engines") / graph, precision) == Path("engines") / engine
