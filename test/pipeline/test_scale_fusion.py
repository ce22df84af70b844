"""Several sources of one scale: what is published, who is named, how honest the sigma is."""

import math

import numpy as np
import pytest

from vggt_ros.config import ScaleConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.pipeline.scale_fusion import NoScale, check_metric, choose_scale, fuse_scales
from vggt_ros.types import ScaleEstimate, ScaleSource

RIG, DEPTH, ODOMETRY = ScaleSource.RIG, ScaleSource.DEPTH_CAMERA, ScaleSource.ODOMETRY
SOURCES = (RIG, DEPTH, ODOMETRY, ScaleSource.METRIC_MODEL)


def test_inverse_variance_of_sources_that_agree():
    fused = fuse_scales(
        [ScaleEstimate(2.02, 0.04, DEPTH), ScaleEstimate(2.0, 0.02, RIG)],
    )
    rig, depth = 1 / 0.01**2, 1 / (0.04 / 2.02) ** 2
    expected = math.exp((rig * math.log(2.0) + depth * math.log(2.02)) / (rig + depth))
    assert fused.value == pytest.approx(expected, rel=1e-12)
    assert fused.sigma == pytest.approx(expected / math.sqrt(rig + depth), rel=1e-12)
    assert fused.source is RIG  # the surest
    assert fused.source_name == "rig+depth_camera"
    assert not fused.contradiction
    assert "from rig+depth_camera" in str(fused)


def test_two_that_contradict_meet_in_the_middle_however_sure_one_claims_to_be():
    fused = fuse_scales([ScaleEstimate(1.0, 0.001, RIG), ScaleEstimate(1.2, 0.02, DEPTH)])
    assert fused.value == pytest.approx(math.sqrt(1.2), rel=0.002)
    for value in (1.0, 1.2):  # one of them is the truth
        assert abs(value - fused.value) < 1.1 * fused.sigma
    assert "rig (1 +- 0.001" in fused.contradiction
    assert "depth_camera (1.2" in fused.contradiction


def test_one_of_three_that_the_others_contradict_is_left_out_and_named():
    fused = fuse_scales(
        [
            ScaleEstimate(1.0, 0.01, RIG),
            ScaleEstimate(1.005, 0.01, DEPTH),
            ScaleEstimate(1.5, 0.03, ODOMETRY),
        ]
    )
    assert fused.sources == (DEPTH, RIG)
    assert fused.value == pytest.approx(1.0025, rel=1e-4)
    assert "odometry (1.5 +- 0.03 m per unit) contradicts" in fused.contradiction
    assert "left out" in fused.contradiction


def test_three_of_which_nobody_is_the_odd_one_are_all_kept():
    estimates = [ScaleEstimate(v, 0.01, s) for v, s in zip((1.0, 1.2, 1.4), SOURCES, strict=False)]
    fused = fuse_scales(estimates)
    assert set(fused.sources) == {RIG, DEPTH, ODOMETRY}
    assert fused.sigma > 0.08
    assert "contradict each other" in fused.contradiction


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_truth_lies_within_two_sigma(count):
    """Of sources whose sigmas are right; 2000 draws."""
    random = np.random.default_rng(count)
    inside = 0
    for _ in range(2000):
        sigmas = random.uniform(0.005, 0.1, count)
        values = np.exp(random.normal(size=count) * sigmas)
        fused = fuse_scales(
            [
                ScaleEstimate(v, v * s, source)
                for v, s, source in zip(values, sigmas, SOURCES, strict=False)
            ]
        )
        inside += abs(fused.value - 1) < 2 * fused.sigma
    assert 0.93 < inside / 2000 < 0.98


def test_a_source_with_a_gross_error_is_covered_or_left_out():
    """The rig file is in the wrong unit or the depth camera is not calibrated: 20 to 60 % off."""
    random = np.random.default_rng(5)
    inside = 0
    for k in range(1000):
        count = int(random.integers(2, 5))
        sigmas = random.uniform(0.005, 0.05, count)
        logs = random.normal(size=count) * sigmas
        logs[k % count] += random.choice([-1, 1]) * random.uniform(0.2, 0.6)
        fused = fuse_scales(
            [
                ScaleEstimate(math.exp(v), math.exp(v) * s, source)
                for v, s, source in zip(logs, sigmas, SOURCES, strict=False)
            ]
        )
        inside += abs(math.log(fused.value)) < 2 * fused.sigma / fused.value
    assert inside > 900


def test_a_named_source_is_used_alone_or_its_absence_is_explained():
    evidence = [ScaleEstimate(1.0, 0.1, RIG), NoScale(DEPTH, "no depth image came")]
    assert choose_scale(evidence, ScaleConfig(source="rig")) is evidence[0]
    with pytest.raises(AlignmentError, match="depth camera gives no scale: no depth image came"):
        choose_scale(evidence, ScaleConfig(source="depth_camera"))
    with pytest.raises(AlignmentError, match="odometry gives no scale: nothing of it has come"):
        choose_scale(evidence, ScaleConfig(source="odometry"))


def test_auto_says_why_every_source_is_silent(caplog):
    evidence = [NoScale(RIG, "no poses"), NoScale(DEPTH, "no depth")]
    assert choose_scale(evidence, ScaleConfig()) is None
    assert "rig: no poses; depth_camera: no depth" in caplog.text


def test_a_parameter_without_sigma_counts_only_alone():
    exact = ScaleEstimate(3.0, 0.0, ScaleSource.PARAMETER)
    assert choose_scale([exact], ScaleConfig()) is exact
    rig = ScaleEstimate(1.0, 0.1, RIG)
    assert choose_scale([exact, rig], ScaleConfig()) is rig
    weighed = choose_scale([ScaleEstimate(1.0, 0.1, ScaleSource.PARAMETER), rig], ScaleConfig())
    assert weighed is not None
    assert weighed.source_name in ("rig+parameter", "parameter+rig")


def test_require_metric_refuses_only_what_is_not():
    none = ScaleEstimate(1.0, math.inf, ScaleSource.NONE)
    check_metric(none, ScaleConfig())
    check_metric(ScaleEstimate(1.0, 0.1, RIG), ScaleConfig(require_metric=True))
    with pytest.raises(AlignmentError, match="require_metric"):
        check_metric(none, ScaleConfig(require_metric=True))
