"""The mapper as it is shipped, on images of a room whose truth is known."""

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2

from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus, RigResidual
from vggt_ros.rig import load_rig
from vggt_ros.srv import CheckRig, ExportMap

pytestmark = pytest.mark.slow

SETS = 8  # the first may come before their CameraInfo


@pytest.fixture(scope="module")
def room_bag(tmp_path_factory):
    from vggt_ros.synthetic.record import record
    from vggt_ros.synthetic.scenes import demo_rig, demo_room, simulate

    rig, world_from_rig = demo_rig()
    bag = tmp_path_factory.mktemp("room") / "bag"
    record(bag, rig, simulate(demo_room(), rig, world_from_rig, SETS, 10.0), rig.names[:2])
    return bag, rig


@pytest.mark.parametrize("bootstrap", ["rig", "sfm"])
def test_room_becomes_a_metric_map(start, observer, room_bag, until, tmp_path, bootstrap):
    bag, rig = room_bag
    parameters = {
        "cameras": f"[{', '.join(rig.names)}]",
        "bootstrap": bootstrap,
        "ingest.require_calibration": "true",
        "autostart": "true",
    }
    for index, name in enumerate(rig.names):
        parameters[f"camera.{name}.transport"] = "compressed" if index < 2 else "raw"
    status = observer.listen(MapStatus, "/mapper/status")
    points = observer.listen(PointCloud2, "/mapper/points")
    mapper = start("vggt_ros.nodes.mapper", parameters)
    mapper.wait_for("activate: done", 180.0)
    player = start("vggt_ros.nodes.bag_player", {"bag": bag, "rate": 0.1})
    assert player.wait(90.0) == 0, player.output
    until(lambda: status[-1].sets_used >= 2, 90.0, "two sets in the map")
    last = status[-1]
    assert last.state == MapStatus.STATE_MAPPING
    assert last.is_metric
    assert last.scale_source == "rig"
    for camera in last.cameras:
        assert camera.registered
        p, q = camera.map_from_camera.position, camera.map_from_camera.orientation
        found = Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (p.x, p.y, p.z))
        error = rig.poses[camera.name].inverse() @ found  # the map lies in the rig
        assert np.linalg.norm(error.translation) < 0.005
        assert np.degrees(error.angle_rad) < 0.3
    path = tmp_path / "map.ply"
    answer = observer.call(ExportMap, "/mapper/export_map", ExportMap.Request(path=str(path)))
    assert answer.success, answer.message
    cloud = read_ply(path)
    assert len(cloud) == answer.num_points > 5000
    assert cloud.is_metric
    assert points
    rig_file, urdf = tmp_path / "rig.yaml", tmp_path / "cameras.urdf"
    request = CheckRig.Request(path=str(rig_file), urdf_path=str(urdf))
    answer = observer.call(CheckRig, "/mapper/check_rig", request, timeout_s=120.0)
    assert answer.success, answer.message
    assert answer.level == RigResidual.LEVEL_OK, answer.message
    assert [c.name for c in answer.cameras] == list(rig.names)
    assert all(c.centre_residual_m < 0.005 for c in answer.cameras)
    assert list(answer.files) == [str(rig_file), str(urdf)]
    for name, pose in load_rig(rig_file).poses.items():
        np.testing.assert_allclose(pose.matrix, rig.poses[name].matrix, atol=1e-9)
    assert urdf.read_text().count("<joint") == len(rig.names)
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output
