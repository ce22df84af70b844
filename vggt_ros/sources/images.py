"""Folders of images as cameras."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.errors import ConfigError, SourceError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.decode import fit_model
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.sources.calibration_files import Calibration
from vggt_ros.sources.cameras import FoundCamera, Views, match_rig, natural_key, ros_name, select
from vggt_ros.sources.image_files import SUFFIXES, load_image
from vggt_ros.sources.source import START_NS
from vggt_ros.types import StampedImage

_LOG = logging.getLogger(__name__)

_NO_PHOTOGRAPH = re.compile(r"(^|[._-])(depths?|disparity|masks?|pha)([._-]|$)", re.IGNORECASE)
_INNER_FOLDERS = ("images", "image", "rgb")
"""Where data sets in the manner of PKU and MVSNet keep the images of a camera or a scene."""
_CAMERA_FOLDERS = (*_INNER_FOLDERS, "per_view")
"""Where they keep the folders of the cameras."""


@dataclass(frozen=True)
class ImageCamera(FoundCamera):
    """The images of one camera, in natural order."""

    files: tuple[Path, ...] = ()
    folder: Path = Path()


class ImageFolderSource:
    """Sets of images from a folder; the k-th images of all cameras are one set.

    Layouts: one sub-folder per camera (`<camera>/*.jpg` or `<camera>/images/*.jpg`; they may lie
    in `images/` or `per_view/`); or a flat folder, which is one camera, `cam0`, or with
    `camera_per_image` as many cameras as images. Names are in natural order (`img_2` before
    `img_10`). Depth and mask images (by their names) are left out. Images are turned upright as
    EXIF says.

    Args:
        directory: the folder.
        camera_per_image: each image of a flat folder is a camera of a static rig.
        rig: calibration; its cameras match by name or by `image` (folder or file), give the
            names and come first.
        fps: images per second of each camera.
        views: which cameras.
        frame_step: every so many-th image of each camera.
        calibration: intrinsics and poses from files; they overrule the rig's.

    Raises:
        SourceError: no folder, no images, both layouts at once, a camera of the rig or of
            `views` that is not there, or names that cannot be told apart.
        ConfigError: `fps` or `frame_step` is not positive.
        CalibrationError: calibration of other cameras or images.
    """

    is_live = False

    def __init__(
        self,
        directory: str | Path,
        camera_per_image: bool = False,
        rig: Rig | None = None,
        fps: float = 10.0,
        *,
        views: Views | None = None,
        frame_step: int = 1,
        calibration: Calibration | None = None,
    ):
        check_rate(fps, frame_step)
        self.directory = Path(directory)
        self.fps = float(fps)
        self.frame_step = frame_step
        where = f"folder {self.directory}"
        found = find_cameras(self.directory, camera_per_image)
        pairs = select(match_rig(found, rig, where), views or Views(), where)
        by_name = {camera.name: camera.files for camera in found}
        self._files = {entry.name: by_name[camera.name] for camera, entry in pairs}
        self.rig = Rig(tuple(entry for _, entry in pairs), rig.rig_frame if rig else "rig")
        """The cameras with their final names and frames, and what is known of them."""
        self._calibration = calibration
        self._keys = {entry.name: (*camera.keys, camera.name) for camera, entry in pairs}
        if calibration is not None:
            self.rig = calibration.applied_to(self.rig, self._keys, self.sizes)
        counts = {name: len(files) for name, files in self._files.items()}
        self.set_count = -(-max(counts.values()) // frame_step)
        if min(counts.values()) < max(counts.values()):
            _LOG.warning(
                "folder %s: cameras have different numbers of images (%s); the last sets lack "
                "some cameras",
                self.directory,
                ", ".join(f"{name}: {count}" for name, count in counts.items()),
            )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names in the order of views."""
        return self.rig.names

    @property
    def rate_hz(self) -> float:
        """Sets per second."""
        return self.fps / self.frame_step

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """(width, height) [px] of the first upright image of each camera."""
        return {name: load_image(files[0])[2] for name, files in self._files.items()}

    def __len__(self) -> int:
        return self.set_count

    def __iter__(self) -> Iterator[tuple[StampedImage, ...]]:
        """Sets of images, JPEG and PNG as they are; stamps start at one second.

        Raises:
            SourceError: an image that is empty or cannot be decoded, by its name.
        """
        for index in range(0, self.set_count * self.frame_step, self.frame_step):
            stamp = START_NS + round(index * 1e9 / self.fps)
            yield tuple(
                self._load(camera, stamp, self._files[camera.name][index])
                for camera in self.rig.cameras
                if index < len(self._files[camera.name])
            )

    def poses(self, stamp_ns: int) -> dict[str, Rigid3]:
        """`world_from_camera` of the cameras with a known pose; see `ImageSource`."""
        if self._calibration is None:
            return self.rig.poses
        return self._calibration.poses_of(self.rig, self._keys, frame_at(stamp_ns, self.fps))

    def report(self) -> dict[str, Any]:
        """Images per camera."""
        return {
            name: {"images": len(files), "used": -(-len(files) // self.frame_step)}
            for name, files in self._files.items()
        }

    def close(self) -> None:
        """Nothing is held open."""

    def _load(self, camera: RigCamera, stamp_ns: int, path: Path) -> StampedImage:
        return load_checked(camera, stamp_ns, path)


def load_checked(camera: RigCamera, stamp_ns: int, path: Path) -> StampedImage:
    """One image of a camera, whose intrinsics must fit its aspect.

    Raises:
        SourceError: the file is empty, cannot be read or cannot be decoded.
        CalibrationError: calibrated at another aspect.
    """
    data, encoding, size = load_image(path)
    if camera.model is not None:
        fit_model(camera.model, size, camera.name)
    return StampedImage(camera.name, stamp_ns, data, encoding, camera.frame_id)


def check_rate(fps: float, frame_step: int) -> None:
    """Both must be above zero.

    Raises:
        ConfigError: they are not.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise ConfigError(f"fps: expected a number > 0, got {fps}")
    if frame_step < 1:
        raise ConfigError(f"frame_step: expected a whole number > 0, got {frame_step}")


def frame_at(stamp_ns: int, fps: float) -> int:
    """Number of the images of a folder that have this stamp."""
    return max(0, round((stamp_ns - START_NS) * fps / 1e9))


def image_files(folder: Path) -> list[Path]:
    """Photographs of a folder in natural order."""
    files = []
    for file in folder.iterdir():
        if file.name.startswith(".") or file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        if _NO_PHOTOGRAPH.search(file.stem):
            _LOG.info("folder %s: %s is left out: no photograph", folder, file.name)
            continue
        files.append(file)
    return sorted(files, key=lambda f: natural_key(f.name))


def find_cameras(directory: Path, camera_per_image: bool = False) -> list[ImageCamera]:
    """The cameras of a folder by its layout, in natural order; see `ImageFolderSource`.

    Raises:
        SourceError: no folder, no images, or two layouts at once.
    """
    if not directory.is_dir():
        raise SourceError(f"folder {directory}: does not exist or is no folder")
    try:
        flat, nested = _flat_and_nested(directory)
    except OSError as error:
        raise SourceError(f"folder {directory}: cannot be read: {error.strerror}") from error
    if flat and nested:
        raise SourceError(
            f"folder {directory}: has images ({flat[0].name}, ...) and sub-folders with images "
            f"({next(iter(nested)).name}, ...); expected one or the other"
        )
    if not flat and not nested:
        raise SourceError(f"folder {directory}: no images ({', '.join(SUFFIXES)})")
    if camera_per_image and nested:
        raise SourceError(
            f"folder {directory}: has one sub-folder per camera; a camera per image needs a "
            f"flat folder"
        )
    if camera_per_image:
        return [ImageCamera(ros_name(f.stem), (f.stem, f.name), (f,)) for f in flat]
    if flat:
        name = directory.resolve().name
        return [ImageCamera("cam0", (name,), tuple(flat), flat[0].parent)]
    return [
        ImageCamera(ros_name(d.name), (d.name,), tuple(files), files[0].parent)
        for d, files in nested.items()
    ]


def _flat_and_nested(directory: Path) -> tuple[list[Path], dict[Path, list[Path]]]:
    flat = image_files(directory)
    nested = {d: files for d in _sub_folders(directory) if (files := _images_of_camera(d))}
    if flat:
        return flat, nested
    containers = [d for d in _sub_folders(directory) if d.name.lower() in _CAMERA_FOLDERS]
    if len(containers) == 1 and set(nested) <= set(containers):
        return _flat_and_nested(containers[0])
    return flat, nested


def _images_of_camera(folder: Path) -> list[Path]:
    files = image_files(folder)
    if files:
        return files
    inner = [d for d in _sub_folders(folder) if d.name.lower() in _INNER_FOLDERS]
    return image_files(inner[0]) if len(inner) == 1 else []


def _sub_folders(directory: Path) -> list[Path]:
    return sorted(
        (
            d
            for d in directory.iterdir()
            if d.is_dir()
            and not d.name.startswith((".", "__"))
            and not _NO_PHOTOGRAPH.search(d.name)
        ),
        key=lambda d: natural_key(d.name),
    )
