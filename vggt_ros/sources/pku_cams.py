"""Camera files of PKU-DyMVHumans and MVSNet: `<id>_cam.txt`, one per camera.

extrinsic
r11 r12 r13 t1          camera_from_world (world to camera), metres or the scene's unit
...
0 0 0 1

intrinsic
fx 0 cx                 [px] at the native resolution
0 fy cy
0 0 1

depth_min depth_interval ...        not used
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vggt_ros.errors import CalibrationError
from vggt_ros.geometry import Rigid3
from vggt_ros.sources.calibration_entries import Intrinsics, intrinsics_from, pose_from
from vggt_ros.sources.calibration_files import Calibration
from vggt_ros.sources.cameras import natural_key


def load_pku_cams(directory: str | Path) -> Calibration:
    """All `*_cam.txt` (or `cam.txt` in folders of the cameras) of a folder.

    Returns:
        Camera ids are the file names without `_cam.txt`; `world_from_camera` at frame 0.

    Raises:
        CalibrationError: no such files, or one that is not as described above.
    """
    directory = Path(directory)
    files = [*directory.glob("*_cam.txt"), *directory.glob("*/cam.txt")]
    if not files:
        raise CalibrationError(f"calibration folder {directory}: no *_cam.txt in it")
    intrinsics: dict[str, Intrinsics] = {}
    poses: dict[str, dict[int, Rigid3]] = {}
    for file in sorted(files, key=lambda f: natural_key(str(f))):
        stem = file.stem
        name = stem.removesuffix("_cam") if stem != "cam" else file.parent.name
        intrinsics[name], camera_from_world = read_pku_cam(file)
        poses[name] = {0: camera_from_world.inverse()}
    return Calibration(intrinsics, poses, str(directory))


def read_pku_cam(path: Path) -> tuple[Intrinsics, Rigid3]:
    """K and `camera_from_world` of one file.

    Raises:
        CalibrationError: a missing section, row or number.
    """
    where = f"camera file {path}"
    try:
        lines = [words for line in path.read_text().splitlines() if (words := line.split())]
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{where}: cannot be read: {error}") from error
    extrinsic = _block(lines, "extrinsic", 4, where)
    intrinsic = _block(lines, "intrinsic", 3, where)
    return (
        intrinsics_from(intrinsic, f"{where}: intrinsic"),
        pose_from(extrinsic, f"{where}: extrinsic"),
    )


def convert_pku_cams(directory: str | Path, out: str | Path) -> list[Path]:
    """Write `intrinsics.json` and `poses.json` (camera to world) of a folder of camera files.

    Raises:
        CalibrationError: no or wrong camera files.
        ExportError: the files cannot be written.
    """
    from vggt_ros.export.files import atomic_write

    found = load_pku_cams(directory)
    contents = {
        "intrinsics.json": {
            "intrinsics": {name: k.matrix.tolist() for name, k in found.intrinsics.items()}
        },
        "poses.json": {
            "poses": [
                {"camera": name, "frame": frame, "matrix": pose.matrix.tolist()}
                for name, frames in found.world_from_camera.items()
                for frame, pose in frames.items()
            ]
        },
    }
    written = []
    for name, content in contents.items():
        path = Path(out) / name
        with atomic_write(path) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
        written.append(path)
    return written


def _block(lines: list[list[str]], title: str, size: int, where: str) -> np.ndarray:
    if [title] not in lines:
        raise CalibrationError(f"{where}: expected a section '{title}'")
    at = lines.index([title]) + 1
    rows = lines[at : at + size]
    try:
        matrix = np.array([[float(word) for word in row] for row in rows])
    except ValueError:
        matrix = np.empty(0)
    if matrix.shape != (size, size):
        raise CalibrationError(
            f"{where}: section '{title}': expected {size} rows of {size} numbers, got "
            f"{[' '.join(row) for row in rows]}"
        )
    return matrix
