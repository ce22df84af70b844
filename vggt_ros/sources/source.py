"""What every source of images is: sets of stamped images of named cameras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vggt_ros.geometry import Rigid3
from vggt_ros.rig import Rig
from vggt_ros.types import StampedImage

START_NS = 1_000_000_000
"""Stamp of the first set of a recorded source: not 0, which ROS takes for "no time"."""


class ImageSource(Protocol):
    """Sets of images, in the fixed order of views; made by `open_source`.

    All images of a set of a recorded source (folder, video) have the stamp of the set: they are
    in lock-step. Images of a live source (webcams) have their own, within the source's skew.
    Iterating a recorded source again starts again; iterating a live one goes on.
    """

    @property
    def rig(self) -> Rig:
        """Cameras with their final names and frames, and what is known of them.

        Models are of the native size of the images.
        """
        ...

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Native (width, height) [px] by camera, of upright images."""
        ...

    @property
    def rate_hz(self) -> float:
        """Sets per second, after `frame_step`; of a live one as images came lately."""
        ...

    @property
    def is_live(self) -> bool:
        """It has no end of its own and does not wait for who is slow."""
        ...

    @property
    def set_count(self) -> int | None:
        """How many sets there are; None where it is live."""
        ...

    def __iter__(self) -> Iterator[tuple[StampedImage, ...]]:
        """One tuple of images per set; cameras may be missing, a set never is empty.

        Raises:
            SourceError: an image that cannot be read, by its name.
        """
        ...

    def poses(self, stamp_ns: int) -> dict[str, Rigid3]:
        """`world_from_camera` by camera at the stamp of a set, of cameras with a known pose.

        Where a poses file has no entry for the frame, that of frame 0. Frames are counted as the
        source has them, before `frame_step`.
        """
        ...

    def report(self) -> dict[str, Any]:
        """Per camera what was given, left out, or is missing, for `report.json`."""
        ...

    def close(self) -> None:
        """Free files, devices and threads; iterating ends."""
        ...
