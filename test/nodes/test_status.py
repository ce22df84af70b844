"""What `/diagnostics` says of cameras that are not well."""

import math
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from vggt_ros.config import CameraConfig, Config
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.nodes.camera_monitor import CameraMonitor
from vggt_ros.nodes.diagnostics import diagnostics
from vggt_ros.nodes.health import Health
from vggt_ros.nodes.status import map_status
from vggt_ros.nodes.worker import MappingWorker
from vggt_ros.pipeline.ingest import Ingest
from vggt_ros.pipeline.stages import EngineInUse
from vggt_ros.types import DepthAlignment, DepthKind, ScaleEstimate, ScaleSource

CONFIG = Config(cameras=["left", "right"], camera=dict.fromkeys(("left", "right"), CameraConfig()))


def camera_messages(health, state=MapStatus.STATE_MAPPING, sending=("left", "right")):
    monitors = [CameraMonitor(name, f"/{name}/image_raw") for name in CONFIG.cameras]
    for monitor in monitors:
        if monitor.name in sending:
            monitor.arrived(1)
        else:
            monitor._since_s -= 60.0
    status = map_status(state, health, monitors, CONFIG, 0)
    return diagnostics("mapper", status, monitors, health, 0).status


@pytest.fixture
def scene():
    """`right` was silent when the others were bootstrapped."""
    return SimpleNamespace(
        scale=ScaleEstimate(1.0, 0.1, ScaleSource.RIG),
        map_from_camera={"left": Rigid3.identity()},
        residuals={},
    )


def test_a_camera_that_came_too_late_for_the_map_is_told(scene):
    _, left, right, _ = camera_messages(Health(scene=scene, state="mapping"))
    assert left.level == DiagnosticStatus.OK
    assert right.level == DiagnosticStatus.WARN
    assert "without a place in the map" in right.message
    assert "~/bootstrap" in right.message
    # before there is a map, and while nothing is subscribed, there is nothing to say
    for health, state in (
        (Health(), MapStatus.STATE_BOOTSTRAPPING),
        (Health(scene=scene), MapStatus.STATE_INACTIVE),
    ):
        assert camera_messages(health, state)[2].level == DiagnosticStatus.OK


def test_a_silent_camera_is_an_error(scene):
    right = camera_messages(Health(scene=scene), sending=("left",))[2]
    assert right.level == DiagnosticStatus.ERROR
    assert "no image ever came on /right/image_raw" in right.message


def test_counts_can_be_read_while_callbacks_count():
    """The sum of all drops is made while other threads add reasons."""
    ingest = Ingest(["left"], {}, CONFIG.ingest)
    pipeline = SimpleNamespace(dropped=Counter({"no depth accepted": 1}))
    worker = MappingWorker.__new__(MappingWorker)
    worker._dropped, worker._ingest, worker.pipeline = Counter(), ingest, pipeline
    stop = threading.Event()

    def count():
        number = 0
        while not stop.is_set():
            number += 1
            ingest.counts[f"reason {number % 2000}"] += 1
            if number % 2000 == 0:
                ingest.counts.clear()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(300):
            assert worker._all_dropped()["no depth accepted"] == 1
    finally:
        stop.set()
        thread.join()


def test_a_fault_that_is_over_is_forgotten(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vggt_ros.nodes.camera_monitor.time.monotonic", lambda: now[0])
    monitor = CameraMonitor("left", "/left/image_raw")
    monitor.fault = "cannot be decoded"
    now[0] += 5
    monitor.arrived(1)
    assert monitor.fault == "cannot be decoded"
    now[0] += 6
    assert monitor.fault == "cannot be decoded"  # nothing has come since
    monitor.arrived(2)
    assert monitor.fault == ""


def test_engines_are_named_in_the_order_of_the_stages():
    def engine(file, backend, precision, verified=True):
        return EngineInUse(file, backend, "cpu", precision, "model", "licence", "", verified)

    def said(**engines):
        status = map_status(MapStatus.STATE_MAPPING, Health(engines=engines), [], CONFIG, 0)
        told = diagnostics("mapper", status, [], Health(engines=engines), 0).status[0].values
        keys = {v.key: v.value for v in told}
        return (status.backend, status.engine, status.precision), keys

    assert said()[0] == ("numba", "", "fp32")
    vggt = engine("vggt.engine", "tensorrt", "fp16")
    depth = engine("da.onnx", "onnxruntime", "fp16", verified=False)
    assert said(bootstrap=vggt)[0] == ("tensorrt, numba", "vggt.engine", "fp16, fp32")
    assert said(depth=depth)[0] == ("numba, onnxruntime", "da.onnx", "fp32, fp16")
    fields, keys = said(bootstrap=vggt, depth=depth)
    assert fields == ("tensorrt, onnxruntime", "vggt.engine, da.onnx", "fp16")
    assert keys["engine of bootstrap"].endswith("tensorrt on cpu, fp16, verified")
    assert "licence licence" in keys["engine of depth"]
    assert keys["engine of depth"].endswith("not verified")


@pytest.mark.parametrize(
    ("kind", "model", "told"),
    [
        (DepthKind.DISPARITY, "invdepth_scale_shift", "disparity"),
        (DepthKind.DISPARITY, "scale_shift", "scale_shift"),
        (DepthKind.RELATIVE_DEPTH, "scale", "scale"),
        (DepthKind.TRIANGULATED, "", "none"),
    ],
)
def test_the_alignment_model_is_the_one_that_was_fitted(kind, model, told):
    alignment = DepthAlignment("left", kind, 2.0, 0.1, 0.9, 0.01, 500, True, "", model)
    monitors = [CameraMonitor("left", "/left/image_raw")]
    health = Health(alignments={"left": alignment})
    status = map_status(MapStatus.STATE_MAPPING, health, monitors, CONFIG, 0)
    assert status.cameras[0].alignment_model == told


@pytest.mark.parametrize("accepted", [True, False])
def test_depth_that_is_used_is_not_called_refused(scene, accepted):
    kind = DepthKind.DISPARITY
    alignment = DepthAlignment("left", kind, 2.0, 0.1, 0.9, 0.01, 500, accepted, "held: few")
    left = camera_messages(Health(scene=scene, alignments={"left": alignment}))[1]
    values = {value.key: value.value for value in left.values}
    assert values["depth used" if accepted else "depth refused"] == "held: few"
    assert ("depth refused" in values) is not accepted


def test_a_place_that_is_not_known_is_no_number():
    def place(**known):
        found = map_status(MapStatus.STATE_MAPPING, Health(**known), [], CONFIG, 0).map_from_rig
        p, q = found.position, found.orientation
        return [p.x, p.y, p.z, q.x, q.y, q.z, q.w]

    assert all(math.isnan(number) for number in place())
    assert place(map_from_rig=Rigid3.identity()) == [0, 0, 0, 0, 0, 0, 1]
