"""The pipeline on the tiny plane that it warms up with: every number is known."""

import dataclasses

import numpy as np
import pytest

from vggt_ros.config import Config, ScaleConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.pipeline.mapping import MappingPipeline, PipelineState
from vggt_ros.pipeline.warm_up import PlaneBootstrapper, plane_frame_set, warm_up_config

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
