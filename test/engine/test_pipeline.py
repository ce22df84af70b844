import json
import logging

import numpy as np
import pytest

from vggt_ros.engine import names, pipeline
from vggt_ros.engine.calibration import synthetic_images
from vggt_ros.engine.check import check_model
from vggt_ros.engine.export_vggt import VggtExport
from vggt_ros.engine.pipeline import PipelineOptions, run_pipeline
from vggt_ros.errors import EngineError


@pytest.fixture(scope="module")
def images_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "views.npy"
    np.save(path, synthetic_images((8, 3, 42, 70), seed=5))
    return path


def files(folder):
    return sorted(f.name for f in folder.iterdir())


def test_all_precisions_of_one_graph(exported, images_file, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(pipeline, "quantise", lambda *a: runs.append(a[-1]) or original(*a))
    from vggt_ros.engine.quantise_int8 import quantise as original

    precisions = ("fp32", *names.ALL_PRECISIONS)
    options = PipelineOptions(
        precisions, simplify=False, calib_data=str(images_file), calib_batches=2
    )
    report = run_pipeline(tmp_path, options, onnx_in=exported.path)
    assert report.graph == exported.path
    assert report.sequences_removed == 0
    assert [r.precision_effective for r in report.precisions] == list(precisions)
    for found in report.precisions:
        check_model(found.path)
        assert found.parity is not None
        assert found.parity["depth"].median_rel < 0.05, found
        told = json.loads(names.report_path(found.path).read_text())
        assert told["precision_requested"] == found.precision_requested
        assert set(told["parity"]) == set(exported.outputs)
        calibrated = found.precision_effective in ("int8", "fp8")
        assert told["calibration"] == (str(images_file) if calibrated else "none")
    # calibrated once for both
    assert runs[0] is None
    assert runs[1]
    names.report_path(exported.path).unlink()
    assert [n for n in files(tmp_path) if n.startswith(".")] == []

    # the cache is used again, and not for other images
    again = PipelineOptions(("int8",), False, calib_data=str(images_file), calib_batches=2)
    run_pipeline(tmp_path, again, onnx_in=exported.path)
    assert runs[2]
    other = PipelineOptions(("int8",), False, calib_data=str(images_file), calib_batches=1)
    run_pipeline(tmp_path, other, onnx_in=exported.path)
    assert runs[3] is None


def test_simplified_where_possible(exported, tmp_path):
    pytest.importorskip("onnxslim", reason="onnxslim is not installed")
    report = run_pipeline(
        tmp_path, PipelineOptions(("fp16",), parity=False), onnx_in=exported.path
    )
    assert report.simplified_by == "onnxslim"
    assert report.graph.name == "vggt-2x3x42x70.simp.onnx"
    assert report.precisions[0].path.name == "vggt-2x3x42x70_fp16.onnx"
    assert report.precisions[0].parity_note == "not measured, as asked"


def test_sequences_are_removed_on_the_way(onnx, make_graph, tmp_path):
    make = onnx.helper.make_node
    nodes = [
        make("SplitToSequence", ["images"], ["s"], axis=0),
        make("SequenceAt", ["s", "i"], ["a"]),
        make("MatMul", ["a", "w"], ["depth"]),
    ]
    weights = {"i": np.array(0, np.int64), "w": np.eye(14, dtype=np.float32)}
    path = make_graph(
        tmp_path / "net.onnx",
        nodes,
        {"images": [2, 3, 14, 14]},
        {"depth": [1, 3, 14, 14]},
        weights,
    )
    options = PipelineOptions(("fp16",), simplify=False)
    report = run_pipeline(tmp_path / "out", options, onnx_in=path)
    assert report.sequences_removed == 2
    assert report.graph.name == "net.NOSEQ.onnx"
    assert files(tmp_path / "out") == [
        "net.NOSEQ.onnx",
        "net_fp16.onnx",
        "net_fp16.onnx.report.json",
    ]


def test_first_failure_ends_it_and_leaves_no_half(exported, tmp_path, monkeypatch):
    made = []

    def fail(source, out, precision, **how):
        made.append(precision)
        if precision == "bf16":
            out.with_name("half").parent.mkdir(exist_ok=True)
            raise EngineError("bf16: cannot")
        return original(source, out, precision, **how)

    from vggt_ros.engine.cast import cast_precision as original

    monkeypatch.setattr(pipeline, "cast_precision", fail)
    options = PipelineOptions(("fp16", "bf16", "fp16"), simplify=False, parity=False)
    with pytest.raises(EngineError, match="bf16: cannot"):
        run_pipeline(tmp_path, options, onnx_in=exported.path)
    assert made == ["fp16", "bf16"]
    assert files(tmp_path) == ["vggt-2x3x42x70_fp16.onnx", "vggt-2x3x42x70_fp16.onnx.report.json"]


def test_parity_that_does_not_fit_is_said_with_the_figure(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "estimate_run_memory", lambda path: 30 * 2**30)
    monkeypatch.setattr(pipeline, "available_memory", lambda: 20 * 2**30)
    options = PipelineOptions(("fp16",), simplify=False)
    report = run_pipeline(tmp_path, options, onnx_in=exported.path)
    assert report.precisions[0].parity is None
    assert "about 30 GiB" in report.precisions[0].parity_note


def test_parity_without_onnxruntime_is_left_out_and_said(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    report = run_pipeline(tmp_path, PipelineOptions(("fp16",), False), onnx_in=exported.path)
    assert "onnxruntime is not installed" in report.precisions[0].parity_note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PipelineOptions(("fp13",)), "precision: expected one of"),
        (PipelineOptions(()), "got none"),
        (PipelineOptions(("int8",)), "--allow-synthetic-calib"),
        (PipelineOptions(("int8",), calib_data="/no/where"), "no such file or folder"),
    ],
)
def test_wrong_options(exported, tmp_path, options, message):
    with pytest.raises(EngineError, match=message):
        run_pipeline(tmp_path / "out", options, onnx_in=exported.path)
    assert not (tmp_path / "out").exists()


def test_calibration_is_looked_at_before_an_export_of_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "export_vggt", lambda *a: pytest.fail("exported"))
    with pytest.raises(EngineError, match="--allow-synthetic-calib"):
        run_pipeline(tmp_path, PipelineOptions(("int8",)), export=VggtExport())


def test_one_source_is_wanted(tmp_path, exported):
    with pytest.raises(EngineError, match="either an export or an existing graph"):
        run_pipeline(tmp_path)
    with pytest.raises(EngineError, match="no such ONNX file"):
        run_pipeline(tmp_path, onnx_in=tmp_path / "missing.onnx")


def test_synthetic_calibration_is_recorded(exported, tmp_path, caplog):
    options = PipelineOptions(
        ("int8",), simplify=False, allow_synthetic_calib=True, calib_batches=1, parity=False
    )
    with caplog.at_level(logging.WARNING):
        report = run_pipeline(tmp_path, options, onnx_in=exported.path)
    assert report.precisions[0].calibration == "synthetic"
    assert "synthetic" in caplog.text
