"""How long a unit of one window is: of the rig, depth cameras and odometry, fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vggt_ros.config import ScaleConfig
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.scale_depth import depth_of_sets, scale_of_depth
from vggt_ros.pipeline.scale_fusion import fuse_scales
from vggt_ros.pipeline.scale_odometry import scale_from_odometry
from vggt_ros.rig import Rig
from vggt_ros.types import FrameSet, ScaleEstimate, ScaleSource, UnscaledScene


def window_scale(
    scene: UnscaledScene,
    members: Sequence[FrameSet],
    rig: Rig | None,
    rig_from_camera: Mapping[str, Rigid3],
    config: ScaleConfig,
) -> ScaleEstimate | None:
    """Metres per unit of a window, of the sources that are wanted; None where none knows.

    `scale.metres_per_unit` is of one reconstruction, and every window is another: it counts for
    the first one only, in `align_scene`.

    Args:
        scene: of the window.
        members: its sets, with depth images and places of the rig where known.
        rig: as given.
        rig_from_camera: as given or found, for the odometry.
        config: `scale.*`.

    Raises:
        AlignmentError: most cameras are not where the rig says.
    """
    wanted = {s.value for s in ScaleSource} if config.source == "auto" else {config.source}
    found: list[ScaleEstimate] = []
    if "rig" in wanted and rig is not None and len(rig.poses) > 1:
        # What was fitted to the images has kept neither the rig nor the odometry as they were.
        free = replace(scene, bootstrapper="")
        alone = replace(config, source="auto", metres_per_unit=0.0)
        scale = align_scene(free, rig, alone).scale
        if scale.source is ScaleSource.RIG:
            found.append(scale)
    evidence = []
    depth_of = depth_of_sets(members)
    if "depth_camera" in wanted and depth_of:
        evidence.append(
            scale_of_depth(scene, depth_of, config.depth_camera_sigma, undistorted=True)
        )
    places = {s.stamp_ns: s.world_from_rig for s in members if s.world_from_rig is not None}
    if "odometry" in wanted and places:
        evidence.append(scale_from_odometry(scene, places, rig_from_camera, config.odometry_sigma))
    found += [e for e in evidence if isinstance(e, ScaleEstimate)]
    return fuse_scales(found) if found else None
