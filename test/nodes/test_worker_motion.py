"""The mapping thread of a rig that moves: sets wait for their place, the thread does not."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest

from vggt_ros.config import Config, FrameConfig, IngestConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3
from vggt_ros.nodes.motion import PlacesTold, RigInTf
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.types import StampedImage

S = 10**9
CONFIG = Config(cameras=["c"], motion="tf", frame=FrameConfig(odom="odom", tf_wait_ms=200.0))
REASON = "no transform odom -> rig at the stamp"


def shift(x):
    return Rigid3(np.eye(3), [x, 0.0, 0.0])


class Tf:
    """The place is the stamp [s] along x, up to `until_ns`."""

    until_ns = 0
    forgotten = 0
    now_ns = 0

    def lookup(self, target, source, stamp_ns):
        assert (target, source) == ("odom", "rig")
        return shift(stamp_ns / S) if stamp_ns <= self.until_ns else "TF has stopped"

    def forget(self):
        self.forgotten += 1


@pytest.fixture
def tf():
    return Tf()


@pytest.fixture
def run(tf):
    """A worker whose pipeline is the stub's, and what it told."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(
        "stub_pipeline", Path(__file__).with_name("stub_pipeline.py")
    )
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    rig = SimpleNamespace(cameras=(), rig_frame="rig", poses={})
    calibrated = SimpleNamespace(rig=rig, key=0, missing=())
    calibration = SimpleNamespace(resolve=lambda _: calibrated, errors={})
    told = []
    worker = MappingWorker(
        stub.StubPipeline(CONFIG),
        Ingest(["c"], {}, IngestConfig()),
        calibration,
        lambda scene, calibrated, stamp_ns: None,
        lambda result, is_metric, motion: told.append((result.stamp_ns, motion)),
        lambda: told.append("cleared"),
        tf=RigInTf(tf.lookup, tf.forget, lambda: tf.now_ns),
    )
    worker.start()
    yield worker, told
    assert worker.stop(5.0)


def image(stamp_s):
    return StampedImage("c", int(stamp_s * S), np.zeros((48, 64, 3), np.uint8), "rgb8")


def wait(condition, timeout_s=10.0):
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_sets_wait_while_everything_else_goes_on(run, tf):
    worker, told = run
    worker.offer(image(1.0))
    for _ in range(20):  # services answer meanwhile
        assert worker.call(lambda: 7, 5.0) == 7
    assert told == []
    assert worker.health.dropped == {}
    tf.until_ns = 1 * S
    wait(lambda: told)
    assert told[0][0] == 1 * S
    ((stamp_ns, place),) = told[0][1].places
    assert stamp_ns == 1 * S
    np.testing.assert_allclose(place.translation, [1.0, 1.0, 0.0])  # the stub's map lies aside
    wait(lambda: worker.health.map_from_rig is not None)
    np.testing.assert_allclose(worker.health.map_from_world.translation, [0, 1, 0])


def test_a_missing_transform_is_counted_named_and_gone_when_tf_returns(run, tf):
    worker, told = run
    worker.offer(image(1.0))
    worker.offer(image(1.1))
    wait(lambda: len(worker._waiting) == 2)
    tf.now_ns = int(0.1 * S)
    worker.offer(image(1.2))
    wait(lambda: len(worker._waiting) == 3)
    tf.now_ns = int(0.25 * S)
    wait(lambda: worker.health.dropped == {REASON: 2})
    assert worker.health.place_fault == f"{REASON}: TF has stopped"
    assert worker.health.detail == worker.health.place_fault
    assert worker.health.unplaced_s > 0
    assert told == []
    tf.until_ns = 9 * S
    worker.offer(image(2.0))
    wait(lambda: any(t != "cleared" and t[0] == 2 * S for t in told))
    wait(lambda: worker.health.place_fault == "")
    assert worker.health.detail == ""
    assert worker.health.unplaced_s == 0.0


def test_stamps_that_jump_back_forget_the_transforms(run, tf):
    worker, told = run
    tf.until_ns = 100 * S
    worker.offer(image(50.0))
    wait(lambda: told)
    worker.offer(image(1.0))
    wait(lambda: len(told) >= 3)
    assert told[1] == "cleared"
    assert tf.forgotten == 1
    assert told[2][0] == 1 * S


def test_keyframes_are_told_when_they_are_found_and_once():
    path = [(1, shift(1.0)), (3, shift(3.0))]
    pipeline = SimpleNamespace(path=lambda: path, map_from_world=None)
    places = PlacesTold()

    def told(stamp_ns, found, map_from_rig=None):
        result = SimpleNamespace(
            stamp_ns=stamp_ns, depth_maps=found, bootstrapped=False, map_from_rig=map_from_rig
        )
        return [s for s, _ in places.update(pipeline, result).places]

    assert told(4, (), shift(4.0)) == [4]  # no window was solved
    assert told(5, ("depth",), shift(5.0)) == [1, 3, 5]
    assert places.map_from_rig.translation[0] == 5.0
    path.append((2, shift(2.0)))
    assert told(6, ("depth",), shift(6.0)) == [2, 6]
    assert told(7, ("depth",)) == []
    assert places.map_from_rig.translation[0] == 6.0


@pytest.mark.parametrize("reason", ["paused", "inactive", "reset"])
def test_a_fault_of_tf_ends_where_sets_are_forgotten(run, tf, reason):
    worker, _ = run
    worker.offer(image(1.0))
    wait(lambda: len(worker._waiting) == 1)
    tf.now_ns = S
    wait(lambda: worker.health.place_fault)
    worker.offer(image(2.0))
    wait(lambda: len(worker._waiting) == 1)
    begun = time.monotonic()
    if reason == "paused":
        assert worker.pause(True) == 1
    else:
        {"inactive": worker.flush, "reset": worker.reset}[reason]()
    wait(lambda: worker.health.place_fault == "" and worker.health.detail == "")
    assert worker.health.dropped[reason] == 1
    assert worker._placed_at_s >= begun


def test_images_of_before_are_not_kept_for_checks(run, tf):
    worker, told = run
    tf.until_ns = 9 * S
    worker.offer(image(1.0))
    wait(lambda: told and worker.latest_sets)
    worker.flush()
    wait(lambda: not worker.latest_sets)


def test_places_told_do_not_pile_up():
    pipeline = SimpleNamespace(path=lambda: [(1, shift(1.0))], map_from_world=None)
    places = PlacesTold()
    for stamp_ns in range(2, 5000):
        result = SimpleNamespace(
            stamp_ns=stamp_ns,
            depth_maps=(),
            bootstrapped=stamp_ns == 2,
            map_from_rig=shift(0.1),
        )
        assert (stamp_ns in dict(places.update(pipeline, result).places)) is True
    assert len(places._told) + len(places._told_between) < 1100


def test_keyframes_that_wait_are_mapped_at_the_end(run, tf, caplog):
    worker, told = run
    pipeline = worker.pipeline
    pipeline.finish = lambda: pytest.fail("there is no map yet")
    worker.finish(5.0)
    tf.until_ns = 9 * S
    worker.offer(image(1.0))
    wait(lambda: told)
    template = SimpleNamespace(camera="c", stamp_ns=3 * S, alignment=None)
    result = dataclasses.make_dataclass(
        "Result", ["stamp_ns", "depth_maps", "bootstrapped", "map_from_rig"]
    )
    pipeline.finish = lambda: result(0, (template,), False, None)
    worker.finish(5.0)
    assert told[-1][0] == 3 * S
    assert worker.health.stamp_ns == 3 * S

    def fail():
        raise AlignmentError("too few")

    pipeline.finish = fail
    worker.finish(5.0)
    assert "the newest keyframes are not mapped: too few" in caplog.text


def test_memory_is_that_of_the_whole_pipeline(run, monkeypatch):
    worker, _ = run
    monkeypatch.setattr(type(worker.pipeline), "memory_bytes", 123, raising=False)
    worker.call(worker._report, 5.0)
    assert worker.health.memory_bytes == 123
