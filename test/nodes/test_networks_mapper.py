"""The shipped mapper, as a process, with networks that answer from the truth of a scene.

The graphs are fixtures (`vggt_ros.synthetic.network_fixtures`): they give one answer whatever they
are shown. Everything else is real: files with passports, verification, ONNX Runtime, messages,
alignment, map.
"""

import math

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed (pip install .[export])")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install .[onnx])")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, Image

from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.srv import ExportMap
from vggt_ros.synthetic.answers import disparity_answer, vggt_answer
from vggt_ros.synthetic.network_fixtures import write_fixed_answer
from vggt_ros.synthetic.record import record
from vggt_ros.synthetic.scenes import RIG_FROM_OPTICAL, box_world, simulate
from vggt_ros.types import DepthKind

pytestmark = pytest.mark.slow

PLAYER = "vggt_ros.nodes.bag_player"
UNIT_M = 0.37
SCALE, SHIFT = 0.8, 0.05
"""1/z = SCALE * d + SHIFT [1/m]."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A bag of three cameras before a box and a wall, and the engines that know all of it."""
    folder = tmp_path_factory.mktemp("networks")
    world = box_world()
    cameras, poses = [], []
    # the scenes' worlds are in an optical frame: the rig's axes are x forward, z up
    rig_from_world = Rigid3(RIG_FROM_OPTICAL, np.zeros(3))
    for k, name in enumerate(("left", "middle", "right")):
        model = CameraModel(336, 252, 300.0, 300.0, 167.5, 125.5)
        pose = Rigid3.from_rotation_vector((0, -0.12 * (k - 1), 0), (0.3 * (k - 1), 0.02 * k, 0))
        poses.append(pose)
        cameras.append(
            RigCamera(
                name,
                image=f"/{name}/image_raw",
                camera_info=f"/{name}/camera_info",
                frame_id=f"{name}_optical",
                model=model,
                rig_from_camera=rig_from_world @ pose,
            )
        )
    rig = Rig(tuple(cameras), "base_link")
    models = [camera.model for camera in cameras]
    record(folder / "bag", rig, simulate(world, rig, rig_from_world.inverse(), 25, 10.0))
    answer = vggt_answer(world, models, poses, 336, UNIT_M)
    outputs = {
        "pose_enc": answer.pose_enc[None],
        "depth": answer.depth[None],
        "depth_conf": answer.depth_conf[None],
    }
    write_fixed_answer(folder / "vggt.onnx", (3, 3, *answer.size), outputs)
    lost = {**outputs, "pose_enc": np.repeat(outputs["pose_enc"][:, :1], 3, axis=1)}
    lost["depth"] = np.full_like(outputs["depth"], 2.0)
    write_fixed_answer(folder / "knows_nothing.onnx", (3, 3, *answer.size), lost)
    disparity = disparity_answer(world, models, poses, 252, SCALE, SHIFT)
    write_fixed_answer(
        folder / "depth.onnx",
        (3, 3, *disparity.shape[1:]),
        {"depth": disparity},
        DepthKind.DISPARITY,
    )
    truth = {
        name: world.render(model, pose, supersample=1).depth
        for name, model, pose in zip(rig.names, models, poses, strict=True)
    }
    return folder, rig, truth


@pytest.fixture
def parameters(scene):
    folder, rig, _ = scene
    return {
        "cameras": f"[{', '.join(rig.names)}]",
        "autostart": "true",
        "bootstrap": "vggt",
        "vggt.engine": folder / "vggt.onnx",
        "vggt.image_px": 336,
        "depth": "depth_anything",
        "depth_anything.engine": folder / "depth.onnx",
        "ingest.require_calibration": "true",
        "ingest.queue_size": 100,
        "map.min_hits": 1,
    }


def test_the_truth_goes_through_the_whole_mapper(
    start, observer, scene, parameters, until, tmp_path
):
    folder, rig, truth = scene
    status = observer.listen(MapStatus, "/mapper/status")
    diagnostics = observer.listen(DiagnosticArray, "/diagnostics")
    depth = {n: observer.listen(Image, f"/mapper/{n}/depth/image") for n in rig.names}
    infos = observer.listen(CameraInfo, "/mapper/left/depth/camera_info")
    mapper = start("vggt_ros.nodes.mapper", parameters)
    mapper.wait_for("activate: done", 120.0)
    player = start(PLAYER, {"bag": folder / "bag", "rate": 0.5})
    assert player.wait(60.0) == 0, player.output
    until(lambda: status[-1].sets_used >= 3, 60.0, lambda: f"three sets: {status[-1]}")

    last = status[-1]
    assert last.state == MapStatus.STATE_MAPPING
    assert (last.bootstrapper, last.depth_estimator) == ("vggt", "depth_anything")
    assert last.backend == "onnxruntime"
    assert last.engine == "vggt.onnx, depth.onnx"
    assert last.precision == "fp32"
    assert last.is_metric
    assert last.scale_source == "rig"
    assert last.scale_value == pytest.approx(UNIT_M, rel=1e-3)
    for camera in last.cameras:
        assert camera.registered
        p, q = camera.map_from_camera.position, camera.map_from_camera.orientation
        found = Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (p.x, p.y, p.z))
        error = rig.poses[camera.name].inverse() @ found  # the map lies in the rig
        assert np.linalg.norm(error.translation) < 1e-3
        assert error.angle_rad < 1e-3
        assert camera.alignment_accepted, camera.alignment_reason
        assert camera.alignment_scale == pytest.approx(SCALE, rel=0.03)
        assert camera.alignment_shift == pytest.approx(SHIFT, abs=0.01)
    for name, images in depth.items():
        assert images
        message = images[-1]
        values = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
        errors = np.abs(values / truth[name] - 1)
        assert np.isfinite(errors).mean() > 0.95
        assert np.nanmedian(errors) < 0.01
        assert np.nanpercentile(errors, 90) < 0.01
    assert infos[-1].k[0] == pytest.approx(300.0)
    until(lambda: diagnostics, what="diagnostics")
    told = {v.key: v.value for v in diagnostics[-1].status[0].values}
    for stage in ("bootstrap", "depth"):
        assert "onnxruntime on cpu" in told[f"engine of {stage}"]
        assert "fixture for tests: no working depth" in told[f"engine of {stage}"]
        assert told[f"engine of {stage}"].endswith(", verified")

    path = tmp_path / "map.ply"
    answer = observer.call(ExportMap, "/mapper/export_map", ExportMap.Request(path=str(path)))
    assert answer.success, answer.message
    cloud = read_ply(path)
    assert cloud.is_metric
    assert len(cloud) > 5000
    ahead = cloud.points[:, 0]  # the wall is 3 m, the front of the cube 2 m before the rig
    assert np.mean((np.abs(ahead - 3.0) < 0.05) | ((ahead > 1.9) & (ahead < 2.7))) > 0.95
    report = tmp_path / "report.json"
    request = ExportMap.Request(path=str(report), format="report")
    assert observer.call(ExportMap, "/mapper/export_map", request).success
    assert '"file": "vggt.onnx"' in report.read_text()
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output


def test_a_network_that_knows_nothing_is_refused_in_the_status(
    start, observer, scene, parameters, until
):
    folder, _, _ = scene
    status = observer.listen(MapStatus, "/mapper/status")
    parameters["vggt.engine"] = folder / "knows_nothing.onnx"
    mapper = start("vggt_ros.nodes.mapper", parameters)
    mapper.wait_for("activate: done", 120.0)
    player = start(PLAYER, {"bag": folder / "bag", "rate": 0.5})
    until(lambda: status and status[-1].state == MapStatus.STATE_FAILED, 60.0, "failed")
    assert "at least 2 views that overlap, got 1 of 3" in status[-1].detail
    assert "likeness" in status[-1].detail
    assert status[-1].map_points == 0
    assert math.isfinite(status[-1].scale_value)
    assert player.wait(30.0) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vggt.engine": None}, "vggt.engine: expected the path of an engine"),
        ({"vggt.engine": "/nowhere/vggt.onnx"}, "found nothing there"),
        ({"depth_anything.engine": "vggt"}, "expected an engine of depth_anything, got one of"),
        ({"vggt.sets": 2}, "is for 3 views, got 6"),
    ],
)
def test_wrong_engines_end_the_process_with_their_reason(start, scene, parameters, change, said):
    folder, _, _ = scene
    for name, value in change.items():
        parameters[name] = folder / "vggt.onnx" if value == "vggt" else value
    parameters = {name: value for name, value in parameters.items() if value is not None}
    mapper = start("vggt_ros.nodes.mapper", parameters)
    assert mapper.wait(60.0) == 1
    assert said in mapper.output
    assert "Traceback" not in mapper.output
