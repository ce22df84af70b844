"""Videos whose frames carry their number, exact through any codec."""

import cv2
import numpy as np
import pytest

BITS = 12
CELL_PX = 16


def numbered(number, width=256, height=64):
    """A BGR frame with its number as black and white cells, and their complement below."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        x = 8 + bit * CELL_PX
        value = 255 if number >> bit & 1 else 0
        frame[8:24, x : x + CELL_PX] = value
        frame[24:40, x : x + CELL_PX] = 255 - value
    return frame


def number_of(pixels):
    """The number in a frame; fails where it cannot be read without doubt."""
    value = 0
    for bit in range(BITS):
        x = 8 + bit * CELL_PX + CELL_PX // 2
        upper, lower = (float(pixels[y - 3 : y + 3, x - 3 : x + 3].mean()) for y in (16, 32))
        assert abs(upper - lower) > 100, "no number in this frame"
        value |= (upper > lower) << bit
    return value


def write_video(path, numbers, fps=30.0, fourcc=None, size=(256, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = fourcc or {".avi": "MJPG", ".mpg": "MPG1", ".mpeg": "MPG1"}.get(path.suffix, "mp4v")
    code = cv2.VideoWriter.fourcc(*fourcc)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size)
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {fourcc}")
    for number in numbers:
        writer.write(numbered(number, *size))
    writer.release()
    return path


@pytest.fixture
def video():
    """Make videos: see `write_video`."""
    return write_video
