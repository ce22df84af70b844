"""Bootstrap of real photographs through the `sfm` bootstrapper and the alignment to a rig."""

from __future__ import annotations

import itertools

import numpy as np

from bench.figures import Figure, at_least, at_most, shared_data
from bench.sfm import fountain, pose_errors
from vggt_ros.config import ScaleConfig, SfmConfig
from vggt_ros.geometry import Rigid3
from vggt_ros.pipeline.align_scene import align_scene
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import UnscaledScene


def figures() -> list[Figure]:
    """`fountain_p11` with intrinsics given and unknown; its scale from each pair of neighbours."""
    data = shared_data()
    if data is None:
        return [Figure("left out: shared/data is not there", float("nan"), "")]
    found: list[Figure] = []
    for given, rotation_limit, centre_limit in ((True, 0.06, 4.0), (False, 0.4, 10.0)):
        frames, truth = fountain(data / "fountain_p11", given)
        scene = SfmBootstrapper(SfmConfig()).bootstrap([frames])
        rotation, centre, _ = pose_errors(scene, truth)
        label = "fountain, intrinsics " + ("given" if given else "unknown")
        found += [
            at_least(f"{label}: registered of 11", len(scene.views), "", 11),
            at_most(f"{label}: bootstrap", scene.statistics["seconds"], "s", 25),
            at_most(f"{label}: pairwise rotation, median", rotation, "deg", rotation_limit),
            at_most(f"{label}: centre RMSE", 1e3 * centre, "mm", centre_limit),
            at_most(
                f"{label}: reprojection error",
                scene.statistics["reprojection_error_px"],
                "px",
                0.7,
            ),
        ]
        errors = scale_errors(scene, truth)
        name = f"{label}: scale from two neighbours, worst of {len(errors)} pairs"
        found.append(at_most(name, 100 * max(errors), "%", 0.4))
    return found


def scale_errors(scene: UnscaledScene, truth: dict[str, Rigid3]) -> list[float]:
    """|scale / true scale - 1| when only two neighbouring cameras have their place on the rig."""
    names = sorted(truth)
    centres = np.array([truth[n].translation for n in names])
    found = np.array([scene.view(n).scene_from_camera.translation for n in names])
    true_scale = float(
        np.linalg.norm(centres - centres.mean(0)) / np.linalg.norm(found - found.mean(0))
    )
    errors = []
    for a, b in itertools.pairwise(names):
        cameras = [RigCamera(n, rig_from_camera=truth[n]) for n in (a, b)]
        aligned = align_scene(scene, Rig(tuple(cameras)), ScaleConfig())
        errors.append(abs(aligned.scale.value / true_scale - 1))
    return errors
