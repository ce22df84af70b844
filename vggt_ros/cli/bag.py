"""`vggt-ros bag`: make bags."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vggt_ros.cli.arguments import count, positive
from vggt_ros.errors import ConfigError

if TYPE_CHECKING:
    from vggt_ros.sources.source import ImageSource

T = TypeVar("T")

_PROGRESS_DELAY_S = 2.0

SIMULATED_RATE_HZ = 10.0
SIMULATED_START_NS = 1_767_225_600 * 10**9
"""The beginning of 2026, as in the demo."""

_EXAMPLES = """\
examples:
  one sub-folder per camera, 10 sets per second:
    vggt-ros bag from-images rig/ --out rig_bag --rig rig.yaml --fps 10
  photographs of one static scene, each a camera:
    vggt-ros bag from-images photos/ --out photos_bag --camera-per-image
"""
_VIDEO_EXAMPLES = """\
examples:
  one video per camera, every second frame:
    vggt-ros bag from-videos videos/ --out rig_bag --frame-step 2
"""
_SIMULATE_EXAMPLES = """\
examples:
  vggt-ros bag simulate --out drive_bag
  vggt-ros replay drive_bag --out result --set motion=tf --set frame.odom=odom
"""


def add_parser(subparsers: Any) -> None:
    """Add `bag` and what it can do to the parser of `vggt-ros`."""
    parser = subparsers.add_parser("bag", help="make bags", description="Make rosbag2 bags.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    written = (
        "as a rosbag2 bag with compressed images (/<camera>/image_raw/compressed), and, where "
        "RIG.yaml or the calibration files know them, CameraInfo and /tf_static."
    )
    images = actions.add_parser(
        "from-images",
        help="folders of images to a bag",
        description=f"Write folders of images {written} JPEG and PNG files go in byte for byte.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    images.add_argument("directory", metavar="DIR", type=Path, help="folder of images")
    images.add_argument(
        "--fps", metavar="F", type=positive, default=10.0, help="sets per second (default: 10)"
    )
    images.add_argument(
        "--camera-per-image",
        action="store_true",
        help="each image of a flat folder is a camera of a static rig",
    )
    videos = actions.add_parser(
        "from-videos",
        help="videos, one per camera, to a bag",
        description=f"Write videos {written} Frames go in as JPEG.",
        epilog=_VIDEO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    videos.add_argument(
        "directory",
        metavar="DIR",
        type=Path,
        help="folder of videos (<camera>.mp4), folder of folders (<camera>/*.mp4), or one video",
    )
    videos.add_argument(
        "--jpeg-quality", metavar="Q", type=count, default=95, help="1 to 100 (default: 95)"
    )
    drive = actions.add_parser(
        "simulate",
        help="a simulated robot that drives, with odometry",
        description=(
            "Write the drive of a robot with four cameras through a simulated room: compressed "
            "and raw images, CameraInfo, /tf_static, and odometry (odom -> base_link) on /tf."
        ),
        epilog=_SIMULATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drive.add_argument("--out", metavar="BAG", type=Path, required=True, help="the new bag")
    drive.add_argument("--sets", metavar="N", type=count, default=30, help="default: 30, 3 s")
    drive.add_argument(
        "--drift", metavar="D", type=float, default=0.02,
        help="part by which odometry is too long (default: 0.02)",
    )  # fmt: skip
    drive.add_argument("--overwrite", action="store_true", help="replace a bag that is there")
    drive.set_defaults(run=simulate)
    for action in (images, videos):
        action.add_argument("--out", metavar="BAG", type=Path, required=True, help="the new bag")
        action.add_argument(
            "--rig", metavar="RIG.yaml", type=Path, help="calibration of the cameras"
        )
        action.add_argument(
            "--intrinsics", metavar="FILE", default="", help="K by camera: .npz, .json, .yaml"
        )
        action.add_argument(
            "--poses", metavar="FILE", default="", help="camera to world: .npz, .json, .yaml"
        )
        action.add_argument(
            "--views", metavar="A,B,...", default="", help="only these cameras, in this order"
        )
        action.add_argument(
            "--frame-step", metavar="N", type=count, default=1, help="every N-th set"
        )
        action.add_argument(
            "--storage", choices=("mcap", "sqlite3"), default="mcap", help="default: mcap"
        )
        action.add_argument("--overwrite", action="store_true", help="replace a bag that is there")
        action.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the bag; returns the exit code.

    Raises:
        VggtRosError: wrong folder, image, video, calibration or target.
    """
    from vggt_ros.rig import load_rig
    from vggt_ros.sources.open_source import SourceOptions, open_source

    kind = args.action.removeprefix("from-")
    quality = getattr(args, "jpeg_quality", 95)
    if quality > 100:
        raise ConfigError(f"--jpeg-quality: expected 1 to 100, got {quality}")
    options = SourceOptions(
        images=args.directory if kind == "images" else "",
        videos=args.directory if kind == "videos" else "",
        camera_per_image=getattr(args, "camera_per_image", False),
        fps=getattr(args, "fps", 10.0),
        views=args.views,
        frame_step=args.frame_step,
        intrinsics=args.intrinsics,
        poses=args.poses,
    )
    source = open_source(kind, options, rig=load_rig(args.rig) if args.rig else None)
    written = write_image_bag(
        source,
        args.out,
        storage=args.storage,
        overwrite=args.overwrite,
        progress=True,
        jpeg_quality=quality,
    )
    source.close()
    known = source.rig
    print(
        f"{args.out}: {written} images, {len(known.names)} cameras, {source.set_count} sets; "
        f"{len(known.models)} with intrinsics, {len(known.poses)} with poses"
    )
    print(f"next: vggt-ros check {args.out}")
    return 0


def simulate(args: argparse.Namespace) -> int:
    """Write the drive; returns the exit code.

    Raises:
        ExportError: the bag is there already, or cannot be written.
    """
    from tqdm import tqdm

    from vggt_ros.synthetic.driving import drifting, simulate_drive, swing_through_room
    from vggt_ros.synthetic.record import BASE_FROM_RIG, Odometry, record
    from vggt_ros.synthetic.scenes import demo_rig, demo_room

    rig, _ = demo_rig()
    sets = simulate_drive(
        demo_room(),
        rig,
        lambda time_s: swing_through_room(time_s) @ BASE_FROM_RIG,
        args.sets,
        SIMULATED_RATE_HZ,
        SIMULATED_START_NS,
    )
    odometry = Odometry(drifting(swing_through_room, args.drift), SIMULATED_START_NS)
    with tqdm(total=args.sets, desc="simulate", unit="set") as bar:
        record(
            args.out,
            rig,
            sets,
            rig.names[:2],
            overwrite=args.overwrite,
            on_set=bar.update,
            odometry=odometry,
        )
    print(f"{args.out}: {args.sets} sets of {', '.join(rig.names)}; odom -> base_link on /tf")
    print(f"next: vggt-ros replay {args.out} --out result --set motion=tf --set frame.odom=odom")
    return 0


def write_image_bag(
    source: ImageSource,
    path: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    progress: bool = False,
    jpeg_quality: int = 95,
) -> int:
    """Write the sets of a folder or of videos as a bag and return the number of images.

    Topics: `/<camera>/image_raw/compressed`, `/<camera>/camera_info` for the cameras with
    intrinsics, `/tf_static` for those with poses.

    Raises:
        ExportError: the bag exists or cannot be written.
        SourceError: an image cannot be read.
        CalibrationError: intrinsics of another aspect than the images.
    """
    from vggt_ros.sources import messages
    from vggt_ros.sources.bag import BagWriter
    from vggt_ros.sources.image_files import jpeg_of
    from vggt_ros.sources.source import START_NS

    cameras = {camera.name: camera for camera in source.rig.cameras}
    count = 0
    with BagWriter(path, storage, overwrite=overwrite) as bag:
        transforms = [
            (source.rig.rig_frame, camera.frame_id, camera.rig_from_camera)
            for camera in source.rig.cameras
            if camera.rig_from_camera is not None
        ]
        if transforms:
            bag.write("/tf_static", messages.tf_message(transforms, START_NS), START_NS)
        for images in track(source, "sets", source.set_count, enabled=progress):
            for image in images:
                camera = cameras[image.camera]
                bag.write(
                    f"/{image.camera}/image_raw/compressed",
                    messages.compressed_image_message(jpeg_of(image, jpeg_quality)),
                    image.stamp_ns,
                )
                if camera.model is not None:
                    info = messages.camera_info_message(
                        camera.model, image.stamp_ns, image.frame_id
                    )
                    bag.write(f"/{image.camera}/camera_info", info, image.stamp_ns)
                count += 1
    return count


def track(
    items: Iterable[T], what: str, total: int | None, *, enabled: bool = True
) -> Iterator[T]:
    """Pass `items` on, with a progress bar once it takes longer than two seconds."""
    from tqdm import tqdm

    yield from tqdm(items, what, total, delay=_PROGRESS_DELAY_S, disable=not enabled, leave=False)
