"""From the flags of `reconstruct` to a configuration, a source, and notes for people.

A flag is honoured, translated (and the translation noted), or refused: never passed over.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggt_ros.cli import reconstruct as flags
from vggt_ros.cli.reconstruct_engines import depth_engine, hugging_face, vggt_engine
from vggt_ros.cli.reconstruct_flags import Chosen, find_source, refuse, unused
from vggt_ros.config import Config
from vggt_ros.errors import ConfigError, EngineError
from vggt_ros.parameters import config_from_flat, load_config
from vggt_ros.rig import Rig, load_rig
from vggt_ros.sources.open_source import SourceOptions
from vggt_ros.sources.webcam_device import CaptureSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done. `config.cameras` is filled in when the source is open."""

    kind: str
    options: SourceOptions
    config: Config
    rig: Rig | None = None
    live_images: str = ""
    """Folder to go on with after the bootstrap; empty: the source itself."""
    initial_map: Path | None = None
    num_cams: int = 0
    view_select: str = "first"
    first_frame: int = 0
    max_batches: int = 0
    depth_workers: int = 0
    """0: one for each camera."""
    undistort: str = "auto"
    check_projection: bool = False
    check_geometry: bool = False
    log_depth: bool = False
    save_depth: bool = False
    notes: list[str] = field(default_factory=list)
    """What a person should know of how the flags were taken."""


def make_plan(args: argparse.Namespace) -> Plan:
    """Read the flags.

    Raises:
        ConfigError: flags that do not go together, or that ask for what there is not.
        EngineError: a network is asked for whose engine is not there; how to build it is said.
        CalibrationError: a rig file with impossible values.
    """
    notes: list[str] = []
    if (args.dataset_root is None) != (args.scene is None):
        raise ConfigError("--dataset-root and --scene: expected both or neither")
    find_source(args)
    refuse(args)
    rig = load_rig(args.rig) if args.rig else None
    _find_input(args)
    rig = _dataset_cameras(args, rig)
    has_poses = bool(args.poses) or (rig is not None and bool(rig.poses))
    initial_map = _initial_map(args, has_poses, notes)
    bootstrap = _bootstrap(args, has_poses, initial_map, notes)
    depth = _depth(args, bootstrap)
    config = _config(args, bootstrap, depth, has_poses)
    has_engine = bool(args.depth_engine or config.depth_anything.engine)
    config = _with_engines(args, config, notes)
    picks = config.depth == "depth_anything" and not has_engine
    notes += unused(Chosen(args, config, _limit(args), has_poses, picks))
    for note in notes:
        _LOG.info("%s", note)
    limit = _limit(args)
    return Plan(
        args.source,
        _source_options(args, limit),
        config,
        rig,
        args.images_live or "",
        initial_map,
        limit,
        args.view_select,
        args.frame_index,
        args.max_batches or 0,
        args.depth_workers or 0,
        args.undistort,
        args.validate_projection and has_poses,
        args.debug_geo,
        args.log_depth_stats,
        bool(args.save_per_frame_depth),
        notes,
    )


def _find_input(args: argparse.Namespace) -> None:
    """Fill in the folder that `--dataset-root` and `--scene` name."""
    if args.dataset == "deepview" and args.scene is None:
        raise ConfigError("--dataset deepview: expected --dataset-root and --scene")
    if args.scene is not None:
        setattr(args, args.source, str(Path(args.dataset_root) / args.scene))
    if args.images_live and not args.images:
        args.images, args.images_live = args.images_live, ""


def _dataset_cameras(args: argparse.Namespace, rig: Rig | None) -> Rig | None:
    """What a scene says of its cameras, where it is asked for; files that are named win."""
    if not args.use_dataset_cameras:
        return rig
    scene = Path(args.images or args.videos or "")
    if args.dataset == "deepview":
        if rig is not None:
            raise ConfigError("--rig and --use-dataset-cameras: expected one of them, got both")
        from vggt_ros.sources.deepview import load_deepview

        return load_deepview(scene)
    for folder in (scene / "cams", scene.parent / "cams"):
        if folder.is_dir():
            args.intrinsics = args.intrinsics or str(folder)
            args.poses = args.poses or str(folder)
            return rig
    raise ConfigError(
        f"--use-dataset-cameras: expected a folder cams with *_cam.txt in {scene} or beside it, "
        "found none; give --intrinsics and --poses"
    )


def _initial_map(args: argparse.Namespace, has_poses: bool, notes: list[str]) -> Path | None:
    path: Path | None = args.initial_map
    if path is None:
        return None
    if args.test_mode:
        notes.append(f"--test_mode 1: bootstraps afresh, --initial_map {path} is not read")
        return None
    if not path.is_file():
        raise ConfigError(
            f"--initial_map {path}: there is no such file; expected the bootstrap_map.ply or "
            "tsdf_volume.npz of an earlier run, or leave the flag out to bootstrap"
        )
    if not has_poses:
        raise ConfigError(
            f"--initial_map {path}: skips the bootstrap, so the cameras' places must be given: "
            "--poses and --intrinsics (an earlier run leaves poses.json and intrinsics.json)"
        )
    return path


def _bootstrap(
    args: argparse.Namespace, has_poses: bool, initial_map: Path | None, notes: list[str]
) -> str:
    """Which bootstrapper the flags mean."""
    asked = str(args.bootstrap)
    network = (args.vggt_engine, args.vggt_backend, args.hf_checkpoint, args.hf_weights)
    if args.pose_source == "vggt":
        if asked not in ("auto", "vggt"):
            raise ConfigError(f"--pose-source vggt: contradicts --bootstrap {asked}")
        asked = "vggt"
    if args.pose_source == "dataset":
        if asked not in ("auto", "rig"):
            raise ConfigError(f"--pose-source dataset: contradicts --bootstrap {asked}")
        if not has_poses:
            raise ConfigError("--pose-source dataset: expected --poses, or --use-dataset-cameras")
        asked = "rig"
    if initial_map is not None:
        if asked not in ("auto", "rig"):
            notes.append(f"--initial_map skips the bootstrap: --bootstrap {asked} is not used")
        chosen = "rig"
    elif asked != "auto":
        chosen = asked
    elif any(network):
        chosen = "vggt"
    else:
        chosen = "rig" if has_poses else "sfm"
    if chosen == "rig" and not has_poses:
        raise ConfigError("--bootstrap rig: expected --poses (or --rig with rig_from_camera)")
    if asked == "auto" and initial_map is None:
        notes.append(f"--bootstrap auto: {chosen}")
    return chosen


def _depth(args: argparse.Namespace, bootstrap: str) -> str:
    if args.depth != "auto":
        return str(args.depth)
    named = (args.depth_engine, args.depth_engine_dir, args.depth_workers)
    return "depth_anything" if bootstrap == "vggt" or any(named) else "plane_sweep"


def _config(args: argparse.Namespace, bootstrap: str, depth: str, has_poses: bool) -> Config:
    """Defaults of the flags, then `--config`, then flags that were given, then `--set`."""
    config = _layers(args, bootstrap, depth, flags.VOXEL_M)
    if not has_poses and not config.scale.metres_per_unit:
        config = _layers(args, bootstrap, depth, flags.UNSCALED_VOXEL)
    if args.trunc_margin is not None:
        voxels = args.trunc_margin / config.map.voxel_m
        config = config_from_flat({"map.truncation_voxels": voxels}, config)
    if config.motion == "tf":
        raise ConfigError(
            "motion tf: folders, videos and webcams have no TF; give --poses with a pose for each "
            "frame, or --set motion=estimate"
        )
    return config


def _layers(args: argparse.Namespace, bootstrap: str, depth: str, voxel_m: float) -> Config:
    base: dict[str, Any] = {
        "bootstrap": bootstrap,
        "depth": depth,
        "map.voxel_m": voxel_m,
        "map.truncation_voxels": flags.TRUNCATION_VOXELS,
        "align.smoothing": flags.SMOOTH_SCALE,
        "align.seed": args.seed,
        "sfm.seed": args.seed,
    }
    if args.source != "webcams":  # nobody waits for a recorded source
        base["plane_sweep.width"] = flags.SWEEP_WIDTH_PX
    config = load_config(args.config, (), config_from_flat(base))
    given: dict[str, Any] = {
        "map.kind": args.fusion,
        "map.voxel_m": args.voxel_size,
        "align.model": args.align_model,
        "align.calibration_file": args.per_camera_calib,
        "vggt.device": args.hf_device,
        "bootstrap": bootstrap if args.bootstrap != "auto" or args.initial_map else None,
        "depth": args.depth if args.depth != "auto" else None,
    }
    if args.smooth_scale is not None:
        given["align.smoothing"] = args.smooth_scale or 1.0  # 0: take every new fit whole
    if args.rectify_size is not None:
        width, height = args.rectify_size
        if width != height:
            raise ConfigError(
                f"--rectify-size {width} {height}: expected a square; images keep their aspect "
                "and are fitted into the input of the network (--set vggt.preprocess=pad)"
            )
        given["vggt.image_px"] = width
    config = config_from_flat({k: v for k, v in given.items() if v is not None}, config)
    return load_config(None, args.set, config)


def _with_engines(args: argparse.Namespace, config: Config, notes: list[str]) -> Config:
    """The engines that the chosen stages need; all that are missing are told at once."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    if config.bootstrap == "vggt":
        try:
            if args.vggt_backend == "huggingface" or args.hf_weights or args.hf_checkpoint:
                values["vggt.engine"] = hugging_face(args.hf_weights, args.hf_checkpoint)
                values["vggt.backend"] = "torch"
            elif args.vggt_engine or not config.vggt.engine:
                path = vggt_engine(args.vggt_engine, _limit(args) or flags.NUM_CAMS)
                values["vggt.engine"] = path
            if args.vggt_backend == "trt":
                values["vggt.backend"] = "tensorrt"
        except EngineError as error:
            problems.append(str(error))
    if config.depth == "depth_anything" and (
        args.depth_engine or not config.depth_anything.engine
    ):
        folder = args.depth_engine_dir or flags.DEPTH_ENGINE_DIR
        try:
            values["depth_anything.engine"] = depth_engine(
                args.depth_engine, folder, args.trt_precision or "auto"
            )
        except EngineError as error:
            if args.depth == "auto" and args.bootstrap in ("sfm", "rig"):
                # A person who asks for the classical bootstrap has no engines; still said.
                _LOG.warning("--depth auto: plane_sweep, for there is no engine: %s", error)
                notes.append(f"--depth auto: plane_sweep; {error}")
                values["depth"] = "plane_sweep"
            else:
                problems.append(str(error))
    if problems:
        raise EngineError("; ".join(problems))
    return config_from_flat(values, config)


def _limit(args: argparse.Namespace) -> int:
    """Largest number of cameras; 0: all."""
    if args.num_cams is not None:
        return int(args.num_cams)
    if args.camera_per_image:
        return 0
    return int(args.random_views) or flags.NUM_CAMS


def _source_options(args: argparse.Namespace, limit: int) -> SourceOptions:
    start = -(-args.frame_index // args.frame_step) if args.source == "videos" else 0
    names = ("fps", "max_skew_ms", "idle_s", "open_timeout_s")
    times = {name: getattr(args, name) for name in names}
    return SourceOptions(
        images=args.images or "",
        images_live=args.images_live == "",
        camera_per_image=args.camera_per_image,
        videos=args.videos or "",
        start_set=start,
        webcams=tuple(args.webcams or ()),
        views=args.views,
        random_views=args.random_views,
        num_cams=limit,
        seed=args.seed,
        frame_step=args.frame_step,
        intrinsics=args.intrinsics,
        poses=args.poses,
        capture=CaptureSettings(
            args.width or 0, args.height or 0, args.device_rate_hz or 0.0, args.fourcc or ""
        ),
        **{name: value for name, value in times.items() if value is not None},
    )


def with_cameras(config: Config, names: tuple[str, ...], workers: int) -> Config:
    """The configuration for the cameras that there are."""
    if config.depth == "depth_anything":
        contexts = min(16, workers or len(names))
        config = config_from_flat({"depth_anything.contexts": contexts}, config)
    return dataclasses.replace(config, cameras=list(names))
