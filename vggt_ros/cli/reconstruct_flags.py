"""Flags of `reconstruct` that contradict each other, and those that do not apply."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from vggt_ros.config import Config
from vggt_ros.errors import ConfigError
from vggt_ros.sources.open_source import KINDS


@dataclass(frozen=True)
class Chosen:
    """What the flags have come to."""

    args: argparse.Namespace
    config: Config
    limit: int
    """Largest number of cameras; 0: all."""
    has_poses: bool
    picks_depth_engine: bool
    """An engine of Depth Anything is looked for in a folder."""


def find_source(args: argparse.Namespace) -> None:
    """Fill in `--source` by the input that is given, images where there is none.

    Raises:
        ConfigError: two inputs, or another one than `--source` says.
    """
    if args.dataset == "deepview" and args.source not in (None, "videos"):
        raise ConfigError(
            f"--dataset deepview: has videos, got --source {args.source}; leave one of them out"
        )
    inputs = {f"--{kind}": kind for kind in KINDS if _given(args, kind)}
    if args.scene is not None:
        folder = args.source if args.source in ("images", "videos") else "images"
        inputs["--scene"] = "videos" if args.dataset == "deepview" else folder
    if len(inputs) > 1:
        raise ConfigError(f"expected one input, got {' and '.join(inputs)}")
    kinds = {*inputs.values(), args.source} - {None}
    if args.images_live is not None and (kinds - {"images"} or args.camera_per_image):
        raise ConfigError(
            "--images_live: needs --source images, and one folder per camera (not "
            "--camera_per_image)"
        )
    if len(kinds) > 1:
        raise ConfigError(
            f"--source {args.source}: contradicts {next(iter(inputs))}; leave one of them out"
        )
    args.source = next(iter(kinds), "images")


def refuse(args: argparse.Namespace) -> None:
    """Refuse what cannot be honoured; after `find_source`.

    Raises:
        ConfigError: it names the flags and what to do.
    """
    if args.vggt_norm:
        raise ConfigError(
            f"--vggt-norm {args.vggt_norm}: the passport of the engine says how its input is "
            "normalised; leave the flag out (wrong: make the engine anew, vggt-ros engine export)"
        )
    if args.hf_fallback:
        raise ConfigError(
            "--hf-fallback: no network stands in for another; choose with --vggt-backend "
            "huggingface, or --bootstrap sfm"
        )
    hugging_face = [
        name
        for name, value in (
            ("--hf-weights", args.hf_weights),
            ("--hf-checkpoint", args.hf_checkpoint),
            ("--vggt-backend huggingface", args.vggt_backend == "huggingface"),
        )
        if value
    ]
    if hugging_face and (args.vggt_engine or args.vggt_backend == "trt"):
        engine = "--vggt_engine" if args.vggt_engine else "--vggt-backend trt"
        raise ConfigError(
            f"{engine} and {hugging_face[0]}: expected one network, got two; leave one of them out"
        )
    for flag, value in (("--views", args.views), ("--random_views", args.random_views)):
        if value and args.view_select != "first":
            raise ConfigError(f"{flag} and --view-select: expected one of them, got both")
    if args.smooth_scale is not None and args.smooth_scale > 1:
        raise ConfigError(f"--smooth_scale: expected 0 to 1, got {args.smooth_scale:g}")
    if args.frame_index and (args.source == "webcams" or args.images_live is not None):
        raise ConfigError("--frame-index: means nothing for what is live")
    if args.camera_per_image and args.source != "images":
        raise ConfigError(f"--camera_per_image: means nothing with --source {args.source}")
    if args.use_dataset_cameras and args.source == "webcams":
        raise ConfigError("--use-dataset-cameras: means nothing with --source webcams")


def unused(chosen: Chosen) -> list[str]:
    """A note for every flag that was given and does not count."""
    notes = []
    for flags, counts, why in _CONDITIONS:
        if not counts(chosen):
            notes += [
                f"{flag}: {why(chosen) if callable(why) else why}"
                for flag in flags
                if _given(chosen.args, flag)
            ]
    if chosen.args.cache_rectify_maps:
        notes.append("--cache-rectify-maps: they are computed once a run and kept in memory")
    return notes


def _given(args: argparse.Namespace, flag: str) -> bool:
    """Whether a flag stands in the command; 0 is a value."""
    value = getattr(args, flag.lstrip("-").replace("-", "_"))
    return value is not None and value is not False and value != ""


def _takes_all_of_views(chosen: Chosen) -> bool:
    """Whether `--num_cams` leaves out cameras that `--views` names."""
    names = [name for name in chosen.args.views.split(",") if name.strip()]
    return chosen.limit == 0 or len(names) <= chosen.limit


def _uses(depth: str) -> Callable[[Chosen], bool]:
    return lambda chosen: chosen.config.depth == depth


def _runs_vggt(chosen: Chosen) -> bool:
    return chosen.config.bootstrap == "vggt"


def _selects(chosen: Chosen) -> bool:
    return chosen.limit > 0 or chosen.args.view_select == "first"


def _why_no_engine_is_picked(chosen: Chosen) -> str:
    if chosen.config.depth != "depth_anything":
        return f"not used, depth is {chosen.config.depth}"
    named = "--depth_engine" if chosen.args.depth_engine else "depth_anything.engine"
    return f"not used, {named} names the engine"


_CONDITIONS: tuple[
    tuple[tuple[str, ...], Callable[[Chosen], bool], str | Callable[[Chosen], str]], ...
] = (
    (
        (
            *("--width", "--height", "--fourcc", "--device_rate_hz"),
            *("--max_skew_ms", "--open_timeout_s"),
        ),
        lambda chosen: chosen.args.source == "webcams",
        "not used, only webcams are asked for it (--source webcams)",
    ),
    (
        ("--fps",),
        lambda chosen: chosen.args.source == "images",
        "not used, only folders of images do not say it",
    ),
    (
        ("--idle_s",),
        lambda chosen: chosen.args.images_live is not None,
        "not used, only --images_live waits for images",
    ),
    (("--num_cams",), _takes_all_of_views, "not used, all cameras of --views are taken"),
    (("--view-select",), _selects, "not used, all cameras are taken (--num_cams N)"),
    (
        ("--validate-projection",),
        lambda chosen: chosen.has_poses,
        "not used, there are no poses (--poses, --rig or --use-dataset-cameras)",
    ),
    (
        ("--vggt_engine", "--vggt-backend", "--hf-checkpoint", "--hf-weights"),
        _runs_vggt,
        lambda chosen: f"not used, the bootstrap is {chosen.config.bootstrap}",
    ),
    (("--hf-device",), _runs_vggt, "not used, VGGT does not run"),
    (
        ("--hf-checkpoint",),
        lambda chosen: not chosen.args.hf_weights,
        "not used, --hf-weights are taken",
    ),
    (("--rectify-size",), _runs_vggt, "images keep their size, no network sees them"),
    (
        ("--depth_engine", "--depth_workers"),
        _uses("depth_anything"),
        lambda chosen: f"not used, depth is {chosen.config.depth}",
    ),
    (
        ("--depth_engine_dir", "--trt_precision"),
        lambda chosen: chosen.picks_depth_engine,
        _why_no_engine_is_picked,
    ),
    (
        ("--align_model", "--per_camera_calib", "--smooth_scale"),
        _uses("depth_anything"),
        "stereo is metric as it is, no scale or shift is fitted",
    ),
    (
        ("--trunc_margin",),
        lambda chosen: chosen.config.map.kind == "tsdf",
        "only a TSDF has one (--fusion tsdf)",
    ),
)
"""Flags, when they count, and what is said where they do not."""
