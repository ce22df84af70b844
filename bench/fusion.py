"""The pipeline on rigs made of the indoor sequence: depth and fused cloud against the recorded."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from bench.figures import Figure, at_least, at_most
from bench.indoor_sequence import IndoorFrame, load
from vggt_ros.config import Config, PlaneSweepConfig, ScaleConfig
from vggt_ros.evaluation.nearest import NearestNeighbours
from vggt_ros.pipeline.mapping import MappingPipeline, StepResult
from vggt_ros.rig import Rig, RigCamera
from vggt_ros.types import Frame, FrameSet

OFFSETS = (0, 3, 6, 9)
STARTS = range(0, 50, 7)
SURE, SURE_HITS = 0.6, 3
"""A surer cloud than the defaults give, with fewer points."""


def figures() -> list[Figure]:
    """Median and coverage of the depth, distance of the clouds, over rigs along the sequence."""
    frames = load("given")
    reference = NearestNeighbours(np.concatenate([_recorded_points(f) for f in frames]))
    errors, known = [], 0
    every, surest = [], []
    for start in STARTS:
        rig = [frames[start + offset] for offset in OFFSETS]
        pipeline, result = map_rig(rig)
        error, pixels = depth_errors(rig, result)
        errors.append(error)
        known += pixels
        every.append(reference.query(pipeline.cloud().points)[0])
        sure, _ = map_rig(rig, PlaneSweepConfig(map_confidence=SURE))
        surest.append(reference.query(sure.map.cloud(min_hits=SURE_HITS).points)[0])
    error = np.concatenate(errors)
    note = f"{len(STARTS)} rigs, stored poses with the calibrated offset"
    sure_note = f"plane_sweep.map_confidence={SURE}, map.min_hits={SURE_HITS}"
    return [
        at_most("depth, median relative error", 100 * float(np.median(error)), "%", 5, note),
        at_least("depth, part of the pixels", 100 * len(error) / known, "%", 50),
        at_most("cloud to recorded cloud, median, with the defaults", _median_cm(every), "cm", 3,
                f"{sum(map(len, every)) // len(STARTS)} points a rig"),
        at_most("the same, surer", _median_cm(surest), "cm", 2.5,
                f"{sure_note}; {sum(map(len, surest)) // len(STARTS)} points a rig"),
    ]  # fmt: skip


def _median_cm(distances: Sequence[np.ndarray]) -> float:
    return 100 * float(np.median(np.concatenate(distances)))


def map_rig(
    frames: Sequence[IndoorFrame], stereo: PlaneSweepConfig | None = None
) -> tuple[MappingPipeline, StepResult]:
    """One set through the pipeline, with the poses given as a rig's."""
    rig = Rig(
        tuple(
            RigCamera(f"cam{k}", model=frame.model, rig_from_camera=frame.map_from_camera)
            for k, frame in enumerate(frames)
        )
    )
    config = Config(
        list(rig.names),
        bootstrap="rig",
        scale=ScaleConfig(source="rig"),
        plane_sweep=stereo or PlaneSweepConfig(),
    )
    pipeline = MappingPipeline(config, rig)
    images = tuple(Frame(f"cam{k}", 0, f.rgb, f.model) for k, f in enumerate(frames))
    return pipeline, pipeline.step(FrameSet(0, images))


def depth_errors(frames: Sequence[IndoorFrame], result: StepResult) -> tuple[np.ndarray, int]:
    """|depth / recorded - 1| where both are known, and the pixels with recorded depth."""
    errors, known = [np.zeros(0)], 0
    by_name = {d.camera: d for d in result.depth_maps}
    for k, frame in enumerate(frames):
        found = by_name.get(f"cam{k}")
        size = found.model.size if found is not None else frame.model.size
        truth = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
        known += int(np.isfinite(truth).sum())
        if found is not None and found.alignment.accepted:
            both = np.isfinite(found.depth) & np.isfinite(truth)
            errors.append(np.abs(found.depth[both] / truth[both] - 1))
    return np.concatenate(errors), known


def _recorded_points(frame: IndoorFrame) -> np.ndarray:
    points = frame.map_from_camera.apply(frame.model.unproject(frame.depth)[::4, ::4])
    return points[np.isfinite(points).all(axis=-1)]
