"""The pipeline on the tiny plane that it warms up with: every number is known."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from vggt_ros.config import AlignConfig, Config, PlaneSweepConfig, ScaleConfig
from vggt_ros.errors import AlignmentError, ConfigError, EngineError
from vggt_ros.mapping.interface import FuseStatistics
from vggt_ros.pipeline.mapping import MappingPipeline, PipelineState
from vggt_ros.pipeline.warm_up import PlaneBootstrapper, plane_frame_set, warm_up_config
from vggt_ros.types import DepthKind, DepthPrediction

CONFIG = warm_up_config(Config())


class FailingBootstrapper:
    name = "failing"
    sets_needed = 1

    def __init__(self) -> None:
        self.calls = 0

    def bootstrap(self, frame_sets):
        self.calls += 1
        raise AlignmentError("nothing overlaps")


def stamped(stamp_ns: int):

    frame_set = plane_frame_set()
    frames = tuple(dataclasses.replace(f, stamp_ns=stamp_ns) for f in frame_set.frames)
    return dataclasses.replace(frame_set, stamp_ns=stamp_ns, frames=frames)


def test_a_plane_is_mapped_where_it_is():
    pipeline = MappingPipeline(CONFIG, bootstrapper=PlaneBootstrapper())
    first, second = pipeline.step(stamped(0)), pipeline.step(stamped(10**8))
    assert first.bootstrapped
    assert not second.bootstrapped
    scale = 3.0 / 2.0  # unscaled scenes are brought to a median depth of 3 units
    for depth_map in second.depth_maps:
        assert np.nanmedian(depth_map.depth) == pytest.approx(2.0 * scale, rel=1e-3)
        assert depth_map.alignment.accepted
    report = pipeline.report()
    assert report["unit"] == "unscaled"
    assert report["scale"] == {"value": None, "sigma": None, "source": "none"}
    assert report["sets"] == {"received": 2, "used": 2, "dropped": {}}
    assert report["map"]["bounds_m"] is None
    assert report["map"]["points"] == len(pipeline.cloud()) > 1000
    assert not pipeline.cloud().is_metric


def test_fusing_the_same_set_again_adds_next_to_nothing():
    pipeline = MappingPipeline(CONFIG, bootstrapper=PlaneBootstrapper())
    pipeline.step(stamped(0))
    size = pipeline.map.size
    for k in range(1, 4):
        pipeline.step(stamped(k * 10**8))
    assert pipeline.map.size <= 1.01 * size


def test_a_failed_bootstrap_is_not_tried_again_at_once():
    bootstrapper = FailingBootstrapper()
    pipeline = MappingPipeline(CONFIG, bootstrapper=bootstrapper)
    with pytest.raises(AlignmentError, match="nothing overlaps"):
        pipeline.step(stamped(0))
    assert pipeline.state is PipelineState.FAILED
    assert pipeline.failure == "nothing overlaps"
    pipeline.step(stamped(10**9))  # within sfm.retry_period_s
    assert bootstrapper.calls == 1
    with pytest.raises(AlignmentError):
        pipeline.step(stamped(3 * 10**9))
    assert bootstrapper.calls == 2
    assert pipeline.report()["cameras"] == {}


class NoEngine:
    """An estimator whose engine cannot be used."""

    name = "no engine"

    def prepare(self, scene):
        raise EngineError("the engine is gone")


class FullMap:
    """A map that has no room for what the bootstrap saw."""

    size = 0

    def fuse(self, depth_maps, bootstrap=False):
        raise ConfigError("map.budget_mb: raise it")


@pytest.mark.parametrize(
    ("stages", "error"),
    [({"depth_estimator": NoEngine()}, EngineError), ({"map_": FullMap()}, ConfigError)],
)
def test_what_fails_after_the_poses_is_a_failed_bootstrap(stages, error):
    pipeline = MappingPipeline(CONFIG, bootstrapper=PlaneBootstrapper(dense=True), **stages)
    with pytest.raises(error) as raised:
        pipeline.step(stamped(0))
    assert pipeline.scene is None
    assert pipeline.state is PipelineState.FAILED
    assert pipeline.failure == str(raised.value)
    pipeline.step(stamped(10**9))  # within sfm.retry_period_s: not tried
    assert pipeline.dropped == {
        "bootstrap failed": 1,
        "waiting to try the bootstrap again": 1,
    }


def test_a_map_that_must_be_metric_is_refused_without_scale():

    config = dataclasses.replace(CONFIG, scale=ScaleConfig(source="none", require_metric=True))
    pipeline = MappingPipeline(config, bootstrapper=PlaneBootstrapper())
    with pytest.raises(AlignmentError, match="require_metric"):
        pipeline.step(stamped(0))
    assert pipeline.scene is None
    assert pipeline.map.size == 0


def test_reset_forgets_scene_and_map():
    pipeline = MappingPipeline(CONFIG, bootstrapper=PlaneBootstrapper())
    pipeline.step(stamped(0))
    pipeline.reset()
    assert pipeline.scene is None
    assert pipeline.map.size == 0
    assert pipeline.state is PipelineState.COLLECTING
    assert pipeline.step(stamped(10**8)).bootstrapped


class HalfSure:
    """Exact depth of the plane [map units]; the left half is right with a chance of 0.4."""

    name = "half sure"

    def __init__(self, kind) -> None:
        self.kind = kind

    def set_config(self, config):
        pass

    def prepare(self, scene):
        pass

    def estimate(self, frame_set):
        predictions = []
        for frame in frame_set.frames:
            depth = np.full(frame.rgb.shape[:2], 3.0, np.float32)
            confidence = np.where(np.arange(depth.shape[1]) < depth.shape[1] // 2, 0.4, 0.9)
            predictions.append(
                DepthPrediction(
                    frame.camera, frame.stamp_ns, self.kind, depth,
                    np.broadcast_to(confidence, depth.shape).astype(np.float32), frame.model,
                    frame.rgb,
                )
            )  # fmt: skip
        return predictions


def test_only_sure_stereo_goes_into_the_map():
    sizes = {}
    for least in (0.0, 0.5):
        config = dataclasses.replace(CONFIG, plane_sweep=PlaneSweepConfig(map_confidence=least))
        estimator = HalfSure(DepthKind.TRIANGULATED)
        pipeline = MappingPipeline(config, None, PlaneBootstrapper(), estimator)
        result = pipeline.step(stamped(0))
        for depth_map in result.depth_maps:  # all of it is published
            assert np.isfinite(depth_map.depth).all()
        sizes[least] = len(pipeline.map.cloud().points)
    assert sizes[0.5] < 0.7 * sizes[0.0]


def test_calibration_file_is_read_and_written(tmp_path):
    path = tmp_path / "calibration.json"
    config = dataclasses.replace(CONFIG, align=AlignConfig(calibration_file=str(path)))
    pipeline = MappingPipeline(config, None, PlaneBootstrapper(), HalfSure(DepthKind.METRIC_DEPTH))
    pipeline.load_calibration()  # there is none yet
    pipeline.save_calibration()  # nothing was fitted yet
    assert not path.exists()
    pipeline.map = Wall()
    pipeline.step(stamped(0))
    pipeline.save_calibration()
    again = MappingPipeline(config, bootstrapper=PlaneBootstrapper())
    again.load_calibration()
    assert again.aligner.state() == pipeline.aligner.state()
    assert again.aligner.state()["left"] == pytest.approx([2.0, 0.0], abs=1e-6)
    path.write_text("[")
    with pytest.raises(ConfigError, match=r"calibration\.json"):
        MappingPipeline(config, bootstrapper=PlaneBootstrapper()).load_calibration()


class ElsewhereMap:
    """A map of what the camera does not see."""

    size = 1

    def render(self, model, map_from_camera):
        return SimpleNamespace(depth=np.full((model.height, model.width), np.nan, np.float32))

    def fuse(self, depth_maps, bootstrap=False):
        return FuseStatistics()


def test_a_camera_that_the_map_does_not_show_is_fitted_to_the_points():
    """One that was silent in the first set would else be refused for ever."""
    config = dataclasses.replace(CONFIG, align=AlignConfig(min_pixels=50))
    for kind, reason in ((DepthKind.METRIC_DEPTH, ""), (DepthKind.TRIANGULATED, "not checked")):
        pipeline = MappingPipeline(
            config,
            bootstrapper=PlaneBootstrapper(),
            depth_estimator=HalfSure(kind),
            map_=ElsewhereMap(),
        )
        for depth_map in pipeline.step(stamped(0)).depth_maps:
            assert depth_map.alignment.accepted
            assert depth_map.alignment.reason.startswith(reason)
            assert np.nanmedian(depth_map.depth) == pytest.approx(3.0, rel=1e-3)


class Wall:
    """A map of one surface, twice as far as the estimator says."""

    size = 1

    def render(self, model, map_from_camera):
        depth = np.full((model.height, model.width), 6.0, np.float32)
        return SimpleNamespace(depth=depth)

    def fuse(self, depth_maps, bootstrap=False):
        return FuseStatistics()
