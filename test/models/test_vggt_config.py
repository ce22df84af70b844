"""Parameter counts and operations of VGGT-1B against what is published and what torch counts."""

import json

import pytest

from vggt_ros.models.vggt_config import VggtConfig, flops, patch_grid

LARGE = VggtConfig.vggt_1b()
WITHOUT_POINTS = LARGE.only("camera", "depth")


@pytest.mark.parametrize(
    ("views", "height", "width", "tera"),
    [(1, 518, 518, 3.35), (4, 518, 518, 15.6), (8, 518, 518, 37.2), (8, 294, 518, 17.5)],
)
def test_flops_of_the_large_network_to_three_digits(views, height, width, tera):
    assert float(f"{flops(WITHOUT_POINTS, views, height, width).total / 1e12:.3g}") == tera


def test_flops_by_part():
    cost = flops(WITHOUT_POINTS, 8, 518, 518)
    assert cost.linear / 1e12 == pytest.approx(19.9, abs=0.05)
    assert cost.frame_attention / 1e12 == pytest.approx(3.0, abs=0.05)
    assert cost.global_attention / 1e12 == pytest.approx(11.9, abs=0.05)
    assert cost.dense / 1e12 == pytest.approx(2.4, abs=0.05)
    assert flops(WITHOUT_POINTS, 8, 252, 252).total / 1e12 == pytest.approx(6.2, abs=0.005)


@pytest.mark.parametrize(("height", "width"), [(300, 518), (518, 300), (0, 14), (14, -14), (7, 7)])
def test_sizes_that_are_no_multiple_of_14_are_named(height, width):
    with pytest.raises(ValueError, match=f"height {height} and width {width}"):
        patch_grid(height, width)
    with pytest.raises(ValueError, match="multiples of 14"):
        flops(LARGE, 1, height, width)


def test_flops_want_a_view():
    with pytest.raises(ValueError, match="views: expected at least 1, got 0"):
        flops(LARGE, 0, 14, 14)


@pytest.mark.parametrize("config", [LARGE, VggtConfig.tiny(), LARGE.only("depth")])
def test_json_round_trip(config):
    assert VggtConfig.from_mapping(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 100}, "multiple of 4"),
        ({"taps": (4, 11, 17, 22)}, "last is pair 23"),
        ({"taps": (4, 4, 17, 23)}, "increasing taps"),
        ({"taps": (4, 23)}, "expected 4 taps"),
        ({"dpt_features": 12}, "dpt_features"),
        ({"camera_head": False, "depth_head": False, "point_head": False}, "at least one head"),
    ],
)
def test_sizes_that_do_not_fit_together(change, message):
    with pytest.raises(ValueError, match=message):
        VggtConfig(**change)


def test_unknown_field_and_head():
    with pytest.raises(ValueError, match=r"unknown fields \['width'\]"):
        VggtConfig.from_mapping({"width": 3})
    with pytest.raises(ValueError, match="expected dim to be int, got '64'"):
        VggtConfig.from_mapping({"dim": "64"})
    with pytest.raises(ValueError, match=r"got \['track'\]"):
        LARGE.only("depth", "track")


def test_output_names():
    assert LARGE.output_names == (
        "pose_enc",
        "depth",
        "depth_conf",
        "world_points",
        "world_points_conf",
    )
    assert LARGE.only("camera").output_names == ("pose_enc",)
