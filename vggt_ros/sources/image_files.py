"""One image file: upright JPEG or PNG bytes, whatever EXIF and the format say."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from vggt_ros.errors import SourceError
from vggt_ros.pipeline.decode import decode_rgb
from vggt_ros.sources.messages import sniff_encoding
from vggt_ros.types import StampedImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_EXIF_ORIENTATION = 0x0112
_JPEG_QUALITY = 95
"""Of images that have to be turned upright; all others keep their bytes."""


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


def jpeg_of(image: StampedImage, quality: int = _JPEG_QUALITY) -> StampedImage:
    """The image as JPEG; one that is a file already stays as it is.

    Raises:
        SourceError: an encoding without colours.
    """
    import cv2

    if isinstance(image.data, bytes):
        return image
    if image.encoding == "bgr8":
        bgr = np.asarray(image.data, np.uint8)
    else:
        bgr = np.asarray(cv2.cvtColor(decode_rgb(image), cv2.COLOR_RGB2BGR), np.uint8)
    done, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise SourceError(f"camera '{image.camera}': the image cannot be compressed")
    return replace(image, data=buffer.tobytes(), encoding="jpeg")
