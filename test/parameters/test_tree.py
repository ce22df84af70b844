"""Flat names and back, with checks."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.config import CameraConfig, Config
from vggt_ros.errors import ConfigError
from vggt_ros.parameters import config_from_flat, config_to_flat, flatten


def test_every_field_of_the_tree_is_there_once():
    count = 0
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        if dataclasses.is_dataclass(value):
            count += len(dataclasses.fields(value))
        elif field.name != "camera":
            count += 1
    infos = flatten(Config())
    assert len(infos) == count
    info = infos["map.voxel_m"]
    assert (info.default, info.type, info.unit, info.low) == (0.02, "float", "m", 1e-4)
    assert infos["cameras"].type == "list[str]"
    assert infos["bootstrap"].choices == ("sfm", "rig", "vggt")
    assert infos["map.carve"].runtime
    assert all(info.doc for info in infos.values())


def test_defaults_satisfy_their_own_bounds():
    config = Config(cameras=["front"])
    values = config_to_flat(config)
    again = config_from_flat(values)
    assert config_to_flat(again) == values
    assert again.camera == {"front": CameraConfig()}


def test_values_reach_their_places():
    config = config_from_flat(
        {
            "cameras": ("left", "right"),
            "bootstrap": "rig",
            "map.voxel_m": 1,
            "map.carve": False,
            "sfm.sets": 3,
            "camera.right.transport": "compressed",
        }
    )
    assert config.cameras == ["left", "right"]
    assert config.bootstrap == "rig"
    assert config.map.voxel_m == 1.0
    assert isinstance(config.map.voxel_m, float)
    assert not config.map.carve
    assert config.sfm.sets == 3
    assert config.camera["right"].transport == "compressed"
    assert config.camera["left"] == CameraConfig()
    assert config.align == Config().align


def test_base_is_kept():
    base = config_from_flat(
        {"cameras": ["a"], "camera.a.frame_id": "a_link", "depth": "plane_sweep"}
    )
    config = config_from_flat({"map.min_hits": 4}, base)
    assert config.camera["a"].frame_id == "a_link"
    assert config.map.min_hits == 4
    assert base.map.min_hits == Config().map.min_hits


def test_cameras_named_by_the_rig_file():
    config = config_from_flat({"rig_file": "RIG.yaml", "camera.front.transport": "compressed"})
    assert config.camera["front"].transport == "compressed"


@dataclasses.dataclass(frozen=True)
class Extended(Config):
    """A tree that a node has extended keeps its type."""


def test_subclasses_stay_what_they_are():
    assert type(config_from_flat({"map.min_hits": 4}, Extended())) is Extended


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"map.voxel": 1.0}, r"unknown parameter 'map.voxel' \(did you mean 'map.voxel_m'\?\)"),
        ({"voxels": 1.0}, "unknown parameter 'voxels'$"),
        ({"map.voxel_m": "fine"}, "expected a number from 0.0001 to 10 m, got 'fine'"),
        ({"map.voxel_m": True}, "from 0.0001 to 10 m, got true"),
        ({"map.voxel_m": 0}, "from 0.0001 to 10 m, got 0$"),
        ({"map.voxel_m": float("nan")}, "got nan"),
        ({"map.voxel_m": None}, "got nothing"),
        ({"sfm.sets": True}, "expected a whole number from 1 to 100, got true"),
        ({"sfm.sets": 2.0}, r"whole number from 1 to 100, got 2\.0"),
        ({"sfm.seed": -1}, "whole number of at least 0, got -1"),
        ({"map.carve": 1}, "expected true or false, got 1"),
        ({"rig_file": 3}, "expected text, got 3"),
        ({"cameras": "front"}, "expected a list of texts, got 'front'"),
        ({"cameras": [1]}, r"expected a list of texts, got \[1\]"),
        ({"cameras": ["a", "a"]}, "'a' is there twice"),
        ({"cameras": ["a b"]}, "without blanks and dots, got 'a b'"),
        (
            {"bootstrap": "sfn"},
            r"expected one of sfm, rig, vggt, got 'sfn' \(did you mean 'sfm'\?\)",
        ),
        (
            {"cameras": ["front"], "camera.frnt.frame_id": "x"},
            r"no camera 'frnt' \(did you mean 'front'\?\); cameras: front",
        ),
        (
            {"cameras": ["front"], "camera.front.image_topc": "x"},
            "did you mean 'camera.front.image_topic'",
        ),
    ],
)
def test_wrong_values_are_said(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_flat(values)


def test_all_that_is_wrong_is_said():
    with pytest.raises(ConfigError, match=r"sfm\.sets.*; .*voxel_m"):
        config_from_flat({"sfm.sets": 0, "map.voxel_m": "x"})


@given(st.sampled_from(sorted(flatten(Config()))), st.data())
def test_any_value_is_taken_or_refused_with_the_name(name, data):
    value = data.draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=5),
            st.lists(st.text(max_size=3), max_size=3),
        )
    )
    try:
        config = config_from_flat({name: value})
    except ConfigError as error:
        message = str(error)
    else:
        assert config_to_flat(config)[name] == value
        return
    assert f"'{name}'" in message
