"""Structure from motion on rendered rooms and, where they are present, on real photographs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros.config import ScaleConfig, SfmConfig
from vggt_ros.errors import AlignmentError, CalibrationError
from vggt_ros.geometry import CameraModel, Rigid3, Sim3
from vggt_ros.geometry.robust import fit_similarity
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.colmap_cameras import camera_from_colmap, camera_to_colmap, group_cameras
from vggt_ros.pipeline.pycolmap_import import import_pycolmap
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.synthetic.scenes import demo_rig, demo_room, simulate
from vggt_ros.types import Frame, FrameSet, UnscaledScene

MODEL = CameraModel(640, 480, 500.0, 510.0, 321.0, 238.0)


def blank(camera: str, level: int = 128, model: CameraModel | None = MODEL) -> Frame:
    return Frame(camera, 0, np.full((480, 640, 3), level, np.uint8), model)


@pytest.fixture(scope="module")
def demo() -> tuple[FrameSet, Rig]:
    """One set of the demo's four cameras with sensor noise."""
    rig, map_from_rig = demo_rig()
    taken = next(iter(simulate(demo_room(), rig, map_from_rig, 1, 10.0)))
    frames = tuple(
        Frame(c.name, taken.stamps_ns[c.name], taken.images[c.name], c.model) for c in rig.cameras
    )
    return FrameSet(taken.stamp_ns, frames), rig


@pytest.fixture(scope="module")
def scene(demo: tuple[FrameSet, Rig]) -> UnscaledScene:
    return SfmBootstrapper(SfmConfig()).bootstrap([demo[0]])


def rotation_errors_deg(scene: UnscaledScene, truth: dict[str, Rigid3]) -> list[float]:
    """Of all pairs of views."""
    found = {view.camera: view.scene_from_camera for view in scene.views}
    errors = []
    for a, b in itertools.combinations(found, 2):
        relative = found[a].inverse() @ found[b]
        errors.append(((truth[a].inverse() @ truth[b]).inverse() @ relative).angle_rad)
    return np.degrees(errors).tolist()


def centre_rmse(scene: UnscaledScene, truth: dict[str, Rigid3]) -> tuple[float, Sim3]:
    source = np.array([view.scene_from_camera.translation for view in scene.views])
    target = np.array([truth[view.camera].translation for view in scene.views])
    fit = fit_similarity(source, target)
    return float(np.sqrt(((fit.apply(source) - target) ** 2).sum(axis=1).mean())), fit


def test_features_lie_where_their_points_project_to(
    demo: tuple[FrameSet, Rig], scene: UnscaledScene
) -> None:
    """In the scene, and still in the map once the scene is aligned."""
    aligned = align_scene(scene, demo[1], ScaleConfig())
    assert set(aligned.features) == set(aligned.map_from_camera)
    seen = np.zeros(len(scene.points), int)
    for view in scene.views:
        found = view.features
        assert found is not None
        in_camera = view.scene_from_camera.inverse().apply(scene.points[found.rows])
        errors = np.linalg.norm(view.model.project(in_camera) - found.pixels, axis=1)
        assert np.mean(errors) < 0.7
        seen[found.rows] += 1
        in_camera = (
            aligned.map_from_camera[view.camera]
            .inverse()
            .apply(aligned.points_in_map[aligned.features[view.camera].rows])
        )
        again = np.linalg.norm(view.model.project(in_camera) - found.pixels, axis=1)
        np.testing.assert_allclose(again, errors, atol=1e-6)
    assert (seen >= 2).all()


def test_half_a_pixel_is_added_for_colmap_and_taken_off_again() -> None:
    camera = camera_to_colmap(blank("a"), 7)
    assert camera.camera_id == 7
    assert camera.model.name == "PINHOLE"
    assert camera.params.tolist() == [500.0, 510.0, 321.5, 238.5]
    assert camera_from_colmap(camera) == MODEL
    point = np.array([[0.1, -0.2, 1.0]])
    np.testing.assert_allclose(camera.img_from_cam(point) - 0.5, MODEL.project(point))


def test_unknown_intrinsics_start_in_the_middle_and_come_back_with_distortion() -> None:
    camera = camera_to_colmap(blank("a", model=None), 1)
    assert camera.params.tolist() == [1.2 * 640, 320.0, 240.0, 0.0]
    camera.params = [400.0, 320.0, 240.0, -0.05]
    model = camera_from_colmap(camera)
    assert (model.fx, model.fy, model.cx, model.cy) == (400.0, 400.0, 319.5, 239.5)
    point = np.array([[0.3, -0.2, 1.0]])
    np.testing.assert_allclose(camera.img_from_cam(point) - 0.5, model.project(point))


def test_keypoints_of_colmap_are_half_a_pixel_off() -> None:
    """A blob drawn around pixel (100, 60) is found at (100.5, 60.5) by COLMAP."""
    y, x = np.mgrid[0:120, 0:200]
    blob = 40 + 180 * np.exp(-((x - 100.0) ** 2 + (y - 60.0) ** 2) / (2 * 5.0**2))
    pycolmap = import_pycolmap()
    extractor = pycolmap.FeatureExtractor.create(device=pycolmap.Device.cpu)
    keypoints, _ = extractor.extract_from_uint8_array(blob.astype(np.uint8))
    keypoints = np.asarray(pycolmap.keypoints_to_matrix(keypoints))
    nearest = keypoints[np.argmin(np.linalg.norm(keypoints[:, :2] - [100.5, 60.5], axis=1))]
    np.testing.assert_allclose(nearest[:2], [100.5, 60.5], atol=0.1)


def test_which_views_share_intrinsics() -> None:
    small = Frame("c", 0, np.zeros((10, 20, 3), np.uint8))
    frames = [
        blank("a", model=None),
        blank("b", model=None),
        small,
        blank("d"),
        blank("a", model=None),
    ]
    assert group_cameras(frames, shared=False) == [1, 2, 3, 4, 1]
    assert group_cameras(frames, shared=True) == [1, 1, 2, 3, 1]


def test_demo_rig(demo: tuple[FrameSet, Rig], scene: UnscaledScene) -> None:
    frame_set, rig = demo
    assert scene.cameras == rig.names
    assert scene.failed == ()
    assert [view.stamp_ns for view in scene.views] == [frame_set.stamp_ns] * 4
    assert all(v.model == c.model for v, c in zip(scene.views, rig.cameras, strict=True))
    assert max(rotation_errors_deg(scene, rig.poses)) < 0.15
    rmse, fit = centre_rmse(scene, rig.poses)
    assert rmse < 0.005 * rig.size_m
    assert len(scene.points) == len(scene.colours) == scene.statistics["points"] > 1000
    for key in ("registered", "reprojection_error_px", "track_length", "agreement", "seconds"):
        assert np.isfinite(scene.statistics[key])
    aligned = align_scene(scene, rig, ScaleConfig())
    assert aligned.scale.value == pytest.approx(fit.scale, rel=0.01)
    assert 0 < aligned.scale.sigma < 0.02 * aligned.scale.value


def test_points_have_the_colour_of_their_pixels(
    demo: tuple[FrameSet, Rig], scene: UnscaledScene
) -> None:
    differences = []
    for frame, view in zip(demo[0].frames, scene.views, strict=True):
        in_camera = view.scene_from_camera.inverse().apply(scene.points)
        pixels = np.nan_to_num(view.model.project(in_camera), nan=-1e6)
        inside = (pixels > 0).all(axis=1) & (pixels < [638, 478]).all(axis=1)
        x, y = np.rint(pixels[inside]).astype(int).T
        differences.append(frame.rgb[y, x].astype(float) - scene.colours[inside])
    assert np.median(np.abs(np.concatenate(differences))) < 12


def test_the_same_images_give_the_same_poses(
    demo: tuple[FrameSet, Rig], scene: UnscaledScene
) -> None:
    again = SfmBootstrapper(SfmConfig()).bootstrap([demo[0]])
    for a, b in zip(scene.views, again.views, strict=True):
        np.testing.assert_array_equal(a.scene_from_camera.matrix, b.scene_from_camera.matrix)
    np.testing.assert_array_equal(scene.points, again.points)
    np.testing.assert_array_equal(scene.colours, again.colours)


def test_a_camera_that_shares_nothing_is_named(demo: tuple[FrameSet, Rig]) -> None:
    frames = (*demo[0].frames[:3], dataclasses.replace(blank("behind"), model=MODEL))
    scene = SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(0, frames)])
    assert scene.failed == ("behind",)
    assert len(scene.views) == 3


def test_blank_walls_are_an_error_with_counts_and_no_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    frames = tuple(blank(name) for name in ("left", "right"))
    with pytest.raises(AlignmentError, match=r"registered 0 of 2.*left, right.*texture"):
        SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(0, frames)])
    frames = tuple(blank(name, model=None) for name in ("left", "right"))
    with pytest.raises(AlignmentError, match="registered 0 of 2"):
        SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(0, frames)])
    assert list(tmp_path.iterdir()) == []


def test_one_image_is_too_few() -> None:
    with pytest.raises(AlignmentError, match="at least 2 images, got 1"):
        SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(0, (blank("only"),))])


def test_distorted_frames_are_refused() -> None:
    model = dataclasses.replace(MODEL, distortion_model="plumb_bob", distortion=(0.1, 0, 0, 0))
    frames = tuple(blank(name, model=model) for name in ("left", "right"))
    with pytest.raises(CalibrationError, match="'left': expected an undistorted image"):
        SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(0, frames)])


def test_too_few_points_is_an_error(demo: tuple[FrameSet, Rig]) -> None:
    with pytest.raises(AlignmentError, match=r"registered 4 of 4.*points.*at least 100000"):
        SfmBootstrapper(SfmConfig(min_points=100_000)).bootstrap([demo[0]])


@pytest.mark.slow
def test_demo_rig_with_unknown_intrinsics(demo: tuple[FrameSet, Rig]) -> None:
    frame_set, rig = demo
    frames = tuple(dataclasses.replace(frame, model=None) for frame in frame_set.frames)
    scene = SfmBootstrapper(SfmConfig()).bootstrap([FrameSet(0, frames)])
    assert len(scene.views) == 4
    assert max(rotation_errors_deg(scene, rig.poses)) < 0.4
    truth = rig.models[rig.names[0]].fx
    assert all(view.model.fx == pytest.approx(truth, rel=0.02) for view in scene.views)


@pytest.mark.slow
def test_two_sets_of_a_moving_rig() -> None:
    rig, map_from_rig = demo_rig()
    two = Rig(rig.cameras[1:3])
    moved = map_from_rig @ Rigid3.from_rotation_vector([0, 0, 0.1], [0.1, 0.2, 0.05])
    sets = []
    for k, pose in enumerate((map_from_rig, moved)):
        taken = next(iter(simulate(demo_room(), two, pose, 1, 10.0, start_ns=k * 10**9)))
        sets.append(
            FrameSet(
                taken.stamp_ns,
                tuple(Frame(c.name, 0, taken.images[c.name], c.model) for c in two.cameras),
            )
        )
    bootstrapper = SfmBootstrapper(SfmConfig(sets=2))
    assert bootstrapper.sets_needed == 2
    scene = bootstrapper.bootstrap(sets)
    assert [v.camera for v in scene.views] == [*two.names, *two.names]
    assert [v.stamp_ns for v in scene.views] == [sets[0].stamp_ns] * 2 + [sets[1].stamp_ns] * 2
    aligned = align_scene(scene, two, ScaleConfig())
    for name, pose in two.poses.items():
        off = pose.inverse() @ aligned.map_from_camera[name]
        assert np.linalg.norm(off.translation) < 0.005
        assert np.degrees(off.angle_rad) < 0.15


def fountain(folder: Path, with_models: bool) -> tuple[FrameSet, dict[str, Rigid3]]:
    frames, truth = [], {}
    for k, entry in enumerate(json.loads((folder / "cameras.json").read_text())):
        k_matrix = np.array(entry["K"])
        focal, middle = (k_matrix[0, 0], k_matrix[1, 1]), (k_matrix[0, 2], k_matrix[1, 2])
        model = CameraModel(entry["width"], entry["height"], *focal, *middle)
        rgb = cv2.cvtColor(cv2.imread(str(folder / entry["file"])), cv2.COLOR_BGR2RGB)
        frames.append(Frame(f"cam{k}", 0, rgb, model if with_models else None))
        truth[f"cam{k}"] = Rigid3(np.array(entry["R_w2c"]), np.array(entry["t_w2c"])).inverse()
    return FrameSet(0, tuple(frames)), truth


@pytest.mark.slow
@pytest.mark.parametrize(
    ("with_models", "rotation_deg", "centre_m"), [(True, 0.06, 0.004), (False, 0.4, 0.01)]
)
def test_fountain(
    shared_data: Path, with_models: bool, rotation_deg: float, centre_m: float
) -> None:
    frame_set, truth = fountain(shared_data / "fountain_p11", with_models)
    scene = SfmBootstrapper(SfmConfig()).bootstrap([frame_set])
    assert len(scene.views) == 11
    assert np.median(rotation_errors_deg(scene, truth)) <= rotation_deg
    rmse, fit = centre_rmse(scene, truth)
    assert rmse <= centre_m
    for a, b in itertools.pairwise(truth):
        rig = Rig(tuple(RigCamera(n, rig_from_camera=truth[n]) for n in (a, b)))
        scale = align_scene(scene, rig, ScaleConfig()).scale
        assert scale.value == pytest.approx(fit.scale, rel=0.004)
        assert abs(scale.value - fit.scale) < 2 * scale.sigma
