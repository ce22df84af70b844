"""Decoding VGGT: rendered scenes with exact answers, put through the encoder, come back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.inference.vggt import decode, decode_cameras, encode_cameras
from vggt_ros.inference.vggt_input import prepare
from vggt_ros.synthetic.scenes import box_world
from vggt_ros.synthetic.truth import distance_to_surface
from vggt_ros.types import Frame

EXACT = 1e-5
POSES = (
    Rigid3.identity(),
    Rigid3.from_rotation_vector((0.05, -0.2, 0.1), (0.5, 0.1, -0.2)),
    Rigid3.from_rotation_vector((-0.1, 0.15, -0.2), (-0.4, -0.2, 0.1)),
)
MODELS = (
    CameraModel(320, 240, 250.0, 255.0, 159.5, 119.5),
    CameraModel(240, 320, 260.0, 250.0, 119.5, 159.5),
    CameraModel(310, 200, 240.0, 245.0, 154.5, 99.5),
)
"""Principal points in the middle: the network knows no others."""


class Answer:
    """What a perfect network says of a box before a wall."""

    def __init__(self, mode, models=MODELS, given=False, shape=None):
        self.world = box_world()
        self.models = models
        names = ("front", "left", "right")
        images = [
            self.world.render(m, p, supersample=1).rgb for m, p in zip(models, POSES, strict=True)
        ]
        self.input = prepare(images, mode, size=154, shape=shape)
        self.cameras = [
            place.input_camera(model, *self.input.size)
            for place, model in zip(self.input.placements, models, strict=True)
        ]
        self.pose_enc = encode_cameras(POSES, self.cameras)
        self.depth = np.stack(
            [
                self.world.render(m, p, supersample=1).depth
                for m, p in zip(self.cameras, POSES, strict=True)
            ]
        )
        random = np.random.default_rng(2)
        self.confidence = (1 + random.exponential(3.0, self.depth.shape)).astype(np.float32)
        self.frames = [
            (100 + k, Frame(name, 90 + k, image, model if given else None))
            for k, (name, image, model) in enumerate(zip(names, images, models, strict=True))
        ]

    def decode(self, **change):
        arguments = {
            "pose_enc": self.pose_enc,
            "depth": self.depth,
            "depth_conf": self.confidence,
            "network_input": self.input,
            "frames": self.frames,
            **change,
        }
        return decode(**arguments)


@pytest.fixture(scope="module", params=["crop", "pad"])
def answer(request):
    return Answer(request.param)


def test_exact_cameras_and_depth_come_back(answer):
    scene = answer.decode()
    assert scene.bootstrapper == "vggt"
    assert scene.failed == ()
    assert scene.cameras == ("front", "left", "right")
    assert [view.stamp_ns for view in scene.views] == [100, 101, 102]
    for k, view in enumerate(scene.views):
        error = view.scene_from_camera.inverse() @ POSES[k]
        assert np.abs(error.translation).max() < EXACT
        assert error.angle_rad < EXACT
        assert view.model.size == MODELS[k].size
        np.testing.assert_allclose(view.model.matrix, MODELS[k].matrix, rtol=EXACT)
        place = answer.input.placements[k]
        np.testing.assert_array_equal(view.depth, answer.depth[k][place.region])
        assert view.depth_model.size == (place.width, place.height)


def test_points_lie_on_the_surfaces(answer):
    """Depth through `depth_model` and the pose; half a pixel would be a millimetre or more."""
    scene = answer.decode(max_points=5000)
    assert 4000 < len(scene.points) <= 5000 + len(scene.views)
    assert distance_to_surface(answer.world, scene.points).max() < EXACT
    for view in scene.views:
        points = view.scene_from_camera.apply(view.depth_model.unproject(view.depth))
        assert distance_to_surface(answer.world, points.reshape(-1, 3)).max() < EXACT
    # Half a pixel would show: slanted rays from a moved grid leave the front of the box.
    view = scene.views[1]
    moved = view.depth_model.unproject(view.depth) + [0.5 * 2 / view.depth_model.fx, 0, 0]
    points = view.scene_from_camera.apply(moved).reshape(-1, 3)
    assert np.median(distance_to_surface(answer.world, points)) > 50 * EXACT


def test_colours_are_those_of_the_points(answer):
    """Each point, seen by the camera it came from, has the colour of the image there."""
    scene = answer.decode(max_points=3000)
    near = np.full(len(scene.points), np.inf)
    for k, view in enumerate(scene.views):
        rgb = answer.input.kept_rgb(k)
        at = view.depth_model.project(view.scene_from_camera.inverse().apply(scene.points))
        column, row = np.rint(np.nan_to_num(at, nan=-1)).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < rgb.shape[1]) & (row < rgb.shape[0])
        inside &= np.abs(at - np.rint(at)).max(axis=1) < 0.01
        difference = np.abs(rgb[row[inside], column[inside]] - scene.colours[inside].astype(int))
        near[inside] = np.minimum(near[inside], difference.max(axis=1))
    assert (near == 0).all()


def test_given_intrinsics_win():
    off_centre = [
        CameraModel(m.width, m.height, m.fx, m.fy, m.cx + 7.3, m.cy - 4.1) for m in MODELS
    ]
    answer = Answer("crop", off_centre, given=True)
    wrong = answer.pose_enc.copy()
    wrong[:, 7:] *= 1.1
    scene = answer.decode(pose_enc=wrong)
    for view, model in zip(scene.views, off_centre, strict=True):
        assert view.model == model
        points = view.scene_from_camera.apply(view.depth_model.unproject(view.depth))
        assert distance_to_surface(answer.world, points.reshape(-1, 3)).max() < EXACT
    fov = 2 * math.atan(answer.input.size[0] / 2 / answer.cameras[1].fx)
    expected = math.tan(fov / 2) / math.tan(1.1 * fov / 2)
    assert scene.statistics["focal_ratio"] == pytest.approx(expected, rel=0.02)
    no_fov = answer.pose_enc.copy()
    no_fov[:, 7:] = 0.0
    assert [view.model for view in answer.decode(pose_enc=no_fov).views] == off_centre


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_engines_of_one_shape(mode):
    answer = Answer(mode, shape=(84, 168))
    for view in answer.decode().views:
        points = view.scene_from_camera.apply(view.depth_model.unproject(view.depth))
        assert distance_to_surface(answer.world, points.reshape(-1, 3)).max() < EXACT


def test_the_half_pixel_of_a_field_of_view():
    """The field of view spans the outer edges, and the image is the same when mirrored."""
    model = CameraModel(70, 56, 60.0, 65.0, 34.5, 27.5)
    vector = encode_cameras([Rigid3.identity()], [model])[0]
    assert vector[8] == pytest.approx(model.horizontal_fov_rad, abs=1e-6)
    assert vector[8] == pytest.approx(2 * math.atan(35 / 60), abs=1e-6)
    assert vector[7] == pytest.approx(2 * math.atan(28 / 65), abs=1e-6)
    image = np.zeros((56, 70, 3), np.uint8)
    scene = decode(
        vector[None],
        np.ones((1, 56, 70)),
        np.ones((1, 56, 70)),
        prepare([image], shape=(56, 70)),
        [(0, Frame("a", 0, image))],
    )
    camera = scene.views[0].model
    assert (camera.cx, camera.cy) == (34.5, 27.5)
    rays = camera.rays()
    np.testing.assert_allclose(rays[..., 0], -rays[:, ::-1, 0], atol=1e-6)
    np.testing.assert_allclose(rays[..., 1], -rays[::-1, :, 1], atol=1e-6)


@given(
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    st.floats(20, 2000),
    st.floats(20, 2000),
    st.floats(-5, 5).filter(lambda scale: abs(scale) > 0.01),
)
def test_cameras_go_there_and_back(vector, fx, fy, quaternion_scale):
    pose = Rigid3.from_rotation_vector(vector[:3], vector[3:])
    model = CameraModel(518, 392, fx, fy, 258.5, 195.5)
    encoded = encode_cameras([pose], [model])
    encoded[:, 3:7] *= quaternion_scale  # the network does not normalise, nor mind the sign
    camera = decode_cameras(encoded, 518, 392)[0]
    error = camera.world_from_camera.inverse() @ pose
    assert np.abs(error.translation).max() < EXACT
    assert error.angle_rad < EXACT
    assert camera.focal_px == pytest.approx((fx, fy), rel=EXACT)


def test_confidence_becomes_a_rank_over_the_scene(answer):
    scene = answer.decode()
    raw = [answer.confidence[k][p.region] for k, p in enumerate(answer.input.placements)]
    raw = np.concatenate([part.ravel() for part in raw])
    rank = np.concatenate([view.confidence.ravel() for view in scene.views])
    assert rank.dtype == np.float32
    assert 0 < rank.min() < 1e-4
    assert 1 - 1e-4 < rank.max() < 1
    assert (np.diff(rank[np.argsort(raw)]) >= 0).all()
    for share in (0.1, 0.5, 0.9):
        limit = np.quantile(raw, share)
        assert rank[raw < limit].max() <= share + 1e-4
    scaled = answer.decode(depth_conf=1 + 100 * answer.confidence.astype(np.float64))
    np.testing.assert_allclose(scaled.views[0].confidence, scene.views[0].confidence, atol=1e-4)
    equal = answer.decode(depth_conf=np.ones_like(answer.confidence))
    assert (equal.views[2].confidence == 0.5).all()


def test_invalid_depth_is_nan_with_no_confidence(answer):
    depth = answer.depth.copy()
    rows, columns = answer.input.placements[1].region
    spots = [(rows.start + 3, columns.start + 5 + k) for k in range(4)]
    for (row, column), value in zip(spots, (np.inf, np.nan, 0.0, -1.0), strict=True):
        depth[1, row, column] = value
    confidence = answer.confidence.copy()
    confidence[1, rows.start + 3, columns.start + 9] = np.nan
    scene = answer.decode(depth=depth, depth_conf=confidence)
    assert np.isnan(scene.views[1].depth[3, 5:10]).all()
    assert (scene.views[1].confidence[3, 5:10] == 0).all()
    assert np.isnan(scene.views[1].depth).sum() == 5
    assert scene.statistics["invalid_depth"] > 0
    assert np.isfinite(scene.points).all()


def test_views_without_an_answer_fail_and_are_named(answer, caplog):
    poses, depth = answer.pose_enc.copy(), answer.depth.copy()
    poses[0, 1] = np.nan
    depth[2] = np.inf
    scene = answer.decode(pose_enc=poses, depth=depth)
    assert scene.cameras == ("left",)
    assert scene.failed == ("front", "right")
    assert "front: no pose" in caplog.text
    assert scene.statistics["views"] == 3
    assert scene.statistics["registered"] == 1
    poses[1, 3:7] = 0.0
    with pytest.raises(AlignmentError, match="front: no pose; left: no pose; right: no depth"):
        answer.decode(pose_enc=poses, depth=depth)
    poses = answer.pose_enc.copy()
    poses[:, 7] = 0.0
    with pytest.raises(AlignmentError, match="front: no field of view"):
        answer.decode(pose_enc=poses)
    with pytest.raises(AlignmentError, match="right: no depth"):
        answer.decode(depth=np.full_like(depth, np.nan))


def test_views_of_one_camera_share_their_predicted_intrinsics():
    answer = Answer("crop", (MODELS[0],) * 3)
    answer.frames = [(stamp, Frame("front", 0, f.rgb)) for stamp, f in answer.frames]
    answer.pose_enc[0, 7:] *= 1.3  # one of three is wrong
    scene = answer.decode()
    for view in scene.views:
        np.testing.assert_allclose(view.model.matrix, MODELS[0].matrix, rtol=EXACT)
    assert scene.cameras == ("front",)


def test_arrays_as_networks_give_them(answer):
    plain = answer.decode()
    batched = answer.decode(
        pose_enc=answer.pose_enc[None],
        depth=answer.depth[None, ..., None],
        depth_conf=answer.confidence[None],
    )
    np.testing.assert_array_equal(plain.points, batched.points)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pose_enc", np.zeros((2, 9))),
        ("depth", np.zeros((3, 14, 14))),
        ("depth_conf", np.zeros((2, 3, 14, 14))),
        ("frames", []),
    ],
)
def test_other_shapes_are_named(answer, name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        answer.decode(**{name: value})


def test_from_images_to_a_scene_with_a_real_network():
    torch = pytest.importorskip("torch", reason="torch is not installed (pip install .[torch])")
    from vggt_ros.models.vggt import Vggt
    from vggt_ros.models.vggt_config import VggtConfig

    torch.manual_seed(3)
    torch.set_num_threads(1)
    network = Vggt(VggtConfig.tiny()).eval()
    answer = Answer("crop", given=True)
    found = network.predict(torch.from_numpy(answer.input.images)[None])
    arrays = {name: found[name].numpy() for name in ("pose_enc", "depth", "depth_conf")}
    scene = answer.decode(**arrays)
    assert [view.camera for view in scene.views] == ["front", "left", "right"]
    assert all(np.isfinite(view.depth).all() for view in scene.views)
    assert len(scene.points) > 10_000
