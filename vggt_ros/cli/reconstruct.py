"""`vggt-ros reconstruct`, also called `inference_pcd`: a map from folders, videos or webcams.

Two phases, without ROS: a bootstrap finds the cameras and a first map, then the depth of every
set of images is fitted to the map and fused. Underscores and dashes in flags are the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vggt_ros.cli.arguments import count, count_or_zero, not_negative, positive
from vggt_ros.cli.flags import FlagParser
from vggt_ros.cli.interrupts import hearing_lost_interrupts
from vggt_ros.cli.logs import log_to_stderr
from vggt_ros.errors import VggtRosError

ALIGN_MODELS = ("auto", "scale", "scale_shift", "invdepth_scale_shift")
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "fp8", "int8")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

NUM_CAMS = 8
DEPTH_ENGINE_DIR = "onnx_exports/depth_anything"
VOXEL_M = 0.01
UNSCALED_VOXEL = 0.004
"""Where nothing gives the scale the median depth is 3 units, and a metre means nothing: about a
pixel of an image 800 wide at that depth."""
SWEEP_WIDTH_PX = 640
"""Of stereo on recorded images: a third more time than the mapper's 480, 1.8 times the pixels."""
TRUNCATION_VOXELS = 4.0
"""`--trunc_margin` is documented as 0.04 m for voxels of 0.01 m."""
SMOOTH_SCALE = 0.1

_EXAMPLES = """\
examples:
  photographs of one static scene, each a camera, on any laptop:
    vggt-ros reconstruct --images photos --camera_per_image --out_dir result
  one folder per camera, poses known:
    vggt-ros reconstruct --images pku_scene --intrinsics k.json --poses poses.json
  videos, every second frame, with the networks:
    vggt-ros reconstruct --source videos --videos dome_videos --random_views 8 --frame_step 2 \\
        --vggt_engine onnx_exports/none/vggt-8x3x518x518-pcd_fp16.engine
  webcams, on with the map and the cameras of an earlier run:
    vggt-ros reconstruct --source webcams --webcams front=0 left=1 \\
        --initial_map result/map_updated.ply --intrinsics result/intrinsics.json \\
        --poses result/poses.json

OUT_DIR gets bootstrap_map.ply, map_updated.ply, tsdf_volume.npz (--fusion tsdf), metrics.json,
per_camera_calib.json (of fitted depth), depth_metric/ (--save_per_frame_depth 1), report.json,
preview.png, intrinsics.json, poses.json, and what `vggt-ros export OUT_DIR` needs.
docs/reconstruct.md says what every flag does.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "reconstruct",
        help="map folders, videos or webcams without ROS",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def build_parser(prog: str = "inference_pcd") -> argparse.ArgumentParser:
    """The same flags for a command of its own."""
    parser = FlagParser(
        prog=prog,
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every flag of `inference_pcd`; those that do not always count are None if not given."""
    _add_input(parser.add_argument_group("images"))
    _add_cameras(parser.add_argument_group("cameras and calibration"))
    _add_bootstrap(parser.add_argument_group("bootstrap"))
    _add_depth(parser.add_argument_group("depth of the stream"))
    _add_map(parser.add_argument_group("map and results"))


def _add_input(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--source",
        choices=("images", "videos", "webcams"),
        help="default: that of --images, --videos, --webcams which is given, else images",
    )
    add("--images", metavar="DIR", help="one folder per camera, or a flat folder")
    add(
        "--images_live",
        nargs="?",
        const="",
        metavar="DIR",
        help="the folder grows while it is read; with DIR: bootstrap from --images, then go on "
        "with the images that come there",
    )
    add("--camera_per_image", action="store_true", help="each image of a flat folder is a camera")
    add("--videos", metavar="DIR", help="<camera>.mp4, <camera>/*.mp4, or one video")
    add("--webcams", nargs="*", metavar="DEV", help="0 1 2, front=0 left=1, rtsp://...")
    add(
        "--dataset",
        choices=("generic", "deepview"),
        default="generic",
        help="deepview: a scene with models.json and camera_*.mp4; default generic",
    )
    add("--dataset-root", metavar="DIR", help="folder of scenes")
    add("--scene", metavar="NAME", help="folder within --dataset-root")
    add("--frame_step", "--frame-stride", type=count, default=1, help="every N-th; default 1")
    add("--frame-index", type=count_or_zero, default=0, metavar="N", help="begin with this frame")
    add("--max_batches", type=count, metavar="N", help="end after so many sets")
    add("--fps", type=positive, help="of image folders; default 10")
    add(
        "--idle_s",
        type=positive,
        metavar="S",
        help="--images_live ends when nothing has come for so long; default 30",
    )
    add("--max_skew_ms", type=positive, metavar="MS", help="of webcams; default 40")
    add("--open_timeout_s", type=positive, metavar="S", help="of webcams; default 10")
    add("--width", type=count, metavar="PX", help="that webcams are asked for")
    add("--height", type=count, metavar="PX", help="the same")
    add("--device_rate_hz", type=positive, metavar="HZ", help="the same")
    add("--fourcc", metavar="CODE", help="the same, such as MJPG")


def _add_cameras(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--num_cams",
        "--n-views",
        type=count_or_zero,
        metavar="N",
        help=f"at most so many cameras; default {NUM_CAMS}, with --camera_per_image and 0: all",
    )
    add("--views", default="", metavar="A,B,...", help="these cameras, in this order")
    add("--random_views", type=count_or_zero, default=0, metavar="N", help="so many, by --seed")
    add(
        "--view-select",
        choices=("first", "max-spread", "front-arc", "random"),
        default="first",
        help="which --num_cams of more cameras: the first (default), those farthest apart, those "
        "that look most alike (both by --poses), or any",
    )
    add("--seed", type=count_or_zero, default=42, metavar="N", help="default 42")
    add("--intrinsics", default="", metavar="FILE", help=".npz .json .yaml or PKU cams folder")
    add("--poses", default="", metavar="FILE", help="the same, camera to world")
    add("--rig", type=Path, metavar="RIG.yaml", help="calibration as a rig file instead")
    add(
        "--use-dataset-cameras",
        action="store_true",
        help="intrinsics and poses that lie in the scene: cams/*_cam.txt, models.json",
    )
    add(
        "--pose-source",
        choices=("auto", "dataset", "vggt"),
        default="auto",
        help="dataset: keep the given poses; vggt: those of the network; auto: of the "
        "bootstrapper, put onto the given ones",
    )
    add(
        "--undistort",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto: cameras that have a distortion; on: all must have one; off: as pinholes",
    )
    add(
        "--rectify-size",
        type=count,
        nargs=2,
        metavar=("W", "H"),
        help="input of VGGT, 518 518; only for engines of free size, and square",
    )
    add("--cache-rectify-maps", action="store_true", help="they are always kept, in memory")
    add("--validate-projection", action="store_true", help="say how the given poses fit")
    add("--debug-geo", action="store_true", help="say how the poses of the bootstrap fit")


def _add_bootstrap(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--bootstrap",
        choices=("auto", "sfm", "rig", "vggt"),
        default="auto",
        help="auto: vggt with --vggt_engine, else rig with --poses, else sfm (structure from "
        "motion)",
    )
    add(
        "--initial_map",
        type=Path,
        metavar="FILE",
        help=".ply, .pcd or .npz; no bootstrap; needs poses",
    )
    add(
        "--test_mode",
        type=int,
        nargs="?",
        const=1,
        default=0,
        choices=(0, 1),
        help="1: bootstrap afresh, whatever --initial_map says",
    )
    add("--vggt_engine", metavar="FILE", help="engine, ONNX graph or checkpoint")
    add("--vggt-backend", choices=("trt", "huggingface"), help="TensorRT, or PyTorch weights")
    add("--vggt-norm", metavar="NAME", help="refused: the passport of the engine says it")
    add("--hf-checkpoint", metavar="REPO", help="default facebook/VGGT-1B")
    add("--hf-weights", metavar="FILE", help="local weights instead")
    add("--hf-device", metavar="DEVICE", help="cpu, cuda:0; default auto")
    add("--hf-fallback", action="store_true", help="refused: no network stands in for another")
    add("--log-depth-stats", action="store_true", help="depth of each view of the bootstrap")


def _add_depth(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--depth",
        choices=("auto", "plane_sweep", "depth_anything"),
        default="auto",
        help="auto: depth_anything with VGGT or a flag of it, else plane_sweep (stereo)",
    )
    add("--depth_engine", metavar="FILE", help="engine of Depth Anything")
    add("--depth_engine_dir", metavar="DIR", help=f"chosen from here; default {DEPTH_ENGINE_DIR}")
    add("--depth_workers", type=count, metavar="N", help="contexts; default: cameras")
    add(
        "--trt_precision",
        choices=PRECISIONS,
        help="of the engine that is chosen; default auto: fp16 first",
    )
    add("--align_model", choices=ALIGN_MODELS, help="default auto: by the kind of depth")
    add(
        "--smooth_scale",
        type=not_negative,
        metavar="A",
        help=f"share of a new fit in the kept one, default {SMOOTH_SCALE}; 0: not smoothed",
    )
    add("--per_camera_calib", metavar="JSON", help="scale and shift, read at the start and kept")


def _add_map(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--fusion", choices=("surfel", "tsdf"), help="default surfel")
    add(
        "--voxel_size",
        type=positive,
        metavar="M",
        help=f"default {VOXEL_M}; without scale {UNSCALED_VOXEL}",
    )
    add("--trunc_margin", type=positive, metavar="M", help="of the TSDF; default 4 voxels: 0.04")
    add("--out_dir", type=Path, metavar="DIR", help="default outputs/<date>_<time>")
    add(
        "--save_per_frame_depth",
        type=int,
        nargs="?",
        const=1,
        default=0,
        choices=(0, 1),
        help="1: depth_metric/camera_<cam>_batch_<00000>.npz",
    )
    add("--config", type=Path, metavar="FILE", help="YAML of parameters (docs/parameters.md)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one parameter")
    add("--log_level", choices=LOG_LEVELS, help="default INFO")


def run(args: argparse.Namespace) -> int:
    """Plan, run, write; returns the exit code."""
    from vggt_ros import results
    from vggt_ros.cli.reconstruct_plan import make_plan
    from vggt_ros.cli.reconstruct_run import reconstruct

    if args.log_level:
        logging.getLogger().setLevel(args.log_level)
    plan = make_plan(args)
    out = args.out_dir or Path("outputs") / time.strftime("%Y-%m-%d_%H-%M-%S")
    return reconstruct(plan, results.prepare_folder(out))


def main(arguments: Sequence[str] | None = None, prog: str = "inference_pcd") -> int:
    """Run as a command of its own; errors of ours become one line and exit code 1."""
    args = build_parser(prog).parse_args(arguments)
    log_to_stderr(args.log_level or "INFO")
    try:
        with hearing_lost_interrupts():
            return run(args)
    except VggtRosError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
