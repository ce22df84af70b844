"""Parameters that are changed while the mapper runs: each one has an effect, at once."""

import dataclasses
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from rclpy.parameter import Parameter

from vggt_ros.config import Config, MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.nodes.mapper_node import Mapper
from vggt_ros.nodes.node_config import MapperConfig
from vggt_ros.nodes.parameters import replace_leaves
from vggt_ros.parameters.tree import flatten
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.pipeline.mapping import MappingPipeline
from vggt_ros.pipeline.warm_up import PlaneBootstrapper, plane_frame_set, warm_up_config
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction, StampedImage

RUN_TIME = {name for name, info in flatten(MapperConfig()).items() if info.runtime}


@pytest.mark.parametrize(("kind", "accepted"), [("surfel", True), ("tsdf", False)])
def test_what_the_kind_of_map_cannot_do_is_refused_at_once(kind, accepted):
    """Accepted, it would make every later set fail."""
    config = MapperConfig(map=MapConfig(kind=kind))
    applied = []
    node = SimpleNamespace(
        _config=config,
        _resolved=config,
        _state=MapStatus.STATE_MAPPING,
        _apply=applied.append,
    )
    change = Parameter("map.min_confidence", value=0.5)
    result = Mapper._on_parameters(node, [change])
    assert result.successful is accepted
    assert bool(applied) is accepted
    assert (node._config.map.min_confidence == 0.5) is accepted
    assert accepted or "map.min_confidence: expected 0 with map.kind: tsdf" in result.reason


# --- the pipeline: a plane seen by two cameras, by stereo and by a network ---------------------

CONFIG = warm_up_config(Config())
DEPTH = 3.0
"""Of the plane, in the units of the map."""


class Network:
    """Disparity of the plane; a tenth of the pixels is wrong, the right camera sees a slope."""

    name = "network"

    def set_config(self, config):
        pass

    def prepare(self, scene):
        pass

    def estimate(self, frame_set):
        made = []
        for frame in frame_set.frames:
            model = frame.model
            shape = (model.height, model.width)
            values = np.full(shape, 1 / DEPTH, np.float32)
            values[: shape[0] // 10] *= 2.0
            if frame.camera == "right":
                values *= np.linspace(0.94, 1.06, shape[1], dtype=np.float32)
            sure = np.ones(shape, np.float32)
            made.append(
                DepthPrediction(
                    frame.camera, 0, DepthKind.DISPARITY, values, sure, model, frame.rgb
                )
            )
        return made


def changed_pipeline(changes, network=False):
    """The third set after a change, and the pipeline."""
    # a plane seen from straight ahead does not tell a scale from a shift
    config = replace_leaves(CONFIG, {"align.model": "scale"}) if network else CONFIG
    pipeline = MappingPipeline(
        config,
        bootstrapper=PlaneBootstrapper(dense=network),
        depth_estimator=Network() if network else None,
    )
    results = [pipeline.step(plane_frame_set()) for _ in range(2)]
    pipeline.set_config(replace_leaves(config, changes))
    results.append(pipeline.step(plane_frame_set()))
    return pipeline, results


def valid(result):
    return sum(int(np.isfinite(d.depth).sum()) for d in result.depth_maps)


def accepted(result):
    return [d.alignment.accepted and not d.alignment.reason for d in result.depth_maps]


def fewer_pixels(name, value):
    _, (_, before, after) = changed_pipeline({name: value})
    return valid(after) < 0.9 * valid(before)


def nothing_fused(name, value):
    _, (_, before, after) = changed_pipeline({name: value})
    return before.fused.updated and not after.fused.updated and not after.fused.added


def refused(name, value, network=True):
    _, (_, before, after) = changed_pipeline({name: value}, network)
    return all(accepted(before)) and not all(accepted(after))


def empty_cloud(name, value):
    pipeline, _ = changed_pipeline({})
    before = len(pipeline.cloud())
    pipeline.set_config(replace_leaves(CONFIG, {name: value}))
    return before > 1000 and not len(pipeline.cloud())


def far_depth(depth):
    """A wall behind the plane of the map."""
    model = CameraModel(96, 64, 80.0, 80.0, 47.5, 31.5)
    pixels = np.full((64, 96), depth, np.float32)
    fit = DepthAlignment("left", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 500, True)
    return DepthMap(
        "left",
        0,
        pixels,
        np.ones_like(pixels),
        np.zeros((64, 96, 3), np.uint8),
        model,
        Rigid3.identity(),
        fit,
    )


def carving(name, value):
    """What later depth sees through stays."""
    found = []
    for changes in ({}, {name: value}):
        pipeline, _ = changed_pipeline({})
        pipeline.set_config(replace_leaves(CONFIG, changes))
        pose = pipeline.scene.map_from_camera["left"]
        wall = dataclasses.replace(far_depth(2 * DEPTH), map_from_camera=pose)
        found.append(sum(pipeline.map.fuse([wall]).carved for _ in range(5)))
    return found[0] > 100 and not found[1]


PIPELINE = {
    "plane_sweep.max_outlier_chance": lambda name: fewer_pixels(name, 0.0),
    "plane_sweep.min_confidence": lambda name: fewer_pixels(name, 1.0),
    "plane_sweep.map_confidence": lambda name: nothing_fused(name, 1.0),
    "align.min_inlier_fraction": lambda name: refused(name, 1.0),
    "align.max_residual": lambda name: refused(name, 0.0),
    "align.max_disagreement": lambda name: refused(name, 1e-4),
    "map.max_depth_m": lambda name: nothing_fused(name, 1.0),
    "map.carve": lambda name: carving(name, False),
    "map.min_hits": lambda name: empty_cloud(name, 100),
    "map.min_confidence": lambda name: empty_cloud(name, 1e6),
}


@pytest.mark.parametrize("name", PIPELINE)
def test_the_pipeline_obeys(name):
    assert PIPELINE[name](name)


# --- ingest ------------------------------------------------------------------------------------


def sets_of(changes, stamps_ms):
    ingest = Ingest(["left", "right"], {}, Config().ingest)
    ingest.set_config(replace_leaves(Config(), changes).ingest)
    sizes = []
    for name, stamp_ms in stamps_ms:
        ingest.put(StampedImage(name, stamp_ms * 10**6, np.zeros((4, 4, 3), np.uint8), "rgb8"))
        while (chosen := ingest.take()) is not None:
            sizes.append(len(chosen.images))
    return sizes


SKEWED = [("left", 0), ("right", 30), ("left", 100), ("right", 130)]
ALONE = [("left", 100 * k) for k in range(20)]

INGEST = {
    "ingest.max_skew_ms": lambda n: (
        (sets_of({}, SKEWED), sets_of({n: 50.0}, SKEWED)) == ([], [2, 2])
    ),
    "ingest.min_cameras": lambda n: (sets_of({}, SKEWED), sets_of({n: 1}, ALONE)[:1]) == ([], [1]),
    "ingest.silent_after_s": lambda n: (
        (sets_of({}, ALONE), sets_of({n: 0.5}, ALONE)[:1]) == ([], [1])
    ),
}


@pytest.mark.parametrize("name", INGEST)
def test_the_ingest_obeys(name):
    assert INGEST[name](name)


# --- the node ----------------------------------------------------------------------------------


@pytest.fixture
def node(build, stub):
    spec = importlib.util.spec_from_file_location("stub_pipeline", stub)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = build(Mapper, {"cameras": "[left]"}, pipeline_factory=module.StubPipeline)
    made.trigger_configure()
    made.trigger_activate()
    return made


def map_request(node):
    """With what the node asks the pipeline for the cloud of `~/map`."""
    asked = []
    pipeline = SimpleNamespace(cloud=lambda *args: asked.append(args))
    worker = SimpleNamespace(pipeline=pipeline, health=SimpleNamespace(stamp_ns=0))
    node._outputs._copy_map(worker)
    return asked[0]


def period_s(timer):
    return timer.timer_period_ns / 1e9


NODE = {
    "publish.map_rate_hz": (7.0, lambda n: period_s(n._map_timer), 1 / 7),
    "publish.status_rate_hz": (
        9.0,
        lambda n: period_s(n._reports.status_timer),
        1 / 9,
    ),
    "publish.map_voxel_m": (0.25, lambda n: map_request(n)[0], 0.25),
    "publish.map_max_points": (1234, lambda n: map_request(n)[1], 1234),
    "publish.points": (False, lambda n: n._outputs.config.publish.points, False),
    "publish.depth": (False, lambda n: n._outputs.config.publish.depth, False),
    "max_internal_errors": (17, lambda n: n._worker.max_internal_errors, 17),
    "after_error": ("exit", lambda n: n._config.after_error, "exit"),
    **{
        name: (0.5, lambda n, key=name: getattr(n._resolved.diagnostics, key.split(".")[1]), 0.5)
        for name in RUN_TIME
        if name.startswith("diagnostics.") and name != "diagnostics.max_step_s"
    },
    "diagnostics.max_step_s": (9.0, lambda n: n._resolved.diagnostics.max_step_s, 9.0),
}


def test_the_node_obeys(node):
    for name, (value, found, expected) in NODE.items():
        assert found(node) != pytest.approx(expected), name
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, (name, result.reason)
        assert found(node) == pytest.approx(expected), name


OTHERS = {
    name
    for name in RUN_TIME
    if name.startswith(("crop.", "self_filter.", "occupancy.", "publish.update_"))
    or name == "publish.depth_unscaled"
}
"""What they do is tested beside the outputs and the map; here, that they get there."""


def test_changes_reach_outputs_and_pipeline(node):
    for name in sorted(OTHERS):
        info = flatten(MapperConfig())[name]
        value = info.choices[1] if info.choices else None
        if value is None:
            value = (
                not info.default if info.type == "bool" else info.default + type(info.default)(1)
            )
        if info.type == "float" and info.high is not None:
            value = min(value, 0.5 * (info.default + info.high))
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, (name, result.reason)
        node._worker.call(lambda: None, 5.0)
        for owner in (node._outputs, node._worker.pipeline):
            assert flatten(owner.config)[name].default == value, name


def test_changes_reach_ingest_and_pipeline(node):
    changes = {"ingest.max_skew_ms": 3.0, "map.min_hits": 5}
    for name, value in changes.items():
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
    node._worker.call(lambda: None, 5.0)
    assert node._worker._ingest._skew_ns == 3_000_000
    assert node._worker.pipeline.config.map.min_hits == 5
    (result,) = node.set_parameters([Parameter("ingest.min_cameras", value=2)])
    assert not result.successful
    assert "expected at most the 1 cameras, got 2" in result.reason


def test_every_parameter_that_may_change_is_in_one_of_the_tables():
    assert set(PIPELINE) | set(INGEST) | set(NODE) | OTHERS == RUN_TIME
