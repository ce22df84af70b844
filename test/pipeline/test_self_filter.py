"""The robot is kept out of its map: masks and a box."""

import dataclasses

import cv2
import numpy as np
import pytest

from vggt_ros.config import CameraConfig, Config, SelfFilterConfig
from vggt_ros.errors import CalibrationError, ConfigError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline.mapping import MappingPipeline
from vggt_ros.pipeline.self_filter import SelfFilter
from vggt_ros.pipeline.warm_up import PlaneBootstrapper, plane_frame_set, warm_up_config
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction


def write_mask(path, shape, white):
    mask = np.zeros(shape, np.uint8)
    mask[white] = 255
    assert cv2.imwrite(str(path), mask)
    return str(path)


def with_masks(config, **masks):
    return dataclasses.replace(
        config, camera={name: CameraConfig(mask=path) for name, path in masks.items()}
    )


def test_masked_pixels_reach_neither_map_nor_points(tmp_path):
    """The left third of the left camera, drawn at twice the size of the images."""
    mask = write_mask(tmp_path / "mask.png", (128, 192), np.s_[:, :64])
    plain = warm_up_config(Config())
    masked = with_masks(plain, left=mask)
    found = {}
    for name, config in (("plain", plain), ("masked", masked)):
        pipeline = MappingPipeline(config, bootstrapper=PlaneBootstrapper())
        for k in range(3):
            frame_set = plane_frame_set()
            result = pipeline.step(dataclasses.replace(frame_set, stamp_ns=k))
        found[name] = pipeline, {d.camera: d for d in result.depth_maps}
    depth = found["masked"][1]["left"].depth
    third = depth.shape[1] // 3
    assert np.isnan(depth[:, :third]).all()
    assert np.isfinite(depth[:, third + 2 :]).mean() > 0.5
    other = found["plain"][1]["right"].depth
    np.testing.assert_array_equal(found["masked"][1]["right"].depth, other)
    assert np.isfinite(found["plain"][1]["left"].depth[:, :third]).mean() > 0.3
    left = found["masked"][0].scene.map_from_camera["left"]
    right = found["masked"][0].scene.map_from_camera["right"]
    # what the masked part alone saw is not in the map: the right camera does not see it
    points = left.inverse().apply(found["masked"][0].cloud().points)
    pixels = points[:, 0] / points[:, 2] * 80.0 + 47.5
    seen = right.inverse().apply(found["masked"][0].cloud().points)
    by_right = np.abs(seen[:, 0] / seen[:, 2] * 80.0) < 49
    assert (pixels[~by_right] > third - 2).all()


def test_a_mask_lies_in_the_raw_image_of_a_distorted_lens(tmp_path):
    lens = CameraModel(200, 150, 120.0, 120.0, 99.5, 74.5, "plumb_bob", (-0.25, 0.05, 0, 0))
    mask = write_mask(tmp_path / "mask.png", (150, 200), np.s_[:, 150:])
    model = lens.without_distortion().resized(100, 75)
    camera_filter = SelfFilter(with_masks(Config(["left"]), left=mask))
    ones = np.ones((75, 100), np.float32)
    rgb = np.zeros((75, 100, 3), np.uint8)
    prediction = DepthPrediction("left", 0, DepthKind.TRIANGULATED, ones, ones, model, rgb)
    rig = Rig((RigCamera("left", model=lens),), "rig")
    (found,) = camera_filter.masked([prediction], None, rig)
    raw = lens.project(model.rays())[..., 0]  # where each undistorted pixel lies in the raw image
    is_hole = np.isnan(found.values)
    assert is_hole[raw > 151.5].all()
    assert not is_hole[raw < 148.0].any()
    assert (found.confidence[is_hole] == 0).all()


@pytest.mark.parametrize("name", ["missing.png", "text.png"])
def test_a_mask_that_cannot_be_read_is_refused(tmp_path, name):
    (tmp_path / "text.png").write_text("no image")
    config = with_masks(Config(["left"]), left=str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"camera\.left\.mask: expected an image file"):
        SelfFilter(config)


def test_a_mask_of_another_aspect_is_refused(tmp_path):
    mask = write_mask(tmp_path / "mask.png", (100, 100), np.s_[:, 50:])
    pipeline = MappingPipeline(
        with_masks(warm_up_config(Config()), left=mask), bootstrapper=PlaneBootstrapper()
    )
    with pytest.raises(CalibrationError, match=r"camera\.left\.mask: .* of another aspect"):
        pipeline.step(plane_frame_set())


def test_nothing_in_the_box_is_mapped(caplog):
    """A camera 1 m above the rig's origin looks straight down on a floor 1 m below that."""
    model = CameraModel(101, 101, 50.0, 50.0, 50.0, 50.0)
    rig_from_camera = Rigid3([[1, 0, 0], [0, -1, 0], [0, 0, -1]], [0.0, 0.0, 1.0])
    map_from_rig = Rigid3.from_rotation_vector((0.2, -0.3, 1.0), (5.0, -3.0, 2.0))
    depth = np.full((101, 101), 2.0, np.float32)
    depth[40:60, 40:60] = 1.1  # the robot
    depth_map = DepthMap(
        "down", 0, depth, np.ones_like(depth), np.zeros((101, 101, 3), np.uint8), model,
        map_from_rig @ rig_from_camera,
        DepthAlignment("down", DepthKind.TRIANGULATED, 1, 0, 1, 0, 0, True),
    )  # fmt: skip
    box = SelfFilterConfig(True, -0.3, -0.3, -0.5, 0.3, 0.3, 0.5)
    box_filter = SelfFilter(dataclasses.replace(Config(), self_filter=box))
    (found,) = box_filter.outside_box([depth_map], map_from_rig)
    expected = np.zeros((101, 101), bool)
    expected[40:60, 40:60] = True
    np.testing.assert_array_equal(np.isnan(found.depth), expected)
    off = SelfFilter(Config()).outside_box([depth_map], map_from_rig)
    assert off[0] is depth_map
    for _ in range(2):
        assert box_filter.outside_box([depth_map], None)[0] is depth_map
    assert caplog.text.count("nothing says where the rig is") == 1
