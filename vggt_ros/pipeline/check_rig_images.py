"""The check of a rig from its newest images, by structure from motion of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from vggt_ros.config import Config
from vggt_ros.geometry import CameraModel
from vggt_ros.pipeline.check_rig import RigCheck, check_places, check_rig
from vggt_ros.pipeline.decode import Undistorter, undistorted_frame
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.rig import Rig
from vggt_ros.types import FrameSet


def check_rig_of_sets(
    frame_sets: Sequence[FrameSet],
    rig: Rig,
    models: Mapping[str, CameraModel],
    config: Config,
) -> RigCheck:
    """Find the cameras of frame sets anew and compare them with the rig.

    Nothing of the map is used but the intrinsics that the bootstrap has estimated.

    Args:
        frame_sets: one or more, of one rig that is rigid.
        rig: the places given [m].
        models: intrinsics for frames without any; without them they are estimated again.
        config: `sfm.*` and `check_rig.*`.

    Raises:
        AlignmentError: the images do not register, or fewer than two cameras can be compared.
        CalibrationError: a model does not fit its images.
    """
    check_places(rig, {name for s in frame_sets for name in s.cameras})
    undistorter = Undistorter()
    sets = []
    for frame_set in frame_sets:
        frames = [
            undistorted_frame(frame, models[frame.camera], undistorter)
            if frame.model is None and frame.camera in models
            else frame
            for frame in frame_set.frames
        ]
        sets.append(dataclasses.replace(frame_set, frames=tuple(frames)))
    scene = SfmBootstrapper(dataclasses.replace(config.sfm, sets=len(sets))).bootstrap(sets)
    return check_rig(scene, rig, config.check_rig)
