"""The file of each camera's scale and shift."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vggt_ros.errors import ConfigError, ExportError
from vggt_ros.pipeline.camera_fits import (
    AlignModel,
    CameraFit,
    fits_of,
    model_for,
    read_calibration,
    state_of,
    write_calibration,
)
from vggt_ros.types import DepthKind

FRONT = CameraFit(
    DepthKind.DISPARITY,
    AlignModel.INVDEPTH_SCALE_SHIFT,
    float(np.log(0.4)),
    0.05,
    np.array([[1e-4, 2e-5], [2e-5, 3e-4]]),
)
SIDE = CameraFit(DepthKind.METRIC_DEPTH, AlignModel.SCALE, 0.0, 0.0, np.diag([1e-6, 0.0]))


def test_file_is_plain_for_others_and_complete_for_us(tmp_path):
    path = tmp_path / "calibration.json"
    write_calibration(path, {"front": FRONT, "side": SIDE})
    written = json.loads(path.read_text())
    assert written.pop("_meta") == {
        "front": {
            "model": "invdepth_scale_shift",
            "kind": "disparity",
            "covariance": [[1e-4, 2e-5], [2e-5, 3e-4]],
        },
        "side": {"model": "scale", "kind": "metric_depth", "covariance": [[1e-6, 0], [0, 0]]},
    }
    assert written == {"front": [pytest.approx(0.4), 0.05], "side": [1.0, 0.0]}
    found = read_calibration(path)
    assert state_of(found) == state_of({"front": FRONT, "side": SIDE})


@pytest.mark.parametrize(
    ("asked", "model", "kind"),
    [
        ("auto", AlignModel.INVDEPTH_SCALE_SHIFT, DepthKind.DISPARITY),
        ("invdepth_scale_shift", AlignModel.INVDEPTH_SCALE_SHIFT, DepthKind.DISPARITY),
        ("scale_shift", AlignModel.SCALE_SHIFT, DepthKind.RELATIVE_DEPTH),
        ("scale", AlignModel.SCALE, DepthKind.METRIC_DEPTH),
    ],
)
def test_plain_file_of_another_program(tmp_path, asked, model, kind):
    path = tmp_path / "calibration.json"
    path.write_text('{"front": [1.5, 0.0], "left": [0.5, 0.1]}')
    found = read_calibration(path, asked)
    assert list(found) == ["front", "left"]
    assert found["front"].scale == pytest.approx(1.5)
    assert (found["left"].model, found["left"].kind) == (model, kind)
    assert (found["left"].covariance == np.eye(2)).all()  # as good as unknown


def test_kind_alone_tells_the_model():
    found = fits_of({"a": [2.0, 0.1], "_meta": {"a": {"kind": "relative_depth"}}})
    assert found["a"].model is AlignModel.SCALE_SHIFT


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected JSON"),
        ('{"front": [1.0', "expected JSON"),
        ("[1, 2]", "got list"),
        ('{"front": [0.0, 1.0]}', "scale > 0"),
        ('{"front": [1.0, 0.0], "_meta": {"front": {"model": "cubic"}}}', "cubic"),
        ('{"front": [1.0, 0.0], "_meta": {"front": {"kind": "triangulated"}}}', "_meta"),
        ('{"a": [1, 0], "_meta": {"a": {"covariance": [[1, 5], [5, 1]]}}}', "covariance >= 0"),
    ],
)
def test_broken_file_is_refused_by_name(tmp_path, text, told):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"calibration\.json.*{told}"):
        read_calibration(path)
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_calibration(tmp_path / "none.json")


def test_failed_write_leaves_the_file(tmp_path):
    path = tmp_path / "calibration.json"
    write_calibration(path, {"front": FRONT})
    before = path.read_bytes()
    broken = CameraFit(FRONT.kind, FRONT.model, float("nan"), 0.0, FRONT.covariance)
    with pytest.raises(ExportError):
        write_calibration(path, {"front": broken})
    assert path.read_bytes() == before


def test_model_follows_the_kind_unless_asked():
    assert model_for(DepthKind.DISPARITY) is AlignModel.INVDEPTH_SCALE_SHIFT
    assert model_for(DepthKind.RELATIVE_DEPTH) is AlignModel.SCALE_SHIFT
    assert model_for(DepthKind.METRIC_DEPTH) is AlignModel.SCALE
    assert model_for(DepthKind.METRIC_DEPTH, "scale_shift") is AlignModel.SCALE_SHIFT
    with pytest.raises(ConfigError, match="did you mean 'scale_shift'"):
        model_for(DepthKind.DISPARITY, "scale_shft")
    with pytest.raises(ConfigError, match="triangulated"):
        model_for(DepthKind.TRIANGULATED)
