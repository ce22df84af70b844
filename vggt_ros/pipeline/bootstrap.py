"""Choice of the bootstrapper, and `rig`: the poses are given, only depth is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError, CalibrationError, ConfigError, nearest
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.pipeline.stages import Bootstrapper
from vggt_ros.rig import Rig
from vggt_ros.types import FrameSet, UnscaledScene, View

BOOTSTRAPPERS = ("sfm", "rig")


def make_bootstrapper(config: Config, rig: Rig | None) -> Bootstrapper:
    """The bootstrapper that `config.bootstrap` names.

    Raises:
        ConfigError: unknown name.
        CalibrationError: `rig` without a pose of at least one camera.
    """
    if config.bootstrap == "sfm":
        return SfmBootstrapper(config.sfm)
    if config.bootstrap == "rig":
        if rig is None or not rig.poses:
            raise CalibrationError(
                "bootstrap rig: expected rig_from_camera of the cameras, got none; give "
                "rig_file or TF, or choose bootstrap: sfm"
            )
        return RigBootstrapper(rig)
    raise ConfigError(
        f"bootstrap: expected one of {', '.join(BOOTSTRAPPERS)}, got '{config.bootstrap}'"
        f"{nearest(config.bootstrap, BOOTSTRAPPERS)}"
    )


class RigBootstrapper:
    """Takes the poses from the rig; `scene` is the rig frame and its unit the metre."""

    name = "rig"
    sets_needed = 1

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """Views of the newest set at their places on the rig.

        Raises:
            AlignmentError: no camera of the set has both a place on the rig and intrinsics.
        """
        if not frame_sets:
            raise AlignmentError("bootstrap rig: expected a frame set, got none")
        frame_set = frame_sets[-1]
        poses = self._rig.poses
        models = self._rig.models
        views, reasons = [], {}
        for frame in frame_set.frames:
            model = frame.model or models.get(frame.camera)
            if frame.camera not in poses:
                reasons[frame.camera] = "no rig_from_camera"
            elif model is None:
                reasons[frame.camera] = "no intrinsics"
            else:
                views.append(View(frame.camera, frame_set.stamp_ns, model, poses[frame.camera]))
        if not views:
            told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
            raise AlignmentError(
                "bootstrap rig: expected at least one camera with place and intrinsics, got "
                f"none ({told}); give CameraInfo or a rig file"
            )
        return UnscaledScene(
            tuple(views),
            np.zeros((0, 3)),
            np.zeros((0, 3), np.uint8),
            tuple(reasons),
            self.name,
            {"views": float(len(frame_set.frames)), "registered": float(len(views))},
        )
