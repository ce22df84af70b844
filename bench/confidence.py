"""Where the weights of `pipeline.depth_confidence` come from.

    python -m bench.confidence [--quick]

Takes the evidence that the plane sweep has of each pixel on sequences with known depth, fits the
two regressions, prints the weights as they stand in the module and how true the chances are. Takes
minutes; `--quick` takes few rigs, to see that it runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.figures import shared_data
from bench.indoor_sequence import IndoorFrame, load
from bench.plane_sweep import frame_set, rig_scene, rigs_of
from vggt_ros.config import PlaneSweepConfig
from vggt_ros.geometry import CameraModel, Rigid3
from vggt_ros.pipeline import plane_sweep
from vggt_ros.pipeline.depth_confidence import FAR_OFF, RIGHT, WEIGHTS, Evidence, chances, features

Rigs = Sequence[Sequence[IndoorFrame]]
Array = NDArray[np.float64]

PIXELS_A_VIEW = 4000
ROOM5 = CameraModel(640, 480, 518.0, 519.0, 325.5, 253.5)
POSE_NOISE = ((0.0, 0.0, 0.5), (0.1, 0.002, 0.5), (0.3, 0.006, 0.25))
"""Of the synthetic rigs: rotation [deg], centre [m]; share in the fit."""


@dataclass(frozen=True, eq=False)
class Group:
    """Terms (N, T) and relative errors (N,) of sampled pixels; `weights` is 1 on average."""

    name: str
    share: float
    """Of this group in the fit."""
    terms: Array
    errors: Array
    weights: Array


def gather(name: str, share: float, rigs: Rigs, width: int) -> Group:
    """Run the plane sweep on rigs and note what it knows of each pixel."""
    terms, errors, weights = [], [], []
    rng = np.random.default_rng(0)
    for frames in rigs:
        truth = {f"frame{f.index}": f.depth for f in frames}
        seen: list[Evidence] = []

        def noted(e: Evidence, seen: list[Evidence] = seen) -> object:
            seen.append(replace(e, q=e.q.copy()))
            return chances(e)

        sweep = plane_sweep.PlaneSweep(PlaneSweepConfig(width=width))
        sweep.prepare(rig_scene(frames))
        # One thread, so that the evidence comes in the order of the predictions.
        with (
            mock.patch.object(plane_sweep, "chances", noted),
            mock.patch.object(plane_sweep, "_cores", return_value=1),
        ):
            predictions = sweep.estimate(frame_set(frames))
        for p, e in zip(predictions, seen, strict=True):
            depth = cv2.resize(truth[p.camera], p.model.size, interpolation=cv2.INTER_NEAREST)
            both = np.flatnonzero(np.isfinite(e.q) & np.isfinite(depth))
            at = rng.choice(both, min(len(both), PIXELS_A_VIEW), replace=False)
            found = features(e).values()
            terms.append(
                np.stack([np.broadcast_to(t, e.q.shape).reshape(-1)[at] for t in found], axis=1)
            )
            errors.append(np.abs(1 / e.q.reshape(-1)[at] / depth.reshape(-1)[at] - 1))
            weights.append(np.full(len(at), len(both) / max(len(at), 1)))
    w = np.concatenate(weights)
    print(f"{name}: {len(w)} pixels", flush=True)
    return Group(
        name,
        share,
        np.concatenate(terms).astype(float),
        np.concatenate(errors).astype(float),
        w / w.mean(),
    )


def fit(groups: Sequence[Group], tolerance: float) -> Array:
    """Logistic regression of `error < tolerance`; groups count by their share alone."""
    x = np.concatenate([g.terms for g in groups])
    y = np.concatenate([g.errors < tolerance for g in groups]).astype(float)
    w = np.concatenate([8000 * g.share * g.weights / len(g.errors) for g in groups])
    b = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ b))
        step = np.linalg.solve(
            (x * (w * p * (1 - p))[:, None]).T @ x + np.eye(len(b)), x.T @ (w * (y - p)) - b
        )
        b += step
        if np.abs(step).max() < 1e-6:
            break
    return b


def reliability(group: Group, b: Array, tolerance: float) -> str:
    """Mean chance and part that is right, by bins of 0.1."""
    p, y = 1 / (1 + np.exp(-group.terms @ b)), group.errors < tolerance
    parts = []
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        if inside.mean() > 0.01:
            w = group.weights[inside]
            parts.append(
                f"{np.average(p[inside], weights=w):.2f}: {np.average(y[inside], weights=w):.2f}"
            )
    return "  ".join(parts)


def indoor_groups(starts: Sequence[int]) -> list[Group]:
    """Two to five cameras, 320 to 640 px, given and refined poses."""
    groups = []
    for poses in ("given", "refined"):
        large, small = load(poses, 640), load(poses, 320)
        for frames, offsets, width in (
            (small, (0, 3, 6, 9, 12), 320),
            (small, (0, 3, 6, 9), 320),
            (large, (0, 3, 6, 9), 480),
            (large, (0, 3, 6, 9), 640),
            (large, (0, 4), 480),
            (large, (0, 6, 12), 480),
        ):
            name = f"{poses} poses, {width} px, {len(offsets) - 1} sources"
            groups.append(gather(name, 1.0, rigs_of(frames, starts, offsets), width))
    return groups


def room5_groups() -> list[Group]:
    """Five frames with the poses of an RGB-D SLAM system."""
    data = shared_data()
    if data is None or not (data / "room5").is_dir():
        return []
    folder, frames = data / "room5", []
    for k, line in enumerate(np.loadtxt(folder / "pose.txt"), start=1):
        x, y, z, w = line[3:] / np.linalg.norm(line[3:])
        half = math.atan2(math.sqrt(x * x + y * y + z * z), w)
        axis = np.array([x, y, z]) / max(math.sin(half), 1e-12)
        rgb = cv2.cvtColor(cv2.imread(str(folder / f"color/{k}.png")), cv2.COLOR_BGR2RGB)
        raw = cv2.imread(str(folder / f"depth/{k}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32)
        raw[(raw == 0) | (raw == 65535)] = np.nan
        pose = Rigid3.from_rotation_vector(2 * half * axis, line[:3])
        frames.append(IndoorFrame(k, rgb, ROOM5, pose, raw / 1000))
    return [gather(f"room5, {w} px", 0.5, [frames], w) for w in (320, 480, 640)]


def synthetic_groups() -> list[Group]:
    """Four rigs in the synthetic room, with exact poses and with wrong ones."""
    from vggt_ros.synthetic.primitives import at
    from vggt_ros.synthetic.scenes import arc_rig, demo_rig, demo_room, simulate

    def arc(count: int, spacing_m: float, step_deg: float):  # type: ignore[no-untyped-def]
        return arc_rig(count, spacing_m, math.radians(step_deg), fov_rad=math.radians(80))

    rigs = []
    for rig, map_from_rig in (
        demo_rig(),
        (arc(4, 0.12, 5), at(-1.2, 0.6, 1.3, 20)),
        (arc(3, 0.3, 10), at(1.0, -1.0, 1.2, 140)),
        (arc(4, 0.2, -8), at(0.5, 1.2, 1.4, -100)),
    ):
        taken = next(iter(simulate(demo_room(), rig, map_from_rig, 1, 1.0)))
        rigs.append(
            [
                IndoorFrame(k, taken.images[n], t.model, t.map_from_camera, t.depth)
                for k, (n, t) in enumerate(taken.truth.items())
            ]
        )
    groups = []
    for degrees, metres, share in POSE_NOISE:
        rng = np.random.default_rng(int(100 * degrees))
        wrong = [[replace(f, map_from_camera=f.map_from_camera @ Rigid3.from_rotation_vector(
            np.deg2rad(degrees) * rng.normal(size=3), metres * rng.normal(size=3)))
            for f in frames] for frames in rigs]  # fmt: skip
        for width in (320, 480, 640):
            name = f"synthetic, {degrees} degrees off, {width} px"
            groups.append(gather(name, share, wrong, width))
    return groups


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rigs of the indoor sequence")
    quick = parser.parse_args().quick
    cv2.setNumThreads(1)
    groups = indoor_groups((0,) if quick else range(0, 48, 7))
    if not quick:
        groups += room5_groups() + synthetic_groups()
    right, not_far_off = fit(groups, RIGHT), fit(groups, FAR_OFF)
    for name, a, b in zip(WEIGHTS, right, not_far_off, strict=True):
        print(f'    "{name}": ({a:.2f}, {b:.2f}),')
    for g in groups:
        print(f"{g.name}: {reliability(g, right, RIGHT)}")


if __name__ == "__main__":
    main()
