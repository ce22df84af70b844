"""Parameter files and flags."""

import logging

import pytest

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError
from vggt_ros.parameters import load_config


def load(tmp_path, text, *overrides):
    (tmp_path / "p.yaml").write_text(text)
    return load_config(tmp_path / "p.yaml", overrides)


def test_nothing_is_the_default(tmp_path):
    assert load_config() == Config()
    assert load(tmp_path, "# nothing\n") == Config()


PLAIN = """
cameras: [front, left]
bootstrap: rig
map: {voxel_m: 1e-2, carve: false}
sfm.sets: 3
camera:
  left: {transport: compressed}
"""
ROS = """
/**:
  ros__parameters:
    use_sim_time: true
    bootstrap: rig
    map: {voxel_m: 0.5}
other_node:
  ros__parameters: {map: {voxel_m: nonsense}}
mapper:
  ros__parameters:
    cameras: [front, left]
    autostart: true
    qos_overrides: {/tf: {subscription: {depth: 5}}}
    map: {voxel_m: 1e-2, carve: false}
    sfm.sets: 3
    camera:
      left: {transport: compressed}
"""
NAMESPACED = "robot:\n  " + ROS.strip().replace("\n", "\n  ").replace("/**", "/robot/**")


@pytest.mark.parametrize(
    "text", [PLAIN, ROS, NAMESPACED, ROS.replace("\nmapper:", "\n/ns/mapper:")]
)
def test_layouts(tmp_path, text):
    config = load(tmp_path, text)
    assert config.cameras == ["front", "left"]
    assert config.bootstrap == "rig"
    assert config.map.voxel_m == 0.01
    assert not config.map.carve
    assert config.sfm.sets == 3
    assert config.camera["left"].transport == "compressed"
    assert config.camera["front"].transport == "raw"


def test_later_wins_also_for_the_same_key(tmp_path):
    text = "map: {voxel_m: 0.1, min_hits: 7}\nmap: {voxel_m: 0.2}\nmap.voxel_m: 0.3\n"
    config = load(tmp_path, text)
    assert (config.map.voxel_m, config.map.min_hits) == (0.3, 7)
    assert load(tmp_path, text, "map.voxel_m=0.4").map.voxel_m == 0.4


def test_flags_are_read_by_the_type_of_the_parameter():
    config = load_config(
        None,
        [
            "cameras=front, left",
            "rig_file=yes",
            "map.voxel_m=1",
            "sfm.sets=2",
            "map.carve=False",
            "camera.left.frame_id=12",
        ],
    )
    assert config.cameras == ["front", "left"]
    assert config.rig_file == "yes"
    assert config.map.voxel_m == 1.0
    assert config.sfm.sets == 2
    assert not config.map.carve
    assert config.camera["left"].frame_id == "12"
    assert load_config(None, ["cameras=['a', \"b\"]"]).cameras == ["a", "b"]
    assert load_config(None, ["rig_file=a=b"]).rig_file == "a=b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("map.voxel_m", "--set map.voxel_m: expected NAME=VALUE"),
        ("=3", "expected NAME=VALUE"),
        ("map.voxel_m=1cm", "--set map.voxel_m=1cm: parameter .* got '1cm'"),
        ("sfm.sets=2.5", "whole number from 1 to 100, got '2.5'"),
        ("map.carve=1", "expected true or false, got '1'"),
        ("map.voxl_m=1", "did you mean 'map.voxel_m'"),
    ],
)
def test_wrong_flags(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "p.yaml: is not YAML"),
        ("- a\n", "p.yaml: expected parameters, got seq"),
        ("just text\n", "expected parameters, got str"),
        ("map:\n  voxl_m: 1\n", r"p.yaml:2: unknown parameter 'map.voxl_m' \(did you mean"),
        ("map:\n  voxel_m: thick\n", r"p.yaml:2: parameter 'map.voxel_m': expected a number"),
        ("rig_file:\n", "p.yaml:1: .*expected text, got nothing"),
        ("1: 2\n", "p.yaml:1: expected the name of a parameter, got 1"),
        ("maper:\n  ros__parameters: {depth: x}\n", r"no node 'maper' \(did you mean 'mapper'"),
        ("talker:\n  ros__parameters: {a: 1}\n", r"'mapper' or '/\*\*', got those of /talker"),
        ("mapper: {ros__parameters: {a.b: 1}}\n", "unknown parameter 'a.b'"),
        ("mapper: {ros__parameters: {}}\nmap: {carve: true}\n", "p.yaml:2: .*under 'map'"),
        ("mapper: {ros__parameters: {}}\nrig_file: x\n", "p.yaml:2: 'rig_file' stands outside"),
        ("ros__parameters: {a: 1}\n", "name of a node above"),
        ("/**: {ros__parameters: {map.voxl_m: 1}}\n", "p.yaml:1: unknown .*did you mean"),
        ("mapper: {ros__parameters: {use_sim_tim: true}}\n", "unknown parameter 'use_sim_tim'"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_under_the_wildcard_foreign_names_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        config = load(tmp_path, "/**: {ros__parameters: {exposure: 3, map.voxel_m: 0.5}}\n")
    assert config.map.voxel_m == 0.5
    assert "'exposure' is no parameter of mapper" in caplog.text


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "nothing.yaml")


def test_the_example_for_networks_loads(repository):
    config = load_config(repository / "config" / "vggt.yaml", [])
    assert (config.bootstrap, config.depth) == ("vggt", "depth_anything")
    assert config.vggt.engine
    assert config.depth_anything.contexts == 2
