"""Cleaned up means freed; what goes wrong ends in a state that says so."""

import gc
import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.lifecycle import TransitionCallbackReturn

from vggt_ros.msg import MapStatus
from vggt_ros.nodes.mapper_node import Mapper

SUCCESS = TransitionCallbackReturn.SUCCESS
PLAYER = "vggt_ros.nodes.bag_player"


@pytest.fixture
def stub_pipeline(stub):
    spec = importlib.util.spec_from_file_location("stub_pipeline", stub)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StubPipeline


def entities(node):
    """How many of each kind the node holds."""
    kinds = ("subscriptions", "publishers", "timers", "services", "clients", "guards", "waitables")
    return {kind: len(list(getattr(node, kind))) for kind in kinds} | {
        "managed": len(node._managed_entities)
    }


def in_groups(node):
    groups = (node.default_callback_group, node._inputs_group, node._timers_group)
    return sum(len(group.entities) for group in groups)


def resident_kb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.parametrize("cycles", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_cycles_leave_nothing_behind(build, stub_pipeline, cycles):
    node = build(
        Mapper,
        {"cameras": "[left, right]"},
        pipeline_factory=stub_pipeline,
    )

    def cycle():
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        busy = threading.active_count()
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
        return busy

    before, grouped = entities(node), in_groups(node)
    idle = threading.active_count()
    assert cycle() > idle + 1  # the worker and those that publish
    for _ in range(min(cycles // 2, 10)):  # caches fill
        cycle()
    gc.collect()
    settled, resident = entities(node), resident_kb()
    for _ in range(cycles):
        cycle()
    gc.collect()
    node._forget_destroyed()
    assert in_groups(node) <= grouped
    assert entities(node) == settled == before
    assert threading.active_count() == idle
    # one cycle loads a graph of some forty entities: a leak of them would be 100 kB a cycle
    assert resident_kb() - resident < 4_000 + 20 * cycles


def test_what_cannot_be_freed_ends_in_error_processing(build, stub_pipeline, monkeypatch):
    monkeypatch.setenv("VGGT_ROS_STUB", "broken_close")
    node = build(Mapper, {"cameras": "[left]"}, pipeline_factory=stub_pipeline)
    idle = threading.active_count()
    before = entities(node)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_cleanup() == TransitionCallbackReturn.ERROR
    assert node._state_machine.current_state[1] == "unconfigured"
    assert "the stub was asked not to close" in node._error
    # the rest is freed all the same
    assert threading.active_count() == idle
    assert entities(node) == before
    monkeypatch.delenv("VGGT_ROS_STUB")
    assert node.trigger_configure() == SUCCESS
    assert node._error == ""
    assert node.trigger_cleanup() == SUCCESS


# --- processes --------------------------------------------------------------------------------


def state(observer):
    return observer.call(GetState, "/mapper/get_state", GetState.Request()).current_state.label


def change(observer, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return observer.call(ChangeState, "/mapper/change_state", request, 30.0).success


CAMERAS = {"cameras": "[left, right]", "autostart": "true", "ingest.queue_size": 100}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("broken", "KeyError: 'the stub was asked to break'"),
        pytest.param(
            "broken_report",
            "AttributeError: 'StubPipeline' object has no attribute 'map'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_worker_that_dies_brings_the_node_to_error_processing(
    start, observer, stub, make_bag, until, tmp_path, word, text
):
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    mapper = start(stub, CAMERAS, env={"VGGT_ROS_STUB": word})
    mapper.wait_for("activate: done")
    player = start(PLAYER, {"bag": make_bag(tmp_path / "bag", sets=15)})
    mapper.wait_for("error processing: done")
    assert text in mapper.output
    assert "Traceback" in mapper.output  # for whoever mends it
    until(lambda: state(observer) == "unconfigured", 10.0, "unconfigured")
    until(
        lambda: diagnostics[-1].status[0].level == DiagnosticStatus.ERROR,
        10.0,
        "error in the diagnostics",
    )
    until(lambda: status[-1].state == MapStatus.STATE_UNCONFIGURED, 10.0, "status")
    assert text in status[-1].detail
    assert text in diagnostics[-1].status[0].message
    assert diagnostics[-1].status[0].message.startswith("stopped by an internal error")
    player.interrupt()
    assert player.wait() == 0
    # it can be configured again, and then says nothing of the past
    assert change(observer, Transition.TRANSITION_CONFIGURE)
    until(lambda: status[-1].state == MapStatus.STATE_INACTIVE, 10.0, "inactive")
    assert text not in status[-1].detail
    until(lambda: "internal" not in diagnostics[-1].status[0].message, 10.0, "no error any more")
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["finalized", "exit"])
def test_where_error_processing_ends(start, observer, stub, make_bag, tmp_path, until, policy):
    mapper = start(stub, CAMERAS | {"after_error": policy}, env={"VGGT_ROS_STUB": "broken"})
    mapper.wait_for("activate: done")
    player = start(PLAYER, {"bag": make_bag(tmp_path / "bag", sets=15)})
    mapper.wait_for("error processing: done")
    if policy == "exit":
        assert mapper.wait() == 1, mapper.output
    else:
        until(lambda: state(observer) == "finalized", 10.0, "finalized")
        assert not change(observer, Transition.TRANSITION_CONFIGURE)
        mapper.wait_for("transition 1 is refused: impossible from 'finalized'")
        mapper.interrupt()
        assert mapper.wait() == 0, mapper.output
    player.interrupt()
    player.wait()


@pytest.mark.parametrize("pauses", [pytest.param((0.3,), marks=pytest.mark.slow), (0.0, 1.0)])
def test_signals_while_cleaning_up_slowly_end_with_zero(start, stub, pauses):
    mapper = start(stub, CAMERAS, env={"VGGT_ROS_STUB": "slow_close"})
    mapper.wait_for("activate: done")
    mapper.interrupt()
    for pause in pauses:
        time.sleep(pause)
        if mapper.popen.poll() is None:
            mapper.interrupt(signal.SIGTERM if pause else signal.SIGINT)
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output
