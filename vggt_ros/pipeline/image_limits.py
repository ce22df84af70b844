"""How large an image may be, told from its header before anything of that size is allocated."""

from __future__ import annotations

import struct
import zlib

from vggt_ros.errors import SourceError

MAX_PIXELS = 2**27
"""134 megapixels, 400 MB as RGB: more than any camera that is sold for robots (2026: 151 MP
medium format), and what four decoding threads can hold at the same time."""

MAX_SIDE_PX = 32_766
"""`cv2.remap`, which undistorts, takes sides below SHRT_MAX."""

_PNG_MOST = 1032
"""A byte of deflate makes 1032 bytes at most (zlib.net/feldspar.html, "Maximum Compression
Factor")."""

_JPEG_MOST = 64 * 8
"""Pixels per byte: each block of 64 has at least one bit, the Huffman code of its DC
coefficient (ITU-T T.81, F.1.2.1 and G.1.2.1), and one component at least is of full size."""

_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_FRAMES = tuple(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC))
"""SOFn (ITU-T T.81, table B.1); C4, C8 and CC are other markers."""
_ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length: TEM, RSTn, SOI."""


def check_size(width: int, height: int, where: str) -> None:
    """Refuse what is not an image of a camera.

    Raises:
        SourceError: no pixels, or more than `MAX_PIXELS` or `MAX_SIDE_PX`.
    """
    if width < 1 or height < 1:
        raise SourceError(f"{where}: expected an image of a pixel or more, got {width}x{height}")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise SourceError(
            f"{where}: expected an image of at most {MAX_PIXELS // 10**6} megapixels and "
            f"{MAX_SIDE_PX} px a side, got {width}x{height}"
        )


def check_file(data: bytes, encoding: str, where: str) -> tuple[int, int]:
    """(width, height) that a JPEG or PNG file declares, and that its length allows.

    So a small file cannot make its decoder allocate what only its header speaks of.

    Raises:
        SourceError: no header, too large, or fewer bytes than such an image needs.
    """
    try:
        width, height, most = _jpeg(data) if encoding == "jpeg" else _png(data)
    except (struct.error, IndexError) as error:
        raise SourceError(
            f"{where}: corrupt {encoding} of {len(data)} bytes: its header or a chunk is damaged"
        ) from error
    check_size(width, height, where)
    if most and width * height > most * len(data):
        raise SourceError(
            f"{where}: corrupt or cut off {encoding}: {len(data)} bytes cannot hold the "
            f"{width}x{height} pixels that its header declares"
        )
    return width, height


def _png(data: bytes) -> tuple[int, int, int]:
    """Width, height, and the most pixels per byte of file (PNG 1.2, 11.2.2 IHDR).

    All chunks must lie in the file: OpenCV 5 allocates the length that a chunk declares.
    """
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    (checksum,) = struct.unpack_from(">I", data, 29)
    if data[12:16] != b"IHDR" or zlib.crc32(data[12:29]) != checksum:
        raise IndexError
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
    if at > len(data):
        raise IndexError
    # Less than a byte a pixel is no camera, but would let eight times as much through.
    size = max(bits // 8, 1) * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    return width, height, max(_PNG_MOST // size, 1)


def _jpeg(data: bytes) -> tuple[int, int, int]:
    """Width, height, and the most pixels per byte of file; 0: not limited."""
    at = 2
    while True:
        while data[at] != 0xFF:  # some cameras pad between segments
            at += 1
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in _ALONE:
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height, _JPEG_MOST if marker in _HUFFMAN_FRAMES else 0
        if marker in (0xD9, 0xDA):  # end of image, or pixels before a frame
            raise IndexError
        (size,) = struct.unpack_from(">H", data, at)
        at += max(size, 2)
