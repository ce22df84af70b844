"""The mapping thread on scripted sets: what a fault leaves behind."""

import logging
import threading
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from vggt_ros.errors import AlignmentError, ConfigError, EngineError, VggtRosError
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.types import ScaleEstimate, ScaleSource

SCENE = SimpleNamespace(
    scale=ScaleEstimate(1.0, 0.1, ScaleSource.RIG),
    bootstrapper="sfm",
    cameras={},
    map_from_camera={},
    map_from_rig=None,
)


class Chosen:
    """A set without images."""

    images, clock_resets = (), 0

    def __init__(self, number):
        self.number = number


class Ingest:
    """Hands out the numbers 0, 1, ... as sets."""

    clock_resets, sets, skews_ms, set_back = 0, 0, {}, ()

    def __init__(self, count):
        self.waiting = list(range(count))
        self.counts, self.camera_counts = Counter(), {}

    def take(self):
        return Chosen(self.waiting.pop(0)) if self.waiting else None

    def decode_set(self, chosen):
        return chosen.number

    def close(self):
        pass


class Pipeline:
    """Does with set k what the k-th entry of the script says.

    "scene": the bootstrap succeeds and the set is mapped; an error: raised; (error,): raised
    after the bootstrap has succeeded; None: the set is mapped.
    """

    def __init__(self, script):
        self.script = script
        self.scene, self.failure, self.engines, self.dropped = None, "", {}, Counter()
        self.state = SimpleNamespace(value="collecting")
        self.map = SimpleNamespace(size=0, memory_bytes=0)
        self.memory_bytes = 0
        self.timings = SimpleNamespace(
            measure=lambda _: nullcontext(), summary=dict, add=lambda *_: None
        )
        self.depth_estimator, self.sets_used = SimpleNamespace(name="plane_sweep"), 0
        self.config = SimpleNamespace(bootstrap="sfm", motion="static")

    def set_rig(self, rig):
        pass

    def reset(self):
        self.scene = None

    def step(self, number):
        what = self.script[number]
        if isinstance(what, Exception):
            if self.scene is None:
                self.dropped["bootstrap failed"] += 1
            raise what
        if what is not None:
            self.scene = SCENE
        if isinstance(what, tuple):
            raise what[0]
        return SimpleNamespace(stamp_ns=number, bootstrapped=what is not None, depth_maps=())


@pytest.fixture
def run():
    """Runs a script; returns the worker, and what it told the publishers."""
    workers = []

    def start(script, **arguments):
        told = []
        calibrated = SimpleNamespace(rig=SimpleNamespace(cameras=()), key=0, missing=())
        calibration = SimpleNamespace(resolve=lambda _: calibrated, errors={})
        worker = MappingWorker(
            Pipeline(script),
            Ingest(len(script)),
            calibration,
            lambda scene, _, stamp_ns: told.append(("scene", stamp_ns)),
            lambda result, *_: told.append(("set", result.stamp_ns)),
            lambda: told.append(("cleared", -1)),
            **arguments,
        )
        worker.start()
        workers.append(worker)
        while worker._ingest.waiting:
            worker.call(lambda: None, 5.0)
        worker.call(lambda: None, 5.0)
        return worker, told

    yield start
    for worker in workers:
        assert worker.stop(5.0)


def test_a_scene_is_told_even_if_the_set_that_found_it_fails(run):
    """Else neither transforms nor depth would ever be published."""
    worker, told = run([(EngineError("out of memory"),), None, None])
    assert told == [("scene", 1), ("set", 1), ("set", 2)]
    assert worker.health.dropped == {"EngineError": 1}


def test_after_a_reset_the_new_scene_is_told(run):
    worker, told = run(["scene", None])
    assert told == [("scene", 0), ("set", 0), ("set", 1)]
    worker._ingest.reset = lambda: None
    worker.pipeline.script += [(EngineError("out of memory"),), None]
    worker.reset()
    worker.call(lambda: worker._ingest.waiting.extend([2, 3]), 5.0)
    while worker._ingest.waiting:
        worker.call(lambda: None, 5.0)
    worker.call(lambda: None, 5.0)
    assert told[3:] == [("cleared", -1), ("scene", 3), ("set", 3)]


@pytest.mark.parametrize("kind", [AlignmentError, EngineError, ConfigError])
def test_errors_are_counted_once_under_their_own_name(run, kind):
    worker, _ = run([kind("why"), "scene", kind("shapes"), None])
    assert worker.health.dropped == {"bootstrap failed": 1, kind.__name__: 1}


def test_a_set_after_a_jump_is_not_mapped_into_the_old_map(run):
    """The jump comes after the look at the clock, and before the set is taken."""
    worker, told = run(["scene", None])
    take = worker._ingest.take

    def take_after_jump():
        chosen = take()
        if chosen is not None:
            worker._ingest.clock_resets = chosen.clock_resets = 1
        return chosen

    worker._ingest.take = take_after_jump
    worker.pipeline.script += ["scene", None]
    worker._ingest.waiting += [2, 3]
    while worker._ingest.waiting:
        worker.call(lambda: None, 5.0)
    worker.call(lambda: None, 5.0)
    assert told[3:] == [("cleared", -1), ("scene", 2), ("set", 2), ("set", 3)]


def test_one_internal_error_leaves_one_set_out(run):
    worker, told = run(["scene", KeyError("a bug"), None, KeyError("a bug"), None])
    assert told == [("scene", 0), ("set", 0), ("set", 2), ("set", 4)]
    assert worker.health.dropped == {"internal error": 2}
    assert worker.health.internal_errors == 2
    assert not worker.failure


def test_internal_errors_in_a_row_end_the_thread_and_say_so(run):
    failed = threading.Event()
    worker, told = run(["scene", *[KeyError("a bug")] * 3], on_failure=failed.set)
    assert not failed.is_set()  # three in a row may be
    worker.pipeline.script += [KeyError("a bug\nof two lines"), None]
    worker._ingest.waiting += [4, 5]
    assert failed.wait(5.0)
    assert worker.failure == "KeyError: 'a bug\\nof two lines'"
    assert worker._dropped["internal error"] == 4
    assert told == [("scene", 0), ("set", 0)]
    with pytest.raises(VggtRosError, match="the mapping thread has ended: KeyError"):
        worker.call(lambda: None, 5.0)


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError("no room")])
def test_whatever_ends_the_thread_is_told(run, error):
    failed = threading.Event()
    worker, _ = run(["scene"], on_failure=failed.set)

    def broken():
        raise error

    worker._report = broken
    with worker._wake:
        worker._arrived = True
        worker._wake.notify()
    assert failed.wait(5.0)
    assert worker.failure == f"{type(error).__name__}: {error}"
    assert worker.stop(5.0)


def test_a_posted_task_that_fails_is_told(run, caplog):
    worker, _ = run([])

    def refused():
        raise ConfigError("map.min_confidence: expected 0")

    with caplog.at_level(logging.WARNING):
        worker.post(refused)
        worker.call(lambda: None, 5.0)
    assert "map.min_confidence: expected 0" in caplog.text


def test_a_loaded_map_is_told_at_once_and_mapping_goes_on(run):
    worker, told = run(["scene", None])
    saved = SimpleNamespace(scene=SimpleNamespace(**vars(SCENE)), stamp_ns=9)
    worker.pipeline.take_over = lambda given: setattr(worker.pipeline, "scene", given.scene)
    del told[:]
    worker.call(lambda: worker.take_over(saved), 5.0)
    assert told == [("cleared", -1), ("scene", 9)]
    assert worker.health.scene is saved.scene
    worker.pipeline.script += [None]
    worker._ingest.waiting.append(2)
    worker.call(lambda: None, 5.0)
    worker.call(lambda: None, 5.0)
    assert told[2:] == [("set", 2)]


def test_a_map_that_is_loaded_before_the_rig_is_known_is_told_with_the_first_set(run):
    worker, told = run([])
    resolve, worker._calibration.resolve = worker._calibration.resolve, lambda _: "waiting"
    worker._calibrated = None
    saved = SimpleNamespace(scene=SCENE, stamp_ns=9)
    worker.pipeline.take_over = lambda given: setattr(worker.pipeline, "scene", given.scene)
    worker.call(lambda: worker.take_over(saved), 5.0)
    worker.pipeline.script += [None]
    worker._ingest.waiting.append(0)
    worker.call(lambda: None, 5.0)
    assert told == [("cleared", -1)]
    worker._calibration.resolve = resolve
    while worker._ingest.waiting:
        worker.call(lambda: None, 5.0)
    worker.call(lambda: None, 5.0)
    assert told == [("cleared", -1), ("scene", 0), ("set", 0)]


def test_who_asks_for_the_next_set_gets_it(run):
    worker, told = run(["scene"])
    with pytest.raises(TimeoutError, match="no set within"):
        worker.next_set(0.05)
    worker.pipeline.script += [None]
    threading.Timer(0.1, lambda: worker._ingest.waiting.append(1)).start()
    assert worker.next_set(10.0) == 1
    worker.call(lambda: None, 5.0)
    assert told[-1] == ("set", 1)
