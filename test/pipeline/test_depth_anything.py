"""The depth_anything estimator, and the whole pipeline on networks that know the truth."""

import dataclasses
import math

import numpy as np
import pytest

from vggt_ros.config import (
    AlignConfig,
    Config,
    DepthAnythingConfig,
    MapConfig,
    ScaleConfig,
    VggtConfig,
)
from vggt_ros.errors import AlignmentError, CalibrationError, ConfigError, EngineError
from vggt_ros.pipeline.depth import make_depth_estimator
from vggt_ros.pipeline.depth_anything import DepthAnything
from vggt_ros.pipeline.mapping import MappingPipeline, PipelineState
from vggt_ros.pipeline.stages import EngineUser
from vggt_ros.types import DepthKind

CONFIG = Config(
    cameras=["left", "middle", "right"],
    bootstrap="vggt",
    depth="depth_anything",
    vggt=VggtConfig(engine="vggt", image_px=168),
    depth_anything=DepthAnythingConfig(engine="depth", image_px=126),
    map=MapConfig(min_hits=1),
)
SCALE, SHIFT = 0.8, 0.05
"""1/z = SCALE * d + SHIFT [1/m]."""


@pytest.fixture
def depth_fixture(box_scene, fake_engine):
    """An engine of Depth Anything that knows the disparity of the three images."""
    from vggt_ros.synthetic.answers import disparity_answer

    def make(kind="disparity", batch=3):
        d = disparity_answer(box_scene.world, box_scene.models, box_scene.poses, 126, SCALE, SHIFT)
        if kind == "metric_depth":
            d = 0.7 / (SCALE * d + SHIFT)
        return fake_engine(
            "depth_anything", (batch, 3, *d.shape[1:]), {"depth": d}, kind, "imagenet"
        )

    return make


class Aligned:
    """As much of an aligned scene as the estimator looks at."""

    map_from_camera = dict.fromkeys(("left", "middle", "right"))


def test_predictions_carry_the_kind_of_the_passport(box_scene, depth_fixture, use_engine):
    engine = depth_fixture()
    use_engine(depth=engine)
    estimator = make_depth_estimator(CONFIG)
    assert isinstance(estimator, DepthAnything)
    assert isinstance(estimator, EngineUser)
    assert estimator.kind is None
    estimator.open()
    assert estimator.kind is DepthKind.DISPARITY
    assert len(engine.backend.calls) == 1  # the warm-up
    estimator.prepare(Aligned)
    predictions = estimator.estimate(box_scene.frame_set(5))
    assert [p.camera for p in predictions] == ["left", "middle", "right"]
    for prediction, model in zip(predictions, box_scene.models, strict=True):
        assert prediction.kind is DepthKind.DISPARITY
        assert prediction.stamp_ns == 5
        assert prediction.model == model  # narrower than depth_anything.width
        assert prediction.values.shape == prediction.confidence.shape == (126, 168)
        assert prediction.rgb.shape == (126, 168, 3)
    sent = engine.backend.calls[-1]["images"]
    assert sent.min() < -1.0  # less the mean, over the deviation
    assert estimator.engine.file == "fake.onnx"
    estimator.close()
    assert engine.backend.closed


def test_predictions_are_as_wide_as_is_asked(box_scene, depth_fixture, use_engine):
    use_engine(depth=depth_fixture())
    estimator = DepthAnything(DepthAnythingConfig(engine="depth", image_px=126, width=84), 3)
    estimator.prepare(Aligned)
    for prediction in estimator.estimate(box_scene.frame_set()):
        assert prediction.model == box_scene.models[0].resized(84, 63)
        assert prediction.values.shape == (63, 84)
        assert prediction.rgb.shape == (63, 84, 3)


def test_unregistered_cameras_are_left_out(box_scene, depth_fixture, use_engine):
    use_engine(depth=depth_fixture(batch=None))
    estimator = make_depth_estimator(CONFIG)
    estimator.prepare(dataclasses.make_dataclass("S", ["map_from_camera"])({}))
    assert estimator.estimate(box_scene.frame_set()) == []


def test_frames_without_a_model_are_an_error(box_scene, depth_fixture, use_engine):
    use_engine(depth=depth_fixture())
    estimator = make_depth_estimator(CONFIG)
    estimator.prepare(Aligned)
    with pytest.raises(CalibrationError, match="undistorted frame with its model from left"):
        estimator.estimate(box_scene.frame_set(models=False))


def test_wrong_engines_and_parameters(fake_engine, use_engine):
    use_engine(
        vggt=fake_engine("vggt", (1, 3, 56, 56), {}),
        stereo=fake_engine(
            "depth_anything",
            (1, 3, 56, 56),
            {"depth": np.zeros((1, 56, 56), np.float32)},
            "triangulated",
        ),
    )
    with pytest.raises(EngineError, match="expected an engine of depth_anything, got one of vggt"):
        DepthAnything(DepthAnythingConfig(engine="vggt")).open()
    with pytest.raises(EngineError, match="triangulated is for stereo"):
        DepthAnything(DepthAnythingConfig(engine="stereo")).open()
    with pytest.raises(ConfigError, match=r"depth_anything\.engine: expected the path"):
        DepthAnything(DepthAnythingConfig()).open()
    with pytest.raises(ConfigError, match="multiple of 14, got 500; 504 is the nearest"):
        DepthAnything(DepthAnythingConfig(image_px=500))


# --- the whole pipeline ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["disparity", "metric_depth"])
def test_poses_and_depth_of_the_truth_become_a_metric_map(
    box_scene, vggt_fixture, depth_fixture, use_engine, kind
):
    use_engine(vggt=vggt_fixture(), depth=depth_fixture(kind))
    pipeline = MappingPipeline(CONFIG, box_scene.rig)
    pipeline.open_engines()
    assert set(pipeline.engines) == {"bootstrap", "depth"}
    pipeline.set_rig(box_scene.rig)  # as a node does when it learns the rig: the engine stays
    assert set(pipeline.engines) == {"bootstrap", "depth"}
    result = pipeline.step(box_scene.frame_set(0))
    assert result.bootstrapped
    scene = pipeline.scene
    assert scene.scale.value == pytest.approx(0.37, rel=1e-4)
    assert scene.scale.is_metric
    for name, truth in box_scene.rig.poses.items():
        found = truth.inverse() @ scene.map_from_camera[name]
        assert np.linalg.norm(found.translation) < 1e-4
        assert found.angle_rad < 1e-4
    for depth_map in result.depth_maps:
        assert depth_map.alignment.accepted, depth_map.alignment
        assert depth_map.alignment.kind is DepthKind(kind)
        truth = box_scene.depth(depth_map.camera, depth_map.model)
        errors = np.abs(depth_map.depth / truth - 1)
        assert np.nanmedian(errors) < 0.01
        assert np.nanpercentile(errors, 90) < 0.02
        if kind == "disparity":
            assert depth_map.alignment.scale == pytest.approx(SCALE, rel=0.03)
            assert depth_map.alignment.shift == pytest.approx(SHIFT, abs=0.01)
        else:
            assert depth_map.alignment.scale == pytest.approx(1 / 0.7, rel=0.01)
    assert pipeline.step(box_scene.frame_set(10**8)).fused.updated > 1000
    report = pipeline.report()
    assert report["engines"]["bootstrap"]["backend"] == "fake"
    assert report["engines"]["depth"]["precision"] == "fp32"
    assert report["bootstrapper"] == "vggt"
    pipeline.close()
    assert pipeline.report() == report


def test_a_dense_bootstrap_seeds_the_map(box_scene, vggt_fixture, depth_fixture, use_engine):
    """Without it Depth Anything would have nothing to be fitted to."""
    use_engine(vggt=vggt_fixture(), depth=depth_fixture())
    pipeline = MappingPipeline(CONFIG, box_scene.rig)
    pipeline.config = dataclasses.replace(CONFIG, align=AlignConfig())
    pipeline._bootstrap(box_scene.frame_set(0))
    assert pipeline.map.size > 5000
    for name in box_scene.rig.names:
        model = box_scene.rig.models[name]
        rendered = pipeline.map.render(model, pipeline.scene.map_from_camera[name]).depth
        truth = box_scene.depth(name, model)
        assert np.isfinite(rendered).mean() > 0.7
        assert np.nanmedian(np.abs(rendered / truth - 1)) < 0.005
    assert np.isfinite(pipeline.cloud().colours).all()


def test_without_a_rig_the_map_says_that_it_is_unscaled(
    box_scene, vggt_fixture, depth_fixture, use_engine
):
    use_engine(vggt=vggt_fixture(), depth=depth_fixture())
    pipeline = MappingPipeline(dataclasses.replace(CONFIG, scale=ScaleConfig()), None)
    pipeline.step(box_scene.frame_set(0))
    assert not pipeline.scene.scale.is_metric
    assert pipeline.report()["unit"] == "unscaled"
    assert math.isinf(pipeline.scene.scale.sigma)


def test_a_network_that_knows_nothing_gives_no_map(
    box_scene, vggt_fixture, depth_fixture, use_engine
):
    right = vggt_fixture().backend.answer
    poses = np.repeat(right["pose_enc"][:, :1], 3, axis=1)
    use_engine(
        vggt=vggt_fixture(pose_enc=poses, depth=np.full_like(right["depth"], 2.0)),
        depth=depth_fixture(),
    )
    pipeline = MappingPipeline(CONFIG, box_scene.rig)
    with pytest.raises(AlignmentError, match="views that overlap"):
        pipeline.step(box_scene.frame_set(0))
    assert pipeline.state is PipelineState.FAILED
    assert "views that overlap" in pipeline.failure
    assert pipeline.map.size == 0


def test_an_engine_that_fails_is_a_failed_bootstrap(
    box_scene, vggt_fixture, depth_fixture, use_engine
):
    engine = vggt_fixture()
    use_engine(vggt=engine, depth=depth_fixture())
    pipeline = MappingPipeline(CONFIG, box_scene.rig)
    engine.backend.error = EngineError("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        pipeline.step(box_scene.frame_set(0))
    assert pipeline.state is PipelineState.FAILED
    pipeline.step(box_scene.frame_set(1))  # not tried at once
    engine.backend.error = None
    assert pipeline.step(box_scene.frame_set(3 * 10**9)).bootstrapped


def test_prepare_closes_what_it_opened_when_it_fails(vggt_fixture, use_engine):
    engine = vggt_fixture()
    use_engine(vggt=engine)
    config = dataclasses.replace(CONFIG, depth_anything=DepthAnythingConfig())
    with pytest.raises(ConfigError, match=r"depth_anything\.engine"):
        MappingPipeline(config).prepare()
    assert engine.backend.closed == 1


def test_prepare_runs_every_kernel_without_the_networks(vggt_fixture, depth_fixture, use_engine):
    vggt, depth = vggt_fixture(), depth_fixture()
    use_engine(vggt=vggt, depth=depth)
    pipeline = MappingPipeline(CONFIG)
    pipeline.prepare()
    assert len(vggt.backend.calls) == len(depth.backend.calls) == 1
    assert pipeline.map.size == 0
