"""Depth alignment against made-up predictions with a known answer."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from vggt_ros.config import AlignConfig
from vggt_ros.errors import AlignmentError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.kernels_fit import HELD_OUT, fit_affine
from vggt_ros.pipeline.align_depth import DepthAligner, apply_fit
from vggt_ros.pipeline.align_samples import collect, fit_samples
from vggt_ros.pipeline.camera_fits import AlignModel
from vggt_ros.pipeline.reference_depth import reference_from_points
from vggt_ros.types import DepthKind, DepthMap, DepthPrediction

MODEL = CameraModel(160, 120, 130.0, 130.0, 79.5, 59.5)
POSE = Rigid3.from_rotation_vector((0.1, -0.2, 0.3), (1.0, 2.0, 0.5))


def room_depth(model: CameraModel = MODEL, phase: float = 0.0) -> np.ndarray:
    """A slanted floor and a wall with a box before it: smooth but for two edges."""
    u, v = np.meshgrid(np.arange(model.width), np.arange(model.height))
    x, y = u / model.width, v / model.height
    z = 3.0 + 0.8 * x + 0.5 * np.sin(2 * y + phase)
    box = (abs(x - 0.5) < 0.15) & (abs(y - 0.6) < 0.2)
    return np.where(box, 1.6 + 0.3 * x, z).astype(np.float32)


def predicted(
    z: np.ndarray,
    kind: DepthKind,
    scale: float,
    shift: float,
    noise: float = 0.0,
    outliers: float = 0.0,
    seed: int = 0,
    camera: str = "front",
) -> DepthPrediction:
    rng = np.random.default_rng(seed)
    y = 1 / z.astype(np.float64) if kind is DepthKind.DISPARITY else z.astype(np.float64)
    d = (y - shift) / scale + noise * y / scale * rng.normal(size=z.shape)
    wrong = rng.random(z.shape) < outliers
    d[wrong] = rng.uniform(np.nanmin(d), np.nanmax(d), int(wrong.sum()))
    return DepthPrediction(
        camera,
        5,
        kind,
        d.astype(np.float32),
        np.ones(z.shape, np.float32),
        MODEL,
        np.zeros((*z.shape, 3), np.uint8),
    )


def median_error(depth_map: DepthMap, z: np.ndarray) -> float:
    return float(np.nanmedian(np.abs(depth_map.depth / z - 1)))


@pytest.mark.parametrize(
    ("kind", "scale", "shift"),
    [
        (DepthKind.DISPARITY, 0.37, 0.05),
        (DepthKind.DISPARITY, 12.0, -0.3),
        (DepthKind.RELATIVE_DEPTH, 2.5, 0.7),
        (DepthKind.METRIC_DEPTH, 1.3, 0.0),
    ],
)
def test_exact_prediction_gives_exact_depth(kind, scale, shift):
    z = room_depth()
    result = DepthAligner(AlignConfig()).align(predicted(z, kind, scale, shift), z, POSE)
    assert result.alignment.accepted
    assert result.alignment.scale == pytest.approx(scale, rel=1e-4)
    assert result.alignment.shift == pytest.approx(shift, abs=1e-4)
    np.testing.assert_allclose(result.depth, z, rtol=1e-3)
    assert result.map_from_camera is POSE
    assert result.stamp_ns == 5


@pytest.mark.parametrize("kind", [DepthKind.DISPARITY, DepthKind.RELATIVE_DEPTH])
@pytest.mark.parametrize("outliers", [0.0, 0.2, 0.4])
def test_noise_and_outliers_leave_the_fit_unbiased(kind, outliers):
    z = room_depth()
    result = DepthAligner(AlignConfig()).align(
        predicted(z, kind, 0.4, 0.05, noise=0.02, outliers=outliers), z, POSE
    )
    clean = predicted(z, kind, 0.4, 0.05).values
    fitted = apply_fit(clean, kind, result.alignment.scale, result.alignment.shift)
    assert float(np.median(np.abs(fitted / z - 1))) < 0.002


def test_fit_of_many_pixels_is_exact():
    rng = np.random.default_rng(3)
    y = 1 / rng.uniform(0.8, 6.0, 300_000)
    for outliers, bound in ((0.3, 2e-4), (0.5, 6e-4)):
        d = 0.8 * y * (1 + 0.02 * rng.normal(size=y.size)) + 0.1
        wrong = rng.random(y.size) < outliers
        d[wrong] = rng.uniform(d.min(), d.max(), int(wrong.sum()))
        a, b = fit_affine(y.astype(np.float32), d.astype(np.float32), 0.05, 0, True)[:2]
        assert np.mean(np.abs((a * y + b - 0.1) / (0.8 * y) - 1)) < bound


def test_fit_is_invariant_to_the_image_scale_and_follows_the_map_scale():
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.01)
    base = DepthAligner(AlignConfig()).align(prediction, z, POSE)
    scaled = dataclasses.replace(prediction, values=prediction.values * np.float32(7))
    again = DepthAligner(AlignConfig()).align(scaled, z, POSE)
    np.testing.assert_allclose(again.depth, base.depth, rtol=1e-4)
    doubled = DepthAligner(AlignConfig()).align(prediction, z * 2, POSE)
    np.testing.assert_allclose(doubled.depth, base.depth * 2, rtol=1e-4)


def test_same_input_gives_the_same_bytes():
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.02, outliers=0.3)
    one, two = (DepthAligner(AlignConfig()).align(prediction, z, POSE) for _ in range(2))
    assert one.depth.tobytes() == two.depth.tobytes()
    assert one.alignment == two.alignment


def test_negative_disparity_scale_is_rejected():
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, -0.4, 0.5)
    result = DepthAligner(AlignConfig()).align(prediction, z, POSE)
    assert not result.alignment.accepted
    assert result.alignment.reason
    assert np.isnan(result.depth).all()
    assert (result.confidence == 0).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: np.full_like(d, 0.3),
        lambda d: np.full_like(d, np.nan),
        lambda d: np.full_like(d, np.inf),
        lambda d: np.full_like(d, 0.0),
        lambda d: np.full_like(d, 1e6),
        lambda d: np.random.default_rng(0).random(d.shape).astype(np.float32),
    ],
)
def test_useless_predictions_are_rejected_with_a_reason(spoil):
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05)
    prediction = dataclasses.replace(prediction, values=spoil(prediction.values))
    result = DepthAligner(AlignConfig()).align(prediction, z, POSE)
    assert not result.alignment.accepted
    assert result.alignment.reason
    assert np.isnan(result.depth).all()


def test_too_few_pixels_and_no_reference_are_rejected():
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05)
    sparse = np.full_like(z, np.nan)
    sparse[::20, ::20] = z[::20, ::20]
    result = DepthAligner(AlignConfig()).align(prediction, sparse, POSE)
    assert not result.alignment.accepted
    assert "200 needed" in result.alignment.reason
    result = DepthAligner(AlignConfig()).align(prediction, None, POSE)
    assert not result.alignment.accepted
    assert result.alignment.reason == "no reference"


def test_bad_frame_is_held_if_the_map_confirms_the_held_fit():
    z = room_depth()
    aligner = DepthAligner(AlignConfig())
    good = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.01)
    aligner.align(good, z, POSE)
    sparse = np.full_like(z, np.nan)
    sparse[::12, ::12] = z[::12, ::12]
    held = aligner.align(good, sparse, POSE)
    assert held.alignment.accepted
    assert held.alignment.reason.startswith("held")
    assert median_error(held, z) < 0.01
    changed = predicted(z, DepthKind.DISPARITY, 0.9, 0.2, noise=0.01)
    rejected = aligner.align(changed, sparse, POSE)
    assert not rejected.alignment.accepted


def test_filter_smooths_noise_but_follows_a_jump():
    z = room_depth()
    aligner = DepthAligner(AlignConfig())
    single, filtered = [], []
    for seed in range(25):
        prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.05, seed=seed)
        single.append(DepthAligner(AlignConfig()).align(prediction, z, POSE).alignment.scale)
        filtered.append(aligner.align(prediction, z, POSE).alignment.scale)
    assert np.std(filtered[5:]) < 0.7 * np.std(single[5:])
    jumped = aligner.align(predicted(z, DepthKind.DISPARITY, 0.8, 0.0, noise=0.01), z, POSE)
    assert jumped.alignment.accepted
    assert "jump" in jumped.alignment.reason
    assert median_error(jumped, z) < 0.012


def test_cameras_do_not_share_fits():
    z = room_depth()
    aligner = DepthAligner(AlignConfig())
    aligner.align(predicted(z, DepthKind.DISPARITY, 0.4, 0.05, camera="a"), z, POSE)
    other = predicted(z, DepthKind.DISPARITY, 0.9, 0.0, camera="b")
    assert aligner.align(other, z, POSE).alignment.scale == pytest.approx(0.9, rel=1e-3)


def test_triangulated_depth_is_checked_but_never_changed():
    z = room_depth()
    aligner = DepthAligner(AlignConfig())
    prediction = predicted(z * 1.02, DepthKind.TRIANGULATED, 1.0, 0.0)
    first = aligner.align(prediction, None, POSE)
    assert first.alignment.accepted
    assert first.alignment.reason == "no reference"
    assert first.depth.tobytes() == prediction.values.tobytes()
    near = aligner.align(prediction, z, POSE)
    assert near.alignment.accepted
    assert near.alignment.residual == pytest.approx(0.02, abs=1e-3)
    moved = z.copy()
    moved[:, :50] = 1.0  # an object that the map does not know yet
    assert aligner.align(dataclasses.replace(prediction, values=moved), z, POSE).alignment.accepted
    wrong = predicted(z * 1.3, DepthKind.TRIANGULATED, 1.0, 0.0)
    rejected = aligner.align(wrong, z, POSE)
    assert not rejected.alignment.accepted
    assert "30.0%" in rejected.alignment.reason
    nothing = dataclasses.replace(prediction, values=np.full_like(z, np.nan))
    for reference in (None, z):
        blank = aligner.align(nothing, reference, POSE).alignment
        assert not blank.accepted
        assert blank.reason.startswith("no depth")


def test_edges_of_the_reference_do_not_count():
    z = room_depth()
    blurred = z.copy()
    for _ in range(2):
        blurred = (
            blurred + np.roll(blurred, 1, 1) + np.roll(blurred, -1, 1) + np.roll(blurred, 1, 0)
        ) / 4
    prediction = predicted(blurred, DepthKind.TRIANGULATED, 1.0, 0.0)
    blurred_edges = DepthAligner(AlignConfig()).align(prediction, z, POSE).alignment
    assert blurred_edges.inlier_fraction > 0.97


def test_state_survives_json():
    z = room_depth()
    aligner = DepthAligner(AlignConfig())
    aligner.align(predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.01), z, POSE)
    text = json.dumps(aligner.state())
    other = DepthAligner(AlignConfig())
    other.load_state(json.loads(text))
    assert json.dumps(other.state()) == text
    assert list(json.loads(text)["front"]) == pytest.approx([0.4, 0.05], abs=0.01)
    plain = DepthAligner(AlignConfig())
    plain.load_state({"front": [0.4, 0.05]})
    assert plain.state()["_meta"]["front"]["kind"] == "disparity"


@pytest.mark.parametrize(
    "state",
    [
        {"front": [0.0, 1.0]},
        {"front": [1.0]},
        {"front": [float("nan"), 0.0]},
        {"front": "ab"},
        {"front": [1.0, 0.0], "_meta": {"front": {"kind": "nonsense"}}},
        {"front": [1.0, 0.0], "_meta": {"front": {"covariance": [1.0]}}},
        {"front": [1.0, 0.0], "_meta": []},
        [],
    ],
)
def test_wrong_state_is_refused_and_changes_nothing(state):
    aligner = DepthAligner(AlignConfig())
    aligner.load_state({"back": [1.5, 0.1]})
    before = json.dumps(aligner.state())
    with pytest.raises(ConfigError):
        aligner.load_state(state)
    assert json.dumps(aligner.state()) == before


def test_wrong_shapes_are_errors():
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05)
    with pytest.raises(AlignmentError, match=r"expected reference of shape \(120, 160\)"):
        DepthAligner(AlignConfig()).align(prediction, z[:-1], POSE)
    bad = dataclasses.replace(prediction, values=prediction.values[:10])
    with pytest.raises(AlignmentError, match="values"):
        DepthAligner(AlignConfig()).align(bad, z, POSE)


def test_reference_from_points_keeps_the_nearest():
    z = room_depth()
    points = POSE.apply(MODEL.unproject(z).reshape(-1, 3))
    points = np.concatenate([points, POSE.apply(2 * MODEL.unproject(z).reshape(-1, 3))])
    points = np.concatenate([points, [[np.nan, 0, 0]], POSE.apply([[0.0, 0.0, -1.0]])])
    np.testing.assert_allclose(reference_from_points(points, MODEL, POSE), z, rtol=1e-5)
    assert np.isnan(reference_from_points(np.zeros((0, 3)), MODEL, POSE)).all()
    with pytest.raises(AlignmentError):
        reference_from_points(np.zeros((4, 2)), MODEL, POSE)


def test_sparse_reference_suffices():
    z = room_depth()
    rng = np.random.default_rng(1)
    points = POSE.apply(MODEL.unproject(z).reshape(-1, 3))[rng.permutation(z.size)[:600]]
    reference = reference_from_points(points, MODEL, POSE)
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.02, outliers=0.2)
    result = DepthAligner(AlignConfig()).align(prediction, reference, POSE)
    assert result.alignment.accepted
    assert result.alignment.scale == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize(
    ("model", "kind", "value", "expected"),
    [
        # depth from the value by the formula of the model
        ("scale", DepthKind.DISPARITY, lambda z: 1 / z / 0.5, (0.5, 0.0)),
        ("scale", DepthKind.RELATIVE_DEPTH, lambda z: z / 2.5, (2.5, 0.0)),
        ("scale_shift", DepthKind.DISPARITY, lambda z: 2.5 / (z - 0.3), (2.5, 0.3)),
        ("scale_shift", DepthKind.METRIC_DEPTH, lambda z: (z - 0.3) / 2.5, (2.5, 0.3)),
        ("invdepth_scale_shift", DepthKind.DISPARITY, lambda z: (1 / z - 0.05) / 0.4, (0.4, 0.05)),
        (
            "invdepth_scale_shift",
            DepthKind.METRIC_DEPTH,
            lambda z: 0.4 / (1 / z - 0.05),
            (0.4, 0.05),
        ),
    ],
)
def test_model_may_be_chosen(model, kind, value, expected):
    z = room_depth()
    prediction = dataclasses.replace(
        predicted(z, kind, 1.0, 0.0), values=value(z.astype(np.float64)).astype(np.float32)
    )
    aligner = DepthAligner(AlignConfig(model=model))
    result = aligner.align(prediction, z, POSE)
    assert result.alignment.accepted
    assert result.alignment.model == model
    assert (result.alignment.scale, result.alignment.shift) == pytest.approx(expected, abs=1e-3)
    np.testing.assert_allclose(result.depth, z, rtol=1e-3)
    assert aligner.state()["_meta"]["front"]["model"] == model


def test_fits_of_different_models_are_not_mixed():
    z = room_depth()
    prediction = predicted(z, DepthKind.METRIC_DEPTH, 1.3, 0.0)
    aligner = DepthAligner(AlignConfig(smoothing=0.01))
    meta = {"model": "scale_shift", "kind": "metric_depth", "covariance": [[0, 0], [0, 0]]}
    aligner.load_state({"front": [9.0, 0.5], "_meta": {"front": meta}})
    result = aligner.align(prediction, z, POSE)
    assert result.alignment.scale == pytest.approx(1.3, rel=1e-4)
    sparse = np.full_like(z, np.nan)
    sparse[::12, ::12] = z[::12, ::12]
    aligner.config = AlignConfig(model="scale_shift")
    assert "200 needed" in aligner.align(prediction, sparse, POSE).alignment.reason


def test_fit_of_unknown_quality_gives_way_to_a_measured_one():
    z = room_depth()
    aligner = DepthAligner(AlignConfig(smoothing=0.1))
    aligner.load_state({"front": [0.405, 0.05]})
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.02)
    found = aligner.align(prediction, z, POSE).alignment
    alone = DepthAligner(AlignConfig()).align(prediction, z, POSE).alignment
    assert found.scale == pytest.approx(alone.scale, rel=1e-3)


def test_blurred_edges_do_not_move_the_fit():
    """Everything within two pixels of an edge errs, more than half of it the same way."""
    z = room_depth()
    wide = z.copy()
    box = z < 2.2
    for dv in range(-2, 3):
        for du in range(-2, 3):
            moved = np.roll(box, (dv, du), (0, 1))
            wide[moved & ~box] = 1.7
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05)
    aligned = DepthAligner(AlignConfig()).align(prediction, wide, POSE).alignment
    assert aligned.scale == pytest.approx(0.4, rel=1e-4)
    assert aligned.inlier_fraction == 1.0


def test_fit_is_judged_by_pixels_that_took_no_part():
    z = room_depth()
    prediction = predicted(z, DepthKind.DISPARITY, 0.4, 0.05, noise=0.02)
    samples = collect(prediction, z, AlignModel.INVDEPTH_SCALE_SHIFT)
    assert len(samples.held_ds) == len(samples) // HELD_OUT
    fit, inliers = fit_samples(samples, prediction.kind, AlignConfig())
    assert fit is not None
    assert inliers > 0.97
    assert samples.residual(fit) == pytest.approx(0.6745 * 0.02, rel=0.1)


def test_file_survives_a_restart(tmp_path):
    z = room_depth()
    aligner = DepthAligner(AlignConfig())
    aligner.align(predicted(z, DepthKind.DISPARITY, 0.4, 0.05), z, POSE)
    aligner.save(tmp_path / "calibration.json")
    again = DepthAligner(AlignConfig())
    again.load(tmp_path / "calibration.json")
    assert again.known == 1
    assert again.state() == aligner.state()
    (tmp_path / "calibration.json").write_text("{}x")
    with pytest.raises(ConfigError):
        again.load(tmp_path / "calibration.json")
    assert again.state() == aligner.state()
