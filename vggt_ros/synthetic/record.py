"""The synthetic world as a rosbag2 bag, as a robot would have recorded it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vggt_ros.geometry import Rigid3
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

BASE_FROM_RIG = Rigid3(np.eye(3), np.array([0.1, 0.0, 1.15]))
"""Where the rig sits on a robot that moves; `scenes.demo_rig` is as high."""

_JPEG_QUALITY = 92
"""What USB cameras and `image_transport` use by default lies between 80 and 95."""


@dataclass(frozen=True, eq=False)
class Odometry:
    """What a moving robot's odometry writes to `/tf`."""

    odom_from_base: Callable[[float], Rigid3]
    """At a time since `start_ns` [s]."""
    start_ns: int = 0
    rate_hz: float = 50.0
    odom_frame: str = "odom"
    base_frame: str = "base_link"
    delay_s: float = 0.02
    """From its stamp to when it is recorded."""

    def messages(self) -> Iterator[tuple[int, int]]:
        """Stamp and time of recording, for ever, from one message before the start."""
        number = -1
        while True:
            stamp_ns = self.start_ns + int(number * 1e9 / self.rate_hz) + 1_000_000
            yield stamp_ns, stamp_ns + int(self.delay_s * 1e9)
            number += 1


def record(
    path: str | Path,
    rig: Rig,
    sets: Iterable[SyntheticSet],
    compressed: Iterable[str] = (),
    overwrite: bool = False,
    on_set: Callable[[], object] = lambda: None,
    odometry: Odometry | None = None,
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
        odometry: of a rig that moves; its base carries the rig's frame.
    """
    compressed = frozenset(compressed)
    transforms = [
        (rig.rig_frame, camera.frame_id, camera.rig_from_camera)
        for camera in rig.cameras
        if camera.rig_from_camera is not None
    ]
    if odometry is not None and odometry.base_frame != rig.rig_frame:
        transforms.append((odometry.base_frame, rig.rig_frame, BASE_FROM_RIG))
    moved = odometry.messages() if odometry is not None else iter(())
    pending = next(moved, None)
    last_ns = 0
    with BagWriter(path, overwrite=overwrite) as bag:
        for index, taken in enumerate(sets):
            if index == 0:
                bag.write("/tf_static", tf_message(transforms, taken.stamp_ns), taken.stamp_ns)
            last_ns = max(taken.stamps_ns.values())
            while odometry is not None and pending is not None and pending[1] <= last_ns:
                _write_odometry(bag, odometry, *pending)
                pending = next(moved)
            for camera in sorted(rig.cameras, key=lambda c: taken.stamps_ns[c.name]):
                stamp, rgb = taken.stamps_ns[camera.name], taken.images[camera.name]
                image = StampedImage(camera.name, stamp, rgb, "rgb8", camera.frame_id)
                _write_image(bag, camera, image, camera.name in compressed)
            on_set()
        while odometry is not None and pending is not None and pending[0] < last_ns + 100_000_000:
            _write_odometry(bag, odometry, *pending)
            pending = next(moved)


def _write_odometry(bag: BagWriter, odometry: Odometry, stamp_ns: int, log_ns: int) -> None:
    pose = odometry.odom_from_base((stamp_ns - odometry.start_ns) * 1e-9)
    edge = (odometry.odom_frame, odometry.base_frame, pose)
    bag.write("/tf", tf_message([edge], stamp_ns), log_ns)


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
