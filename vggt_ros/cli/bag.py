"""`vggt-ros bag`: make bags."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vggt_ros.cli.arguments import positive

if TYPE_CHECKING:
    from vggt_ros.sources.images import ImageFolderSource

T = TypeVar("T")

_PROGRESS_DELAY_S = 2.0

_EXAMPLES = """\
examples:
  one sub-folder per camera, 10 sets per second:
    vggt-ros bag from-images rig/ --out rig_bag --rig rig.yaml --fps 10
  photographs of one static scene, each a camera:
    vggt-ros bag from-images photos/ --out photos_bag --camera-per-image
"""


def add_parser(subparsers: Any) -> None:
    """Add `bag` and what it can do to the parser of `vggt-ros`."""
    parser = subparsers.add_parser("bag", help="make bags", description="Make rosbag2 bags.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    images = actions.add_parser(
        "from-images",
        help="folders of images to a bag",
        description="Write folders of images as a rosbag2 bag with compressed images "
        "(/<camera>/image_raw/compressed), and, where RIG.yaml knows them, CameraInfo and "
        "/tf_static. JPEG and PNG files go in byte for byte.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    images.add_argument("directory", metavar="DIR", type=Path, help="folder of images")
    images.add_argument("--out", metavar="BAG", type=Path, required=True, help="the new bag")
    images.add_argument("--rig", metavar="RIG.yaml", type=Path, help="calibration of the cameras")
    images.add_argument(
        "--fps", metavar="F", type=positive, default=10.0, help="sets per second (default: 10)"
    )
    images.add_argument(
        "--camera-per-image",
        action="store_true",
        help="each image of a flat folder is a camera of a static rig",
    )
    images.add_argument(
        "--storage", choices=("mcap", "sqlite3"), default="mcap", help="default: mcap"
    )
    images.add_argument("--overwrite", action="store_true", help="replace a bag that is there")
    images.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the bag; returns the exit code.

    Raises:
        VggtRosError: wrong folder, image, rig file or target.
    """
    from vggt_ros.rig import load_rig
    from vggt_ros.sources.images import ImageFolderSource

    rig = load_rig(args.rig) if args.rig else None
    source = ImageFolderSource(args.directory, args.camera_per_image, rig, args.fps)
    count = write_image_bag(
        source, args.out, storage=args.storage, overwrite=args.overwrite, progress=True
    )
    known = source.rig
    print(
        f"{args.out}: {count} images, {len(source.cameras)} cameras, {len(source)} sets; "
        f"{len(known.models)} with intrinsics, {len(known.poses)} with poses"
    )
    print(f"next: vggt-ros check {args.out}")
    return 0


def write_image_bag(
    source: ImageFolderSource,
    path: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    progress: bool = False,
) -> int:
    """Write the sets of a folder as a bag and return the number of images.

    Topics: `/<camera>/image_raw/compressed`, `/<camera>/camera_info` for the cameras with
    intrinsics, `/tf_static` for those with poses.

    Raises:
        ExportError: the bag exists or cannot be written.
        SourceError: an image cannot be read.
        CalibrationError: intrinsics of another aspect than the images.
    """
    from vggt_ros.sources import messages
    from vggt_ros.sources.bag import BagWriter
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
        for images in track(source, "images", len(source), enabled=progress):
            for image in images:
                camera = cameras[image.camera]
                bag.write(
                    f"/{image.camera}/image_raw/compressed",
                    messages.compressed_image_message(image),
                    image.stamp_ns,
                )
                if camera.model is not None:
                    info = messages.camera_info_message(
                        camera.model, image.stamp_ns, image.frame_id
                    )
                    bag.write(f"/{image.camera}/camera_info", info, image.stamp_ns)
                count += 1
    return count


def track(items: Iterable[T], what: str, total: int, *, enabled: bool = True) -> Iterator[T]:
    """Pass `items` on, with a progress bar once it takes longer than two seconds."""
    from tqdm import tqdm

    yield from tqdm(items, what, total, delay=_PROGRESS_DELAY_S, disable=not enabled, leave=False)
