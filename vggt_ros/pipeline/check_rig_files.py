"""Corrected places of the cameras as files: a rig file, and joints of a URDF."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

from vggt_ros.errors import ExportError
from vggt_ros.export.files import write_text
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.check_rig import RigCheck
from vggt_ros.rig import Rig, rig_to_dict
from vggt_ros.types import Float64

Mounts = Mapping[str, tuple[str, Rigid3]]
"""By camera the frame that hangs on the rig frame, and `camera_from_that_frame`: drivers put a
camera_link between the robot and the optical frame, and it is the joint above it that changes."""


def corrected_rig(rig: Rig, check: RigCheck) -> Rig:
    """The rig with the places found, of the cameras that are not where it says."""
    found = {c.name: c.rig_from_camera for c in check.cameras if c.name in check.bumped}
    return dataclasses.replace(
        rig,
        cameras=tuple(
            dataclasses.replace(
                camera, rig_from_camera=found.get(camera.name) or camera.rig_from_camera
            )
            for camera in rig.cameras
        ),
    )


def write_rig_file(path: str | Path, rig: Rig, check: RigCheck) -> Path:
    """Write the corrected rig as `RIG.yaml`, whole or not at all; returns its absolute path.

    Raises:
        ExportError: the file cannot be written.
    """
    import yaml

    _check_path(path, "path", (".yaml", ".yml"))
    text = yaml.safe_dump(rig_to_dict(corrected_rig(rig, check)), sort_keys=False)
    lines = [f"# {_one_line(text)}" for text in (check.message, *_notes(check))]
    write_text(path, "\n".join([*lines, text]))
    return Path(path).absolute()


def write_urdf(path: str | Path, rig: Rig, check: RigCheck, mounts: Mounts | None = None) -> Path:
    """Write the corrected places as fixed joints of a URDF; returns the file's absolute path.

    Raises:
        ExportError: the file cannot be written.
    """
    _check_path(path, "urdf_path", (".urdf", ".xacro", ".xml"))
    write_text(path, urdf_joints(rig, check, mounts))
    return Path(path).absolute()


def urdf_joints(rig: Rig, check: RigCheck, mounts: Mounts | None = None) -> str:
    """A fixed joint for every camera whose place is known, from the frame of the rig.

    `origin` is the pose of the child in the parent: xyz [m], and rpy [rad] about the fixed axes
    x, y, z in this order (URDF specification).

    Args:
        rig: places given, frames.
        check: what was found; only the cameras that are not where the rig says are changed.
        mounts: where a joint higher up is to be changed.
    """
    corrected = corrected_rig(rig, check)
    lines = [
        '<?xml version="1.0"?>',
        f"<!-- {_comment(check.message)} -->",
        "<!-- Replace the joints of the same child links in the URDF. -->",
        '<robot name="corrected_cameras">',
    ]
    for camera in corrected.cameras:
        if camera.rig_from_camera is None:
            continue
        optical = camera.frame_id or f"{camera.name}_optical_frame"
        child, camera_from_child = (mounts or {}).get(camera.name, (optical, Rigid3.identity()))
        pose = camera.rig_from_camera @ camera_from_child
        moved = " (changed)" if camera.name in check.bumped else ""
        lines += [
            f"  <!-- {_comment(camera.name)}{moved} -->",
            f'  <joint name={quoteattr(f"{child}_joint")} type="fixed">',
            f"    <parent link={quoteattr(corrected.rig_frame)}/>",
            f"    <child link={quoteattr(child)}/>",
            f'    <origin xyz="{_numbers(pose.translation)}" '
            f'rpy="{_numbers(roll_pitch_yaw(pose.rotation))}"/>',
            "  </joint>",
        ]
    return "\n".join([*lines, "</robot>"]) + "\n"


def roll_pitch_yaw(rotation: Float64) -> tuple[float, float, float]:
    """Angles [rad] with rotation = Rz(yaw) Ry(pitch) Rx(roll), as in URDF.

    At a pitch of 90 degrees, where only their sum or difference counts, roll is 0.
    """
    cosine = math.hypot(float(rotation[0, 0]), float(rotation[1, 0]))
    pitch = math.atan2(-float(rotation[2, 0]), cosine)
    if cosine < 1e-9:
        return 0.0, pitch, math.atan2(-float(rotation[0, 1]), float(rotation[1, 1]))
    roll = math.atan2(float(rotation[2, 1]), float(rotation[2, 2]))
    return roll, pitch, math.atan2(float(rotation[1, 0]), float(rotation[0, 0]))


def _check_path(path: str | Path, name: str, suffixes: tuple[str, ...]) -> None:
    if Path(path).suffix.lower() not in suffixes:
        raise ExportError(
            f"check_rig: {name}: expected a file that ends in {' or '.join(suffixes)}, got "
            f"'{path}'"
        )


def _notes(check: RigCheck) -> list[str]:
    return [f"{c.name}: {c.level.name}: {c.detail}" for c in check.cameras]


def _numbers(values: Float64 | tuple[float, ...]) -> str:
    return " ".join(f"{float(v):.9g}" for v in values)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _comment(text: str) -> str:
    """Of XML, in which two hyphens end it."""
    return _one_line(text).replace("--", "- -").replace("<", "(").replace(">", ")")
