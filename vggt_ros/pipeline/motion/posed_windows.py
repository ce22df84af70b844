"""Windows whose poses odometry and the rig give, fitted to the images.

Over a window of a few keyframes odometry is good to centimetres, and the places on the rig to
millimetres. Features pull the poses to where the images want them, within what odometry may be
off: no start has to be found, the unit is the metre, and where there is no texture the odometry
stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vggt_ros.config import Config
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.motion.located import view_name
from vggt_ros.pipeline.rig_bootstrap import RigBootstrapper
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import FrameSet, UnscaledScene

RigPoses = Callable[[], dict[str, Rigid3]]


class PosedBootstrapper:
    """`Bootstrapper` for sets that say where the rig was.

    Args:
        config: all parameters.
        rig_poses: `rig_from_camera`, as known at the moment.
        refine: the poses are fitted to the images, each within `rig.*_sigma_*`.
        drift: standard deviation of the given path over its length, besides.
    """

    name = "rig"
    sets_needed = 1

    def __init__(
        self, config: Config, rig_poses: RigPoses, refine: bool, drift: float = 0.0
    ) -> None:
        self._config = config
        self._rig_poses = rig_poses
        self._refine = refine
        self._drift = drift

    def bootstrap(self, frame_sets: Sequence[FrameSet]) -> UnscaledScene:
        """Views of all sets and points between them; `scene` is the rig's frame in the first.

        Raises:
            AlignmentError: no camera has a place and intrinsics, or a set has no place.
        """
        places = self._rig_poses()
        origin = frame_sets[0].world_from_rig
        cameras, frames, keys, centres = [], [], {}, []
        for frame_set in frame_sets:
            if frame_set.world_from_rig is None or origin is None:
                raise AlignmentError(
                    "motion: expected every set of a window to say where the rig was, one of "
                    f"stamp {frame_set.stamp_ns} does not"
                )
            scene_from_rig = origin.inverse() @ frame_set.world_from_rig
            centres.append(scene_from_rig.translation)
            for frame in frame_set.frames:
                if frame.camera not in places:
                    continue
                name = view_name(frame.camera, frame_set.stamp_ns)
                keys[name] = (frame.camera, frame_set.stamp_ns)
                pose = scene_from_rig @ places[frame.camera]
                cameras.append(RigCamera(name, model=frame.model, rig_from_camera=pose))
                frames.append(replace(frame, camera=name))
        rig = Rig(tuple(cameras), "first set")
        length = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
        given = replace(
            self._config.rig,
            refine=self._refine,
            centre_sigma_m=math.hypot(self._config.rig.centre_sigma_m, self._drift * length),
        )
        finder = RigBootstrapper(rig, given, self._config.sfm)
        scene = finder.bootstrap([FrameSet(frame_sets[-1].stamp_ns, tuple(frames))])
        views = []
        for view in scene.views:
            camera, stamp_ns = keys[view.camera]
            views.append(replace(view, camera=camera, stamp_ns=stamp_ns))
        registered = {view.camera for view in views}
        missing = {keys[name][0] for name in scene.failed} - registered
        return replace(scene, views=tuple(views), failed=tuple(sorted(missing)))
