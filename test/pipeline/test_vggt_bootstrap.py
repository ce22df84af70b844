"""The vggt bootstrapper with a network that answers from the truth of a rendered scene."""

import dataclasses

import numpy as np
import pytest

from vggt_ros.config import BACKENDS, VggtConfig
from vggt_ros.errors import AlignmentError, ConfigError, EngineError
from vggt_ros.inference import backend
from vggt_ros.pipeline.bootstrap import make_bootstrapper
from vggt_ros.pipeline.stages import EngineUser
from vggt_ros.pipeline.vggt_bootstrap import VggtBootstrapper
from vggt_ros.types import FrameSet

CONFIG = VggtConfig(engine="vggt", image_px=168)
UNIT_M = 0.37


def made(**changes):
    return VggtBootstrapper(dataclasses.replace(CONFIG, **changes), ("left", "middle", "right"))


def test_poses_and_depth_come_back_in_the_order_of_the_cameras(
    box_scene, vggt_fixture, use_engine
):
    engine = vggt_fixture()
    use_engine(vggt=engine)
    bootstrapper = made(min_confidence=0.0)
    scene = bootstrapper.bootstrap([box_scene.frame_set(7)])
    assert [v.camera for v in scene.views] == ["left", "middle", "right"]
    assert not scene.failed
    assert engine.backend.calls[0]["images"].shape == (3, 3, 126, 168)
    scene_from_map = box_scene.poses[0].inverse()
    for view in scene.views:
        truth = scene_from_map @ box_scene.map_from_camera[view.camera]
        np.testing.assert_allclose(view.scene_from_camera.rotation, truth.rotation, atol=1e-6)
        np.testing.assert_allclose(
            view.scene_from_camera.translation, truth.translation / UNIT_M, atol=1e-6
        )
        assert view.model == box_scene.rig.cameras[0].model
        expected = box_scene.depth(view.camera, view.depth_model) / UNIT_M
        np.testing.assert_allclose(view.depth, expected, rtol=1e-5)
        assert view.rgb.shape == (*view.depth.shape, 3)
    assert scene.statistics["best_overlap"] > 0.5
    assert len(scene.points) > 1000
    assert scene.bootstrapper == "vggt"


def test_without_camera_info_the_field_of_view_is_the_predicted_one(
    box_scene, vggt_fixture, use_engine
):
    use_engine(vggt=vggt_fixture())
    scene = made().bootstrap([box_scene.frame_set(models=False)])
    for view in scene.views:
        assert view.model.fx == pytest.approx(150.0, rel=1e-5)
        assert view.model.cx == pytest.approx(83.5, abs=1e-3)


def test_the_least_sure_pixels_are_holes(box_scene, vggt_fixture, use_engine):
    use_engine(vggt=vggt_fixture())
    scene = made(min_confidence=0.25).bootstrap([box_scene.frame_set()])
    holes = np.mean([np.isnan(view.depth).mean() for view in scene.views])
    assert holes == pytest.approx(0.25, abs=0.01)


def test_a_view_that_nothing_confirms_is_left_out_and_named(box_scene, vggt_fixture, use_engine):
    good = vggt_fixture()
    poses = good.backend.answer["pose_enc"].copy()
    poses[0, 2, :3] += (3.0, 1.0, 0.0)
    use_engine(vggt=vggt_fixture(pose_enc=poses))
    scene = made().bootstrap([box_scene.frame_set()])
    assert [v.camera for v in scene.views] == ["left", "middle"]
    assert scene.failed == ("right",)
    with pytest.raises(AlignmentError, match=r"at least 3 views that overlap, got 2 of 3.*right"):
        made(min_views=3).bootstrap([box_scene.frame_set()])


def test_one_place_and_one_plane_for_all_is_refused_with_figures(
    box_scene, vggt_fixture, use_engine
):
    """What a network says that knows nothing: every depth agrees, but the images do not."""
    right = vggt_fixture().backend.answer
    poses = np.repeat(right["pose_enc"][:, :1], 3, axis=1)
    use_engine(vggt=vggt_fixture(pose_enc=poses, depth=np.full_like(right["depth"], 2.0)))
    with pytest.raises(AlignmentError) as caught:
        made().bootstrap([box_scene.frame_set()])
    message = str(caught.value)
    assert "got 1 of 3" in message
    assert "left with" in message
    assert "likeness" in message
    assert "Turn the cameras" in message


def test_several_sets_are_one_scene(box_scene, vggt_fixture, use_engine):
    right = vggt_fixture().backend.answer
    twice = {name: np.concatenate([array, array], axis=1) for name, array in right.items()}
    use_engine(vggt=vggt_fixture(shape=(None, 3, 126, 168), **twice))
    bootstrapper = made(sets=2)
    assert bootstrapper.sets_needed == 2
    scene = bootstrapper.bootstrap([box_scene.frame_set(1), box_scene.frame_set(2)])
    assert [(v.camera, v.stamp_ns) for v in scene.views] == [
        (name, stamp) for stamp in (1, 2) for name in box_scene.rig.names
    ]


def test_inputs_of_five_axes_are_served(box_scene, vggt_fixture, use_engine):
    engine = vggt_fixture(shape=(1, None, 3, None, None))
    use_engine(vggt=engine)
    made().bootstrap([box_scene.frame_set()])
    assert engine.backend.calls[0]["images"].shape == (1, 3, 3, 126, 168)


def test_open_checks_warms_up_and_close_frees(vggt_fixture, use_engine):
    engine = vggt_fixture()
    opened = use_engine(vggt=engine)
    bootstrapper = made(backend="onnxruntime", device="cpu", precision="fp32")
    assert isinstance(bootstrapper, EngineUser)
    assert bootstrapper.engine is None
    bootstrapper.open()
    bootstrapper.open()
    assert len(opened) == 1
    assert opened[0][1] == "onnxruntime"
    assert (opened[0][2].device, opened[0][2].precision) == ("cpu", "fp32")
    assert opened[0][3]  # verified
    assert len(engine.backend.calls) == 1
    told = bootstrapper.engine
    assert (told.file, told.backend, told.precision) == ("fake.onnx", "fake", "fp32")
    assert told.licence == "test only"
    bootstrapper.close()
    assert engine.backend.closed == 1
    assert bootstrapper.engine == told  # what a report says of the end


def test_unverified_engines_must_be_allowed(vggt_fixture, use_engine):
    opened = use_engine(vggt=vggt_fixture())
    made(allow_unverified=True).open()
    assert not opened[0][3]


def test_engine_for_another_number_of_views_is_refused_at_open(vggt_fixture, use_engine):
    engine = vggt_fixture(shape=(8, 3, 126, 168))
    use_engine(vggt=engine)
    with pytest.raises(EngineError, match=r"is for 8 views, got 3.*--num-cams 3"):
        made().open()
    assert engine.backend.closed == 1


def test_a_missing_camera_is_told_where_the_number_is_fixed(box_scene, vggt_fixture, use_engine):
    use_engine(vggt=vggt_fixture())
    with pytest.raises(AlignmentError, match="is for 3 views, got 2"):
        made().bootstrap([box_scene.frame_set(names=("left", "right"))])
    with pytest.raises(AlignmentError, match="got none"):
        made().bootstrap([FrameSet(0, ())])


def test_engine_of_another_family_is_refused(fake_engine, use_engine):
    engine = fake_engine("depth_anything", (1, 3, 56, 56), {"depth": np.zeros((1, 56, 56))})
    use_engine(vggt=engine)
    with pytest.raises(EngineError, match="expected an engine of vggt, got one of depth_anything"):
        made().open()
    assert engine.backend.closed == 1


@pytest.mark.parametrize(
    ("shape", "match"),
    [((3, 3, 120, 168), "multiples of 14, got 120x168"), ((3, 168), "expected one input")],
)
def test_engine_of_a_wrong_size_is_refused(vggt_fixture, use_engine, shape, match):
    use_engine(vggt=vggt_fixture(shape=shape))
    with pytest.raises(EngineError, match=match):
        made().open()


def test_answers_of_a_wrong_shape_are_an_engine_error(box_scene, vggt_fixture, use_engine):
    use_engine(vggt=vggt_fixture(depth=np.ones((1, 3, 14, 14, 1))))
    with pytest.raises(EngineError, match="does not answer as VGGT does: depth"):
        made().bootstrap([box_scene.frame_set()])


def test_wrong_parameters():
    with pytest.raises(ConfigError, match=r"vggt\.image_px: expected a multiple of 14, got 500"):
        made(image_px=500)
    with pytest.raises(ConfigError, match=r"vggt\.engine: expected the path"):
        made(engine="").open()


def test_a_missing_engine_is_named(tmp_path):
    path = tmp_path / "vggt.onnx"
    with pytest.raises(EngineError, match="found nothing there"):
        made(engine=str(path)).open()


def test_the_choice_by_name():
    from vggt_ros.config import Config

    assert isinstance(make_bootstrapper(Config(bootstrap="vggt"), None), VggtBootstrapper)
    assert ("auto", *backend.BACKENDS) == BACKENDS
