"""Which formats a map can be exported to, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vggt_ros.errors import ExportError, nearest
from vggt_ros.export.files import write_text
from vggt_ros.export.pcd import write_pcd
from vggt_ros.export.ply import write_ply
from vggt_ros.export.trajectory import StampedPose, write_tum
from vggt_ros.types import PointCloud

FORMATS = ("ply", "pcd", "tum")
"""Point clouds as PLY and PCD, camera poses as TUM."""


def export_map(
    path: str | Path,
    format: str,
    cloud: PointCloud,
    cameras: Sequence[StampedPose] = (),
    *,
    comments: Sequence[str] = (),
    config_text: str = "",
) -> list[Path]:
    """Write a map in one format; each file is complete or as it was before.

    Args:
        path: the file; without a suffix that of the format is appended.
        format: one of `FORMATS`; empty: by the suffix of `path`.
        cloud: the points, and for every format the frame and whether it is metric.
        cameras: the poses, for `tum`; `static_poses` makes them from a rig's cameras.
        comments: header lines, such as where the scale came from.
        config_text: the accepted configuration (`dump_config`), saved as `<path>.config.yaml`.

    Returns:
        The files that were written, the map first.

    Raises:
        ExportError: unknown format, nothing to write, or the file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise ExportError(f"export: expected the name of a file, got '{path}'")
    name = format.lower() or path.suffix[1:].lower()
    if name not in FORMATS:
        got = f"format '{format}'" if format else f"a path without a known suffix, '{path}'"
        raise ExportError(
            f"export: expected a format of {', '.join(FORMATS)}, got {got}{nearest(name, FORMATS)}"
        )
    if not path.suffix:
        path = path.with_suffix(f".{name}")
    if name == "tum":
        if not cameras:
            raise ExportError(f"export to {path}: no camera has a pose yet; bootstrap first")
        write_tum(path, cameras, frame=cloud.frame, is_metric=cloud.is_metric, comments=comments)
    elif len(cloud) == 0:
        raise ExportError(f"export to {path}: the map has no points yet; nothing was written")
    else:
        write = write_ply if name == "ply" else write_pcd
        write(path, cloud, comments=comments)
    files = [path]
    if config_text:
        files.append(path.with_name(path.name + ".config.yaml"))
        write_text(files[-1], config_text)
    return files
