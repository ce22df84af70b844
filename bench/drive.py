"""Odometry that drifts, corrected by what four cameras see on a loop through rooms."""

from __future__ import annotations

import math
import time

import numpy as np

from bench.figures import Figure, at_least, at_most
from vggt_ros.config import Config, FrameConfig, SfmConfig
from vggt_ros.errors import SourceError
from vggt_ros.pipeline.motion.make_locator import make_locator
from vggt_ros.synthetic.rooms import drive_round, four_rooms
from vggt_ros.synthetic.scenes import arc_rig
from vggt_ros.types import Frame, FrameSet

_STEP_M = 0.5
_DRIFT = 0.02


def figures() -> list[Figure]:
    """Rig and intrinsics are known (`bootstrap: rig`); images of 320x240."""
    world, drive = four_rooms(), drive_round(_STEP_M, _DRIFT)
    rig = arc_rig(4, 0.25, math.radians(30), 320, 240, math.radians(80))
    config = Config(
        cameras=list(rig.names),
        motion="tf",
        bootstrap="rig",
        frame=FrameConfig(odom="odom"),
        sfm=SfmConfig(max_features=700),
    )
    locator = make_locator(config, rig, None)
    if locator is None:
        raise SourceError("bench drive: expected a locator for motion tf, got none")
    seconds = 0.0
    for k, (truth, odometry) in enumerate(
        zip(drive.map_from_rig, drive.odom_from_rig, strict=True)
    ):
        frames = []
        for camera in rig.cameras:
            if camera.model is None or camera.rig_from_camera is None:
                continue
            pose = truth @ camera.rig_from_camera
            rgb = world.render(camera.model, pose, supersample=1).rgb
            frames.append(Frame(camera.name, k, rgb, camera.model))
        begin = time.process_time()
        locator.locate(FrameSet(k, tuple(frames), odometry))
        seconds += time.process_time() - begin
    locator.finish()
    path = locator.path
    errors = [
        float(np.linalg.norm(pose.translation - drive.map_from_rig[k].translation))
        for k, pose in path
    ]
    last, odometry = drive.map_from_rig[-1], drive.odom_from_rig[-1]
    drifted = float(np.linalg.norm(odometry.translation - last.translation))
    correction = locator.map_from_world
    corrected = math.nan
    if correction is not None:
        end = (correction @ odometry).translation
        corrected = float(np.linalg.norm(end - last.translation))
    length = drive.length_m
    return [
        Figure("path", length, "m"),
        Figure("end point by odometry alone, off by", 100 * drifted / length, "% of the path"),
        at_most(
            "end point by map -> odom, off by", 100 * corrected / length, "% of the path", 0.3
        ),
        Figure(
            "keyframes, root mean square error",
            100 * float(np.sqrt(np.mean(np.square(errors)))),
            "cm",
        ),
        Figure("keyframes, largest error", 100 * max(errors), "cm"),
        Figure("keyframes", float(len(path)), ""),
        at_least("loops closed", float(locator.loops), "", 1),
        Figure("windows, joins and loops: CPU time", seconds, "s"),
    ]
