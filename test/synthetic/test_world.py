"""Pictures of worlds whose depth is known in closed form."""

import dataclasses
import itertools
import math

import cv2
import numpy as np
import pytest

from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.synthetic.primitives import SceneObject, at, cylinder, rectangle, sphere
from vggt_ros.synthetic.rays import pixel_rays, unproject_pixels
from vggt_ros.synthetic.scenes import (
    blank_room,
    box_world,
    demo_rig,
    demo_room,
    no_overlap_rig,
    plane_world,
    simulate,
)
from vggt_ros.synthetic.textures import blank, clouds, picture
from vggt_ros.synthetic.world import FixedCamera, World

PINHOLE = CameraModel(160, 120, 100.0, 101.0, 79.0, 60.5)
LENSES = {
    "none": PINHOLE,
    "plumb_bob": CameraModel(
        160, 120, 100.0, 101.0, 79.0, 60.5, "plumb_bob", (-0.28, 0.09, 1e-3, -5e-4, -0.01)
    ),
    "rational_polynomial": CameraModel(
        160, 120, 90.0, 90.0, 79.5, 59.5, "rational_polynomial",
        (0.4, 0.05, 2e-4, -3e-4, 0.003, 0.7, 0.12, 0.01),
    ),
    "equidistant": CameraModel(
        160, 120, 90.0, 90.0, 79.5, 59.5, "equidistant", (0.01, -0.005, 0.002, -0.0005)
    ),
    "equidistant without coefficients": CameraModel(
        160, 120, 90.0, 90.0, 79.5, 59.5, "equidistant", (0.0, 0.0, 0.0, 0.0)
    ),
}  # fmt: skip


@pytest.fixture(params=list(LENSES))
def lens(request: pytest.FixtureRequest) -> CameraModel:
    return LENSES[request.param]


def pixels_of(model: CameraModel) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(model.width), np.arange(model.height)), axis=-1)


def test_rays_project_back_to_their_pixels(lens):
    xy = pixel_rays(lens)[0]
    assert np.isfinite(xy).all()
    back = lens.project(np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=-1))
    assert np.abs(back - pixels_of(lens)).max() < 1e-5


def test_a_ray_that_the_lens_cannot_have_is_nan():
    lens = CameraModel(64, 48, 10.0, 10.0, 31.5, 23.5, "equidistant", (0.0,) * 4)
    xy = unproject_pixels(lens, np.array([[31.5, 23.5], [0.0, 0.0]]))  # the second: 220 degrees
    assert np.isfinite(xy[0]).all()
    assert np.isnan(xy[1]).all()


def test_depth_of_a_fronto_parallel_plane(lens):
    image = plane_world(2.5, 0.0, blank(), 400.0).render(lens, Rigid3.identity())
    np.testing.assert_allclose(image.depth, 2.5, rtol=1e-6)
    assert (image.surface_id == 0).all()


def test_depth_of_a_slanted_plane(lens):
    """z = d + tan(a) x, and x = z * ray_x, so z = d / (1 - tan(a) ray_x)."""
    tilt = math.radians(20)
    image = plane_world(2.0, tilt, blank(), 400.0).render(lens, Rigid3.identity())
    rays = pixel_rays(lens)[0]
    expected = 2.0 / (1 - math.tan(tilt) * rays[..., 0])
    np.testing.assert_allclose(image.depth, expected, rtol=1e-5)


def test_points_at_their_depth_project_back(lens):
    """Through the model alone: nothing here knows how the picture was made."""
    pose = Rigid3.from_rotation_vector((0.1, -0.2, 0.05), (0.1, 0.2, -0.3))
    image = plane_world(2.0, 0.0, blank(), 400.0).render(lens, pose)
    rays = pixel_rays(lens)[0].astype(np.float64)
    points = np.concatenate([rays, np.ones((*rays.shape[:2], 1))], axis=-1)
    points = points * image.depth[..., None].astype(np.float64)
    np.testing.assert_allclose(pose.apply(points)[..., 2], 2.0, rtol=1e-5)
    assert np.abs(lens.project(points) - pixels_of(lens)).max() < 1e-3


def test_box_before_a_wall():
    world = box_world(2.0, 3.0)
    image = world.render(PINHOLE, Rigid3.identity())
    points = PINHOLE.unproject(image.depth)
    on_box = image.surface_id == 1
    assert on_box.any()
    assert (image.surface_id[~on_box] == 0).all()
    np.testing.assert_allclose(image.depth[~on_box], 3.0, rtol=1e-6)
    # 0.6 m at 2 m: within 0.15 of the axis, in units of z = 1; only the front shows from here
    x = (pixels_of(PINHOLE)[..., 0] - PINHOLE.cx) / PINHOLE.fx
    y = (pixels_of(PINHOLE)[..., 1] - PINHOLE.cy) / PINHOLE.fy
    np.testing.assert_array_equal(on_box, (np.abs(x) <= 0.15) & (np.abs(y) <= 0.15))
    np.testing.assert_allclose(points[on_box][:, 2], 2.0, rtol=1e-6)


def test_round_things_are_where_they_should_be():
    ball = sphere(0.8, at(0.1, 0.0, 2.0), clouds())
    can = cylinder(0.5, 0.6, at(-0.8, 0.0, 1.8), clouds())
    world = World((SceneObject("round", (ball, can), Rigid3.identity()),))
    image = world.render(PINHOLE, Rigid3.identity())
    points = PINHOLE.unproject(image.depth)
    on_ball, on_can = points[image.surface_id == 0], points[image.surface_id == 1]
    assert len(on_ball) > 500
    assert len(on_can) > 100
    np.testing.assert_allclose(np.linalg.norm(on_ball - [0.1, 0, 2.0], axis=1), 0.4, atol=1e-5)
    radius = np.hypot(on_can[:, 0] + 0.8, on_can[:, 1])
    side = (np.abs(radius - 0.25) < 1e-5) & (on_can[:, 2] > 1.8 - 1e-5)
    cap = (np.abs(on_can[:, 2] - 1.8) < 1e-5) & (radius < 0.25 + 1e-5)
    assert (side | cap).all()
    assert side.any()
    assert cap.any()


def test_nothing_is_nan_and_background():
    world = World(
        (SceneObject("far", (rectangle(1, 1, (0, 0, 2), (1, 0, 0), (0, -1, 0), clouds()),),
                     Rigid3.identity()),),
        background=(1.0, 1.0, 1.0),
    )  # fmt: skip
    image = world.render(PINHOLE, Rigid3.identity())
    empty = image.surface_id == -1
    assert empty.any()
    assert not empty.all()
    assert np.isnan(image.depth[empty]).all()
    assert np.isfinite(image.depth[~empty]).all()
    assert (image.rgb[:20] == 255).all()


def test_a_texture_is_upright_and_not_mirrored():
    """A face shows its image as it is to someone before it; the corners tell."""
    quarters = np.zeros((2, 2, 3), np.uint8)
    quarters[0, 0], quarters[0, 1], quarters[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    world = plane_world(2.0, material=picture(quarters), size_m=2.0)
    rgb = world.render(PINHOLE, Rigid3.identity()).rgb
    x, y = round(PINHOLE.cx), round(PINHOLE.cy)
    assert rgb[y - 40, x - 40].tolist() == [255, 0, 0]
    assert rgb[y - 40, x + 40].tolist() == [0, 255, 0]
    assert rgb[y + 40, x - 40].tolist() == [0, 0, 255]
    assert rgb[y + 40, x + 40].tolist() == [0, 0, 0]


def test_oblique_texture_does_not_alias():
    """A fine chequerboard seen obliquely fades to its mean (in linear light: 0.5^(1/2.2))."""
    y, x = np.mgrid[0:2048, 0:2048]
    checks = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    world = plane_world(1.0, math.radians(80), picture(checks), 40.0)
    image = world.render(PINHOLE, Rigid3.identity())
    far = image.depth > 3
    assert far.sum() > 300
    assert abs(float(image.rgb[far].mean()) - 255 * 0.5 ** (1 / 2.2)) < 3
    assert float(image.rgb[far].std()) < 8


def test_supersample_must_be_positive():
    with pytest.raises(ValueError, match="supersample"):
        plane_world(1.0).render(PINHOLE, Rigid3.identity(), supersample=0)


@pytest.fixture(scope="module")
def demo_images():
    world, (rig, map_from_rig) = demo_room(), demo_rig()
    return {
        camera.name: world.render(camera.model, map_from_rig @ camera.rig_from_camera, 0.8)
        for camera in rig.cameras
    }


def test_neighbours_of_the_demo_agree(demo_images):
    """One image warped into its neighbour through true depth shows the same grey values."""
    names = list(demo_images)
    for a, b in itertools.pairwise(names):
        one, other = demo_images[a], demo_images[b]
        points = one.map_from_camera.apply(one.model.unproject(one.depth))
        in_other = other.map_from_camera.inverse().apply(points)
        pixels = other.model.project(in_other).astype(np.float32)
        warped = cv2.remap(other.rgb, pixels, None, cv2.INTER_LINEAR, borderValue=(0, 0, 0))
        depth = cv2.remap(other.depth, pixels, None, cv2.INTER_NEAREST, borderValue=-1)
        seen = np.abs(depth - in_other[..., 2]) < 0.01 * in_other[..., 2]
        assert seen.mean() > 0.3
        difference = np.abs(warped.astype(float) - one.rgb)[seen]
        assert np.median(difference) < 4, (a, b)
        assert difference.mean() < 8, (a, b)


def test_neighbours_of_the_demo_can_be_matched(demo_images):
    """With noise, SIFT finds far more than 150 right matches in every neighbouring pair."""
    from vggt_ros.synthetic.sensor import apply_sensor

    sift = cv2.SIFT_create()
    found = []
    for name, image in demo_images.items():
        grey = cv2.cvtColor(apply_sensor(image.rgb, name, 0), cv2.COLOR_RGB2GRAY)
        found.append(sift.detectAndCompute(grey, None))
    images = list(demo_images.values())
    for k in range(3):
        one, other = images[k], images[k + 1]
        pairs = cv2.BFMatcher().knnMatch(found[k][1], found[k + 1][1], 2)
        good = [m for m, n in pairs if m.distance < 0.8 * n.distance]
        a = np.array([found[k][0][m.queryIdx].pt for m in good])
        b = np.array([found[k + 1][0][m.trainIdx].pt for m in good])
        row, column = np.rint(a[:, 1]).astype(int), np.rint(a[:, 0]).astype(int)
        z = one.depth[row, column].astype(float)
        rays = unproject_pixels(one.model, a)
        points = one.map_from_camera.apply(np.column_stack([rays * z[:, None], z]))
        expected = other.model.project(other.map_from_camera.inverse().apply(points))
        assert int((np.linalg.norm(expected - b, axis=1) < 2).sum()) >= 150


def test_the_demo_has_texture_that_is_not_noise(demo_images):
    for image in demo_images.values():
        grey = cv2.cvtColor(image.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
        mean = cv2.blur(grey, (15, 15))
        deviation = np.sqrt(np.maximum(cv2.blur(grey * grey, (15, 15)) - mean * mean, 0))
        assert (deviation > 3).mean() > 0.85
        # White noise keeps more than 90 % of its deviation above this band; a photograph little.
        fine = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
        assert fine.std() < 0.4 * grey.std()


def test_the_cart_moves_and_leaves():
    world, (rig, map_from_rig) = demo_room(), demo_rig()
    seen = []
    for time_s in (0.0, 1.5, 4.0):
        views = [
            world.render(c.model, map_from_rig @ c.rig_from_camera, time_s) for c in rig.cameras
        ]
        seen.append([view.is_moving for view in views])
    assert sum(mask.sum() for mask in seen[0]) > 5000
    assert sum(mask.sum() for mask in seen[1]) > 5000
    overlap = seen[0][1] & seen[1][1]
    assert overlap.sum() < 0.5 * seen[0][1].sum()
    assert not any(mask.any() for mask in seen[2])


def test_a_fixed_camera_gives_the_pictures_of_the_world():
    """What stands still is kept; only tiles that a moving object may touch are drawn again."""
    from vggt_ros.synthetic import drawing
    from vggt_ros.synthetic.world import _Buffers

    world, (rig, map_from_rig) = demo_room(), demo_rig()
    camera = rig.cameras[1]
    fixed = FixedCamera(world, camera.model, map_from_rig @ camera.rig_from_camera)
    fixed.render(0.0)
    image = fixed.render(1.3)
    whole = _Buffers.empty(camera.model)
    everything = np.ones(len(world.primitives), bool)
    tiles = np.ones((-(-480 // drawing.TILE), -(-640 // drawing.TILE)), bool)
    fixed._draw(whole, everything, tiles, 1.3)
    np.testing.assert_array_equal(image.rgb, whole.rgb)
    np.testing.assert_array_equal(image.depth, whole.depth)
    np.testing.assert_array_equal(image.surface_id, whole.ids)


def test_demo_rig_has_the_stated_shape():
    rig, map_from_rig = demo_rig()
    poses = list(rig.poses.values())
    for a, b in itertools.pairwise(poses):
        step = a.inverse() @ b
        assert np.linalg.norm(step.translation) == pytest.approx(0.25, abs=1e-9)
        assert 19 < math.degrees(step.angle_rad) < 22
    for camera in rig.cameras:
        assert 80 <= math.degrees(camera.model.horizontal_fov_rad) <= 90
        axes = camera.rig_from_camera.rotation
        assert axes[2, 1] < -0.9  # y of the optical frame points down
        assert axes[0, 2] > 0.7  # and z forward
    assert map_from_rig.rotation[2, 2] == pytest.approx(1)


def test_rooms_to_fail_in():
    rig, map_from_rig = no_overlap_rig()
    views = [
        blank_room().render(c.model.resized(64, 48), map_from_rig @ c.rig_from_camera)
        for c in rig.cameras
    ]
    for k, view in enumerate(views):
        assert np.isfinite(view.depth).all()
        # A wall, the floor and the ceiling in three tones and nothing between
        assert max(len(np.unique(view.rgb[view.surface_id == s], axis=0)) for s in range(6)) < 80
        points = view.map_from_camera.apply(view.model.unproject(view.depth)).reshape(-1, 3)
        for other in views[k + 1 :]:
            pixels = other.model.project(other.map_from_camera.inverse().apply(points))
            inside = ((pixels > -0.5) & (pixels < np.array(other.model.size) - 0.5)).all(axis=1)
            assert not inside.any()


def test_simulate_is_deterministic_with_skewed_stamps():
    rig, map_from_rig = demo_rig()
    cameras = (dataclasses.replace(c, model=c.model.resized(96, 72)) for c in rig.cameras)
    small = dataclasses.replace(rig, cameras=tuple(cameras))
    runs = [list(simulate(demo_room(), small, map_from_rig, 3, 10.0, 5_000)) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert one.stamps_ns == other.stamps_ns
        for name in small.names:
            np.testing.assert_array_equal(one.images[name], other.images[name])
    first, second = runs[0][:2]
    assert second.stamp_ns - first.stamp_ns == 100_000_000
    assert first.stamp_ns == 5_000
    skews = [stamp - first.stamp_ns for stamp in first.stamps_ns.values()]
    assert 0 < max(skews) - min(skews) < 4_000_000
    assert (first.images[small.names[0]] != second.images[small.names[0]]).any()
    assert first.truth[small.names[0]].time_s == pytest.approx(
        (first.stamps_ns[small.names[0]] - 5_000) * 1e-9
    )
