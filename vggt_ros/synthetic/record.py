"""The synthetic world as a rosbag2 bag, as a robot would have recorded it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from vggt_ros.rig import Rig, RigCamera
from vggt_ros.sources.bag_writer import BagWriter
from vggt_ros.sources.messages import (
    camera_info_message,
    compressed_image_message,
    image_message,
    tf_message,
)
from vggt_ros.synthetic.scenes import SyntheticSet
from vggt_ros.types import StampedImage

_JPEG_QUALITY = 92
"""What USB cameras and `image_transport` use by default lies between 80 and 95."""


def record(
    path: str | Path,
    rig: Rig,
    sets: Iterable[SyntheticSet],
    compressed: Iterable[str] = (),
    overwrite: bool = False,
    on_set: Callable[[], object] = lambda: None,
) -> None:
    """Write images, CameraInfo and `/tf_static` as MCAP.

    Args:
        path: bag folder.
        rig: intrinsics, frame ids and `rig_from_camera` of all cameras.
        sets: what `scenes.simulate` yields.
        compressed: cameras that record JPEG on `<name>/image_raw/compressed`; the others record
            `<name>/image_raw`.
        overwrite: replace an existing bag.
        on_set: called after each set, for a progress bar.
    """
    compressed = frozenset(compressed)
    transforms = [
        (rig.rig_frame, camera.frame_id, camera.rig_from_camera)
        for camera in rig.cameras
        if camera.rig_from_camera is not None
    ]
    with BagWriter(path, overwrite=overwrite) as bag:
        for index, taken in enumerate(sets):
            if index == 0:
                bag.write("/tf_static", tf_message(transforms, taken.stamp_ns), taken.stamp_ns)
            for camera in sorted(rig.cameras, key=lambda c: taken.stamps_ns[c.name]):
                stamp, rgb = taken.stamps_ns[camera.name], taken.images[camera.name]
                image = StampedImage(camera.name, stamp, rgb, "rgb8", camera.frame_id)
                _write_image(bag, camera, image, camera.name in compressed)
            on_set()


def _write_image(bag: BagWriter, camera: RigCamera, image: StampedImage, compress: bool) -> None:
    stamp, name = image.stamp_ns, image.camera
    if camera.model is not None:
        info = camera_info_message(camera.model, stamp, image.frame_id)
        bag.write(f"/{name}/camera_info", info, stamp)
    if not compress:
        bag.write(f"/{name}/image_raw", image_message(image), stamp)
        return
    bgr = cv2.cvtColor(image.data, cv2.COLOR_RGB2BGR)  # type: ignore[arg-type]
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    small = StampedImage(name, stamp, jpeg.tobytes(), "jpeg", image.frame_id)
    bag.write(f"/{name}/image_raw/compressed", compressed_image_message(small), stamp)
