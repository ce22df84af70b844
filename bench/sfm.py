"""Poses, points and time of the `sfm` bootstrapper on real photographs: `python -m bench.sfm`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from vggt_ros.config import SfmConfig
from vggt_ros.errors import AlignmentError
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.geometry.rigid3 import nearest_rotation, rotation_angle
from vggt_ros.geometry.robust import fit_similarity
from vggt_ros.pipeline.sfm import SfmBootstrapper
from vggt_ros.types import Frame, FrameSet, UnscaledScene


def shared_data() -> Path | None:
    """The folder with real test data, or None where it is absent."""
    roots = [Path(p) for p in [os.environ.get("VGGT_ROS_SHARED", "")] if p]
    roots += [parent / "shared" for parent in Path(__file__).resolve().parents]
    return next((root / "data" for root in roots if (root / "data").is_dir()), None)


def read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def fountain(folder: Path, with_models: bool) -> tuple[FrameSet, dict[str, Rigid3]]:
    """The 11 photographs as one set, and the true world_from_camera [m]."""
    frames, truth = [], {}
    for k, entry in enumerate(json.loads((folder / "cameras.json").read_text())):
        name = f"cam{k:02d}"
        matrix = np.array(entry["K"])
        model = CameraModel(
            entry["width"],
            entry["height"],
            matrix[0, 0],
            matrix[1, 1],
            matrix[0, 2],
            matrix[1, 2],
        )
        frames.append(
            Frame(name, 0, read_rgb(folder / entry["file"]), model if with_models else None)
        )
        truth[name] = Rigid3(np.array(entry["R_w2c"]), np.array(entry["t_w2c"])).inverse()
    return FrameSet(0, tuple(frames)), truth


def indoor(folder: Path, first: int, step: int = 3) -> tuple[FrameSet, dict[str, Rigid3]]:
    """Four stored frames as a four-camera rig. The poses are those of the depth camera."""
    paths = sorted(folder.glob("*.color.jpg"))
    model = CameraModel(640, 480, 525.0, 525.0, 319.5, 239.5)
    frames, truth = [], {}
    for k in range(4):
        path = paths[first + k * step]
        pose = np.loadtxt(str(path).replace(".color.jpg", ".pose.txt"))
        frames.append(Frame(f"cam{k}", 0, read_rgb(path), model))
        truth[f"cam{k}"] = Rigid3(nearest_rotation(pose[:3, :3]), pose[:3, 3])
    return FrameSet(0, tuple(frames)), truth


def room5(folder: Path) -> tuple[FrameSet, dict[str, Rigid3]]:
    model = CameraModel(640, 480, 518.0, 519.0, 325.5, 253.5)
    poses = np.loadtxt(folder / "pose.txt")
    frames, truth = [], {}
    for k in range(5):
        frames.append(Frame(f"cam{k}", 0, read_rgb(folder / "color" / f"{k + 1}.png"), model))
        truth[f"cam{k}"] = Rigid3.from_quaternion(poses[k, 3:], poses[k, :3])
    return FrameSet(0, tuple(frames)), truth


def pose_errors(scene: UnscaledScene, truth: dict[str, Rigid3]) -> tuple[float, float, float]:
    """Median pairwise rotation error [deg], centre RMSE after Sim(3) [m], the true scale."""
    found = {v.camera: v.scene_from_camera for v in scene.views}
    angles = [
        rotation_angle(
            (found[a].inverse() @ found[b]).rotation.T @ (truth[a].inverse() @ truth[b]).rotation
        )
        for a, b in itertools.combinations(found, 2)
    ]
    source = np.array([found[n].translation for n in found])
    target = np.array([truth[n].translation for n in found])
    rmse, scale = float("nan"), float("nan")
    if len(found) > 2:
        fit = fit_similarity(source, target)
        rmse = float(np.sqrt(((fit.apply(source) - target) ** 2).sum(axis=1).mean()))
        scale = fit.scale
    return float(np.degrees(np.median(angles))), rmse, scale


def report(label: str, frame_set: FrameSet, truth: dict[str, Rigid3], config: SfmConfig) -> None:
    cpu = time.process_time()
    try:
        scene = SfmBootstrapper(config).bootstrap([frame_set])
    except AlignmentError as error:
        print(f"{label:28s} failed: {error}")
        return
    cpu = time.process_time() - cpu
    rotation, centre, _ = pose_errors(scene, truth)
    s = scene.statistics
    focal = np.mean([v.model.fx for v in scene.views])
    print(
        f"{label:28s} {len(scene.views):3d}/{len(frame_set.frames):<3d} {rotation:8.4f} "
        f"{1000 * centre:8.2f} {s['points']:7.0f} {s['track_length']:6.2f} "
        f"{s['reprojection_error_px']:6.3f} {focal:7.1f} {s['features_s']:6.1f} "
        f"{s['matching_s']:6.1f} {s['mapping_s']:6.1f} {s['seconds']:6.1f} {cpu:6.1f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    data = shared_data()
    if data is None:
        print("bench.sfm: no shared/data folder; set VGGT_ROS_SHARED", file=sys.stderr)
        return 1
    print(
        f"{'case':28s} {'views':>7s} {'rot/deg':>8s} {'ctr/mm':>8s} {'points':>7s} "
        f"{'track':>6s} {'err/px':>6s} {'focal':>7s} {'feat/s':>6s} {'mtch/s':>6s} "
        f"{'map/s':>6s} {'all/s':>6s} {'cpu/s':>6s}"
    )
    config = dataclasses.replace(SfmConfig())
    cases = [
        ("fountain, given", lambda: fountain(data / "fountain_p11", True)),
        ("fountain, unknown", lambda: fountain(data / "fountain_p11", False)),
        ("room5", lambda: room5(data / "room5")),
    ]
    for first in range(0, 50, 7):
        cases.append(
            (f"indoor {first}", lambda first=first: indoor(data / "indoor_sequence", first))
        )
    for label, make in cases:
        if arguments.only in label:
            report(label, *make(), config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
