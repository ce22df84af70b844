"""The mapper as it is shipped: saved, loaded and found again; what Nav2 and Wi-Fi get of it."""

import math

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from vggt_ros.export.archive_file import read_members
from vggt_ros.export.ply import read_ply
from vggt_ros.geometry import Rigid3
from vggt_ros.msg import MapStatus
from vggt_ros.srv import ExportMap, LoadMap, SaveMap
from vggt_ros.synthetic.primitives import SceneObject, at, box
from vggt_ros.synthetic.textures import clouds

pytestmark = pytest.mark.slow

LATCHED = QoSProfile(
    depth=1,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    reliability=ReliabilityPolicy.RELIABLE,
)
MOTION = Rigid3.from_rotation_vector((0.0, 0.0, 0.25), (0.2, -0.3, 0.05))
"""From where the rig stood when the map was saved to where it stands later."""

FIELDS = np.dtype(
    {
        "names": ["xyz", "rgb", "confidence", "block"],
        "formats": [("<f4", 3), "<u4", "<f4", "<u4"],
        "offsets": [0, 12, 16, 20],
        "itemsize": 24,
    }
)


class Follower:
    """A receiver of ~/map_update, as docs/conventions.md has it."""

    def __init__(self):
        self.blocks, self.number, self.is_whole = {}, -1, False

    def take(self, message):
        rows = np.frombuffer(message.data, FIELDS)
        number, rows = int(rows["xyz"][0, 1]), rows[1:]
        if number == 0:
            self.blocks, self.is_whole = {}, True
        elif number != self.number + 1:
            self.is_whole = False  # wait for number 0
        self.number = number
        for block in np.unique(rows["block"]):
            points = rows[rows["block"] == block]
            self.blocks[block] = points[np.isfinite(points["xyz"][:, 0])]

    def points(self):
        return np.concatenate([self.blocks[b]["xyz"] for b in sorted(self.blocks)])


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """A small rig in a room with two boxes, and later at another place there."""
    from vggt_ros.synthetic import furniture
    from vggt_ros.synthetic.record import record
    from vggt_ros.synthetic.scenes import arc_rig, simulate
    from vggt_ros.synthetic.world import World

    paint = clouds(0.006)
    room = World(
        (
            furniture.room((5.0, 5.0, 2.6), paint, paint, (paint,) * 4),
            SceneObject("box", (box((0.6, 0.8, 0.7), at(1.0, 0.5, 0, 20), paint),), at(0, 0, 0)),
            SceneObject("pillar", (box((0.3, 0.3, 2.0), at(1.4, -0.8, 0), paint),), at(0, 0, 0)),
        )
    )
    rig = arc_rig(3, 0.2, math.radians(10.0), 320, 240, math.radians(80.0), math.radians(12.0))
    folder = tmp_path_factory.mktemp("room")
    stands = at(-1.5, 0.0, 1.15)
    for name, pose in (("first", stands), ("moved", stands @ MOTION)):
        record(folder / name, rig, simulate(room, rig, pose, 8, 10.0), [])
    return folder, rig


def parameters(rig, folder, **more):
    return {
        "cameras": f"[{', '.join(rig.names)}]",
        "bootstrap": "rig",
        "ingest.require_calibration": "true",
        "autostart": "true",
        "export.folder": str(folder),
        "publish.update_max_points": 20000,
        "publish.update_rate_hz": 5.0,
        "occupancy.rate_hz": 5.0,
        **more,
    }


def test_save_load_and_find_again(start, observer, bags, until, tmp_path):
    bag, rig = bags
    status = observer.listen(MapStatus, "/mapper/status")
    follower, grids = Follower(), observer.listen(OccupancyGrid, "/mapper/occupancy", LATCHED)
    observer.node.create_subscription(PointCloud2, "/mapper/map_update", follower.take, 10)

    def ask(kind, name, **fields):
        return observer.call(kind, f"/mapper/{name}", kind.Request(**fields), 90.0)

    mapper = start("vggt_ros.nodes.mapper", parameters(rig, tmp_path))
    mapper.wait_for("activate: done", 180.0)
    assert "no map yet" in ask(SaveMap, "save_map", path="map.vggtmap").message
    player = start("vggt_ros.nodes.bag_player", {"bag": bag / "first", "rate": 0.1})
    assert player.wait(90.0) == 0, player.output
    until(lambda: status[-1].sets_used >= 2, 90.0, "two sets in the map")

    # --- what receivers have is the map
    assert ask(SetBool, "pause", data=True).success  # or more sets may come
    assert ask(ExportMap, "export_map", path="map.ply").success
    cloud = read_ply(tmp_path / "map.ply")
    until(
        lambda: follower.is_whole and len(follower.points()) == len(cloud),
        20.0,
        lambda: f"{len(follower.points())} of {len(cloud)} points in updates",
    )
    np.testing.assert_array_equal(follower.points(), cloud.points)
    until(lambda: grids, 20.0, "a grid")
    grid = grids[-1]
    cells = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
    assert set(np.unique(cells)) == {-1, 0, 100}
    assert (cells == 0).sum() * 0.05**2 > 2.0  # square metres of floor
    assert abs(grid.info.origin.position.z + 1.15) < 0.05  # of the floor, below the rig

    # --- saved, and refused outside of the folder
    for path in ("../map.vggtmap", str(tmp_path.parent / "map.vggtmap")):
        for kind, name in (
            (SaveMap, "save_map"),
            (LoadMap, "load_map"),
            (ExportMap, "export_map"),
        ):
            answer = ask(kind, name, path=path)
            assert not answer.success
            assert "export.folder" in answer.message
    saved = ask(SaveMap, "save_map", path="map.vggtmap")
    assert saved.success, saved.message
    assert saved.num_bytes == (tmp_path / "map.vggtmap").stat().st_size
    assert saved.files == [str(tmp_path / "map.vggtmap")]
    assert read_members(tmp_path / "map.vggtmap").about["unit"] == "m"
    before = status[-1]
    (tmp_path / "half").write_bytes((tmp_path / "map.vggtmap").read_bytes()[:-100])
    for path in ("half", "nothing", "map.ply"):
        answer = ask(LoadMap, "load_map", path=path)
        assert not answer.success
        assert "map archive" in answer.message
    until(lambda: len(status) > 3)
    assert status[-1].map_points == before.map_points
    assert status[-1].state == MapStatus.STATE_PAUSED
    answer = ask(LoadMap, "load_map", path="map.vggtmap", reanchor=True)
    assert not answer.success
    assert "the mapper is paused" in answer.message
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output

    # --- another process goes on with it, without a bootstrap
    transforms = observer.listen(TFMessage, "/tf_static", LATCHED)
    status.clear()
    mapper = start("vggt_ros.nodes.mapper", parameters(rig, tmp_path))
    mapper.wait_for("activate: done", 180.0)
    loaded = ask(LoadMap, "load_map", path="map.vggtmap")
    assert loaded.success, loaded.message
    assert loaded.num_points == saved.num_points
    until(lambda: status and status[-1].state == MapStatus.STATE_MAPPING, what="mapping")
    assert status[-1].map_points == saved.num_points
    assert (status[-1].scale_source, status[-1].is_metric) == ("rig", True)
    maps = observer.listen(PointCloud2, "/mapper/map", LATCHED)
    until(lambda: maps and maps[-1].width == len(cloud), 20.0, "the map published again")
    player = start("vggt_ros.nodes.bag_player", {"bag": bag / "first", "rate": 0.1})
    assert player.wait(90.0) == 0, player.output
    until(lambda: status[-1].sets_used >= 2, 90.0, "two more sets in the map")
    assert "bootstrap" not in status[-1].timing_names
    assert abs(status[-1].map_points / saved.num_points - 1) < 0.3
    until(lambda: transforms, what="transforms")
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output

    # --- the robot was moved meanwhile: found by its images
    status.clear()
    mapper = start("vggt_ros.nodes.mapper", parameters(rig, tmp_path))
    mapper.wait_for("activate: done", 180.0)
    player = start("vggt_ros.nodes.bag_player", {"bag": bag / "moved", "rate": 0.05})
    found = ask(LoadMap, "load_map", path="map.vggtmap", reanchor=True)
    assert found.success, found.message
    assert "found by its images" in found.message
    print(found.message)
    used, count = status[-1].sets_used, len(status)
    until(
        lambda: status[-1].sets_used > used and len(status) > count + 1, 90.0, "a set in the map"
    )
    last = status[-1]
    for camera in last.cameras:
        p, q = camera.map_from_camera.position, camera.map_from_camera.orientation
        place = Rigid3.from_quaternion((q.x, q.y, q.z, q.w), (p.x, p.y, p.z))
        error = (MOTION @ rig.poses[camera.name]).inverse() @ place  # the map lies in the old rig
        assert np.linalg.norm(error.translation) < 0.015
        assert math.degrees(error.angle_rad) < 0.3
    mapper.interrupt()
    assert mapper.wait() == 0, mapper.output
    assert "Traceback" not in mapper.output
