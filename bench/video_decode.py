"""Four videos of 1920x1080 at 30 Hz, decoded at frame_step 2: does it keep up on two cores?"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from bench.figures import Figure, at_least, at_most
from vggt_ros.sources.videos import VideoSource

SIZE = (1920, 1080)
RATE_HZ = 30.0
CAMERAS = 4
FRAMES = 150
FRAME_STEP = 2
CORES = 2
MODERATE_BITRATE = "8M"
"""What action cameras and phones give 1080p30: 8 to 17 Mbit/s."""


def figures() -> list[Figure]:
    found = []
    with tempfile.TemporaryDirectory(prefix="video_decode") as name, two_cores():
        root = Path(name)
        for codec, write in (("MPEG-4", write_mpeg4), ("MJPEG", write_mjpeg), ("H.264", h264())):
            if write is None:
                continue
            folder = root / codec
            folder.mkdir()
            write(folder / "cam0")
            made = next(folder.iterdir())
            for k in range(1, CAMERAS):
                shutil.copy(made, made.with_name(f"cam{k}{made.suffix}"))
            mbit = made.stat().st_size * 8e-6 * RATE_HZ / FRAMES
            found += measure(codec, folder, f"{mbit:.1f} Mbit/s each")
            shutil.rmtree(folder)
    return found


def measure(codec: str, folder: Path, note: str) -> list[Figure]:
    """Best of three: other work on the machine only ever adds."""
    opening = time.perf_counter()
    source = VideoSource(folder, frame_step=FRAME_STEP)
    opening = time.perf_counter() - opening
    rates, loads, given = [], [], []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        sets = sum(len(images) == CAMERAS for images in source)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if sets != -(-FRAMES // FRAME_STEP):
            raise RuntimeError(f"{codec}: {sets} whole sets")
        rates.append(sets / wall)
        loads.append(cpu / sets)
        given.append(cpu / wall)
    source.close()
    goal = RATE_HZ / FRAME_STEP
    rate, cpu_s = max(rates), min(loads)
    note += f", {max(given):.2f} of {CORES} cores used"
    what = f"{codec}: {CAMERAS} x 1080p30, frame_step {FRAME_STEP}"
    return [
        at_least(f"{what}, sets per second", rate, "Hz", goal, note),
        Figure(f"{what}, CPU of a set", 1e3 * cpu_s, "ms"),
        at_most(f"{what}, cores that real time takes", goal * cpu_s, "cores", CORES),
        Figure(f"{what}, opening (stamps of all frames)", 1e3 * opening, "ms"),
    ]


@contextlib.contextmanager
def two_cores():
    """Hold this process to two cores, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:CORES])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def frames():
    """A textured scene that the camera pans over, with a little noise of the sensor."""
    rng = np.random.default_rng(0)
    width, height = SIZE
    small = rng.integers(0, 255, (height // 12, (width + 900) // 12, 3), np.uint8)
    scene = cv2.resize(small, (width + 900, height), interpolation=cv2.INTER_CUBIC)
    noise = [rng.integers(0, 8, (height, width, 3), np.uint8) for _ in range(4)]
    for k in range(FRAMES):
        yield cv2.add(np.ascontiguousarray(scene[:, 5 * k : 5 * k + width]), noise[k % 4])


def write_mpeg4(stem: Path) -> None:
    _write(stem.with_suffix(".mp4"), "mp4v")


def write_mjpeg(stem: Path) -> None:
    _write(stem.with_suffix(".avi"), "MJPG")


def _write(path: Path, fourcc: str) -> None:
    code = cv2.VideoWriter.fourcc(*fourcc)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, RATE_HZ, SIZE)
    for frame in frames():
        writer.write(frame)
    writer.release()


def h264():
    """A writer of H.264, which OpenCV's wheels cannot encode; None without an ffmpeg that can."""
    program = shutil.which("ffmpeg")
    with contextlib.suppress(ImportError):
        import imageio_ffmpeg

        program = program or imageio_ffmpeg.get_ffmpeg_exe()
    if program is None:
        print("video_decode: H.264 is left out: no ffmpeg (pip install imageio-ffmpeg)")
        return None

    def write(stem: Path) -> None:
        raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "x".join(map(str, SIZE))]
        coded = ["-c:v", "libx264", "-preset", "veryfast", "-b:v", MODERATE_BITRATE]
        process = subprocess.Popen(
            [program, "-loglevel", "error", "-y", *raw, "-r", str(RATE_HZ), "-i", "-"]
            + [*coded, "-pix_fmt", "yuv420p", str(stem.with_suffix(".mp4"))],
            stdin=subprocess.PIPE,
        )
        for frame in frames():
            process.stdin.write(frame.tobytes())
        process.stdin.close()
        if process.wait():
            raise RuntimeError("ffmpeg failed")

    return write
