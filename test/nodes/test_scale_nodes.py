"""Scale and the rig check at the surface of the mapper, with a pipeline that computes nothing."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from vggt_ros.msg import MapStatus, RigResidual
from vggt_ros.nodes.transforms import FrameTree
from vggt_ros.sources import messages
from vggt_ros.sources.bag import BagReader, BagWriter
from vggt_ros.srv import CheckRig, ExportMap
from vggt_ros.types import StampedImage, unscaled_frame

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PLAYER = "vggt_ros.nodes.bag_player"
PARAMETERS = {"cameras": "[left, right]", "autostart": "true", "calibration_wait_s": 0.5}


def test_nothing_leaves_an_unscaled_map_where_metres_are_required(
    start, observer, stub, make_bag, until, tmp_path
):
    status = observer.listen(MapStatus, "/mapper/status")
    heard = [
        observer.listen(PointCloud2, "/mapper/map", LATCHED),
        observer.listen(PointCloud2, "/mapper/points"),
        observer.listen(Image, "/mapper/left/depth/image"),
        observer.listen(MarkerArray, "/mapper/cameras", LATCHED),
        observer.listen(TFMessage, "/tf_static", LATCHED),
    ]
    parameters = {**PARAMETERS, "scale.require_metric": "true", "publish.map_rate_hz": 20.0}
    start(stub, parameters).wait_for("activate: done")
    bag = make_bag(tmp_path / "bag", sets=20, tf=False, info=False)
    assert start(PLAYER, {"bag": bag}).wait(40.0) == 0
    until(lambda: status and status[-1].map_points, what="a map")
    assert not status[-1].is_metric
    path = tmp_path / "map.ply"
    answer = observer.call(ExportMap, "/mapper/export_map", ExportMap.Request(path=str(path)))
    assert not answer.success
    assert "scale.require_metric is set, but nothing gives the scale" in answer.message
    assert not path.exists()
    assert not any(heard)


def test_depth_images_reach_the_sets(start, observer, stub, make_bag, until, tmp_path):
    plain = make_bag(tmp_path / "plain", sets=20, tf=False)
    pixels = np.full((48, 64), 1500, np.uint16)
    with BagReader(plain) as bag, BagWriter(tmp_path / "bag") as out:
        for topic, stamp, message in bag.messages():
            out.write(topic, message, stamp)
            if topic == "/left/image_raw":
                image = StampedImage("left", stamp + 2_000_000, pixels, "16UC1", "left_optical")
                out.write("/left/depth/image", messages.image_message(image), stamp + 2_000_000)
    status = observer.listen(MapStatus, "/mapper/status")
    depth = {"camera.left.depth_topic": "left/depth/image"}
    start(stub, {**PARAMETERS, **depth}).wait_for("activate: done")
    assert start(PLAYER, {"bag": tmp_path / "bag"}).wait(40.0) == 0
    until(lambda: status and status[-1].sets_used, what="sets in the map")
    assert status[-1].is_metric
    assert status[-1].scale_source == "depth_camera"
    assert np.isnan(status[-1].scale_drift)  # the stub does not say


def test_check_rig_says_why_it_cannot(start, observer, stub, make_bag, until, tmp_path):
    """Without images, and with noise instead of images; then in the diagnostics too."""
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    status = observer.listen(MapStatus, "/mapper/status")
    start(stub, PARAMETERS).wait_for("activate: done")
    rig, urdf = tmp_path / "rig.yaml", tmp_path / "rig.urdf"
    request = CheckRig.Request(path=str(rig), urdf_path=str(urdf))
    answer = observer.call(CheckRig, "/mapper/check_rig", request)
    assert not answer.success
    assert "expected a frame set and a calibrated rig, got none yet" in answer.message
    assert answer.level == RigResidual.LEVEL_UNKNOWN
    assert start(PLAYER, {"bag": make_bag(tmp_path / "bag", sets=20)}).wait(40.0) == 0
    until(lambda: status and status[-1].sets_used, what="sets in the map")
    answer = observer.call(CheckRig, "/mapper/check_rig", request, timeout_s=60.0)
    assert not answer.success
    assert "structure from motion: registered" in answer.message
    assert not rig.exists()
    assert not urdf.exists()

    def entry():
        found = [s for m in diagnostics for s in m.status if s.name == "mapper: rig check"]
        return found[-1] if found else None

    until(lambda: entry() is not None and "registered" in entry().message, what="rig check")
    assert entry().level == DiagnosticStatus.WARN


def test_an_unscaled_map_of_ours_is_no_rig():
    """Cameras below `map_unscaled` have no parent that would make them a rig in metres."""
    from vggt_ros.geometry import Rigid3
    from vggt_ros.nodes.conversions import transform_message

    tree = FrameTree()
    for name in ("left", "right"):
        transform = transform_message(Rigid3.identity(), "map_unscaled", name, 0)
        tree.add(TFMessage(transforms=[transform]), static=True)
    assert tree.top("left", "map", unscaled_frame("map")) == "left"


@pytest.mark.parametrize("period_s", [0.0, 0.5])
def test_periodic_checks_run_only_when_asked_for(period_s, monkeypatch):
    from types import SimpleNamespace

    from vggt_ros.config import CheckRigConfig, Config
    from vggt_ros.nodes import rig_check

    node = SimpleNamespace(create_service=lambda *a, **k: None, get_name=lambda: "mapper")
    config = Config(check_rig=CheckRigConfig(period_s=period_s))
    seen = [SimpleNamespace(stamp_ns=1)]
    worker = SimpleNamespace(pipeline=SimpleNamespace(scene=object()), latest_sets=seen)
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(rig_check, "time", SimpleNamespace(monotonic=lambda: clock.now))
    checker = rig_check.RigChecker(node, lambda: worker, lambda: config, lambda: None)
    begun = []
    monkeypatch.setattr(checker, "_begin", begun.append)
    for _ in range(5):
        checker.poll()
        clock.now += 0.25
    assert len(begun) == (2 if period_s else 0)
    worker.pipeline.scene = None  # nothing is checked before the bootstrap
    clock.now += 10
    checker.poll()
    assert len(begun) == (2 if period_s else 0)


def test_sources_that_contradict_each_other_are_named_in_status_and_diagnostics():
    from types import SimpleNamespace

    from vggt_ros.config import Config
    from vggt_ros.nodes.diagnostics import diagnostics
    from vggt_ros.nodes.health import Health
    from vggt_ros.nodes.status import map_status
    from vggt_ros.types import ScaleEstimate, ScaleSource

    text = "scale: rig (1 +- 0.01 m per unit) and depth_camera (1.2 +- 0.02 m per unit) contradict"
    sources = (ScaleSource.RIG, ScaleSource.DEPTH_CAMERA)
    scale = ScaleEstimate(1.1, 0.1, ScaleSource.RIG, sources, text)
    scene = SimpleNamespace(scale=scale, map_from_camera={}, bootstrapper="sfm", residuals={})
    health = Health(scene=scene, state="mapping", scale_drift=0.01)
    status = map_status(MapStatus.STATE_MAPPING, health, [], Config(), 0)
    assert status.scale_source == "rig+depth_camera"
    assert status.detail == text
    assert status.scale_drift == 0.01
    pipeline = diagnostics("mapper", status, [], health, 0).status[0]
    assert pipeline.level == DiagnosticStatus.WARN
    assert pipeline.message.count(text) == 1
