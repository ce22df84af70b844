"""No flag of `reconstruct` is passed over in silence."""

import argparse
from pathlib import Path

import pytest

from vggt_ros.cli import reconstruct
from vggt_ros.cli.reconstruct_flags import _CONDITIONS
from vggt_ros.cli.reconstruct_plan import make_plan
from vggt_ros.errors import ConfigError

LIVE = "--images_live: needs --source images, and one folder per camera (not --camera_per_image)"
STEREO = "stereo is metric as it is"
WEBCAMS = "not used, only webcams are asked for it"


def plan_of(words):
    return make_plan(reconstruct.build_parser().parse_args([*map(str, words)]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--images a --videos b", "expected one input, got --images and --videos"),
        ("--source images --images a --videos b", "expected one input, got"),
        ("--videos b --webcams 0", "expected one input, got --videos and --webcams"),
        ("--source videos --images a", "--source videos: contradicts --images"),
        ("--source images --webcams 0", "--source images: contradicts --webcams"),
        ("--dataset-root r --scene s --images a", "got --images and --scene"),
        ("--dataset-root r --scene s --source webcams", "--source webcams: contradicts --scene"),
        ("--dataset deepview --source webcams", "--dataset deepview: has videos"),
        ("--dataset deepview --dataset-root r --scene s --videos v", "expected one input"),
        ("--dataset deepview", "expected --dataset-root and --scene"),
        ("--images A --images_live B --camera_per_image", LIVE),
        ("--images_live B --camera_per_image", LIVE),
        ("--source videos --videos v --images_live B", LIVE),
        ("--videos v --images_live", LIVE),
        ("--source webcams --webcams 0 --images_live B", LIVE),
        ("--videos v --camera_per_image", "--camera_per_image: means nothing with --source vid"),
        ("--webcams 0 --use-dataset-cameras", "--use-dataset-cameras: means nothing"),
        ("--webcams 0 --frame-index 3", "--frame-index: means nothing for what is live"),
        ("--hf-weights F --vggt_engine X", "--vggt_engine and --hf-weights: expected one"),
        ("--hf-checkpoint F --vggt_engine X", "--vggt_engine and --hf-checkpoint: expected one"),
        ("--hf-weights F --vggt-backend trt", "--vggt-backend trt and --hf-weights: expected"),
        ("--vggt_engine X --vggt-backend huggingface", "and --vggt-backend huggingface: exp"),
    ],
)
def test_contradictions(words, said):
    with pytest.raises(ConfigError) as caught:
        plan_of(words.split())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("", "images"),
        ("--images a", "images"),
        ("--images_live b", "images"),
        ("--images a --images_live b", "images"),
        ("--videos b", "videos"),
        ("--webcams 0 1", "webcams"),
        ("--source videos --videos b", "videos"),
        ("--dataset-root r --scene s", "images"),
        ("--dataset-root r --scene s --source videos", "videos"),
        ("--dataset-root r --scene s --dataset deepview", "videos"),
    ],
)
def test_the_source_is_that_of_the_input(words, kind):
    plan = plan_of(words.split())
    assert plan.kind == kind
    if "--scene" in words:
        assert getattr(plan.options, kind) == "r/s"


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("--camera_per_image --view-select max-spread", "--view-select: not used, all cameras"),
        ("--num_cams 0 --view-select max-spread", "--view-select: not used, all cameras"),
        ("--validate-projection", "--validate-projection: not used, there are no poses"),
        ("--depth plane_sweep --smooth_scale 0", f"--smooth_scale: {STEREO}"),
        ("--depth plane_sweep --align_model scale", f"--align_model: {STEREO}"),
        ("--per_camera_calib f.json", f"--per_camera_calib: {STEREO}"),
        ("--width 640", f"--width: {WEBCAMS}"),
        ("--height 480", f"--height: {WEBCAMS}"),
        ("--fourcc MJPG", f"--fourcc: {WEBCAMS}"),
        ("--device_rate_hz 10", f"--device_rate_hz: {WEBCAMS}"),
        ("--videos v --max_skew_ms 40", f"--max_skew_ms: {WEBCAMS}"),
        ("--open_timeout_s 10", f"--open_timeout_s: {WEBCAMS}"),
        ("--webcams 0 --fps 10", "--fps: not used"),
        ("--videos v --fps 5", "--fps: not used"),
        ("--webcams 0 --idle_s 30", "--idle_s: not used"),
        ("--images a --idle_s 3", "--idle_s: not used, only --images_live"),
        ("--views a,b,c,d --num_cams 3", "--num_cams: not used, all cameras of --views"),
        ("--depth plane_sweep --depth_engine F", "--depth_engine: not used, depth is plane_sw"),
        ("--depth plane_sweep --depth_engine_dir D", "--depth_engine_dir: not used, depth is"),
        ("--trt_precision int8", "--trt_precision: not used, depth is plane_sweep"),
        ("--bootstrap sfm --vggt_engine X --depth plane_sweep", "--vggt_engine: not used, the"),
        ("--bootstrap sfm --hf-weights X --hf-checkpoint Y", "--hf-checkpoint: not used, --hf-w"),
        ("--hf-device cpu", "--hf-device: not used, VGGT does not run"),
        ("--rectify-size 518 518", "--rectify-size: images keep their size"),
        ("--trunc_margin 0.1", "--trunc_margin: only a TSDF has one"),
        ("--cache-rectify-maps", "--cache-rectify-maps: they are computed once"),
    ],
)
def test_what_does_not_count_is_noted(words, note):
    assert [n for n in plan_of(words.split()).notes if n.startswith(note)]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--camera_per_image --num_cams 3 --view-select random",
        "--webcams 0 1 --width 640 --height 480 --fourcc MJPG --device_rate_hz 10 "
        "--max_skew_ms 30 --open_timeout_s 5 --num_cams 2",
        "--images_live b --idle_s 3 --fps 5",
        "--views a,b,c --num_cams 3",
        "--fusion tsdf --trunc_margin 0.1",
    ],
)
def test_what_counts_is_not_noted(words):
    assert not [note for note in plan_of(words.split()).notes if "--bootstrap auto" not in note]


def test_what_an_engine_of_depth_makes_needless(tmp_path):
    engine = tmp_path / "d.engine"
    engine.touch()
    words = ("--depth_engine_dir", "D", "--trt_precision", "int8", "--smooth_scale", 0)
    notes = plan_of(("--depth_engine", engine, *words)).notes
    assert "--depth_engine_dir: not used, --depth_engine names the engine" in notes
    assert "--trt_precision: not used, --depth_engine names the engine" in notes
    assert not [note for note in notes if note.startswith("--smooth_scale")]
    setting = ("--depth", "depth_anything", "--set", f"depth_anything.engine={engine}")
    notes = plan_of((*setting, *words)).notes
    assert "--depth_engine_dir: not used, depth_anything.engine names the engine" in notes


def test_trt_counts_for_an_engine_of_the_configuration(tmp_path):
    words = ("--vggt-backend", "trt", "--set", "vggt.engine=v.engine", "--depth", "plane_sweep")
    assert plan_of(words).config.vggt.backend == "tensorrt"


def test_what_is_given_is_known():
    """Flags that do not always count have no default that would look like a value."""
    parser = reconstruct.build_parser()
    defaults = {flag: a.default for a in parser._actions for flag in a.option_strings}
    known = (None, False, "", 0, argparse.SUPPRESS)
    for flags, _, _ in _CONDITIONS:
        for flag in flags:
            assert flag in defaults
            assert defaults[flag] in known or flag == "--view-select"


def test_the_document_has_every_flag():
    text = (Path(__file__).parents[2] / "docs" / "reconstruct.md").read_text()
    for action in reconstruct.build_parser()._actions:
        if action.dest != "help":
            assert f"{action.option_strings[0]}`" in text or f"{action.option_strings[0]} " in text
