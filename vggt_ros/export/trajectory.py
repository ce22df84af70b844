"""Poses in the text format of the TUM RGB-D benchmark: `stamp tx ty tz qx qy qz qw`.

Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012. The stamp is in
seconds. One addition, which other readers skip as a comment: a line `# camera <name>` says
whose the poses are that follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from vggt_ros.errors import ExportError, SourceError
from vggt_ros.export.files import atomic_write
from vggt_ros.geometry import Rigid3


@dataclass(frozen=True, eq=False)
class StampedPose:
    """Where a body (a camera, the rig) is in the map at one instant."""

    stamp_ns: int
    map_from_body: Rigid3
    name: str = ""
    """The camera's; empty for the only body of a file."""


def static_poses(map_from_camera: Mapping[str, Rigid3], stamp_ns: int = 0) -> list[StampedPose]:
    """One pose for each camera of a rig that does not move, in the order of the mapping."""
    return [StampedPose(stamp_ns, pose, name) for name, pose in map_from_camera.items()]


def write_tum(
    path: str | Path,
    poses: Sequence[StampedPose],
    *,
    frame: str = "map",
    is_metric: bool = True,
    comments: Sequence[str] = (),
) -> None:
    """Write poses in the order given, atomically; nine decimals: nanoseconds and nanometres.

    Args:
        path: the file; its folder must exist.
        poses: any number; a comment line names the camera wherever it changes.
        frame: the frame in which the poses are given; named in the header.
        is_metric: whether translations are in metres; said in the header.
        comments: further header lines.

    Raises:
        ExportError: the file cannot be written, or a name or comment is not one line.
    """
    lines = ["stamp tx ty tz qx qy qz qw", f"frame {frame}"]
    lines += [f"unit {'m' if is_metric else 'unscaled'}", *comments]
    lines = [f"# {line}" for line in lines]
    name = ""
    for pose in poses:
        if pose.name != name:
            name = pose.name
            lines.append(f"# camera {name}")
        numbers = (*pose.map_from_body.translation, *pose.map_from_body.quaternion_xyzw)
        # adding 0.0 turns -0.0 into 0.0
        values = " ".join(f"{round(float(number), 9) + 0.0:.9f}" for number in numbers)
        lines.append(f"{format_stamp(pose.stamp_ns)} {values}")
    for line in lines:
        if not line.isprintable():
            raise ExportError(f"cannot write {path}: a comment must be one line, got {line!r}")
    with atomic_write(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def format_stamp(stamp_ns: int) -> str:
    """Seconds with nine decimals, exact (a float64 of today's time is off by 100 ns)."""
    sign = "-" if stamp_ns < 0 else ""
    seconds, rest = divmod(abs(stamp_ns), 1_000_000_000)
    return f"{sign}{seconds}.{rest:09d}"


def read_tum(path: str | Path) -> list[StampedPose]:
    """Read poses in the order of the file.

    Raises:
        SourceError: missing file, no poses, or a line that is not eight numbers with a
            quaternion of length 1; the line is named.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not a text file") from error
    poses: list[StampedPose] = []
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            words = line[1:].split(maxsplit=1)
            if words and words[0] == "camera":
                name = words[1].strip() if len(words) == 2 else ""
            continue
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != 8:
            raise SourceError(
                f"{path}:{number}: expected 8 numbers (stamp tx ty tz qx qy qz qw), got "
                f"{len(words)}"
            )
        try:
            stamp_ns = int((Decimal(words[0]) * 1_000_000_000).to_integral_value())
            values = [float(word) for word in words[1:]]
            poses.append(
                StampedPose(stamp_ns, Rigid3.from_quaternion(values[3:], values[:3]), name)
            )
        except InvalidOperation as error:
            raise SourceError(f"{path}:{number}: {words[0]!r} is not a stamp") from error
        except (ValueError, OverflowError) as error:
            raise SourceError(f"{path}:{number}: {error}") from error
    if not poses:
        raise SourceError(f"{path}: holds no poses")
    return poses
