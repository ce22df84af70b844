"""Depth of `vggt_ros.pipeline.plane_sweep` on real images: error, coverage, CPU time.

    python -m bench.plane_sweep [--quick] [--pictures DIR]

Rigs are made of frames of `indoor_sequence` (see `bench.indoor_sequence` for the two kinds of
poses). Error is |depth / recorded depth - 1| over the pixels that have both; coverage is their
part of the pixels with a recorded depth. cv2.StereoSGBM on rectified pairs is the peer.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.indoor_sequence import IndoorFrame, load
from vggt_ros.config import PlaneSweepConfig
from vggt_ros.geometry import Sim3
from vggt_ros.pipeline.plane_sweep import PlaneSweep
from vggt_ros.types import (
    AlignedScene,
    DepthKind,
    DepthPrediction,
    Frame,
    FrameSet,
    ScaleEstimate,
    ScaleSource,
)


@dataclass(frozen=True)
class Result:
    """Figures of one configuration, over all views of all rigs."""

    name: str
    coverage: float
    median: float
    abs_rel: float
    within_5_percent: float
    cpu_ms: float
    surest: tuple[float, float] = (float("nan"), float("nan"))
    """Median error of the surest half of the pixels; AbsRel of the surest 45 %."""
    calibration: tuple[tuple[float, float, float], ...] = ()
    """(mean confidence, part within 5 %, part of pixels) by bin of confidence."""


def rig_scene(frames: Sequence[IndoorFrame], points: bool = True, seed: int = 0) -> AlignedScene:
    """The frames as cameras of one rig.

    Args:
        points: with 300 points a frame, at corners of the image, off by 3 % along the ray, as a
            bootstrap would leave them; else none.
    """
    rng = np.random.default_rng(seed)
    cloud = [np.zeros((0, 3))]
    for f in frames if points else ():
        corners = cv2.goodFeaturesToTrack(cv2.cvtColor(f.rgb, cv2.COLOR_RGB2GRAY), 300, 0.01, 5)
        at = corners.reshape(-1, 2).astype(int)
        z = f.depth[at[:, 1], at[:, 0]] * (1 + 0.03 * rng.standard_normal(len(at)))
        xyz = f.model.rays()[at[:, 1], at[:, 0]] * z[:, None]
        cloud.append(f.map_from_camera.apply(xyz[np.isfinite(z)]))
    stacked = np.concatenate(cloud)
    return AlignedScene(
        cameras={f"frame{f.index}": f.model for f in frames},
        map_from_camera={f"frame{f.index}": f.map_from_camera for f in frames},
        points_in_map=stacked,
        colours=np.zeros((len(stacked), 3), np.uint8),
        scale=ScaleEstimate(1.0, 0.0, ScaleSource.RIG),
        map_from_scene=Sim3.identity(),
        residuals={},
        up_source="none",
        failed=(),
        bootstrapper="rig",
    )


def frame_set(frames: Sequence[IndoorFrame]) -> FrameSet:
    return FrameSet(0, tuple(Frame(f"frame{f.index}", 0, f.rgb, f.model) for f in frames))


def summarise(
    name: str, pairs: Sequence[tuple[DepthPrediction, NDArray[np.float32]]], cpu_ms: float
) -> Result:
    """Figures of predictions against recorded depth at the predictions' size."""
    errors, confidences, known = [], [], 0
    for prediction, truth in pairs:
        both = np.isfinite(prediction.values) & np.isfinite(truth)
        known += int(np.isfinite(truth).sum())
        errors.append(np.abs(prediction.values[both] / truth[both] - 1))
        confidences.append(prediction.confidence[both])
    e, c = np.concatenate(errors), np.concatenate(confidences)
    bins = []
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (c >= low) & (c < low + 0.1 + 1e-6)
        if inside.sum() > 100:
            bins.append((float(c[inside].mean()), float((e[inside] < 0.05).mean()),
                         float(inside.mean())))  # fmt: skip
    order = np.argsort(-c, kind="stable")
    half, less = order[: known // 2], order[: int(0.45 * known)]
    surest = (
        float(np.median(e[half])) if len(half) >= known // 2 else float("nan"),
        float(e[less].mean()) if len(less) >= int(0.45 * known) else float("nan"),
    )
    return Result(
        name,
        len(e) / max(known, 1),
        float(np.median(e)),
        float(e.mean()),
        float((e < 0.05).mean()),
        cpu_ms,
        surest,
        tuple(bins),
    )


def run(
    name: str,
    rigs: Sequence[Sequence[IndoorFrame]],
    config: PlaneSweepConfig,
    points: bool = True,
    pictures: Path | None = None,
) -> Result:
    """Estimate every view of every rig."""
    pairs, cpu, views = [], 0.0, 0
    for frames in rigs:
        sweep = PlaneSweep(config)
        sweep.prepare(rig_scene(frames, points))
        images = frame_set(frames)
        start = time.process_time()
        predictions = sweep.estimate(images)
        cpu += time.process_time() - start
        views += len(predictions)
        truth = {f"frame{f.index}": f.depth for f in frames}
        for p in predictions:
            depth = cv2.resize(truth[p.camera], p.model.size, interpolation=cv2.INTER_NEAREST)
            pairs.append((p, depth))
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            for p, depth in pairs[-len(predictions) :]:
                cv2.imwrite(str(pictures / f"{name}_{p.camera}.png"), picture(p, depth))
    return summarise(name, pairs, 1000 * cpu / max(views, 1))


def picture(p: DepthPrediction, truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Image, depth, recorded depth, error (red: 10 %) and confidence side by side, BGR."""
    low, high = np.nanpercentile(truth, [1, 99])

    def depth(z: NDArray[np.float32]) -> NDArray[np.uint8]:
        level = np.nan_to_num((1 / z - 1 / high) / (1 / low - 1 / high))
        out = cv2.applyColorMap((255 * np.clip(level, 0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)
        out[~np.isfinite(z)] = 0
        return np.asarray(out)

    error = np.abs(p.values / truth - 1)
    red = cv2.applyColorMap(
        (255 * np.clip(np.nan_to_num(error) / 0.1, 0, 1)).astype(np.uint8), cv2.COLORMAP_JET
    )
    red[~np.isfinite(error)] = 0
    sure = cv2.applyColorMap((255 * p.confidence).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    bgr = cv2.cvtColor(p.rgb, cv2.COLOR_RGB2BGR)
    return np.hstack([bgr, depth(p.values), depth(truth), red, sure])


def reliability_picture(results: Sequence[Result], size: int = 360) -> NDArray[np.uint8]:
    """Part of the pixels within 5 % over confidence, one panel a configuration, BGR.

    Circles grow with the number of pixels; on the diagonal the confidence tells the truth.
    """
    panels = []
    for r in results:
        panel = np.full((size, size, 3), 255, np.uint8)
        cv2.line(panel, (0, size - 1), (size - 1, 0), (200, 200, 200), 1, cv2.LINE_AA)
        at = [(round(c * (size - 1)), round((1 - p) * (size - 1)), w) for c, p, w in r.calibration]
        for (x0, y0, _), (x1, y1, _) in itertools.pairwise(at):
            cv2.line(panel, (x0, y0), (x1, y1), (180, 120, 0), 1, cv2.LINE_AA)
        for x, y, w in at:
            cv2.circle(panel, (x, y), 2 + round(20 * w), (180, 120, 0), -1, cv2.LINE_AA)
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(panel, r.name[:44], (6, 14), font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(np.pad(panel, ((1, 1), (1, 1), (0, 0))))
    return np.hstack(panels)


def peer(name: str, pairs_of_frames: Sequence[tuple[IndoorFrame, IndoorFrame]]) -> Result:
    """cv2.StereoSGBM (3-way) on rectified pairs, left-right checked; depth of the left frame.

    Only pairs whose baseline is within 30 degrees of the image's rows: the others leave no image
    when rectified.
    """
    pairs, cpu = [], 0.0
    for one, two in pairs_of_frames:
        a, b = one, two
        if (b.map_from_camera.inverse() @ a.map_from_camera).translation[0] > 0:
            a, b = two, one  # the peer wants the second camera on the right
        k, none = a.model.matrix, np.zeros(5)
        move = b.map_from_camera.inverse() @ a.map_from_camera
        if abs(move.translation[0]) < 0.87 * np.linalg.norm(move.translation):
            continue
        start = time.process_time()
        ra, rb, pa, pb, _, _, _ = cv2.stereoRectify(
            k, none, k, none, a.model.size, move.rotation, move.translation.reshape(3, 1), alpha=-1
        )
        grey = []
        for frame, r, p in ((a, ra, pa), (b, rb, pb)):
            maps = cv2.initUndistortRectifyMap(
                k, none, r, p[:, :3], frame.model.size, cv2.CV_32FC1
            )
            grey.append(
                cv2.remap(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY), *maps, cv2.INTER_LINEAR)
            )
        matcher = cv2.StereoSGBM_create(
            0, 96, 5, 8 * 25, 32 * 25, 1, 31, 10, 100, 2, cv2.STEREO_SGBM_MODE_SGBM_3WAY
        )
        disparity = matcher.compute(*grey).astype(np.float32) / 16
        z = np.where(disparity > 0, -pb[0, 3] / np.maximum(disparity, 1e-3), np.nan)
        cpu += time.process_time() - start
        # Back to the first camera: depth along its own axis at its own pixels.
        ys, xs = np.nonzero(np.isfinite(z))
        rays = np.stack(
            [(xs - pa[0, 2]) / pa[0, 0], (ys - pa[1, 2]) / pa[1, 1], np.ones(len(xs))], axis=1
        )
        points = (rays * z[ys, xs][:, None]) @ ra
        pixels = np.round(a.model.project(points)).astype(int)
        inside = (pixels >= 0).all(1) & (pixels < a.model.size).all(1)
        depth = np.full((a.model.height, a.model.width), np.nan, np.float32)
        depth[pixels[inside, 1], pixels[inside, 0]] = points[inside, 2]
        sure = np.isfinite(depth).astype(np.float32)
        p = DepthPrediction(
            f"frame{a.index}", 0, DepthKind.TRIANGULATED, depth, sure, a.model, a.rgb
        )
        pairs.append((p, a.depth))
    return summarise(name, pairs, 1000 * cpu / max(len(pairs), 1))


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = [
        "| configuration | coverage | median | AbsRel | within 5 % | median of the surest 50 % | "
        "AbsRel of the surest 45 % | CPU-ms a view |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.name} | {100 * r.coverage:.1f} % | {100 * r.median:.2f} % | {r.abs_rel:.4f} | "
            f"{100 * r.within_5_percent:.1f} % | {100 * r.surest[0]:.2f} % | {r.surest[1]:.4f} | "
            f"{r.cpu_ms:.0f} |"
        )
    return "\n".join(lines)


def rigs_of(
    frames: Sequence[IndoorFrame], starts: Sequence[int], offsets: Sequence[int]
) -> list[list[IndoorFrame]]:
    return [[frames[i + k] for k in offsets] for i in starts if i + max(offsets) < len(frames)]


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="given poses and few rigs only")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the first rig")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    starts = range(0, 50, 17 if options.quick else 7)
    results = []
    for poses in ("given",) if options.quick else ("given", "refined"):
        for width in (320, 640):
            frames = load(poses, width)
            config = PlaneSweepConfig(width=width)
            for label, offsets in (
                ("i, i+3, i+6, i+9", (0, 3, 6, 9)),
                ("five frames 3 apart, 4 sources", (0, 3, 6, 9, 12)),
            ):
                name = f"{poses} poses, {width} px, {label}"
                results.append(run(name, rigs_of(frames, starts, offsets), config))
                print(table(results[-1:]).splitlines()[-1], flush=True)
            pairs = [(frames[i], frames[i + 3]) for i in range(57)]
            results.append(peer(f"peer: cv2.StereoSGBM, {poses}, {width} px, i, i+3", pairs))
            print(table(results[-1:]).splitlines()[-1], flush=True)
            if options.pictures is not None:
                rig = rigs_of(frames, [0], (0, 3, 6, 9))
                run(f"{poses}_{width}", rig, config, pictures=options.pictures)
    print(table(results))
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        shown = [r for r in results if len(r.calibration) > 1]
        cv2.imwrite(str(options.pictures / "reliability.png"), reliability_picture(shown))
    for r in results:
        if r.calibration:
            bins = "  ".join(f"{c:.2f}: {p:.2f} ({w:.2f})" for c, p, w in r.calibration)
            print(f"{r.name}: confidence: part within 5 % (part of pixels)  {bins}")
    return results


if __name__ == "__main__":
    main()
