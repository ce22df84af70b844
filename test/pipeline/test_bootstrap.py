"""Choice of the bootstrapper."""

from __future__ import annotations

import dataclasses

import pytest

from vggt_ros.config import Config
from vggt_ros.errors import CalibrationError, ConfigError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.bootstrap import make_bootstrapper
from vggt_ros.rig import Rig, RigCamera


def test_by_name() -> None:
    assert make_bootstrapper(Config(), None).name == "sfm"
    rig = Rig((RigCamera("a", rig_from_camera=Rigid3.identity()),))
    assert make_bootstrapper(Config(bootstrap="rig"), rig).name == "rig"


def test_sets_follow_the_configuration() -> None:
    config = Config()
    config = dataclasses.replace(config, sfm=dataclasses.replace(config.sfm, sets=3))
    assert make_bootstrapper(config, None).sets_needed == 3


def test_rig_without_poses() -> None:
    with pytest.raises(CalibrationError, match="rig_from_camera"):
        make_bootstrapper(Config(bootstrap="rig"), Rig((RigCamera("a"),)))


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sfm'"):
        make_bootstrapper(Config(bootstrap="smf"), None)
