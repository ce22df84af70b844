"""Wrong parameters end the process before it spins, and say what is wrong."""

import re

import pytest

from vggt_ros.errors import ConfigError, VggtRosError
from vggt_ros.nodes.bag_player_node import BagPlayer
from vggt_ros.nodes.mapper_node import Mapper

MAPPER = "vggt_ros.nodes.mapper"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"map.voxl_m": 0.1}, ["unknown parameter 'map.voxl_m'", "did you mean 'map.voxel_m'"]),
        ({"map.voxel_m": 1}, ["'map.voxel_m': expected a number with", "write 1.0"]),
        ({"map.voxel_m": -1.0}, ["'map.voxel_m': expected a number from 0.0001 to 10 m, got -1"]),
        ({"map.voxel_m": ".nan"}, ["'map.voxel_m'", "nan"]),
        ({"sfm.seed": 1.5}, ["'sfm.seed': expected a whole number, got a float, 1.5"]),
        ({"bootstrap": "sfn"}, ["'bootstrap': expected one of sfm, rig, vggt, got 'sfn'"]),
        ({"cameras": "[on, off]"}, ["'cameras': expected a list of strings", "quote them"]),
        ({"cameras": "front"}, ["'cameras': expected a list of strings", "write ['front']"]),
        ({"cameras": "[]"}, ["expected one camera name or more"]),
        ({"cameras": "[a, a]"}, ["'a' is there twice"]),
        ({"cameras": "[a/b]"}, ["got 'a/b'"]),
        ({"camera.left.transprt": "raw"}, ["did you mean 'camera.left.transport'"]),
        ({"camera.lefd.transport": "raw"}, ["unknown parameter 'camera.lefd.transport'"]),
        ({"rig_file": "missing.yaml"}, ["rig file missing.yaml: cannot be read"]),
        ({"ingest.min_cameras": 3}, ["expected at most the 2 cameras, got 3"]),
        ({"something_else": 3}, ["unknown parameter 'something_else'"]),
    ],
)
def test_mapper(build, parameters, expected):
    with pytest.raises(ConfigError) as caught:
        build(Mapper, {"cameras": "[left, right]"} | parameters)
    for text in expected:
        assert text in str(caught.value)


def test_process_ends_with_a_message_and_exit_code(start):
    node = start(MAPPER, {"cameras": "[left]", "map.voxl_m": 1.0})
    assert node.wait() == 2
    assert "error: wrong parameters:\n  unknown parameter 'map.voxl_m'" in node.output
    assert "Traceback" not in node.output


def test_nested_lists_which_rcl_refuses(start, tmp_path):
    arguments = write(
        tmp_path / "p.yaml", "mapper:\n  ros__parameters:\n    cameras: [[a, b], [c]]\n"
    )
    node = start(MAPPER, arguments=arguments)
    assert node.wait() == 2
    assert "no nested lists" in node.output
    assert "Traceback" not in node.output


def test_all_problems_at_once(build):
    with pytest.raises(ConfigError, match=r"(?s)map\.voxl_m.*sfm\.seed"):
        build(Mapper, {"cameras": "[left]", "map.voxl_m": 1.0, "sfm.seed": 1.5})


def test_typo_in_the_rig_file(build, tmp_path):
    (tmp_path / "rig.yaml").write_text("cameras: {left: {intrinsic: [1, 1, 1, 1]}}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'intrinsic' \(did you mean 'intrinsics'"):
        build(Mapper, {"rig_file": tmp_path / "rig.yaml"})


def write(path, text):
    path.write_text(text)
    return ["--ros-args", "--params-file", str(path)]


def test_parameter_for_all_nodes_is_refused_only_when_it_is_close(start, stub, tmp_path):
    common = write(
        tmp_path / "p.yaml",
        "/**:\n  ros__parameters:\n    cameras: [left]\n    wheel_radius: 0.1\n",
    )
    node = start(stub, arguments=common)
    node.wait_for("'wheel_radius', given for all nodes, means nothing here")
    close = write(
        tmp_path / "q.yaml",
        "/**:\n  ros__parameters:\n    cameras: [left]\n    map: {voxl_m: 0.1}\n",
    )
    node = start(stub, arguments=close)
    assert node.wait() == 2
    assert "did you mean 'map.voxel_m'" in node.output
    own = write(
        tmp_path / "r.yaml",
        "mapper:\n  ros__parameters:\n    cameras: [left]\n    wheel_radius: 0.1\n",
    )
    node = start(stub, arguments=own)
    assert node.wait() == 2
    assert "unknown parameter 'wheel_radius'" in node.output


def test_what_ros_sets_is_accepted(start, stub):
    node = start(
        stub,
        {
            "cameras": "[left]",
            "use_sim_time": "false",
            "qos_overrides./left/image_raw.subscription.reliability": "reliable",
            "qos_overrides./left/image_raw.subscription.durability": "volatile",
            "autostart": "true",
        },
    )
    node.wait_for("activate: done")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "'bag': expected a rosbag2 folder or file, got nothing"),
        ({"bag": "missing"}, "missing"),
        ({"bag": "x", "rate": 0.0}, "'rate': expected a number from 0.001 to 1000"),
        ({"bag": "x", "lop": "true"}, "did you mean 'loop'"),
    ],
)
def test_bag_player(build, parameters, expected):
    with pytest.raises(VggtRosError, match=re.escape(expected)):
        build(BagPlayer, parameters)
