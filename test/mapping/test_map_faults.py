"""What is wrong with a depth map or a pose leaves either kind of map as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vggt_ros.config import AlignConfig, MapConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.mapping.make_map import make_map
from vggt_ros.pipeline.align_depth import DepthAligner
from vggt_ros.types import DepthAlignment, DepthKind, DepthMap, DepthPrediction

KINDS = ("surfel", "tsdf")


@pytest.fixture(params=KINDS)
def room_map(request, world):
    """A room seen twice by its rig."""
    if request.param == "tsdf":
        pytest.importorskip("open3d", exc_type=ImportError)
    found = make_map(MapConfig(kind=request.param, voxel_m=0.04))
    for _ in range(2):
        found.fuse([world.depth_map(world.BoxScene(), world.model, pose) for pose in world.rig])
    return found


def state(room_map):
    return room_map.size, room_map.cloud().points.tobytes()


def good(world):
    return world.depth_map(world.BoxScene(), world.model, world.rig[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e6])
def test_impossible_depth_is_counted_by_reason(room_map, world, value):
    before, depth = state(room_map), np.full(good(world).depth.shape, value, np.float32)
    counted = dict(room_map.rejected)
    room_map.fuse([dataclasses.replace(good(world), depth=depth)])
    assert state(room_map) == before
    reason = "far" if value == 1e6 else "invalid"
    assert room_map.rejected[reason] == counted[reason] + depth.size


def test_confidence_all_zero_is_nothing_measured(room_map, world):
    before, depth = state(room_map), good(world).depth
    counted = room_map.rejected["invalid"]
    room_map.fuse([dataclasses.replace(good(world), confidence=np.zeros_like(depth))])
    assert state(room_map) == before
    assert room_map.rejected["invalid"] == counted + depth.size


def test_a_few_impossible_pixels_do_not_spoil_the_others(world):
    """Not one of them, and not its neighbours' normals, may become a point off the room."""
    depth_map, scene = good(world), world.BoxScene()
    depth = depth_map.depth.copy()
    random = np.random.default_rng(0)
    for value in (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e6):
        depth.reshape(-1)[random.choice(depth.size, 50, replace=False)] = value
    surfel_map = make_map(MapConfig(voxel_m=0.04))
    surfel_map.fuse([dataclasses.replace(depth_map, depth=depth)])
    cloud = surfel_map.cloud()
    assert np.isfinite(cloud.points).all()
    assert np.isfinite(cloud.normals).all()
    off = scene.distance(cloud.points)
    assert np.quantile(off, 0.97) < 0.01
    assert off.max() < 0.06  # a voxel and a half, at the edges of boxes
    assert surfel_map.rejected["invalid"] > 200


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        (DepthKind.DISPARITY, "jump"),  # triangulated depth may show a place that is new
        (DepthKind.DISPARITY, "constant"),
        (DepthKind.TRIANGULATED, "constant"),
        (DepthKind.DISPARITY, "black"),
        (DepthKind.TRIANGULATED, "black"),
    ],
)
def test_what_does_not_fit_the_map_is_rejected_before_it_is_fused(room_map, world, kind, spoil):
    """A pose that jumps by ten metres, constant depth, and what an all-black image gives."""
    depth_map, pose = good(world), world.rig[0]
    depth = depth_map.depth
    rgb = depth_map.rgb
    if spoil == "jump":
        pose = Rigid3(pose.rotation, pose.translation + [10.0, 0.0, 0.0])
    elif spoil == "constant":
        depth = np.full_like(depth, 1.3)
    else:  # no texture, no depth
        depth, rgb = np.full_like(depth, np.nan), np.zeros_like(rgb)
    values = depth if kind is DepthKind.TRIANGULATED else (1 / depth - 0.1) / 1.5
    prediction = DepthPrediction(
        "front", 0, kind, values, np.full_like(depth, 0.9), world.model, rgb
    )
    before = state(room_map)
    reference = room_map.render(world.model, pose).depth
    aligned = DepthAligner(AlignConfig()).align(prediction, reference, pose)
    assert not aligned.alignment.accepted
    assert aligned.alignment.reason
    room_map.fuse([aligned])
    assert state(room_map) == before


def test_a_jump_that_is_fused_all_the_same_changes_nothing_that_it_does_not_see(world):
    """The map has no opinion of poses; what is out of sight stays."""
    surfel_map = make_map(MapConfig(voxel_m=0.04))
    surfel_map.fuse([world.depth_map(world.BoxScene(), world.model, pose) for pose in world.rig])
    before = surfel_map.cloud().points
    pose = world.rig[0]
    away = Rigid3(pose.rotation, pose.translation + [100.0, 0.0, 0.0])
    surfel_map.fuse([dataclasses.replace(good(world), map_from_camera=away)])
    after = surfel_map.cloud().points
    np.testing.assert_array_equal(after[: len(before)], before)
    assert (after[len(before) :, 0] > 50).all()


def test_one_pixel_alone_is_no_fault_of_the_tsdf(world):
    """Open3D throws where none of the pixels that it looks at has a depth."""
    pytest.importorskip("open3d", exc_type=ImportError)
    tsdf, depth = make_map(MapConfig(kind="tsdf")), np.full(good(world).depth.shape, np.nan)
    depth[41, 41] = 2.0
    tsdf.fuse([dataclasses.replace(good(world), depth=depth.astype(np.float32))])
    assert tsdf.size == 0


def test_a_camera_inside_a_wall_renders_and_fuses(room_map, world):
    inside = Rigid3(np.eye(3), np.array([0.0, 0.0, 0.0]))  # on the floor, looking up
    seen = room_map.render(world.model, inside)
    assert not (seen.depth <= 0).any()
    room_map.fuse([dataclasses.replace(good(world), map_from_camera=inside)])
    assert np.isfinite(room_map.cloud().points).all()


@pytest.mark.parametrize("kind", KINDS)
def test_flat_views_are_left_out_and_counted(kind):
    """A floor from 30 cm above it: most is seen more flatly than 60 degrees."""
    if kind == "tsdf":
        pytest.importorskip("open3d", exc_type=ImportError)
    model = CameraModel(120, 90, 90.0, 90.0, 59.5, 44.5)
    with np.errstate(divide="ignore"):
        depth = 0.3 / model.rays()[..., 1]
    depth = np.where((depth > 0) & (depth < 3), depth, np.nan).astype(np.float32)
    depth_map = DepthMap(
        "front", 0, depth, np.ones_like(depth), np.full((*depth.shape, 3), 90, np.uint8), model,
        Rigid3.identity(),
        DepthAlignment("front", DepthKind.TRIANGULATED, 1.0, 0.0, 1.0, 0.0, 0, True),
    )  # fmt: skip
    any_angle, steep_only = (
        make_map(MapConfig(kind=kind, max_incidence_deg=degrees, voxel_m=0.02))
        for degrees in (90.0, 60.0)
    )
    for each in (any_angle, steep_only):
        each.fuse([depth_map])
    known = np.isfinite(depth)
    assert any_angle.rejected["grazing"] == 0
    # Incidence beyond 60 degrees: farther along the floor than tan 60 times the height.
    flat = (np.hypot(model.rays()[..., 0], 1) * depth > 0.3 * np.sqrt(3) * 1.1) & known
    assert steep_only.rejected["grazing"] >= 0.95 * flat.sum()
    assert steep_only.size < any_angle.size
