"""Folders of images as cameras."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vggt_ros.errors import ConfigError, SourceError, nearest
from vggt_ros.pipeline.decode import decode_rgb, fit_model
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.sources.messages import sniff_encoding
from vggt_ros.types import StampedImage

_LOG = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
START_NS = 1_000_000_000
"""Stamp of the first set: not 0, which ROS takes for "no time"."""
_NO_PHOTOGRAPH = re.compile(r"(^|[._-])(depth|disparity|mask)([._-]|$)", re.IGNORECASE)
_EXIF_ORIENTATION = 0x0112
_JPEG_QUALITY = 95
"""Of images that have to be turned upright; all others keep their bytes."""


@dataclass(frozen=True)
class _Camera:
    name: str
    keys: tuple[str, ...]
    """What a rig file may call it: its name, its folder or file, with and without suffix."""
    files: tuple[Path, ...]


class ImageFolderSource:
    """Sets of images from a folder; the k-th images of all cameras are one set.

    Layouts: one sub-folder per camera; or a flat folder, which is one camera, or with
    `camera_per_image` as many cameras as images. Names are in natural order (`img_2` before
    `img_10`). Depth and mask images (by their names) are left out.

    Args:
        directory: the folder.
        camera_per_image: each image of a flat folder is a camera of a static rig.
        rig: calibration; its cameras match by name or by `image` (folder or file), give the
            names and come first.
        fps: sets per second.

    Raises:
        SourceError: no folder, no images, both layouts at once, a camera of the rig that is not
            there, or names that cannot be told apart.
        ConfigError: `fps` is not positive.
    """

    def __init__(
        self,
        directory: str | Path,
        camera_per_image: bool = False,
        rig: Rig | None = None,
        fps: float = 10.0,
    ):
        if not (np.isfinite(fps) and fps > 0):
            raise ConfigError(f"fps: expected a number > 0, got {fps}")
        self.directory = Path(directory)
        self.fps = float(fps)
        found = _find(self.directory, camera_per_image)
        self._files: dict[str, tuple[Path, ...]] = {}
        cameras = []
        for camera, entry in _match(found, rig, self.directory):
            self._files[entry.name] = camera.files
            cameras.append(
                replace(entry, frame_id=entry.frame_id or f"{entry.name}_optical_frame")
            )
        self.rig = Rig(tuple(cameras), rig.rig_frame if rig else "rig")
        """The cameras with their final names and frames, and what is known of them."""
        self.set_count = max(len(files) for files in self._files.values())
        counts = {name: len(files) for name, files in self._files.items()}
        if min(counts.values()) < self.set_count:
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

    def __len__(self) -> int:
        return self.set_count

    def __iter__(self) -> Iterator[tuple[StampedImage, ...]]:
        """Sets of images, JPEG and PNG as they are; stamps start at one second.

        Raises:
            SourceError: an image that is empty or cannot be decoded, by its name.
        """
        for index in range(self.set_count):
            stamp = START_NS + round(index * 1e9 / self.fps)
            yield tuple(
                self._load(camera, stamp, self._files[camera.name][index])
                for camera in self.rig.cameras
                if index < len(self._files[camera.name])
            )

    def _load(self, camera: RigCamera, stamp_ns: int, path: Path) -> StampedImage:
        data, encoding, size = load_image(path)
        if camera.model is not None:
            fit_model(camera.model, size, camera.name)
        return StampedImage(camera.name, stamp_ns, data, encoding, camera.frame_id)


def load_image(path: Path) -> tuple[bytes, str, tuple[int, int]]:
    """An upright image as JPEG or PNG: (bytes, "jpeg" or "png", (width, height)).

    The bytes are those of the file, unless EXIF says that the camera was turned or the format
    is another one; then they are compressed again.

    Raises:
        SourceError: the file is empty, cannot be read or cannot be decoded.
    """
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"image {path}: cannot be read: {error.strerror}") from error
    if not data:
        raise SourceError(f"image {path}: the file is empty")
    encoding = sniff_encoding(data)
    if encoding and exif_orientation(data) == 1:
        try:
            height, width = decode_rgb(StampedImage("", 0, data, encoding)).shape[:2]
        except SourceError as error:
            raise SourceError(f"image {path}: cannot be decoded; {error}") from error
        return data, encoding, (width, height)
    upright = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if upright is None:
        raise SourceError(f"image {path}: cannot be decoded; expected {', '.join(SUFFIXES)}")
    if encoding == "jpeg":
        done, buffer = cv2.imencode(".jpg", upright, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    else:
        encoding = "png"
        done, buffer = cv2.imencode(".png", upright)
    if not done:
        raise SourceError(f"image {path}: cannot be compressed again")
    return buffer.tobytes(), encoding, (upright.shape[1], upright.shape[0])


def exif_orientation(data: bytes) -> int:
    """EXIF orientation 1 to 8 of a JPEG or PNG file; 1 (upright) where there is none.

    Source: Exif 2.32, 4.6.4 (IFD0 tag 0x0112); PNG 1.2 extensions, chunk eXIf.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _tiff_orientation(_jpeg_exif(data))
        if data[:4] == b"\x89PNG":
            return _tiff_orientation(_png_exif(data))
    except (struct.error, IndexError):  # a damaged header says nothing
        pass
    return 1


def _jpeg_exif(data: bytes) -> bytes:
    at = 2
    while data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        (size,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 10 : at + 2 + size]
        at += 2 + size
    return b""


def _png_exif(data: bytes) -> bytes:
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + size]
        at += 12 + size
    return b""


def _tiff_orientation(tiff: bytes) -> int:
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    order = "<" if tiff[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for k in range(entries):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * k)
        if tag == _EXIF_ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def ros_name(text: str) -> str:
    """A valid ROS name: letters, digits and single underscores, a letter first."""
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")
    return name if name[:1].isalpha() else f"cam_{name}" if name else "camera"


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers within names by their value."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p.lower()) for p in parts if p]


def _images(folder: Path) -> list[Path]:
    files = []
    for file in folder.iterdir():
        if file.name.startswith(".") or file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        if _NO_PHOTOGRAPH.search(file.stem):
            _LOG.info("folder %s: %s is left out: no photograph", folder, file.name)
            continue
        files.append(file)
    return sorted(files, key=lambda f: natural_key(f.name))


def _find(directory: Path, camera_per_image: bool) -> list[_Camera]:
    if not directory.is_dir():
        raise SourceError(f"folder {directory}: does not exist or is no folder")
    try:
        flat = _images(directory)
        inside = sorted(
            (d for d in directory.iterdir() if d.is_dir() and not d.name.startswith((".", "__"))),
            key=lambda d: natural_key(d.name),
        )
        nested = {d: files for d in inside if (files := _images(d))}
    except OSError as error:
        raise SourceError(f"folder {directory}: cannot be read: {error.strerror}") from error
    if flat and nested:
        raise SourceError(
            f"folder {directory}: has images and sub-folders with images; expected one or the "
            f"other"
        )
    if not flat and not nested:
        raise SourceError(f"folder {directory}: no images ({', '.join(SUFFIXES)})")
    if camera_per_image and nested:
        raise SourceError(
            f"folder {directory}: has one sub-folder per camera; a camera per image needs a "
            f"flat folder"
        )
    if camera_per_image:
        return [_Camera(ros_name(f.stem), (f.stem, f.name), (f,)) for f in flat]
    if flat:
        name = directory.resolve().name
        return [_Camera(ros_name(name), (name,), tuple(flat))]
    return [_Camera(ros_name(d.name), (d.name,), tuple(files)) for d, files in nested.items()]


def _match(
    found: list[_Camera], rig: Rig | None, directory: Path
) -> list[tuple[_Camera, RigCamera]]:
    names = [camera.name for camera in found]
    for name in names:
        if names.count(name) > 1:
            same = [c.keys[-1] for c in found if c.name == name]
            raise SourceError(
                f"folder {directory}: {' and '.join(same)} would all be camera '{name}'; "
                f"rename them"
            )
    if rig is None:
        return [(camera, RigCamera(camera.name)) for camera in found]
    by_key = {key: camera for camera in found for key in (camera.name, *camera.keys)}
    matched: dict[str, tuple[_Camera, RigCamera]] = {}
    for entry in rig.cameras:
        image = entry.image.rstrip("/").rsplit("/", 1)[-1]
        key = image if image in by_key else entry.name
        if key not in by_key:
            raise SourceError(
                f"folder {directory}: nothing for camera '{entry.name}' of the rig"
                f"{nearest(image or entry.name, by_key)}; it has {', '.join(names)}"
            )
        camera = by_key[key]
        if camera.name in matched:
            other = matched[camera.name][1].name
            raise SourceError(
                f"folder {directory}: cameras '{other}' and '{entry.name}' of the rig are both "
                f"{camera.keys[-1]}"
            )
        # A key like "0000" is a fine match, but no name for a topic.
        matched[camera.name] = (camera, replace(entry, name=ros_name(entry.name)))
    rest = [camera for camera in found if camera.name not in matched]
    if rest:
        _LOG.warning(
            "folder %s: the rig does not know %s; they have no calibration",
            directory,
            ", ".join(camera.name for camera in rest),
        )
    pairs = [*matched.values(), *((camera, RigCamera(camera.name)) for camera in rest)]
    final = [entry.name for _, entry in pairs]
    for name in final:
        if final.count(name) > 1:
            raise SourceError(f"folder {directory}: two cameras would be named '{name}'")
    return pairs
