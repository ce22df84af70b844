"""The fixtures of networks, through the back ends that run real ones."""

import subprocess
import sys

import numpy as np
import pytest

from vggt_ros.config import Config, DepthAnythingConfig, MapConfig, VggtConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.types import DepthKind, Frame, FrameSet

MODEL = CameraModel(168, 126, 150.0, 150.0, 83.5, 62.5)
POSES = {
    name: Rigid3.from_rotation_vector((0, -0.12 * k, 0), (0.3 * k, 0.0, 0))
    for k, name in enumerate(("left", "right"))
}


@pytest.fixture(scope="module")
def world():
    from vggt_ros.synthetic.scenes import box_world

    return box_world()


@pytest.fixture(scope="module")
def frame_set(world):
    frames = [Frame(n, 0, world.render(MODEL, pose).rgb, MODEL) for n, pose in POSES.items()]
    return FrameSet(0, tuple(frames))


@pytest.mark.slow
def test_the_script_makes_what_it_says(repository, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from vggt_ros.inference.engine_store import open_engine

    script = repository / "scripts" / "make_tiny_checkpoint.py"
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--image-px", "84"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    told = [line.rsplit("/", 1)[1] for line in result.stdout.splitlines()]
    assert told == [
        "vggt_tiny_fixture",
        "depth_anything_tiny_fixture",
        "vggt_fixture.onnx",
        "depth_anything_fixture.onnx",
    ]
    for name in told[2:]:
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        engine = open_engine(tmp_path / name)
        assert engine.report is not None
        assert engine.passport.model.licence == "fixture for tests: no working depth"
        engine.close()
    for name in told[:2]:
        assert "They see nothing" in (tmp_path / name / "FIXTURE.txt").read_text()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bootstrap_from_random_weights_is_refused_with_figures(tmp_path, frame_set, seed):
    """Real architecture, real back end, poses that mean nothing: no map, and a reason."""
    pytest.importorskip("torch", reason="torch is not installed (pip install .[torch])")
    from vggt_ros.pipeline.vggt_bootstrap import VggtBootstrapper
    from vggt_ros.synthetic.network_fixtures import write_tiny_vggt

    folder = write_tiny_vggt(tmp_path / "vggt_tiny_fixture", seed)
    config = VggtConfig(engine=str(folder), image_px=168)
    bootstrapper = VggtBootstrapper(config, tuple(POSES))
    bootstrapper.open()
    assert bootstrapper.engine.backend == "torch"
    assert not bootstrapper.engine.verified
    with pytest.raises(AlignmentError, match=r"at least 2 views that overlap, got 1 of 2.*left"):
        bootstrapper.bootstrap([frame_set])
    bootstrapper.close()


def test_truth_through_onnxruntime_and_random_depth_through_torch(tmp_path, world, frame_set):
    """A right bootstrap holds, and depth that means nothing is refused by the alignment."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    from vggt_ros.pipeline.mapping import MappingPipeline
    from vggt_ros.synthetic import network_fixtures as fixtures
    from vggt_ros.synthetic.answers import vggt_answer

    answer = vggt_answer(world, [MODEL] * 2, list(POSES.values()), 168)
    vggt = fixtures.write_fixed_answer(
        tmp_path / "vggt.onnx",
        (2, 3, *answer.size),
        {"pose_enc": answer.pose_enc, "depth": answer.depth, "depth_conf": answer.depth_conf},
    )
    depth = fixtures.write_tiny_depth_anything(tmp_path / "depth_anything_tiny_fixture")
    config = Config(
        cameras=list(POSES),
        bootstrap="vggt",
        depth="depth_anything",
        vggt=VggtConfig(engine=str(vggt), image_px=168),
        depth_anything=DepthAnythingConfig(engine=str(depth), image_px=126),
        map=MapConfig(min_hits=1),
    )
    pipeline = MappingPipeline(config)
    result = pipeline.step(frame_set)
    assert result.bootstrapped
    assert pipeline.map.size > 1000  # of the bootstrap
    assert len(result.depth_maps) == 2
    assert not any(d.alignment.accepted for d in result.depth_maps)
    assert all(d.alignment.kind is DepthKind.DISPARITY for d in result.depth_maps)
    engines = pipeline.report()["engines"]
    assert engines["bootstrap"]["backend"] == "onnxruntime"
    assert engines["bootstrap"]["verified"]
    assert engines["depth"]["backend"] == "torch"
    assert engines["depth"]["file"] == "depth_anything_tiny_fixture"
    pipeline.close()


def test_fixed_answers_come_back(tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from vggt_ros.inference.engine_store import open_engine
    from vggt_ros.synthetic.network_fixtures import write_fixed_answer

    depth = np.random.default_rng(0).normal(size=(2, 28, 42)).astype(np.float32)
    path = write_fixed_answer(
        tmp_path / "d.onnx", (None, 3, 28, 42), {"depth": depth}, DepthKind.METRIC_DEPTH
    )
    engine = open_engine(path)
    assert engine.passport.model.depth_kind == "metric_depth"
    found = engine.backend.run({"images": np.ones((1, 3, 28, 42), np.float32)})["depth"]
    np.testing.assert_array_equal(found, depth)
    engine.close()
